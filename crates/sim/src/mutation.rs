//! Bugs put in on purpose, to prove that the simulator would notice them. They change what `decide` is shown or what
//! it answered; `decide` itself stays as it is.

use matriarch_core::decide::{
    Action, Barrier, Decision, Doubt, Job, Millis, Observation, Pulse, Purpose, Server, Support, Synchronous, Zones,
};

use matriarch_core::record::{Pledge, SyncRecord, Versioned, key};
use matriarch_core::rule::Rule;
use matriarch_core::transaction::{Compare, Txn, Write};
use matriarch_core::{Incarnation, Lsn};

use crate::node::NodeId;
use crate::profile::Profile;
use crate::world::World;

/// Revision of a pledge that nobody made.
const INVENTED: u64 = u64::MAX;

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A takeover counts one pledge fewer than the fence asks for.
    FenceOneFewer,
    /// Any pledger takes over, not only the one with the greatest position.
    AnyPledger,
    /// A pledge is written while WAL is still received.
    PledgeWhileReceiving,
    /// A voter is removed, or one more needed, in the store before PostgreSQL has proved it.
    PublishBeforeBarrier,
    /// The previous rule does not count while the new one is not established.
    PreviousRuleIgnored,
    /// A voter is a name only.
    IncarnationsIgnored,
    /// A deposed primary is not stopped, neither by the agent nor by the guard.
    DeposedKeepsRunning,
    /// The guard never acts.
    GuardMissing,
    /// A member that has pledged streams from the old leader again.
    ResumeAfterPledge,
    /// A leader that crashed says that it stopped cleanly.
    CrashCalledClean,
    /// Any member takes over from a leader that stopped cleanly, not only those that hold its last record.
    HandoverUnchecked,
    /// A new primary accepts writes before its rule is in force.
    PromoteBeforeRule,
    /// A voter is added, or one fewer needed, in PostgreSQL before that is published.
    EnforceBeforePublish,
    /// A barrier counts as soon as a session has seen the new setting.
    BarrierTooEarly,
    /// A rule that was sent for publication, and not answered, is forgotten.
    ProposalForgotten,
    /// Pledges against earlier epochs count.
    StalePledgesCount,
    /// A leader goes on with other data than it was made leader with.
    LeaderOfOtherData,
    /// A promotion takes the next number it can see for its timeline.
    TimelineNotReserved,
    /// A cluster that insists on other zones does not look at them.
    ZonesIgnored,
    /// A takeover does not wait for anybody, and living voters are left out of its rule.
    TakeoverAsynchronous,
    /// A member streams again without having withdrawn pledges that may still be under way.
    ResumeWithoutWithdrawal,
    /// A pledge that was withdrawn counts.
    WithdrawnPledgesCount,
    /// Under the empty rule a leader that is only suspected is taken over from.
    SuspectsWithoutRule,
    /// A suspected leader is taken over from without the fence.
    SuspicionAlone,
    /// Members that are no voters extend a leader's authority.
    AnybodyStandsBy,
    /// Voters that have pledged, or follow another leader by now, extend a leader's authority.
    PledgedStandBy,
    /// A leader under the empty rule goes on when its lease has ended.
    ExpiredLeaseIgnored,
    /// A member takes over though it has promised not to.
    PromiseIgnored,
    /// A store that went back in time is acted on.
    OldStoreTrusted,
    /// Of two records of one epoch it is not told which is the newer one.
    SerialIgnored,
    /// A wiped store is taken for that of a new cluster.
    WipedStoreFounded,
    /// The boot clock stands still while the machine sleeps.
    ClockStopsAsleep,
}

