//! Leases in SQL. A lease is over when its deadline on the boot clock has passed, or the host has
//! booted since: nobody can have renewed it across a boot.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::store::{LeaseId, ttl_ms};

/// The leases of this boot that live on at `now`; everything else is over.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    pub boot: &'a str,
    pub now_ms: u64,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    pub leases: usize,
    pub keys: usize,
}

/// Removes the leases that are over, and their keys, in every scope.
pub(super) fn sweep(db: &Connection, moment: Moment<'_>) -> rusqlite::Result<Swept> {
    const OVER: &str = "boot <> ?1 OR deadline_ms <= ?2";
    let found = db
        .prepare_cached(&format!("SELECT EXISTS (SELECT 1 FROM leases WHERE {OVER})"))?
        .query_row(params![moment.boot, signed(moment.now_ms)], |row| row.get::<_, bool>(0))?;
    if !found {
        return Ok(Swept::default());
    }
    let parameters = params![moment.boot, signed(moment.now_ms)];
    let keys =
        db.execute(&format!("DELETE FROM entries WHERE lease IN (SELECT id FROM leases WHERE {OVER})"), parameters)?;
    let leases = db.execute(&format!("DELETE FROM leases WHERE {OVER}"), parameters)?;
    Ok(Swept { leases, keys })
}

/// When the next lease ends, in boot-clock milliseconds; 0 if one of another boot is still there.
pub(super) fn next_deadline(db: &Connection, boot: &str) -> rusqlite::Result<Option<u64>> {
    db.prepare_cached("SELECT min(CASE WHEN boot = ?1 THEN deadline_ms ELSE 0 END) FROM leases")?
        .query_row([boot], |row| row.get::<_, Option<i64>>(0))
        .map(|found| found.map(i64::cast_unsigned))
}

/// Adds a lease. Its id is random, so that an id from an older store never means a newer lease.
pub(super) fn grant(db: &Connection, moment: Moment<'_>, ttl: Duration) -> rusqlite::Result<LeaseId> {
    let id = rand::random_range(1..=i64::MAX.cast_unsigned());
    let ttl = ttl_ms(ttl);
    db.prepare_cached("INSERT INTO leases (id, boot, deadline_ms, ttl_ms) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![signed(id), moment.boot, signed(moment.now_ms + ttl), signed(ttl)])?;
    Ok(LeaseId(id))
}

/// Counts the lease's full time from now; false if there is no such lease.
pub(super) fn extend(db: &Connection, moment: Moment<'_>, lease: LeaseId) -> rusqlite::Result<bool> {
    db.prepare_cached("UPDATE leases SET deadline_ms = ?2 + ttl_ms WHERE id = ?1")?
        .execute(params![signed(lease.0), signed(moment.now_ms)])
        .map(|updated| updated == 1)
}

/// Whether the lease is there; after a sweep that means it lives.
pub(super) fn exists(db: &Connection, lease: LeaseId) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM leases WHERE id = ?1")?
        .query_row([signed(lease.0)], |_| Ok(()))
        .optional()
        .map(|found| found.is_some())
}

/// Removes the lease and its keys.
pub(super) fn revoke(db: &Connection, lease: LeaseId) -> rusqlite::Result<Swept> {
    let keys = db.prepare_cached("DELETE FROM entries WHERE lease = ?1")?.execute([signed(lease.0)])?;
    let leases = db.prepare_cached("DELETE FROM leases WHERE id = ?1")?.execute([signed(lease.0)])?;
    Ok(Swept { leases, keys })
}

/// SQLite's integers are signed; ids of other engines and garbage above 2^63 simply match nothing.
fn signed(value: u64) -> i64 {
    value.cast_signed()
}
