//! The kinds of random schedules, and which clusters they strike; with which faults: [`crate::script`].

use std::fmt;
use std::str::FromStr;

use matriarch_core::decide::{CrashPolicy, Synchronous, Zones};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::clock::{Clock, DRIFT};
use crate::directed::directed_setup;
use crate::world::Setup;

/// Which faults come, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// One fault at a time, and everything must heal by itself after each.
    Single,
    /// Two faults overlap.
    Overlapping,
    /// Leaders die one after the other while a disk is slow: for bugs that need that.
    Cascade,
    /// Leaders freeze for about as long as their lease lasts.
    Freezing,
    /// Data directories are lost and restored.
    DataLoss,
    /// Many faults overlap.
    Storm,
    /// A second fault strikes a member right after one of its own steps.
    Steps,
    /// A fault comes while the cluster is paused.
    Paused,
    /// Leaders are cut off or hang, and no guard ever stops them: the fence alone must keep acknowledgements safe.
    Unguarded,
    /// Leaders are not heard, or not by all, though they may well live: rightly and wrongly suspected ones.
    Suspicion,
    /// The rule changes while answers of the store are late or get lost.
    RuleChanges,
    /// The store is away, from everybody or from some, for longer than leases last.
    Outage,
    /// The store is wiped, or restored from a backup.
    StoreLoss,
    /// Clocks begin and run differently, machines sleep and boot.
    Clocks,
    /// Volumes hang, are full or fail, and postmasters let nobody in.
    Gray,
    /// Members join a leader that is alone while what it asks of the store is late, and while it hangs or is cut off.
    Newcomers,
    /// The leader dies while a voter lags and another is silent, and a person accepts loss.
    AcceptedLoss,
    /// A start, or a promotion, is held up for longer than a lease lasts.
    HeldUp,
    /// A member whose settings take seconds to be written hears its leader, and hears it not, by turns.
    SlowSettings,
    /// What is asked of the store is late, while the cluster is founded, and while a rule changes and its leader's agent dies.
    LateChanges,
    /// A primary that had written much more than it acknowledged is back when its successor dies.
    OldPrimaries,
    /// The store goes back to when a pledge stood that has been withdrawn since.
    OldPledges,
    /// A promotion is cut short after it has opened its timeline; the next one succeeds, and its member dies soon.
    CutPromotions,
    /// Neighbours of a leader that insists on other zones take turns as voters, while the one elsewhere is slow.
    Neighbours,
    /// Machines with watchdogs stand still while the lease of an asynchronous leader runs out.
    Watchdogs,
    /// The leader of an asynchronous cluster dies while the others lag, one of them with more on a timeline that was left.
    Laggards,
    /// Machines boot while an asynchronous leader rests on what has been promised.
    Reboots,
    /// A voter is back while a person who did not wait for it accepts loss.
    Returners,
    /// The store goes back to before the lead moved, the new leader is gone, and the agents of the others are started anew.
    Forgetters,
    /// A leader loses its last voter, which is still heard, and its agent hangs.
    Lonely,
    /// The only voter of a strict leader loses its data, and the leader is cut off while that is copied.
    Pairs,
    /// A leader drops a voter; from then on both are cut off from the store, and the other voter is not heard.
    Halves,
    /// A cluster that another program kept, with a primary of before, copies and directories of others left over, becomes ours.
    Adoptions,
    /// A member has the directory of another cluster in the place of its own.
    Strays,
}

/// Those that play anything of their kind; `make sim` takes them in turn, so that a number goes on meaning the same schedule.
pub const PROFILES: [Profile; 15] = [
    Profile::Single,
    Profile::Overlapping,
    Profile::Cascade,
    Profile::Freezing,
    Profile::DataLoss,
    Profile::Storm,
    Profile::Steps,
    Profile::Paused,
    Profile::Unguarded,
    Profile::Suspicion,
    Profile::RuleChanges,
    Profile::Outage,
    Profile::StoreLoss,
    Profile::Clocks,
    Profile::Gray,
];