/// All of them.
pub const MUTATIONS: [Mutation; 32] = [
    Mutation::FenceOneFewer,
    Mutation::AnyPledger,
    Mutation::PledgeWhileReceiving,
    Mutation::PublishBeforeBarrier,
    Mutation::PreviousRuleIgnored,
    Mutation::IncarnationsIgnored,
    Mutation::DeposedKeepsRunning,
    Mutation::GuardMissing,
    Mutation::ResumeAfterPledge,
    Mutation::CrashCalledClean,
    Mutation::HandoverUnchecked,
    Mutation::PromoteBeforeRule,
    Mutation::EnforceBeforePublish,
    Mutation::BarrierTooEarly,
    Mutation::ProposalForgotten,
    Mutation::StalePledgesCount,
    Mutation::LeaderOfOtherData,
    Mutation::TimelineNotReserved,
    Mutation::TakeoverAsynchronous,
    Mutation::ZonesIgnored,
    Mutation::ResumeWithoutWithdrawal,
    Mutation::WithdrawnPledgesCount,
    Mutation::SuspectsWithoutRule,
    Mutation::SuspicionAlone,
    Mutation::AnybodyStandsBy,
    Mutation::PledgedStandBy,
    Mutation::ExpiredLeaseIgnored,
    Mutation::PromiseIgnored,
    Mutation::OldStoreTrusted,
    Mutation::SerialIgnored,
    Mutation::WipedStoreFounded,
    Mutation::ClockStopsAsleep,
];

impl Mutation {
    /// The kind of schedule that notices it soonest.
    pub fn shows_in(self) -> Profile {
        match self {
            Mutation::AnyPledger | Mutation::PledgeWhileReceiving => Profile::Unguarded,
            Mutation::ResumeAfterPledge
            | Mutation::ResumeWithoutWithdrawal
            | Mutation::WithdrawnPledgesCount
            | Mutation::SuspectsWithoutRule
            | Mutation::SuspicionAlone => Profile::Suspicion,
            Mutation::ClockStopsAsleep => Profile::Clocks,
            Mutation::AnybodyStandsBy
            | Mutation::PledgedStandBy
            | Mutation::ExpiredLeaseIgnored
            | Mutation::PromiseIgnored => Profile::Outage,
            Mutation::OldStoreTrusted | Mutation::SerialIgnored | Mutation::WipedStoreFounded => Profile::StoreLoss,
            Mutation::FenceOneFewer
            | Mutation::PreviousRuleIgnored
            | Mutation::EnforceBeforePublish
            | Mutation::StalePledgesCount
            | Mutation::TimelineNotReserved
            | Mutation::TakeoverAsynchronous
            | Mutation::ZonesIgnored => Profile::Cascade,
            Mutation::IncarnationsIgnored | Mutation::CrashCalledClean => Profile::DataLoss,
            Mutation::DeposedKeepsRunning => Profile::Freezing,
            Mutation::GuardMissing => Profile::Steps,
            Mutation::PublishBeforeBarrier | Mutation::BarrierTooEarly | Mutation::ProposalForgotten => {
                Profile::RuleChanges
            }
            Mutation::HandoverUnchecked | Mutation::PromoteBeforeRule | Mutation::LeaderOfOtherData => Profile::Storm,
        }
    }
}

impl World {
    /// The guard is part of the bug.
    pub(crate) fn mutes_guard(&self) -> bool {
        matches!(self.setup.mutation, Some(Mutation::DeposedKeepsRunning | Mutation::GuardMissing))
    }

    /// Has members configured otherwise than they were.
    pub(crate) fn mutated(&self, synchronous: Synchronous) -> Synchronous {
        let ignored = self.setup.mutation == Some(Mutation::ZonesIgnored);
        Synchronous { zones: if ignored { Zones::Ignore } else { synchronous.zones }, ..synchronous }
    }

