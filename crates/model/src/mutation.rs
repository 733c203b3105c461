//! Rules taken away one at a time, to prove that the search would notice. They change what `decide` is shown or what it
//! answered, or what the world around it guarantees; `decide` itself stays as it is.

use matriarch_core::decide::{Decision, Doubt, LeaderKey, Memory, Observation, Support};
use matriarch_core::record::key;
use matriarch_sim::tamper;

use crate::agent::{LONG_AGO, TICKS};
use crate::lease::at_tick;
use crate::scene::Scene;
use crate::setup::{Budget, Setup, incarnation, member_name};
use crate::state::Id;

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
    /// Under the empty rule: the guard acts at its deadline, and not on what starts afterwards.
    GuardFiresOnce,
    /// A lease is counted from the answer, not from when its renewal was sent.
    LeaseFromAnswer,
    /// A lease is counted as long as Consul may keep the session: twice its time to live.
    LeaseOfTwiceTheTtl,
    /// Under the empty rule: a member takes over though it has promised not to.
    PromiseIgnored,
    /// A member that has not answered counts as one that promised.
    SilencePromises,
    /// A leader alone counts on nobody's taking over while it admits members.
    NewcomersOverlooked,
    /// A key that a watch still shows is taken as proof that its lease lives, as after a store's own leader has changed.
    LeaseByWatch,
    /// The clock that leases are counted on stands still while the host sleeps.
    ClockStopsAsleep,
    /// An upstream that was asked for, and that PostgreSQL does not show yet, is forgotten.
    UpstreamUnderWay,
    /// A member streams again without having withdrawn a pledge that it never heard of and that may still land.
    ResumeWithoutWithdrawal,
    /// A takeover does not compare the pledges that it counts, beside members of an earlier version, whose withdrawals leave
    /// `sync` as it is.
    PledgesUncompared,
    /// A withdrawal leaves `sync` as it is, so that nobody notices a store which goes back to before it.
    WithdrawalUnnumbered,
    /// Of two records of one epoch nobody knows which is the newer one.
    SerialIgnored,
    /// A person's word is enough, whatever those hold who are there.
    LossAcceptedTooEarly,
    /// A store that went back in time is acted on.
    OldStoreTrusted,
}

