//! Keys, values and the revision in SQL.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store::{Compare, Entry, LeaseId, Revision, Snapshot, Write};

/// The store's newest revision; it counts for all scopes of the file together.
pub(super) fn revision(db: &Connection) -> rusqlite::Result<Revision> {
    db.prepare_cached("SELECT revision FROM meta WHERE row = 1")?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(i64::cast_unsigned)
}

pub(super) fn set_revision(db: &Connection, revision: Revision) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE meta SET revision = ?1 WHERE row = 1")?.execute([revision.cast_signed()])?;
    Ok(())
}

/// All of `scope`. Call it inside a transaction: the revision and the entries are two statements.
pub(super) fn snapshot(db: &Connection, scope: &str) -> rusqlite::Result<Snapshot> {
    let revision = revision(db)?;
    let mut query = db.prepare_cached("SELECT value, revision, lease, key FROM entries WHERE scope = ?1")?;
    let rows = query.query_map([scope], |row| Ok((row.get(3)?, entry(row)?)))?;
    Ok(Snapshot { revision, entries: rows.collect::<rusqlite::Result<BTreeMap<_, _>>>()? })
}

/// The first compare that does not hold.
pub(super) fn first_failed<'a>(
    db: &Connection,
    scope: &str,
    compares: &'a [Compare],
) -> rusqlite::Result<Option<&'a Compare>> {
    for compare in compares {
        let found = db
            .prepare_cached("SELECT value, revision, lease FROM entries WHERE scope = ?1 AND key = ?2")?
            .query_row([scope, compare.key()], entry)
            .optional()?;
        if !compare.holds(found.as_ref()) {
            return Ok(Some(compare));
        }
    }
    Ok(None)
}

/// Applies the writes in order, all at `revision`; gives how many rows changed.
pub(super) fn apply(db: &Connection, scope: &str, revision: Revision, writes: &[Write]) -> rusqlite::Result<usize> {
    let mut changed = 0;
    for write in writes {
        changed += match write {
            Write::Put { key, value, lease } => db
                .prepare_cached(
                    "INSERT OR REPLACE INTO entries (scope, key, value, revision, lease) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    scope,
                    key,
                    value,
                    revision.cast_signed(),
                    lease.map(|lease| lease.0.cast_signed())
                ])?,
            Write::Delete { key } => delete(db, scope, key)?,
            Write::DeletePrefix { prefix } => delete_prefix(db, scope, prefix)?,
        };
    }
    Ok(changed)
}

fn delete(db: &Connection, scope: &str, key: &str) -> rusqlite::Result<usize> {
    db.prepare_cached("DELETE FROM entries WHERE scope = ?1 AND key = ?2")?.execute([scope, key])
}

/// Prefixes are compared here and not in SQL, where `LIKE` has wildcards and `substr` counts characters.
fn delete_prefix(db: &Connection, scope: &str, prefix: &str) -> rusqlite::Result<usize> {
    let mut keys = Vec::new();
    let mut query = db.prepare_cached("SELECT key FROM entries WHERE scope = ?1 AND key >= ?2 ORDER BY key")?;
    for key in query.query_map([scope, prefix], |row| row.get::<_, String>(0))? {
        match key? {
            key if key.starts_with(prefix) => keys.push(key),
            _ => break,
        }
    }
    keys.iter().try_fold(0, |changed, key| Ok(changed + delete(db, scope, key)?))
}

/// An entry from a row that starts with value, revision and lease.
fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        value: row.get(0)?,
        revision: row.get::<_, i64>(1)?.cast_unsigned(),
        lease: row.get::<_, Option<i64>>(2)?.map(|lease| LeaseId(lease.cast_unsigned())),
    })
}
