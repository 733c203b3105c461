//! The agent's hand on the store: one read and one change at a time, two leases, and nothing that blocks the loop.

use std::sync::Arc;
use std::time::Duration;

use matriarch_core::decide::{Lease, Millis, Purpose};
use matriarch_core::record::key;
use matriarch_core::transaction::{self, Life};
use matriarch_dcs::{Committed, LeaseId, Snapshot, Store, StoreError, Txn, boot_clock_ms};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

use crate::event::Event;

/// How long one operation on the store may take before it counts as failed (with an unknown outcome).
const STORE_TIMEOUT: Duration = Duration::from_secs(3);

/// Rest after a write that failed, in milliseconds: an attempt that fails at once would be made again at once.
const REST: Millis = 200;
/// Where the store answers and refuses, a person has to mend it: rests grow up to this one, for many clusters may ask it.
const LONGEST_REST: Millis = 1_600;

/// A lease of this process.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its id in the store.
    pub id: LeaseId,
    /// When the newest successful renewal was sent (boot clock, ms).
    pub renewed: Millis,
    /// When it ends, counted from there.
    pub until: Millis,
}

/// How a change ended.
#[derive(Debug)]
pub struct CommitDone {
    /// What it was for.
    pub purpose: Purpose,
    /// The lease granted for it, if it needed one.
    pub lease: Option<Held>,
    /// Its result.
    pub result: Result<Committed, StoreError>,
}

/// Everything the agent has under way with the store.
pub struct Storage {
    store: Arc<dyn Store>,
    events: UnboundedSender<Event>,
    ttl: Millis,
    member_ttl: Millis,
    /// The leader lease.
    pub leader: Option<Held>,
    /// The membership lease.
    pub member: Option<Held>,
    reading: bool,
    read_again: bool,
    /// The change under way.
    pub committing: Option<Purpose>,
    renewing: bool,
    renewing_member: bool,
    /// Until then nothing is written.
    rest_until: Millis,
    /// The newest rest.
    rest: Millis,
    trouble: Option<Trouble>,
}

/// Why nothing can be written, as long as that lasts.
struct Trouble {
    reason: String,
    /// A record could not be written. That a lease can be renewed says nothing then: a full store renews, and takes no more.
    of_write: bool,
}

impl Storage {
    pub fn new(store: Arc<dyn Store>, events: UnboundedSender<Event>, ttl: Millis) -> Storage {
        Storage {
            store,
            events,
            ttl,
            member_ttl: ttl * 2,
            leader: None,
            member: None,
            reading: false,
            read_again: false,
            committing: None,
            renewing: false,
            renewing_member: false,
            rest_until: 0,
            rest: 0,
            trouble: None,
        }
    }

