//! What must never be: the invariants of the design, looked at whenever they could break.

use matriarch_core::record::SyncRecord;

use crate::scene::Scene;
use crate::setup::{incarnation, member_name};
use crate::state::{Id, Names, Process, id, name};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Violation {
    /// The leader of a new epoch lacks an acknowledged commit.
    LostCommit,
    /// A commit is acknowledged that the leader of a newer epoch lacks, or beside it under the empty rule.
    TwoAcknowledge,
    /// A commit is acknowledged with fewer voters than the rule needs.
    TooFewVoters,
    /// The published rule would let a takeover happen without an acknowledged commit.
    RulesDoNotMeet,
    /// A member that has pledged receives WAL of that epoch.
    PledgedReceives,
    /// Two leaders in one epoch, or the epoch went back.
    TwoLeaders,
    /// A timeline was opened twice.
    TimelineTwice,
    /// A takeover left out voters that live.
    VotersDropped,
    /// A person's word gave up what a member that is there still holds.
    LossNotNeeded,
    /// Somebody acted on a store that went back in time, and could know it.
    ActedOnOldStore,
}

/// All of them, each a property of the search.
pub const VIOLATIONS: [(Violation, &str); 10] = [
    (Violation::LostCommit, "no acknowledged commit is lost"),
    (Violation::TwoAcknowledge, "no two members acknowledge in different epochs"),
    (Violation::TooFewVoters, "an acknowledged commit is on the leader and on enough voters"),
    (Violation::RulesDoNotMeet, "the published rule meets what PostgreSQL may use"),
    (Violation::PledgedReceives, "a pledged member receives nothing of that epoch"),
    (Violation::TwoLeaders, "one leader in each epoch, and epochs only grow"),
    (Violation::TimelineTwice, "every timeline is opened once"),
    (Violation::VotersDropped, "a takeover keeps the voters that live"),
    (Violation::LossNotNeeded, "only what nobody there is known to hold may be given up"),
    (Violation::ActedOnOldStore, "nobody acts on a store that is older than what it has seen"),
];

/// What clients were told, and what else has to be remembered to judge.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// Commits so far.
    pub commits: u8,
    /// Acknowledged commits, as bits.
    pub acknowledged: u16,
    /// Those that nothing the design covers may lose.
    pub covered: u16,
    /// Timelines ever opened, as bits.
    pub timelines: u16,
    /// Epochs whose newest rule is empty, as bits.
    pub asynchronous: u16,
}

impl Ledger {
    /// At the start.
    pub fn new(asynchronous: bool) -> Ledger {
        let asynchronous = u16::from(asynchronous) << 1;
        Ledger { commits: 0, acknowledged: 0, covered: 0, timelines: 0b10, asynchronous }
    }
}

/// Tells older records from newer ones, also in a store that went back.
fn age(sync: &SyncRecord) -> (u64, u64) {
    (sync.epoch, sync.serial)
}

fn bits(set: u16) -> impl Iterator<Item = u8> {
    (0..16).filter(move |bit| set >> bit & 1 == 1)
}

