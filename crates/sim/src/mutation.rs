//! Bugs put in on purpose, to prove that the simulator would notice them. What each does: [`crate::mutate`].

use crate::profile::Profile;

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
    /// A leader alone counts on nobody's taking over while it admits members.
    NewcomersOverlooked,
    /// Under the empty rule a member takes over that the leader had not counted as one yet.
    OutsiderTakesOver,
    /// An upstream that was asked for, and that PostgreSQL does not show yet, is forgotten.
    UpstreamUnderWay,
    /// A member that does not lead waits for nobody, should a promotion that was begun earlier still come to its end.
    StandbyWithoutRule,
    /// A withdrawal leaves `sync` as it is, so that nobody notices a store which goes back to before it.
    WithdrawalUnnumbered,
    /// Whoever writes the records of a store anew leaves the pledges in it as they are.
    OldPledgesKept,
    /// A person's word is enough, whatever those hold who are there.
    LossAcceptedTooEarly,
    /// The guard acts at its deadline, and not on what starts afterwards.
    GuardFiresOnce,
    /// A member tells its position before it has replayed what it has; until then PostgreSQL knows only how far it replayed.
    PositionBeforeReplay,
    /// A restart forgets that a member has promised not to take over.
    PromiseForgotten,
    /// A pledge is written whenever it lands, whatever the store says by then.
    PledgeUncompared,
    /// The records of a store that went back are written anew with the number they had.
    RecreatedUnnumbered,
    /// Whoever finds no cluster founds one, and compares nothing.
    FoundUncompared,
    /// Pledges are compared by their length alone, whatever timeline they are on.
    TimelinesIgnored,
    /// An agent that takes over the lead of an earlier process leaves `sync` as it is.
    ReclaimWithoutRewrite,
    /// A member takes over while the cluster is paused.
    PauseIgnored,
    /// The guard is let go while a start or a promotion is still under way.
    GuardLetGo,
    /// A promotion whose number was used up opens the next one, and goes on with that as if it were reserved.
    UsedTimelineLeft,
    /// In a cluster that insists on other zones the names of a primary go from one set to another in one step.
    NamesInOneStep,
    /// There the next names are asked for while walsenders may still go by those before the last.
    NamesUnspaced,
    /// No watchdog resets a machine that stands still.
    WatchdogMissing,
    /// The watchdog is kicked as long as there is a deadline, however near.
    WatchdogKickedToTheEnd,
    /// A member whose machine must have a watchdog leads without.
    WatchdogNotRequired,
    /// Under the empty rule a member takes over however far it is behind.
    LagIgnored,
    /// What a member has of a timeline that was left counts beyond where it was left.
    LeftTimelineCounts,
    /// A restart forgets the newest record that was seen.
    NewestForgotten,
    /// A boot ends what was promised before it.
    PromiseEndsWithBoot,
    /// A member is taken to stand by its leader when its word arrives, not when what it answers was sent.
    HeardOnArrival,
    /// What was said to an earlier process, on another clock perhaps, is believed.
    EarlierProcessHeard,
    /// A barrier counts again once names are back that were changed in between.
    BarrierOutlivesNames,
    /// Who accepts loss does not compare that those who were away are still.
    ReturnedVoterUncompared,
    /// The empty rule is published while the guard would let PostgreSQL outlive its lease.
    EmptyRuleAtOnce,
    /// A strict leader without voters counts on nobody's taking over, whatever its record says of those before.
    NobodyCountedOn,
    /// A leader whose host stood still runs on, not held, while its agent asks the store.
    WakesUnheld,
    /// A leader counts on those who stand by it under the published rule alone, whatever it has sent for publication since.
    SentRuleOverlooked,
    /// Who accepts loss counts epochs and timelines on from what the store says, though newer ones were seen.
    LossForgetsNumbers,
    /// In a cluster that another program kept, a primary of a timeline founds that `history` says has ended.
    OlderTimelineAdopts,
    /// There a primary founds though another member is on a newer timeline.
    MembersTimelinesIgnored,
    /// There a primary founds that has less than `status` says.
    ShorterAdopts,
    /// There a primary founds though another member runs one as well.
    BesidePrimaryAdopts,
    /// There a replica founds.
    ReplicaAdopts,
    /// There a primary founds while the other program runs on some member.
    StrangersIgnored,
    /// There a primary founds while the leader key is the other program's.
    OthersLeaderIgnored,
    /// There the founding does not compare that nobody leads.
    AdoptLeaderUncompared,
    /// There the founding does not compare `history`.
    AdoptHistoryUncompared,
    /// There a primary founds whose data belongs to another cluster.
    StrayAdopts,
    /// There data founds that an initdb of ours has left behind.
    UnclaimedAdopts,
    /// A `sync` of ours that was lost is taken for that of another program.
    LostRecordAdopted,
    /// A member follows the leader with the data of another cluster.
    StrayFollows,
    /// A member stands for election with the data of another cluster.
    StrayElects,
}