/// Those that lead to one place ([`crate::directed`]), where the others hardly ever come.
pub const DIRECTED: [Profile; 19] = [
    Profile::Newcomers,
    Profile::AcceptedLoss,
    Profile::HeldUp,
    Profile::SlowSettings,
    Profile::LateChanges,
    Profile::OldPrimaries,
    Profile::OldPledges,
    Profile::CutPromotions,
    Profile::Neighbours,
    Profile::Watchdogs,
    Profile::Laggards,
    Profile::Reboots,
    Profile::Returners,
    Profile::Forgetters,
    Profile::Lonely,
    Profile::Pairs,
    Profile::Halves,
    Profile::Adoptions,
    Profile::Strays,
];

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Single => "single",
            Profile::Overlapping => "overlapping",
            Profile::Cascade => "cascade",
            Profile::Freezing => "freezing",
            Profile::DataLoss => "dataloss",
            Profile::Storm => "storm",
            Profile::Steps => "steps",
            Profile::Paused => "paused",
            Profile::Unguarded => "unguarded",
            Profile::Suspicion => "suspicion",
            Profile::RuleChanges => "rulechanges",
            Profile::Outage => "outage",
            Profile::StoreLoss => "storeloss",
            Profile::Clocks => "clocks",
            Profile::Gray => "gray",
            Profile::Newcomers => "newcomers",
            Profile::AcceptedLoss => "acceptedloss",
            Profile::HeldUp => "heldup",
            Profile::SlowSettings => "slowsettings",
            Profile::LateChanges => "latechanges",
            Profile::OldPrimaries => "oldprimaries",
            Profile::OldPledges => "oldpledges",
            Profile::CutPromotions => "cutpromotions",
            Profile::Neighbours => "neighbours",
            Profile::Watchdogs => "watchdogs",
            Profile::Laggards => "laggards",
            Profile::Reboots => "reboots",
            Profile::Returners => "returners",
            Profile::Forgetters => "forgetters",
            Profile::Lonely => "lonely",
            Profile::Pairs => "pairs",
            Profile::Halves => "halves",
            Profile::Adoptions => "adoptions",
            Profile::Strays => "strays",
        })
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = || PROFILES.into_iter().chain(DIRECTED);
        let known = || all().map(|profile| profile.to_string()).collect::<Vec<_>>().join(", ");
        all()
            .find(|profile| profile.to_string() == text)
            .ok_or_else(|| format!("unknown profile '{text}'; there are {}", known()))
    }
}

impl Profile {
    /// Clusters of one and two members, and asynchronous ones, take part.
    fn any_size(self) -> bool {
        matches!(
            self,
            Profile::Single
                | Profile::Steps
                | Profile::Paused
                | Profile::Suspicion
                | Profile::Outage
                | Profile::Clocks
                | Profile::Gray
        )
    }
}

pub(crate) fn random_setup(rng: &mut SmallRng, profile: Profile) -> Setup {
    let count = *pick(rng, &[1, 2, 2, 3, 3, 3, 3, 3, 4, 5]);
    let count = if profile.any_size() { count } else { count.max(3) };
    let members: Vec<String> = ["a", "b", "c", "d", "e"][..count].iter().map(|name| (*name).to_owned()).collect();
    let needed = match rng.random_range(0..10) {
        0 if profile.any_size() => 0,
        3..=5 if matches!(profile, Profile::Outage | Profile::Clocks) => 0,
        1..=2 if count >= 3 => 2,
        _ => 1,
    };
    let synchronous = Synchronous {
        needed,
        strict: rng.random_range(0..8) == 0,
        from_members: *pick(rng, &[3, 3, 3, 0]),
        ..Synchronous::default()
    };
    // Drawn aside, so that the seeds known from before still mean the same schedules.
    let aside = &mut rng.clone();
    let synchronous = Synchronous {
        first: aside.random_range(0..6) == 0,
        zones: *pick(aside, &[Zones::Ignore, Zones::Prefer, Zones::Prefer, Zones::Require]),
        ..synchronous
    };
    let zoned = aside.random_range(0..4) == 0;
    // The first two are apart, so that somebody is elsewhere whoever leads.
    let mut zone = |index| if index < 2 { index } else { aside.random_range(0..2) };
    let zones = (0..count).filter(|_| zoned).map(|index| format!("zone{}", zone(index))).collect();
    let differ = matches!(profile, Profile::Clocks | Profile::Reboots) || aside.random_range(0..4) == 0;
    let clocks = (0..count)
        .filter(|_| differ)
        .map(|_| Clock {
            ahead: aside.random_range(1_000..1_000_000_000),
            drift: aside.random_range(-DRIFT..=DRIFT),
            stood: 0,
        })
        .collect();
    let nofailover = (count >= 4 && rng.random_range(0..3) == 0).then(|| members[count - 1].clone());
    let setup = Setup {
        nofailover: nofailover.into_iter().collect(),
        members,
        ttl: *pick(rng, &[5000, 5000, 3000, 10_000]),
        synchronous,
        shrink_delay: *pick(rng, &[2000, 500, 5000]),
        crash: if rng.random_range(0..5) == 0 { CrashPolicy::Restart } else { CrashPolicy::Failover },
        use_rewind: rng.random_range(0..8) != 0,
        max_lag: 1 << 20,
        stream_timeout: *pick(rng, &[3, 10, 60]),
        clients: 2,
        zones,
        clocks,
        unguarded: profile == Profile::Unguarded,
        watchdogs: false,
        flaky: if rng.random_range(0..4) == 0 { 5 } else { 0 },
        mutation: None,
    };
    if DIRECTED.contains(&profile) { directed_setup(rng, profile, setup) } else { setup }
}

pub(crate) fn pick<'a, T>(rng: &mut SmallRng, choices: &'a [T]) -> &'a T {
    &choices[rng.random_range(0..choices.len())]
}