impl Scene<'_> {
    /// Notes what is broken; only the first counts.
    pub fn violate(&mut self, violation: Violation, text: impl FnOnce() -> String) {
        self.note(|| format!("*** {}", text()));
        self.state.violation.get_or_insert(violation);
    }

    /// Clients are told that these commits are done.
    pub fn acknowledged(&mut self, leader: Id, commits: u16, names: &Names) {
        let epoch = self.state.at(leader).pg.led;
        let covered = self.state.ledger.asynchronous >> epoch & 1 == 0;
        for commit in bits(commits) {
            self.note(|| format!("{} acknowledges commit {commit}", name(leader)));
            self.state.ledger.acknowledged |= 1 << commit;
            if covered {
                self.state.ledger.covered |= 1 << commit;
                self.check_voters(leader, commit, names);
            }
            self.check_beside_newer(leader, epoch, commit, covered);
            if covered {
                self.check_takeovers(commit);
            }
        }
    }

    /// A commit acknowledged under a rule is flushed by as many voters as the rule needs, unless their data was lost since.
    fn check_voters(&mut self, leader: Id, commit: u8, names: &Names) {
        let has = |app: &String| {
            let (member, digits) = app.split_once(':').expect("application names carry an incarnation");
            if member == "nobody" {
                return false;
            }
            let dir = self.state.at(id(member)).dir.as_ref();
            dir.is_none_or(|dir| !incarnation(dir.incarnation).as_str().starts_with(digits) || dir.holds(commit))
        };
        let flushed = names.apps.iter().filter(|app| has(app)).count();
        if names.needed == 0 || flushed < names.needed {
            let text = format!("{} acknowledges commit {commit} with {flushed} voters", name(leader));
            self.violate(Violation::TooFewVoters, || text);
        }
    }

    fn check_beside_newer(&mut self, leader: Id, epoch: u64, commit: u8, covered: bool) {
        let Some(sync) = self.state.sync().filter(|sync| sync.epoch > epoch) else { return };
        let (newest, newer) = (sync.epoch, id(sync.leader.as_str()));
        let other = self.state.at(newer);
        let lacks = other.dir.as_ref().is_some_and(|dir| {
            incarnation(dir.incarnation) == sync.incarnation && dir.wal.len() > 1 && !dir.holds(commit)
        });
        let beside = !covered && self.setup.clocked && newer != leader && other.pg.process == Process::Primary;
        if covered && lacks || beside {
            let text = format!(
                "{} of epoch {epoch} acknowledges commit {commit} though {} leads epoch {newest}{}",
                name(leader),
                name(newer),
                if lacks { " without it" } else { " and accepts writes" }
            );
            self.violate(Violation::TwoAcknowledge, || text);
        }
    }

    /// The published rule lets no takeover happen without this commit, as far as voters alone decide.
    fn check_takeovers(&mut self, commit: u8) {
        let Some(sync) = self.state.sync().filter(|sync| !sync.rule.is_empty() && sync.established) else { return };
        if self.went_back(sync) {
            return;
        }
        let lack = |(member, voter): &(&matriarch_core::MemberName, &matriarch_core::Incarnation)| {
            let dir = self.state.at(id(member.as_str())).dir.as_ref();
            dir.is_some_and(|dir| incarnation(dir.incarnation) == **voter && !dir.holds(commit))
        };
        let without = sync.rule.voters.iter().filter(lack).count();
        if without >= sync.rule.fence() {
            let text = format!("{without} voters of '{}' lack commit {commit}: enough for a takeover", sync.rule);
            self.violate(Violation::RulesDoNotMeet, || text);
        }
    }

    /// The `sync` record has been written, by a member that may not know that there was a newer one.
    pub fn check_sync(&mut self, before: Option<&SyncRecord>, sync: &SyncRecord, by: Id) {
        let leader = id(sync.leader.as_str());
        if let Some(newest) = self.state.at(by).newest.as_ref().filter(|newest| age(newest) >= age(sync)) {
            let text = format!("{} writes epoch {:?} and has seen {:?}", name(by), age(sync), age(newest));
            self.violate(Violation::ActedOnOldStore, || text);
        }
        let epoch_bit = 1 << sync.epoch;
        if sync.rule.is_empty() {
            self.state.ledger.asynchronous |= epoch_bit;
        } else {
            self.state.ledger.asynchronous &= !epoch_bit;
        }
        // Whoever has never seen what the store lost acts on it as it must.
        if before.is_some_and(|before| !self.has_seen_newer(by, before) && self.went_back(before)) {
            self.beyond = true;
            return;
        }
        let anew = self.state.at(by).newest.as_ref().is_some_and(|newest| newest.epoch == sync.epoch);
        let same = before.is_some_and(|before| before.epoch == sync.epoch);
        if let Some(before) = before
            && (before.epoch > sync.epoch
                || same && (&before.leader, &before.incarnation) != (&sync.leader, &sync.incarnation))
        {
            let text = format!("epoch {} of {} follows epoch {}", sync.epoch, sync.leader, before.epoch);
            self.violate(Violation::TwoLeaders, || text);
        }
        if !same {
            self.state.member(leader).pg.led = sync.epoch;
            match before {
                Some(before) if before.accepted_loss != sync.accepted_loss => self.check_given_up(leader, before),
                Some(before) if !anew => self.check_voters_kept(before, sync),
                _ => {}
            }
            self.check_new_leader(leader, sync);
        }
        if sync.established {
            self.cover(leader, sync);
        }
    }

    fn has_seen_newer(&self, id: Id, shown: &SyncRecord) -> bool {
        self.state.at(id).newest.as_ref().is_some_and(|newest| age(newest) > age(shown))
    }

    /// The store shows an older record than somebody has seen: who knows does nothing by it, and who does not is not
    /// followed further.
    fn went_back(&self, shown: &SyncRecord) -> bool {
        self.state.ids().any(|id| self.has_seen_newer(id, shown))
    }

    fn check_voters_kept(&mut self, before: &SyncRecord, sync: &SyncRecord) {
        if before.rule.is_empty() || !sync.rule.is_empty() {
            return;
        }
        let lives = |(member, voter): &(&matriarch_core::MemberName, &matriarch_core::Incarnation)| {
            let dir = self.state.at(id(member.as_str())).dir.as_ref();
            **member != sync.leader && dir.is_some_and(|dir| incarnation(dir.incarnation) == **voter)
        };
        if before.rule.voters.iter().any(|voter| lives(&voter)) {
            self.violate(Violation::VotersDropped, || format!("epoch {} is asynchronous", sync.epoch));
        }
    }

    /// A person has accepted what this takeover loses: all that those hold who led or vote, are there, and have not said how
    /// far they reach, must not be among it.
    fn check_given_up(&mut self, leader: Id, before: &SyncRecord) {
        let Some(dir) = &self.state.at(leader).dir else { return };
        let lost: Vec<u8> = bits(self.state.ledger.covered).filter(|commit| !dir.holds(*commit)).collect();
        let said = |id: Id, data: &matriarch_core::Incarnation| {
            let pledge = self.state.records.pledges[id as usize].as_ref().map(|pledge| &pledge.value);
            id == leader || pledge.is_some_and(|it| it.counts_against(before.epoch) && it.incarnation == *data)
        };
        let led = std::iter::once((&before.leader, &before.incarnation));
        let silent = before.rule.voters.iter().filter(|(name, data)| !said(id(name.as_str()), data));
        let holds = led.chain(silent).find(|(name, data)| {
            let there = self.state.at(id(name.as_str())).dir.as_ref();
            let there = there.filter(|dir| incarnation(dir.incarnation) == **data && **name != member_name(leader));
            there.is_some_and(|dir| lost.iter().any(|commit| dir.holds(*commit)))
        });
        if let Some((holder, _)) = holds {
            let text = format!("{} takes over without commits {lost:?}, which {holder} holds", name(leader));
            self.violate(Violation::LossNotNeeded, || text);
        }
        self.note(|| format!("given up: commits {lost:?}"));
        self.state.ledger.covered &= lost.iter().fold(u16::MAX, |kept, commit| kept & !(1 << commit));
    }

    /// Whoever leads a new epoch holds everything covered.
    pub fn check_new_leader(&mut self, leader: Id, sync: &SyncRecord) {
        let Some(dir) = &self.state.at(leader).dir else { return };
        let lost: Vec<u8> = bits(self.state.ledger.covered).filter(|commit| !dir.holds(*commit)).collect();
        if !lost.is_empty() {
            let text = format!("{} leads epoch {} without acknowledged commits {lost:?}", sync.leader, sync.epoch);
            self.violate(Violation::LostCommit, || text);
        }
    }

    /// An established rule covers all that its leader acknowledged before; the empty rule covers nothing.
    fn cover(&mut self, leader: Id, sync: &SyncRecord) {
        if sync.rule.is_empty() {
            self.state.ledger.covered = 0;
            return;
        }
        let Some(dir) = &self.state.at(leader).dir else { return };
        let held = dir.wal.iter().fold(0, |set: u16, record| set | 1 << record.commit) & !1;
        self.state.ledger.covered |= held & self.state.ledger.acknowledged;
        for commit in bits(self.state.ledger.covered & held) {
            self.check_takeovers(commit);
        }
    }

    /// A record has reached a standby.
    pub fn check_received(&mut self, standby: Id, from: Id) {
        let records = &self.state.records;
        let (Some(sync), Some(pledge)) = (&records.sync, &records.pledges[standby as usize]) else { return };
        let (sync, pledge) = (&sync.value, &pledge.value);
        let mine = self.state.at(standby).dir.as_ref().map(|dir| incarnation(dir.incarnation));
        let stands = pledge.epoch == sync.epoch && !pledge.withdrawn && Some(&pledge.incarnation) == mine.as_ref();
        // A pledge that a store shows again which went back is none, and who knows that counts it nowhere.
        if stands && !self.has_seen_newer(standby, sync) && member_name(from) == sync.leader {
            let text = format!("{} has pledged and receives from {}", name(standby), name(from));
            self.violate(Violation::PledgedReceives, || text);
        }
    }
}