    /// Has `decide` remember something else than it did.
    pub(crate) fn mutate_memory(&mut self, node: NodeId, observation: &Observation) {
        let own = observation.store.as_ref().and_then(|view| view.pledges.get(&self.nodes[node].name));
        let known = own.is_some_and(|own| !own.value.withdrawn);
        let resumes = match self.setup.mutation {
            Some(Mutation::ResumeAfterPledge) => true,
            // It was never heard of, so it is taken not to have been written.
            Some(Mutation::ResumeWithoutWithdrawal) => !known,
            _ => false,
        };
        let memory = &mut self.nodes[node].agent.memory;
        if resumes {
            memory.pledging.doubt = Doubt::Clear;
        }
        if self.setup.mutation == Some(Mutation::ProposalForgotten) {
            memory.proposed = None;
        }
        let Some(running) = observation.running() else { return };
        let barrier = &mut self.nodes[node].agent.memory.barrier;
        let names = &running.synchronous_standby_names;
        let known = barrier.as_ref().is_some_and(|barrier| barrier.names == *names);
        if self.setup.mutation == Some(Mutation::BarrierTooEarly) && !known {
            *barrier = Some(Barrier { names: names.clone(), since: 0, settled: true, lsn: None });
        }
    }

    /// Shows `decide` something else than what is.
    pub(crate) fn mutate_observation(&self, node: NodeId, observation: &mut Observation) {
        let Some(mutation) = self.setup.mutation else { return };
        mutate_ears(mutation, observation, self.setup.ttl);
        let me = &self.nodes[node].name;
        let Some(view) = &mut observation.store else { return };
        let nobody_leads = view.leader.is_none();
        let Some(sync) = view.sync.as_mut().map(|sync| &mut sync.value) else { return };
        match mutation {
            Mutation::FenceOneFewer if nobody_leads => {
                let epoch = sync.epoch;
                let pledged = |name| view.pledges.get(name).is_some_and(|pledge| pledge.value.epoch == epoch);
                let missing = sync.rule.voters.iter().find(|(name, _)| !pledged(*name));
                if let Some((name, incarnation)) = missing {
                    let pledge = nothing(epoch, incarnation);
                    view.pledges.insert(name.clone(), Versioned { revision: INVENTED, value: pledge });
                }
            }
            Mutation::AnyPledger if nobody_leads => {
                let mine = view.pledges.get(me).map(|pledge| (pledge.value.timeline, pledge.value.lsn));
                let Some(mine) = mine else { return };
                for pledge in view.pledges.values_mut() {
                    (pledge.value.timeline, pledge.value.lsn) = mine.min((pledge.value.timeline, pledge.value.lsn));
                }
            }
            Mutation::PledgeWhileReceiving if nobody_leads => {
                if let Server::Running(running) = &mut observation.server {
                    running.receiving = false;
                    running.upstream = None;
                    running.caught_up = true;
                }
            }
            Mutation::PublishBeforeBarrier => {
                if let Server::Running(running) = &mut observation.server {
                    running.synchronous_standby_names = self.nodes[node].settings.synchronous_standby_names.clone();
                    let end = running.lsn;
                    running.replicas.values_mut().for_each(|flushed| *flushed = end);
                }
            }
            Mutation::PreviousRuleIgnored => {
                sync.previous.clear();
                sync.established |= nobody_leads;
            }
            Mutation::IncarnationsIgnored if nobody_leads => {
                for (name, pledge) in &view.pledges {
                    if let Some(incarnation) = sync.rule.voters.get_mut(name) {
                        *incarnation = pledge.value.incarnation.clone();
                    }
                }
            }
            _ => self.mutate_more(mutation, node, observation),
        }
    }