/// All of them.
pub const MUTATIONS: [Mutation; 35] = [
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
    Mutation::GuardFiresOnce,
    Mutation::LeaseFromAnswer,
    Mutation::LeaseOfTwiceTheTtl,
    Mutation::PromiseIgnored,
    Mutation::SilencePromises,
    Mutation::NewcomersOverlooked,
    Mutation::LeaseByWatch,
    Mutation::ClockStopsAsleep,
    Mutation::UpstreamUnderWay,
    Mutation::ResumeWithoutWithdrawal,
    Mutation::PledgesUncompared,
    Mutation::WithdrawalUnnumbered,
    Mutation::SerialIgnored,
    Mutation::LossAcceptedTooEarly,
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
        if mutation == Mutation::BarrierTooEarly {
            tamper::settle_barrier(memory, observation);
        }
    }

    /// Shows `decide` something else than what is.
    pub fn mutate_observation(&self, mutation: Mutation, me: Id, observation: &mut Observation) {
        let my_name = member_name(me);
        if mutation == Mutation::OldStoreTrusted {
            observation.newest = None;
        }
        if mutation == Mutation::SerialIgnored {
            observation.newest.iter_mut().for_each(|newest| newest.serial = 0);
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
        if mutation == Mutation::LossAcceptedTooEarly && view.failover.is_some() {
            let others = view.members.iter_mut().filter(|(name, _)| **name != my_name);
            others.for_each(|(_, member)| member.incarnation = None);
        }
        let Some(sync) = view.sync.as_mut().map(|sync| &mut sync.value) else { return };
        match mutation {
            Mutation::FenceOneFewer if !i_lead => tamper::invent_pledge(view),
            Mutation::AnyPledger if !i_lead => tamper::level_pledges(view, &my_name),
            Mutation::PledgeWhileReceiving if !i_lead => tamper::hide_stream(&mut observation.server),
            Mutation::PublishBeforeBarrier => {
                tamper::show_as_proved(&mut observation.server, &self.state.at(me).file.names.text);
            }
            Mutation::PreviousRuleIgnored => {
                sync.previous.clear();
                sync.established |= !i_lead;
            }
            Mutation::IncarnationsIgnored if !i_lead => tamper::ignore_incarnations(view),
            Mutation::ResumeAfterPledge
                if nobody_leads
                    && sync.leader != my_name
                    && me % 2 == 1
                    && view.pledges.get(&my_name).is_some_and(|pledge| pledge.value.epoch == sync.epoch) =>
            {
                view.leader = Some(LeaderKey { name: sync.leader.clone(), revision: tamper::INVENTED, held: false });
                view.pledges.remove(&my_name);
            }
            Mutation::HandoverUnchecked => tamper::hand_over(sync, &my_name),
            Mutation::PromoteBeforeRule if i_lead => {
                tamper::show_rule_in_force(&mut observation.server, &sync.rule);
            }
            Mutation::StalePledgesCount if !i_lead => tamper::refresh_pledges(view, &my_name),
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
            // The names are sent with the takeover: PostgreSQL has to be slow to load them.
            Mutation::PromoteBeforeRule => Setup { voters: Vec::new(), ..Setup::three(Budget { delays: 1, ..expiry }) },
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
            | Mutation::GuardFiresOnce
            | Mutation::LeaseOfTwiceTheTtl
            | Mutation::LeaseByWatch
            | Mutation::ClockStopsAsleep => Setup::asynchronous(expiry),
            Mutation::PromiseIgnored | Mutation::SilencePromises => {
                Setup::asynchronous(Budget { outages: 1, ..expiry })
            }
            Mutation::NewcomersOverlooked => {
                Setup { lone: true, ..Setup::asynchronous(Budget { delays: 1, ..expiry }) }
            }
            Mutation::LeaseFromAnswer => Setup::asynchronous(Budget { renewals: 1, ..expiry }),
            Mutation::CrashCalledClean => Setup::three(Budget { crashes: 1, ..write }),
            Mutation::UpstreamUnderWay | Mutation::ResumeWithoutWithdrawal | Mutation::PledgesUncompared => {
                Setup::three(Budget { suspicions: 2, delays: 1, ..write })
            }
            // A leader that has dropped a voter is shown it in the rule once more.
            Mutation::SerialIgnored => Setup::three(Budget { cuts: 1, relapses: 1, ..write }),
            Mutation::LossAcceptedTooEarly => Setup::three(Budget { overrides: 1, ..expiry }),
            Mutation::OldStoreTrusted | Mutation::WithdrawalUnnumbered => {
                Setup::three(Budget { restores: 1, ..expiry })
            }
            Mutation::HandoverUnchecked => Setup::three(Budget { stops: 1, cuts: 1, ..write }),
        };
        Setup { mutation: Some(self), ..setup }
    }

    /// Does something else than what was decided by a member that leads, or does not.
    pub fn mutate_decision(self, decision: &mut Decision, leads: bool) {
        match self {
            Mutation::FenceOneFewer => tamper::drop_invented(decision),
            Mutation::TakeoverUncompared => tamper::take_over_uncompared(decision, key::SYNC),
            Mutation::WithdrawalUnnumbered => tamper::withdraw_unnumbered(decision),
            Mutation::PledgesUncompared => {
                tamper::withdraw_unnumbered(decision);
                ["a", "b", "c"]
                    .iter()
                    .for_each(|name| tamper::take_over_uncompared(decision, &format!("pledges/{name}")));
            }
            Mutation::StandbyWithoutRule if !leads => tamper::wait_for_nobody(decision),
            Mutation::CrashCalledClean => tamper::call_clean(decision),
            Mutation::EnforceBeforePublish => tamper::enforce_unpublished(decision),
            Mutation::TakeoverAsynchronous => tamper::take_over_asynchronous(decision),
            Mutation::PromoteBeforeRule => tamper::promote_unprepared(decision),
            Mutation::PledgeWhileReceiving => tamper::keep_stream(decision),
            Mutation::NewcomersOverlooked => tamper::overlook_newcomers(decision, at_tick(TICKS)),
            _ => {}
        }
    }
}