    /// Why the store takes no changes, while it does not.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.as_ref().map(|trouble| format!("the store takes no changes: {}", trouble.reason))
    }

    /// When the next write may be tried, if that is not now.
    pub fn rests_until(&self, now: Millis) -> Option<Millis> {
        (now < self.rest_until).then_some(self.rest_until)
    }

    fn rests(&self) -> bool {
        self.rests_until(boot_clock_ms()).is_some()
    }

    /// A write has ended well.
    pub fn wrote(&mut self) {
        (self.rest_until, self.rest) = (0, 0);
        if self.trouble.take().is_some() {
            tracing::info!("the store takes changes again");
        }
    }

    /// A lease was renewed.
    fn kept(&mut self) {
        if self.trouble.as_ref().is_none_or(|trouble| !trouble.of_write) {
            self.wrote();
        }
    }

    /// A write has failed: said once, and not tried again at once.
    pub fn could_not_write(&mut self, what: &str, error: &StoreError) {
        self.failed(what, error, true);
    }

    fn failed(&mut self, what: &str, error: &StoreError, of_write: bool) {
        let longest = (self.ttl / 12).clamp(REST, LONGEST_REST);
        self.rest = if error.is_refusal() { (self.rest * 2).clamp(REST, longest) } else { REST };
        self.rest_until = boot_clock_ms() + self.rest;
        let reason = error.to_string();
        let before = self.trouble.take();
        if before.as_ref().is_none_or(|before| before.reason != reason) {
            tracing::warn!("{what}: {reason}");
        }
        self.trouble = Some(Trouble { reason, of_write: of_write || before.is_some_and(|before| before.of_write) });
    }

    /// A handle on the store itself.
    pub fn handle(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// The lease as decisions see it.
    pub fn lease(&self) -> Option<Lease> {
        self.leader.map(|held| Lease { renewed: held.renewed, until: held.until })
    }

    /// The time to live for leases granted from now on.
    pub fn set_ttl(&mut self, ttl: Millis) {
        self.ttl = ttl;
        self.member_ttl = ttl * 2;
    }

    /// A read is under way whose answer has not arrived.
    pub fn is_reading(&self) -> bool {
        self.reading
    }

    /// Reads everything; if a read is under way, once more after it, since it may be older than what is asked for.
    pub fn read(&mut self) {
        if self.reading {
            self.read_again = true;
            return;
        }
        self.reading = true;
        let (store, events) = (self.store.clone(), self.events.clone());
        tokio::spawn(async move {
            let result = bounded(&*store, store.read()).await;
            let _ = events.send(Event::StoreRead(result));
        });
    }

    /// To be called when a read's answer arrived; starts the next one if it was asked for.
    pub fn read_done(&mut self) {
        self.reading = false;
        if std::mem::take(&mut self.read_again) {
            self.read();
        }
    }

    /// Applies a change; false when another one is under way or has just failed (the next decision asks again).
    pub fn commit(&mut self, purpose: Purpose, txn: transaction::Txn) -> bool {
        if self.committing.is_some() || self.rests() {
            return false;
        }
        self.committing = Some(purpose);
        let (store, events) = (self.store.clone(), self.events.clone());
        let (ttl, needs_lease) = (self.ttl, txn.needs_leader_lease());
        let (held, member) = (self.leader, self.member);
        tokio::spawn(async move {
            let (lease, result) = apply(&*store, txn, needs_lease, held, member, ttl).await;
            let _ = events.send(Event::Committed(CommitDone { purpose, lease, result }));
        });
        true
    }

    /// Renews the leader lease.
    pub fn renew(&mut self) {
        let Some(held) = self.leader.filter(|_| !self.renewing && !self.rests()) else { return };
        self.renewing = true;
        let (store, events, ttl) = (self.store.clone(), self.events.clone(), self.ttl);
        tokio::spawn(async move {
            let sent = boot_clock_ms();
            let result = renew(&*store, held.id).await;
            let _ =
                events.send(Event::Renewed { lease: Held { id: held.id, renewed: sent, until: sent + ttl }, result });
        });
    }

    /// Takes a renewal's answer into account; true when the lease moved.
    pub fn renewed(&mut self, lease: Held, result: Result<(), StoreError>) -> bool {
        self.renewing = false;
        match result {
            Ok(()) => {
                self.kept();
                let ours = self.leader.is_some_and(|held| held.id == lease.id);
                if ours {
                    self.leader = Some(lease);
                }
                ours
            }
            Err(StoreError::LeaseGone { .. }) => {
                tracing::warn!("the leader lease has ended in the store");
                self.leader = self.leader.filter(|held| held.id != lease.id);
                true
            }
            Err(error) => {
                self.failed("the leader lease could not be renewed", &error, false);
                false
            }
        }
    }

    /// Gives the leader lease up; its keys vanish from the store.
    pub fn drop_leader_lease(&mut self) {
        let Some(held) = self.leader.take() else { return };
        let store = self.store.clone();
        tokio::spawn(async move {
            let _ = bounded(&*store, store.revoke(held.id)).await;
        });
    }

    /// Writes our member record under the membership lease, granting the lease first if there is none.
    pub fn put_member(&mut self, key: String, value: String) -> bool {
        if self.renewing_member || self.rests() {
            return false;
        }
        self.renewing_member = true;
        let (store, events, ttl, held) = (self.store.clone(), self.events.clone(), self.member_ttl, self.member);
        tokio::spawn(async move {
            let sent = boot_clock_ms();
            let outcome = async {
                let id = match held {
                    Some(held) => held.id,
                    None => bounded(&*store, store.grant(Duration::from_millis(ttl))).await?,
                };
                bounded(&*store, store.commit(Txn::new().put_leased(key, value, id))).await?;
                Ok(id)
            };
            let result: Result<LeaseId, StoreError> = outcome.await;
            let lease = result.map(|id| Held { id, renewed: sent, until: held.map_or(sent + ttl, |held| held.until) });
            let _ = events.send(Event::MemberWritten { lease });
        });
        true
    }

    /// Renews the membership lease when it is due (a third of its life has passed).
    pub fn renew_member_if_due(&mut self, now: Millis) {
        let free = !self.renewing_member && self.rests_until(now).is_none();
        let Some(held) = self.member.filter(|held| free && now + self.member_ttl * 2 / 3 >= held.until) else {
            return;
        };
        self.renewing_member = true;
        let (store, events, ttl) = (self.store.clone(), self.events.clone(), self.member_ttl);
        tokio::spawn(async move {
            let sent = boot_clock_ms();
            let result = bounded(&*store, store.keep_alive(held.id)).await;
            let lease = result.map(|()| Held { id: held.id, renewed: sent, until: sent + ttl });
            let _ = events.send(Event::MemberRenewed { lease });
        });
    }

    /// Takes the answer about the membership lease into account, which was renewed or written under; true when the record must
    /// be written again.
    pub fn member_done(&mut self, lease: Result<Held, StoreError>, written: bool) -> bool {
        self.renewing_member = false;
        match lease {
            Ok(held) => {
                if written {
                    self.wrote()
                } else {
                    self.kept()
                }
                self.member = Some(held);
                false
            }
            Err(StoreError::LeaseGone { .. }) => {
                self.member = None;
                true
            }
            Err(error) => {
                let what = if written { "written" } else { "kept" };
                self.failed(&format!("our member record could not be {what}"), &error, written);
                true
            }
        }
    }
}