    fn mutate_more(&self, mutation: Mutation, node: NodeId, observation: &mut Observation) {
        let me = &self.nodes[node].name;
        let incarnation = observation.incarnation().cloned();
        let Some(view) = &mut observation.store else { return };
        let nobody_leads = view.leader.is_none();
        let i_lead = view.leader.as_ref().is_some_and(|leader| leader.name == *me);
        let Some(sync) = view.sync.as_mut().map(|sync| &mut sync.value) else { return };
        match mutation {
            Mutation::ResumeAfterPledge => {
                // It is counted by others; the member itself has forgotten it once the leader is heard again.
                if matches!(observation.pulse, Pulse::Alive { .. }) {
                    view.pledges.remove(me);
                }
            }
            Mutation::ResumeWithoutWithdrawal => {
                let resumed = self.nodes[node].agent.memory.pledging.doubt == Doubt::Clear;
                if resumed && matches!(observation.pulse, Pulse::Alive { .. }) {
                    view.pledges.remove(me);
                }
            }
            Mutation::WithdrawnPledgesCount => {
                view.pledges
                    .iter_mut()
                    .filter(|(name, _)| *name != me)
                    .for_each(|(_, own)| own.value.withdrawn = false);
            }
            Mutation::SuspectsWithoutRule if sync.rule.is_empty() && sync.leader != *me => {
                if matches!(observation.pulse, Pulse::Suspected { .. }) {
                    view.leader = None;
                }
            }
            Mutation::SuspicionAlone if matches!(observation.pulse, Pulse::Suspected { .. }) => {
                let voters = sync.rule.voters.iter().filter(|(name, _)| *name != me);
                for (name, incarnation) in voters {
                    let pledge = nothing(sync.epoch, incarnation);
                    view.pledges.insert(name.clone(), Versioned { revision: INVENTED, value: pledge });
                }
            }
            Mutation::HandoverUnchecked if !self.nodes[node].nofailover => {
                if let Some(release) = sync.released.as_mut().filter(|release| release.shutdown_checkpoint.is_some()) {
                    release.shutdown_checkpoint = Some(Lsn::ZERO);
                    release.candidate = Some(me.clone());
                }
            }
            Mutation::PromoteBeforeRule if i_lead => {
                if let Server::Running(running) = &mut observation.server
                    && running.in_recovery
                {
                    running.upstream = None;
                    running.synchronous_standby_names = sync.rule.synchronous_standby_names();
                }
            }
            Mutation::StalePledgesCount if nobody_leads => {
                for (_, pledge) in view.pledges.iter_mut().filter(|(name, _)| *name != me) {
                    pledge.value.epoch = sync.epoch;
                }
            }
            Mutation::LeaderOfOtherData if sync.leader == *me => {
                if let Some(incarnation) = incarnation {
                    sync.incarnation = incarnation;
                }
            }
            _ => {}
        }
    }

    /// Does something else than what was decided.
    pub(crate) fn mutate_decision(&self, decision: &mut Decision) {
        match self.setup.mutation {
            Some(Mutation::SuspectsWithoutRule) => {
                for action in &mut decision.actions {
                    if let Action::Commit(change) = action
                        && change.purpose == Purpose::Takeover
                    {
                        let of_leader =
                            |compare: &Compare| matches!(compare, Compare::Absent { key } if key == key::LEADER);
                        change.txn.compares.retain(|compare| !of_leader(compare));
                    }
                }
            }
            Some(Mutation::FenceOneFewer | Mutation::SuspicionAlone) => {
                for action in &mut decision.actions {
                    if let Action::Commit(change) = action {
                        change.txn.compares.retain(
                            |compare| !matches!(compare, Compare::Revision { revision, .. } if *revision == INVENTED),
                        );
                    }
                }
            }
            Some(Mutation::DeposedKeepsRunning) => {
                decision.actions.retain(|action| *action != Action::Run(Job::StopImmediate));
            }
            Some(Mutation::CrashCalledClean) => rewrite_sync(decision, Purpose::Release, |next| {
                if let Some(release) = &mut next.released {
                    release.shutdown_checkpoint.get_or_insert(Lsn::ZERO);
                }
            }),
            Some(Mutation::EnforceBeforePublish) => {
                let published = decision.actions.iter().find_map(|action| match action {
                    Action::Commit(change) if change.purpose == Purpose::Rule => written_sync(&change.txn),
                    _ => None,
                });
                let Some(next) = published else { return };
                for action in &mut decision.actions {
                    if let Action::Configure(settings) = action {
                        settings.synchronous_standby_names = next.rule.synchronous_standby_names();
                    }
                }
            }
            Some(Mutation::TakeoverAsynchronous) => rewrite_sync(decision, Purpose::Takeover, |next| {
                if !next.established {
                    next.rule = Rule::default();
                }
            }),
            // What a standby waits for is part of the bug: else the rule of the epoch before would be in force.
            Some(Mutation::PromoteBeforeRule)
                if ["promote", "election", "pledge", "takeover", "follow", "connecting", "leader_not", "start_"]
                    .iter()
                    .any(|start| decision.why.code.starts_with(start) && decision.why.code != "start_primary") =>
            {
                wait_for_nobody(decision);
            }
            Some(Mutation::PledgeWhileReceiving)
                if ["pledge", "election", "takeover"].iter().any(|start| decision.why.code.starts_with(start)) =>
            {
                decision.actions.retain(|action| !matches!(action, Action::Configure(_)));
            }
            _ => {}
        }
    }
}