/// All of them.
pub const MUTATIONS: [Mutation; 90] = [
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
    Mutation::NewcomersOverlooked,
    Mutation::OutsiderTakesOver,
    Mutation::UpstreamUnderWay,
    Mutation::StandbyWithoutRule,
    Mutation::WithdrawalUnnumbered,
    Mutation::OldPledgesKept,
    Mutation::LossAcceptedTooEarly,
    Mutation::GuardFiresOnce,
    Mutation::PositionBeforeReplay,
    Mutation::PromiseForgotten,
    Mutation::PledgeUncompared,
    Mutation::RecreatedUnnumbered,
    Mutation::FoundUncompared,
    Mutation::TimelinesIgnored,
    Mutation::ReclaimWithoutRewrite,
    Mutation::PauseIgnored,
    Mutation::GuardLetGo,
    Mutation::UsedTimelineLeft,
    Mutation::NamesInOneStep,
    Mutation::NamesUnspaced,
    Mutation::WatchdogMissing,
    Mutation::WatchdogKickedToTheEnd,
    Mutation::WatchdogNotRequired,
    Mutation::LagIgnored,
    Mutation::LeftTimelineCounts,
    Mutation::NewestForgotten,
    Mutation::PromiseEndsWithBoot,
    Mutation::HeardOnArrival,
    Mutation::EarlierProcessHeard,
    Mutation::BarrierOutlivesNames,
    Mutation::ReturnedVoterUncompared,
    Mutation::EmptyRuleAtOnce,
    Mutation::NobodyCountedOn,
    Mutation::WakesUnheld,
    Mutation::SentRuleOverlooked,
    Mutation::LossForgetsNumbers,
    Mutation::OlderTimelineAdopts,
    Mutation::MembersTimelinesIgnored,
    Mutation::ShorterAdopts,
    Mutation::BesidePrimaryAdopts,
    Mutation::ReplicaAdopts,
    Mutation::StrangersIgnored,
    Mutation::OthersLeaderIgnored,
    Mutation::AdoptLeaderUncompared,
    Mutation::AdoptHistoryUncompared,
    Mutation::StrayAdopts,
    Mutation::UnclaimedAdopts,
    Mutation::LostRecordAdopted,
    Mutation::StrayFollows,
    Mutation::StrayElects,
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
            | Mutation::PledgesUncompared
            | Mutation::PledgeUncompared => Profile::Suspicion,
            Mutation::ClockStopsAsleep | Mutation::LeaseFromAnswer => Profile::Clocks,
            Mutation::AnybodyStandsBy
            | Mutation::PledgedStandBy
            | Mutation::ExpiredLeaseIgnored
            | Mutation::PromiseIgnored
            | Mutation::SilencePromises
            | Mutation::LeaseOfTwiceTheTtl
            | Mutation::LeaseByWatch
            | Mutation::WakesUnheld
            | Mutation::PromiseForgotten => Profile::Outage,
            Mutation::OldStoreTrusted
            | Mutation::SerialIgnored
            | Mutation::WipedStoreFounded
            | Mutation::RecreatedUnnumbered => Profile::StoreLoss,
            Mutation::FenceOneFewer
            | Mutation::PreviousRuleIgnored
            | Mutation::EnforceBeforePublish
            | Mutation::StalePledgesCount
            | Mutation::TimelineNotReserved
            | Mutation::TakeoverAsynchronous
            | Mutation::PositionBeforeReplay
            | Mutation::ZonesIgnored => Profile::Cascade,
            Mutation::IncarnationsIgnored | Mutation::CrashCalledClean => Profile::DataLoss,
            Mutation::DeposedKeepsRunning => Profile::Freezing,
            Mutation::TagIgnored | Mutation::StrictShrinks => Profile::Overlapping,
            Mutation::NewcomersOverlooked | Mutation::OutsiderTakesOver => Profile::Newcomers,
            Mutation::UpstreamUnderWay => Profile::SlowSettings,
            Mutation::StandbyWithoutRule | Mutation::GuardFiresOnce | Mutation::GuardLetGo => Profile::HeldUp,
            Mutation::WithdrawalUnnumbered | Mutation::OldPledgesKept => Profile::OldPledges,
            Mutation::LossAcceptedTooEarly => Profile::AcceptedLoss,
            Mutation::FoundUncompared | Mutation::ReclaimWithoutRewrite => Profile::LateChanges,
            Mutation::TimelinesIgnored => Profile::OldPrimaries,
            Mutation::NewestForgotten | Mutation::LossForgetsNumbers => Profile::Forgetters,
            Mutation::PromiseEndsWithBoot | Mutation::EarlierProcessHeard => Profile::Reboots,
            Mutation::HeardOnArrival => Profile::Outage,
            Mutation::BarrierOutlivesNames => Profile::RuleChanges,
            Mutation::ReturnedVoterUncompared => Profile::Returners,
            Mutation::EmptyRuleAtOnce => Profile::Lonely,
            Mutation::NobodyCountedOn => Profile::Pairs,
            Mutation::SentRuleOverlooked => Profile::Halves,
            Mutation::PauseIgnored => Profile::Paused,
            Mutation::LagIgnored | Mutation::LeftTimelineCounts => Profile::Laggards,
            Mutation::UsedTimelineLeft => Profile::CutPromotions,
            Mutation::NamesInOneStep | Mutation::NamesUnspaced => Profile::Neighbours,
            Mutation::WatchdogMissing | Mutation::WatchdogKickedToTheEnd | Mutation::WatchdogNotRequired => {
                Profile::Watchdogs
            }
            Mutation::OlderTimelineAdopts
            | Mutation::MembersTimelinesIgnored
            | Mutation::ShorterAdopts
            | Mutation::BesidePrimaryAdopts
            | Mutation::ReplicaAdopts
            | Mutation::StrangersIgnored
            | Mutation::OthersLeaderIgnored
            | Mutation::AdoptLeaderUncompared
            | Mutation::AdoptHistoryUncompared
            | Mutation::StrayAdopts
            | Mutation::UnclaimedAdopts
            | Mutation::LostRecordAdopted => Profile::Adoptions,
            Mutation::StrayFollows | Mutation::StrayElects => Profile::Strays,
            Mutation::GuardMissing => Profile::Steps,
            Mutation::PublishBeforeBarrier | Mutation::BarrierTooEarly | Mutation::ProposalForgotten => {
                Profile::RuleChanges
            }
            Mutation::HandoverUnchecked | Mutation::PromoteBeforeRule | Mutation::LeaderOfOtherData => Profile::Storm,
        }
    }
}