async fn bounded<T>(
    store: &dyn Store,
    operation: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(STORE_TIMEOUT, operation).await.unwrap_or_else(|_| {
        Err(StoreError::Indeterminate {
            place: store.describe(),
            reason: format!("no answer within {} s", STORE_TIMEOUT.as_secs()),
        })
    })
}

/// A lease that lives proves nothing once somebody has taken the key over, so that is looked at as well, at any moment
/// after this began.
async fn renew(store: &dyn Store, lease: LeaseId) -> Result<(), StoreError> {
    let (renewed, holds) =
        tokio::join!(bounded(store, store.keep_alive(lease)), bounded(store, store.is_under(key::LEADER, lease)));
    renewed?;
    if holds? { Ok(()) } else { Err(StoreError::LeaseGone { place: store.describe(), lease }) }
}

async fn apply(
    store: &dyn Store,
    txn: transaction::Txn,
    needs_lease: bool,
    held: Option<Held>,
    member: Option<Held>,
    ttl: Millis,
) -> (Option<Held>, Result<Committed, StoreError>) {
    let mut lease = held;
    if needs_lease && lease.is_none() {
        let sent = boot_clock_ms();
        match bounded(store, store.grant(Duration::from_millis(ttl))).await {
            Ok(id) => lease = Some(Held { id, renewed: sent, until: sent + ttl }),
            Err(error) => return (None, Err(error)),
        }
    }
    let granted = lease.filter(|_| needs_lease);
    let Some(txn) = translate(txn, lease, member) else {
        let reason = "the lease that the change belongs to is gone".to_owned();
        return (granted, Err(StoreError::Unavailable { place: store.describe(), reason }));
    };
    (granted, bounded(store, store.commit(txn)).await)
}

