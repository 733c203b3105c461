//! What a handle has seen of the store's history, so that it notices a store that went back in time. Pure.
//!
//! The index of a listing does not do for that: it is the newest among the keys there are and those deleted lately, so it
//! falls when Consul forgets deletions (after 15 minutes). And after a restored snapshot, new writes get indexes above
//! all that was seen. But a key never changes to an older index, and what was not there at some index does not appear
//! later with an older one.

use std::collections::BTreeMap;

use crate::store::{Revision, Snapshot, Txn, Write};

/// Deletions are remembered by Consul for at least this long, in milliseconds (its own limit is 15 minutes).
const DELETIONS_KEPT_MS: u64 = 10 * 60 * 1000;

/// The state at one revision, and the newest revision heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Horizon {
    /// The newest revision that is certain to have existed.
    pub revision: Revision,
    /// The revision at which the whole prefix was read last.
    read_at: Revision,
    /// When, on the boot clock in milliseconds.
    read_ms: u64,
    /// When each key was last written, as far as is known.
    entries: BTreeMap<String, Revision>,
}

impl Horizon {
    /// Checks what was read by a request that was sent when this was known. `index` is the one of the listing. Gives
    /// the revision of the snapshot, or the revisions seen and found where the store went back.
    pub fn check(&self, index: Revision, found: &Snapshot, now_ms: u64) -> Result<Revision, (Revision, Revision)> {
        let fresh = now_ms.saturating_sub(self.read_ms) < DELETIONS_KEPT_MS;
        for (key, seen) in &self.entries {
            match found.get(key) {
                Some(entry) if entry.revision < *seen => return Err((*seen, entry.revision)),
                None if fresh && index < *seen => return Err((*seen, index)),
                _ => {}
            }
        }
        let back = |key: &String, revision: Revision| !self.entries.contains_key(key) && revision <= self.read_at;
        match found.entries.iter().find(|(key, entry)| back(key, entry.revision)) {
            Some((_, entry)) => Err((self.read_at, entry.revision)),
            None => Ok(index.max(self.revision)),
        }
    }

    /// Takes over what a read has found, unless more is known by now.
    pub fn read(&mut self, found: &Snapshot, now_ms: u64) {
        if found.revision >= self.revision {
            self.begin(found, now_ms);
        }
    }

    /// Takes over what a read has found, whatever was known before.
    pub fn begin(&mut self, found: &Snapshot, now_ms: u64) {
        self.revision = found.revision;
        self.read_at = found.revision;
        self.read_ms = now_ms;
        self.entries = found.entries.iter().map(|(key, entry)| (key.clone(), entry.revision)).collect();
    }

    /// Takes over what a transaction of ours has written at `revision`.
    pub fn wrote(&mut self, txn: &Txn, revision: Revision) {
        if revision <= self.revision {
            return;
        }
        self.revision = revision;
        for write in &txn.writes {
            match write {
                Write::Put { key, .. } => {
                    self.entries.insert(key.clone(), revision);
                }
                Write::Delete { key } => {
                    self.entries.remove(key);
                }
                Write::DeletePrefix { prefix } => self.entries.retain(|key, _| !key.starts_with(prefix.as_str())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Entry;

    fn snapshot(revision: Revision, entries: &[(&str, Revision)]) -> Snapshot {
        let entry = |revision| Entry { value: String::new(), revision, lease: None };
        Snapshot { revision, entries: entries.iter().map(|(key, at)| ((*key).to_owned(), entry(*at))).collect() }
    }

    fn after(revision: Revision, entries: &[(&str, Revision)]) -> Horizon {
        let mut horizon = Horizon::default();
        horizon.read(&snapshot(revision, entries), 1000);
        horizon
    }

    #[test]
    fn time_going_on_is_fine() {
        let horizon = after(100, &[("a", 90), ("b", 100)]);
        assert_eq!(horizon.check(100, &snapshot(0, &[("a", 90), ("b", 100)]), 2000), Ok(100));
        assert_eq!(horizon.check(120, &snapshot(0, &[("a", 120), ("b", 100), ("c", 110)]), 2000), Ok(120));
        // All deleted: the index is that of the deletion.
        assert_eq!(horizon.check(130, &snapshot(0, &[]), 2000), Ok(130));
    }

    #[test]
    fn a_forgotten_deletion_is_no_step_back() {
        let horizon = after(100, &[("a", 90)]);
        assert_eq!(horizon.check(90, &snapshot(0, &[("a", 90)]), 2000), Ok(100));
        // Deleted at 110 and forgotten, while nobody looked for a long time.
        let horizon = after(100, &[("a", 90), ("b", 100)]);
        assert_eq!(horizon.check(90, &snapshot(0, &[("a", 90)]), 20 * 60 * 1000), Ok(100));
    }

    #[test]
    fn an_older_copy_is_noticed() {
        let horizon = after(100, &[("a", 90), ("b", 100)]);
        assert_eq!(horizon.check(100, &snapshot(0, &[("a", 80), ("b", 100)]), 2000), Err((90, 80)));
        // A key that had not been written yet.
        assert_eq!(horizon.check(90, &snapshot(0, &[("a", 90)]), 2000), Err((100, 90)));
        // A key that had not been deleted yet.
        assert_eq!(horizon.check(100, &snapshot(0, &[("a", 90), ("b", 100), ("c", 95)]), 2000), Err((100, 95)));
        // A new, empty store.
        assert_eq!(horizon.check(12, &snapshot(0, &[]), 2000), Err((90, 12)));
    }

    #[test]
    fn own_writes_count_and_foreign_ones_in_between_are_not_missed() {
        let mut horizon = after(100, &[("a", 90)]);
        horizon.wrote(&Txn::new().put("b", "").delete("a"), 110);
        assert_eq!(horizon.check(105, &snapshot(0, &[]), 2000), Err((110, 105)));
        // Somebody wrote c at 105, before our write and after our read.
        assert_eq!(horizon.check(110, &snapshot(0, &[("b", 110), ("c", 105)]), 2000), Ok(110));
    }
}
