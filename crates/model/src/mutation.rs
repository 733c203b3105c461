//! Rules taken away one at a time, to prove that the search would notice. They change what `decide` is shown or what it
//! answered, or what the world around it guarantees; `decide` itself stays as it is.

use matriarch_core::Lsn;
use matriarch_core::decide::{
    Action, Barrier, Decision, Doubt, Job, LeaderKey, Memory, Observation, Purpose, Server, Support,
};
use matriarch_core::record::{Pledge, SyncRecord, Versioned, key};
use matriarch_core::rule::Rule;
use matriarch_core::transaction::{Compare, Txn, Write};

use crate::agent::{LONG_AGO, TICKS};
use crate::lease::at_tick;
use crate::scene::Scene;
use crate::setup::{Budget, Setup, incarnation, member_name};
use crate::state::Id;

/// Revision of a record that nobody wrote.
const INVENTED: u64 = u64::MAX;

/// A rule taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// Living voters are left out of the rule of a takeover.
    TakeoverAsynchronous,
    /// A takeover does not compare the rule.
    TakeoverUncompared,
    /// A member that does not lead waits for nobody, should a promotion that was begun earlier still come to its end.
    StandbyWithoutRule,
    /// Under the empty rule: the guard never acts.
    GuardMissing,
    /// A lease is counted from the answer, not from when its renewal was sent.
    LeaseFromAnswer,
    /// A lease is counted as long as Consul may keep the session: twice its time to live.
    LeaseOfTwiceTheTtl,
    /// Under the empty rule: a member takes over though it has promised not to.
    PromiseIgnored,
    /// A member that has not answered counts as one that promised.
    SilencePromises,
    /// A key that a watch still shows is taken as proof that its lease lives, as after a store's own leader has changed.
    LeaseByWatch,
    /// The clock that leases are counted on stands still while the host sleeps.
    ClockStopsAsleep,
    /// An upstream that was asked for, and that PostgreSQL does not show yet, is forgotten.
    UpstreamUnderWay,
    /// A member streams again without having withdrawn a pledge that it never heard of and that may still land.
    ResumeWithoutWithdrawal,
    /// A store that went back in time is acted on.
    OldStoreTrusted,
}

/// All of them.
pub const MUTATIONS: [Mutation; 29] = [
    Mutation::FenceOneFewer,
    Mutation::AnyPledger,
    Mutation::PledgeWhileReceiving,
    Mutation::PublishBeforeBarrier,
    Mutation::PreviousRuleIgnored,
    Mutation::IncarnationsIgnored,
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
    Mutation::TakeoverUncompared,
    Mutation::StandbyWithoutRule,
    Mutation::GuardMissing,
    Mutation::LeaseFromAnswer,
    Mutation::LeaseOfTwiceTheTtl,
    Mutation::PromiseIgnored,
    Mutation::SilencePromises,
    Mutation::LeaseByWatch,
    Mutation::ClockStopsAsleep,
    Mutation::UpstreamUnderWay,
    Mutation::ResumeWithoutWithdrawal,
    Mutation::OldStoreTrusted,
];