fn translate(txn: transaction::Txn, leader: Option<Held>, member: Option<Held>) -> Option<Txn> {
    let mut out = Txn::new();
    for compare in txn.compares {
        out = match compare {
            transaction::Compare::Absent { key } => out.absent(key),
            transaction::Compare::Revision { key, revision } => out.revision(key, revision),
        };
    }
    for write in txn.writes {
        out = match write {
            transaction::Write::Put { key, value, life: Life::Permanent } => out.put(key, value),
            transaction::Write::Put { key, value, life: Life::LeaderLease } => out.put_leased(key, value, leader?.id),
            transaction::Write::Put { key, value, life: Life::MemberLease } => out.put_leased(key, value, member?.id),
            transaction::Write::Delete { key } => out.delete(key),
        };
    }
    Some(out)
}

/// A snapshot or why there is none.
pub type ReadResult = Result<Snapshot, StoreError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_renewal_says_nothing_of_what_cannot_be_written() {
        let (events, _heard) = tokio::sync::mpsc::unbounded_channel();
        let mut storage = Storage::new(Arc::new(matriarch_dcs::MemoryStore::new()), events, 5_000);
        let held = Held { id: LeaseId(1), renewed: 0, until: 5_000 };
        let full = || StoreError::Full { place: "here".to_owned() };
        let away = || StoreError::Unavailable { place: "here".to_owned(), reason: "refused".to_owned() };
        let says = |storage: &Storage, word: &str| storage.trouble().is_some_and(|trouble| trouble.contains(word));

        // A full store renews leases.
        assert!(storage.member_done(Err(full()), true));
        storage.renewed(held, Ok(()));
        storage.member_done(Ok(held), false);
        assert!(says(&storage, "NOSPACE"));
        storage.renewed(held, Err(away()));
        assert!(says(&storage, "refused"), "the newest reason is told");
        storage.renewed(held, Ok(()));
        assert!(says(&storage, "refused"), "until something was written");
        storage.member_done(Ok(held), true);
        assert_eq!(storage.trouble(), None);

        storage.renewed(held, Err(away()));
        assert!(says(&storage, "refused"));
        storage.renewed(held, Ok(()));
        assert_eq!(storage.trouble(), None, "nothing else had failed");
    }

    #[test]
    fn a_store_that_a_person_has_to_mend_is_asked_less_and_less() {
        let (events, _heard) = tokio::sync::mpsc::unbounded_channel();
        let mut storage = Storage::new(Arc::new(matriarch_dcs::MemoryStore::new()), events, 20_000);
        let denied = StoreError::Denied { place: "here".to_owned(), reason: "revoked".to_owned() };
        let away = StoreError::Unavailable { place: "here".to_owned(), reason: "refused".to_owned() };
        let mut rest_after = |error: &StoreError| {
            storage.could_not_write("a record", error);
            storage.rest
        };
        let rests = [(); 5].map(|()| rest_after(&denied));
        assert_eq!(rests, [200, 400, 800, 1_600, 1_600]);
        // Whoever was away may be back at any moment.
        assert_eq!([(); 3].map(|()| rest_after(&away)), [200; 3]);
        rest_after(&denied);
        storage.wrote();
        assert_eq!(storage.rests_until(boot_clock_ms()), None);
        storage.could_not_write("a record", &denied);
        assert_eq!(storage.rest, REST);
        storage.set_ttl(5_000);
        (0..5).for_each(|_| storage.could_not_write("a record", &denied));
        assert_eq!(storage.rest, 416, "never so long that a short lease could not be renewed");
    }
}