fn wait_for_nobody(decision: &mut Decision) {
    for action in &mut decision.actions {
        if let Action::Configure(settings) = action {
            settings.synchronous_standby_names.clear();
        }
    }
}

/// Changes what is heard and remembered.
fn mutate_ears(mutation: Mutation, observation: &mut Observation, ttl: Millis) {
    let view = observation.store.as_ref();
    let sync = view.and_then(|view| view.sync.as_ref()).map(|sync| sync.value.clone());
    let initialized = view.is_some_and(|view| view.initialize.is_some());
    match (mutation, sync) {
        (Mutation::AnybodyStandsBy, Some(sync)) => {
            let heard = observation.support.values().map(|support| support.heard).max();
            for (name, incarnation) in sync.rule.voters {
                let Some(heard) = heard else { continue };
                let support = Support { incarnation, epoch: sync.epoch, heard, promised_until: None };
                observation.support.insert(name, support);
            }
        }
        (Mutation::ExpiredLeaseIgnored, Some(sync)) if sync.rule.is_empty() => {
            if let Some(lease) = &mut observation.lease {
                lease.until = observation.now + ttl;
            }
        }
        (Mutation::PromiseIgnored, _) => observation.promised_until = 0,
        (Mutation::OldStoreTrusted, Some(_)) => observation.newest = None,
        (Mutation::SerialIgnored, _) => observation.newest.iter_mut().for_each(|newest| newest.serial = 0),
        (Mutation::WipedStoreFounded, _) if !initialized => observation.newest = None,
        _ => {}
    }
}

/// A pledge that claims nothing.
fn nothing(epoch: u64, incarnation: &Incarnation) -> Pledge {
    Pledge { epoch, incarnation: incarnation.clone(), timeline: 0, lsn: Lsn::ZERO, withdrawn: false }
}

fn writes_sync(write: &Write) -> bool {
    matches!(write, Write::Put { key, .. } if key == key::SYNC)
}

/// The `sync` record that a transaction writes.
fn written_sync(txn: &Txn) -> Option<SyncRecord> {
    txn.writes.iter().find(|write| writes_sync(write)).and_then(|write| match write {
        Write::Put { value, .. } => serde_json::from_str(value).ok(),
        Write::Delete { .. } => None,
    })
}

/// Has the changes of one purpose write another `sync` record.
fn rewrite_sync(decision: &mut Decision, purpose: Purpose, change_record: impl Fn(&mut SyncRecord)) {
    for action in &mut decision.actions {
        if let Action::Commit(change) = action
            && change.purpose == purpose
            && let Some(mut next) = written_sync(&change.txn)
        {
            change_record(&mut next);
            change.txn.writes.retain(|write| !writes_sync(write));
            change.txn = std::mem::take(&mut change.txn).put(key::SYNC, &next);
        }
    }
}