impl Scene<'_> {
    /// Has `decide` remember something else than it did.
    pub fn mutate_memory(&self, mutation: Mutation, me: Id, memory: &mut Memory, observation: &Observation) {
        if mutation == Mutation::ProposalForgotten {
            memory.proposed = None;
        }
        if mutation == Mutation::ResumeAfterPledge {
            memory.pledging.doubt = Doubt::Clear;
        }
        let own = observation.store.as_ref().and_then(|view| view.pledges.get(&member_name(me)));
        let known = own.is_some_and(|own| !own.value.withdrawn && Some(own.value.epoch) == memory.pledging.epoch);
        if mutation == Mutation::ResumeWithoutWithdrawal && !known {
            memory.pledging.doubt = Doubt::Clear;
        }
        let Some(running) = observation.running() else { return };
        let names = &running.synchronous_standby_names;
        let known = memory.barrier.as_ref().is_some_and(|barrier| barrier.names == *names);
        if mutation == Mutation::BarrierTooEarly && !known {
            memory.barrier = Some(Barrier { names: names.clone(), since: 0, settled: true, lsn: None });
        }
    }

    /// Shows `decide` something else than what is.
    pub fn mutate_observation(&self, mutation: Mutation, me: Id, observation: &mut Observation) {
        let my_name = member_name(me);
        if mutation == Mutation::OldStoreTrusted {
            observation.newest = None;
        }
        if mutation == Mutation::PromiseIgnored {
            observation.promised_until = 0;
        }
        if mutation == Mutation::SilencePromises {
            for other in self.state.ids().filter(|other| *other != me) {
                let incarnation = incarnation(other);
                let support = Support { incarnation, epoch: 0, heard: LONG_AGO, promised_until: Some(at_tick(TICKS)) };
                observation.support.entry(member_name(other)).or_insert(support);
            }
        }
        let incarnation = observation.incarnation().cloned();
        let Some(view) = &mut observation.store else { return };
        let nobody_leads = view.leader.is_none();
        let i_lead = view.leader.as_ref().is_some_and(|leader| leader.name == my_name);
        let Some(sync) = view.sync.as_mut().map(|sync| &mut sync.value) else { return };
        match mutation {
            Mutation::FenceOneFewer if !i_lead => {
                let epoch = sync.epoch;
                let pledged = |name| view.pledges.get(name).is_some_and(|pledge| pledge.value.epoch == epoch);
                if let Some((name, voter)) = sync.rule.voters.iter().find(|(name, _)| !pledged(*name)) {
                    let incarnation = voter.clone();
                    let nothing = Pledge { epoch, incarnation, timeline: 0, lsn: Lsn::ZERO, withdrawn: false };
                    view.pledges.insert(name.clone(), Versioned { revision: INVENTED, value: nothing });
                }
            }
            Mutation::AnyPledger if !i_lead => {
                let mine = view.pledges.get(&my_name).map(|pledge| (pledge.value.timeline, pledge.value.lsn));
                let Some(mine) = mine else { return };
                for pledge in view.pledges.values_mut() {
                    (pledge.value.timeline, pledge.value.lsn) = mine.min((pledge.value.timeline, pledge.value.lsn));
                }
            }
            Mutation::PledgeWhileReceiving if !i_lead => {
                if let Server::Running(running) = &mut observation.server {
                    running.receiving = false;
                    running.upstream = None;
                }
            }
            Mutation::PublishBeforeBarrier => {
                if let Server::Running(running) = &mut observation.server {
                    running.synchronous_standby_names = self.state.at(me).file.names.text.clone();
                    let end = running.lsn;
                    running.replicas.values_mut().for_each(|flushed| *flushed = end);
                }
            }
            Mutation::PreviousRuleIgnored => {
                sync.previous.clear();
                sync.established |= !i_lead;
            }
            Mutation::IncarnationsIgnored if !i_lead => {
                for (name, pledge) in &view.pledges {
                    if let Some(incarnation) = sync.rule.voters.get_mut(name) {
                        *incarnation = pledge.value.incarnation.clone();
                    }
                }
            }
            Mutation::ResumeAfterPledge
                if nobody_leads
                    && sync.leader != my_name
                    && me % 2 == 1
                    && view.pledges.get(&my_name).is_some_and(|pledge| pledge.value.epoch == sync.epoch) =>
            {
                view.leader = Some(LeaderKey { name: sync.leader.clone(), revision: INVENTED, held: false });
                view.pledges.remove(&my_name);
            }
            Mutation::HandoverUnchecked => {
                if let Some(release) = sync.released.as_mut().filter(|release| release.shutdown_checkpoint.is_some()) {
                    release.shutdown_checkpoint = Some(Lsn::ZERO);
                    release.candidate = Some(my_name);
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
            Mutation::StalePledgesCount if !i_lead => {
                for (_, pledge) in view.pledges.iter_mut().filter(|(name, _)| **name != my_name) {
                    pledge.value.epoch = sync.epoch;
                }
            }
            Mutation::LeaderOfOtherData if sync.leader == my_name => {
                if let Some(incarnation) = incarnation {
                    sync.incarnation = incarnation;
                }
            }
            _ => {}
        }
    }
}

impl Mutation {
    /// The smallest search that notices it.
    pub fn shows_in(self) -> Setup {
        let write = Budget { writes: 1, ..Budget::default() };
        let expiry = Budget { expiries: 1, ..write };
        let late = Budget { delays: 1, ..write };
        let setup = match self {
            Mutation::FenceOneFewer
            | Mutation::AnyPledger
            | Mutation::PledgeWhileReceiving
            | Mutation::ResumeAfterPledge
            | Mutation::StalePledgesCount
            | Mutation::TakeoverAsynchronous => Setup::three(expiry),
            Mutation::PromoteBeforeRule => Setup { voters: Vec::new(), ..Setup::three(expiry) },
            Mutation::PreviousRuleIgnored | Mutation::StandbyWithoutRule => {
                Setup::three(Budget { expiries: 2, ..expiry })
            }
            // Where a takeover needs nobody else, promotions follow each other in the fewest steps.
            Mutation::TimelineNotReserved => {
                let budget = Budget { expiries: 2, ..Budget::default() };
                Setup { voters: Vec::new(), needed: 0, needed_at_first: 0, ..Setup::three(budget) }
            }
            // A fence of one pledge takes fewer steps.
            Mutation::TakeoverUncompared => {
                let budget = Budget { delays: 1, expiries: 2, ..Budget::default() };
                Setup { needed: 2, needed_at_first: 2, ..Setup::three(budget) }
            }
            Mutation::IncarnationsIgnored | Mutation::LeaderOfOtherData => {
                Setup::three(Budget { backups: 1, ..expiry })
            }
            Mutation::PublishBeforeBarrier => Setup::three(Budget { cuts: 1, ..write }),
            Mutation::BarrierTooEarly => Setup { needed: 2, ..Setup::three(late) },
            Mutation::ProposalForgotten => Setup::three(Budget { cuts: 1, ..late }),
            Mutation::EnforceBeforePublish => Setup { voters: vec![1], ..Setup::three(late) },
            Mutation::GuardMissing
            | Mutation::LeaseOfTwiceTheTtl
            | Mutation::LeaseByWatch
            | Mutation::ClockStopsAsleep => Setup::asynchronous(expiry),
            Mutation::PromiseIgnored | Mutation::SilencePromises => {
                Setup::asynchronous(Budget { outages: 1, ..expiry })
            }
            Mutation::LeaseFromAnswer => Setup::asynchronous(Budget { renewals: 1, ..expiry }),
            Mutation::CrashCalledClean => Setup::three(Budget { crashes: 1, ..write }),
            Mutation::UpstreamUnderWay | Mutation::ResumeWithoutWithdrawal => {
                Setup::three(Budget { suspicions: 2, delays: 1, ..write })
            }
            Mutation::OldStoreTrusted => Setup::three(Budget { restores: 1, ..expiry }),
            Mutation::HandoverUnchecked => Setup::three(Budget { stops: 1, cuts: 1, ..write }),
        };
        Setup { mutation: Some(self), ..setup }
    }

    /// Does something else than what was decided by a member that leads, or does not.
    pub fn mutate_decision(self, decision: &mut Decision, leads: bool) {
        match self {
            Mutation::FenceOneFewer => uncompare(
                decision,
                |compare| matches!(compare, Compare::Revision { revision, .. } if *revision == INVENTED),
            ),
            Mutation::TakeoverUncompared => {
                for action in &mut decision.actions {
                    if let Action::Commit(change) = action
                        && change.purpose == Purpose::Takeover
                    {
                        change.txn.compares.retain(|compare| !on(compare, key::SYNC));
                    }
                }
            }
            Mutation::StandbyWithoutRule if !leads => {
                for action in &mut decision.actions {
                    if let Action::Configure(settings) = action {
                        settings.synchronous_standby_names.clear();
                    }
                }
            }
            Mutation::CrashCalledClean => rewrite_sync(decision, Purpose::Release, |next| {
                if let Some(release) = &mut next.released {
                    release.shutdown_checkpoint.get_or_insert(Lsn::ZERO);
                }
            }),
            Mutation::EnforceBeforePublish => {
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
            Mutation::TakeoverAsynchronous => rewrite_sync(decision, Purpose::Takeover, |next| {
                if !next.established {
                    next.rule = Rule::default();
                }
            }),
            Mutation::PromoteBeforeRule if decision.actions.contains(&Action::Run(Job::Promote)) => {
                decision.actions.retain(|action| !matches!(action, Action::Configure(_)));
            }
            Mutation::PledgeWhileReceiving
                if ["pledge", "election", "takeover"].iter().any(|start| decision.why.code.starts_with(start)) =>
            {
                decision.actions.retain(|action| !matches!(action, Action::Configure(_)));
            }
            _ => {}
        }
    }
}

fn on(compare: &Compare, wanted: &str) -> bool {
    match compare {
        Compare::Absent { key } | Compare::Revision { key, .. } => key == wanted,
    }
}

fn uncompare(decision: &mut Decision, which: impl Fn(&Compare) -> bool) {
    for action in &mut decision.actions {
        if let Action::Commit(change) = action {
            change.txn.compares.retain(|compare| !which(compare));
        }
    }
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
