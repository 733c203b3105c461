//! Bugs put in on purpose, to prove that the simulator would notice them. They change what `decide` is shown or what
//! it answered; `decide` itself stays as it is.

use matriarch_core::decide::{Action, Decision, Doubt, Job, Millis, Observation, Pulse, Support, Synchronous, Zones};
use matriarch_core::record::key;

use crate::node::NodeId;
use crate::profile::Profile;
use crate::tamper;
use crate::world::World;

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
    /// A lease is counted from the answer, not from when its renewal was sent.
    LeaseFromAnswer,
    /// A lease is counted as long as Consul may keep the session: twice its time to live.
    LeaseOfTwiceTheTtl,
    /// A key that a reading still shows is taken as proof that its lease lives, as after a store's own leader has changed.
    LeaseByWatch,
    /// A member that has not answered counts as one that promised.
    SilencePromises,
    /// A takeover does not compare the rule.
    TakeoverUncompared,
    /// A takeover does not compare the pledges that it counts, and withdrawals leave `sync` as it is.
    PledgesUncompared,
    /// A member leads that is not to.
    TagIgnored,
    /// A strict rule shrinks as any other.
    StrictShrinks,
}

/// All of them.
pub const MUTATIONS: [Mutation; 40] = [
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
    Mutation::LeaseFromAnswer,
    Mutation::LeaseOfTwiceTheTtl,
    Mutation::LeaseByWatch,
    Mutation::SilencePromises,
    Mutation::TakeoverUncompared,
    Mutation::PledgesUncompared,
    Mutation::TagIgnored,
    Mutation::StrictShrinks,
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
            | Mutation::SuspicionAlone
            | Mutation::TakeoverUncompared
            | Mutation::PledgesUncompared => Profile::Suspicion,
            Mutation::ClockStopsAsleep | Mutation::LeaseFromAnswer => Profile::Clocks,
            Mutation::AnybodyStandsBy
            | Mutation::PledgedStandBy
            | Mutation::ExpiredLeaseIgnored
            | Mutation::PromiseIgnored
            | Mutation::SilencePromises
            | Mutation::LeaseOfTwiceTheTtl
            | Mutation::LeaseByWatch => Profile::Outage,
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
            Mutation::TagIgnored | Mutation::StrictShrinks => Profile::Overlapping,
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
        let strict = synchronous.strict && self.setup.mutation != Some(Mutation::StrictShrinks);
        Synchronous { zones: if ignored { Zones::Ignore } else { synchronous.zones }, strict, ..synchronous }
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
        if self.setup.mutation == Some(Mutation::BarrierTooEarly) {
            tamper::settle_barrier(&mut self.nodes[node].agent.memory, observation);
        }
    }

    /// Shows `decide` something else than what is.
    pub(crate) fn mutate_observation(&self, node: NodeId, observation: &mut Observation) {
        let Some(mutation) = self.setup.mutation else { return };
        mutate_ears(mutation, observation, self.setup.ttl);
        if mutation == Mutation::SilencePromises {
            self.have_everybody_promise(node, observation);
        }
        let me = &self.nodes[node].name;
        let Some(view) = &mut observation.store else { return };
        let nobody_leads = view.leader.is_none();
        let Some(sync) = view.sync.as_mut().map(|sync| &mut sync.value) else { return };
        match mutation {
            Mutation::FenceOneFewer if nobody_leads => tamper::invent_pledge(view),
            Mutation::AnyPledger if nobody_leads => tamper::level_pledges(view, me),
            Mutation::PledgeWhileReceiving if nobody_leads => tamper::hide_stream(&mut observation.server),
            Mutation::PublishBeforeBarrier => {
                let written = &self.nodes[node].settings.synchronous_standby_names;
                tamper::show_as_proved(&mut observation.server, written);
            }
            Mutation::PreviousRuleIgnored => {
                sync.previous.clear();
                sync.established |= nobody_leads;
            }
            Mutation::IncarnationsIgnored if nobody_leads => tamper::ignore_incarnations(view),
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
                    view.pledges.insert(name.clone(), tamper::nothing(sync.epoch, incarnation));
                }
            }
            Mutation::HandoverUnchecked if !self.nodes[node].nofailover => tamper::hand_over(sync, me),
            Mutation::PromoteBeforeRule if i_lead => {
                tamper::show_rule_in_force(&mut observation.server, &sync.rule);
            }
            Mutation::StalePledgesCount if nobody_leads => tamper::refresh_pledges(view, me),
            Mutation::LeaderOfOtherData if sync.leader == *me => {
                if let Some(incarnation) = incarnation {
                    sync.incarnation = incarnation;
                }
            }
            _ => {}
        }
    }

    /// Members that say nothing are shown to have promised not to take over.
    fn have_everybody_promise(&self, node: NodeId, observation: &mut Observation) {
        let until = observation.now + self.setup.ttl;
        for other in self.nodes.iter().filter(|other| other.name != self.nodes[node].name) {
            let Some(incarnation) = other.disk.dir().and_then(|dir| dir.incarnation.clone()) else { continue };
            let silent = Support { incarnation, epoch: 0, heard: 0, promised_until: None };
            let support = observation.support.entry(other.name.clone()).or_insert(silent);
            support.promised_until = support.promised_until.max(Some(until));
        }
    }

    /// Does something else than what was decided.
    pub(crate) fn mutate_decision(&self, decision: &mut Decision) {
        match self.setup.mutation {
            Some(Mutation::TakeoverUncompared) => tamper::take_over_uncompared(decision, key::SYNC),
            Some(Mutation::PledgesUncompared) => {
                tamper::withdraw_unnumbered(decision);
                for other in &self.nodes {
                    tamper::take_over_uncompared(decision, &key::pledge(&other.name));
                }
            }
            Some(Mutation::SuspectsWithoutRule) => tamper::take_over_uncompared(decision, key::LEADER),
            Some(Mutation::FenceOneFewer | Mutation::SuspicionAlone) => tamper::drop_invented(decision),
            Some(Mutation::DeposedKeepsRunning) => {
                decision.actions.retain(|action| *action != Action::Run(Job::StopImmediate));
            }
            Some(Mutation::CrashCalledClean) => tamper::call_clean(decision),
            Some(Mutation::EnforceBeforePublish) => tamper::enforce_unpublished(decision),
            Some(Mutation::TakeoverAsynchronous) => tamper::take_over_asynchronous(decision),
            // What a standby waits for is part of the bug: else the rule of the epoch before would be in force.
            Some(Mutation::PromoteBeforeRule)
                if ["promote", "election", "pledge", "takeover", "follow", "connecting", "leader_not", "start_"]
                    .iter()
                    .any(|start| decision.why.code.starts_with(start) && decision.why.code != "start_primary") =>
            {
                tamper::wait_for_nobody(decision);
            }
            Some(Mutation::PledgeWhileReceiving) => tamper::keep_stream(decision),
            _ => {}
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
