//! A transaction as Consul's `PUT /v1/txn` takes it, and its answer. Pure.
//!
//! Three ways of Consul shape this. A `set` of what is there already changes nothing, not even the index, and a `set`
//! leaves a key under the session it is under: so a put first deletes the key, in the same transaction. A `lock` fails
//! while another session holds the key: after the delete nobody does, so a takeover is one transaction even while the old
//! leader's session lives. There is no compare of values: the caller reads first and compares the index.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::answer::{TxnAnswer, TxnFault};
use crate::store::{Compare, LeaseId, Revision, Txn, Write};

/// Operations that every supported Consul takes in one transaction (newer ones take 128).
pub(super) const MAX_OPERATIONS: usize = 64;

/// Written and removed again by transactions that only delete, because deleting alone tells no index.
const TICK: &str = ".tick";

/// What an operation stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Meaning {
    /// The compare of this number.
    Compare(usize),
    /// A put under this lease.
    Lease(LeaseId),
    Plain,
}

/// The operations of a transaction.
#[derive(Debug)]
pub(super) struct Plan {
    operations: Vec<Value>,
    meanings: Vec<Meaning>,
}

/// Why a transaction was not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotApplied {
    /// This compare did not hold.
    Compare(usize),
    /// This lease is gone.
    Lease(LeaseId),
    /// Something else, in Consul's words.
    Other(String),
}

/// What the caller had to find out before.
pub(super) struct Known<'a> {
    /// The index at which each compared value was seen, by the compare's number.
    pub indexes: &'a BTreeMap<usize, Revision>,
    /// The session of each lease.
    pub sessions: &'a BTreeMap<LeaseId, String>,
}

impl Plan {
    /// Translates a transaction for keys under `prefix`. Every value compare must have an index, every lease a session.
    pub fn new(prefix: &str, txn: &Txn, known: &Known<'_>) -> Plan {
        let absent: BTreeMap<&str, usize> = (txn.compares.iter().enumerate().rev())
            .filter_map(|(number, compare)| match compare {
                Compare::Absent { key } => Some((key.as_str(), number)),
                _ => None,
            })
            .collect();
        // A plain put of a key that must be absent takes one operation that does both, if nothing touches the key before.
        let merged = merged(txn, &absent);
        let mut plan = Plan { operations: Vec::new(), meanings: Vec::new() };
        for (number, compare) in txn.compares.iter().enumerate() {
            let key = full(prefix, compare.key());
            match compare {
                Compare::Absent { key } if merged.contains(key.as_str()) => {}
                Compare::Absent { .. } => plan.add(Meaning::Compare(number), "check-not-exists", json!({ "Key": key })),
                Compare::Revision { revision, .. } => plan.check_index(number, &key, *revision),
                Compare::Value { .. } => {
                    plan.check_index(number, &key, known.indexes.get(&number).copied().unwrap_or(0));
                }
            }
        }
        let mut untouched: BTreeSet<&str> = absent.keys().copied().collect();
        let mut tells_index = false;
        for write in &txn.writes {
            match write {
                Write::Put { key, value, lease } => {
                    let is_new = untouched.remove(key.as_str());
                    let first = if is_new && merged.contains(key.as_str()) { absent.get(key.as_str()) } else { None };
                    plan.put(&full(prefix, key), value, *lease, is_new, first.copied(), known);
                    tells_index = true;
                }
                Write::Delete { key } => {
                    untouched.remove(key.as_str());
                    plan.add(Meaning::Plain, "delete", json!({ "Key": full(prefix, key) }));
                }
                Write::DeletePrefix { prefix: part } => {
                    untouched.retain(|key| !key.starts_with(part.as_str()));
                    plan.add(Meaning::Plain, "delete-tree", json!({ "Key": full(prefix, part) }));
                }
            }
        }
        if !tells_index {
            let tick = full(prefix, TICK);
            plan.add(Meaning::Plain, "set", json!({ "Key": tick, "Value": "" }));
            plan.add(Meaning::Plain, "delete", json!({ "Key": tick }));
        }
        plan
    }

    /// How many operations it takes.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// The body of the request, each operation in the given namespace and partition.
    pub fn body(&self, namespace: Option<&str>, partition: Option<&str>) -> Vec<u8> {
        let operations: Vec<Value> = (self.operations.iter())
            .map(|operation| {
                let mut operation = operation.clone();
                for (field, value) in [("Namespace", namespace), ("Partition", partition)] {
                    if let Some(value) = value {
                        operation["KV"][field] = Value::from(value);
                    }
                }
                operation
            })
            .collect();
        Value::Array(operations).to_string().into_bytes()
    }

    /// The index at which it was applied.
    pub fn applied(answer: &TxnAnswer) -> Option<Revision> {
        answer.results.iter().flatten().filter_map(|result| result.kv.as_ref()).map(|kv| kv.modify_index).max()
    }

    /// Why it was not: the first compare that failed, else a lease that is gone, else what Consul said.
    pub fn not_applied(&self, faults: &[TxnFault]) -> NotApplied {
        if let Some(denied) = faults.iter().find(|fault| fault.is_denied()) {
            return NotApplied::Other(denied.what.clone());
        }
        let meaning = |fault: &TxnFault| self.meanings.get(fault.op_index).cloned().unwrap_or(Meaning::Plain);
        let compares = faults.iter().filter(|fault| fault.is_comparison()).filter_map(|fault| match meaning(fault) {
            Meaning::Compare(number) => Some(number),
            _ => None,
        });
        if let Some(number) = compares.min() {
            return NotApplied::Compare(number);
        }
        let leases = faults.iter().filter(|fault| fault.is_lost_session()).filter_map(|fault| match meaning(fault) {
            Meaning::Lease(lease) => Some(lease),
            _ => None,
        });
        leases.min().map_or_else(
            || NotApplied::Other(faults.first().map_or("no reason given".to_owned(), |fault| fault.what.clone())),
            NotApplied::Lease,
        )
    }

    fn check_index(&mut self, number: usize, key: &str, index: Revision) {
        self.add(Meaning::Compare(number), "check-index", json!({ "Key": key, "Index": index }));
    }

    fn put(
        &mut self,
        key: &str,
        value: &str,
        lease: Option<LeaseId>,
        is_new: bool,
        merged: Option<usize>,
        known: &Known<'_>,
    ) {
        let value = BASE64_STANDARD.encode(value);
        if let Some(number) = merged {
            return self.add(Meaning::Compare(number), "cas", json!({ "Key": key, "Value": value, "Index": 0 }));
        }
        if !is_new {
            self.add(Meaning::Plain, "delete", json!({ "Key": key }));
        }
        match lease {
            None => self.add(Meaning::Plain, "set", json!({ "Key": key, "Value": value })),
            Some(lease) => {
                let session = known.sessions.get(&lease).map_or("", String::as_str);
                let operation = json!({ "Key": key, "Value": value, "Session": session });
                self.add(Meaning::Lease(lease), "lock", operation);
            }
        }
    }

    fn add(&mut self, meaning: Meaning, verb: &str, mut operation: Value) {
        operation["Verb"] = Value::from(verb);
        self.operations.push(json!({ "KV": operation }));
        self.meanings.push(meaning);
    }
}

fn full(prefix: &str, key: &str) -> String {
    format!("{prefix}{key}")
}

/// The keys whose compare for absence and first write can be one operation.
fn merged<'a>(txn: &'a Txn, absent: &BTreeMap<&'a str, usize>) -> BTreeSet<&'a str> {
    let mut touched: BTreeSet<&str> = BTreeSet::new();
    let mut merged = BTreeSet::new();
    let mut cleared: Vec<&str> = Vec::new();
    for write in &txn.writes {
        match write {
            Write::Put { key, lease, .. } => {
                let first = touched.insert(key) && !cleared.iter().any(|prefix| key.starts_with(prefix));
                if first && lease.is_none() && absent.contains_key(key.as_str()) {
                    merged.insert(key.as_str());
                }
            }
            Write::Delete { key } => {
                touched.insert(key);
            }
            Write::DeletePrefix { prefix } => cleared.push(prefix),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The operations as `verb key`, `cas` and `check-index` with their index.
    fn operations(txn: &Txn) -> Vec<String> {
        let sessions = BTreeMap::from([(LeaseId(1), "s-1".to_owned())]);
        let plan = Plan::new("p/", txn, &Known { indexes: &BTreeMap::from([(0, 7)]), sessions: &sessions });
        let shown = plan.operations.iter().map(|operation| {
            let kv = &operation["KV"];
            let text = |field: &str| kv[field].as_str().unwrap_or_default().to_owned();
            let index = kv["Index"].as_u64().map_or(String::new(), |index| format!(" {index}"));
            format!("{} {}{index}", text("Verb"), text("Key"))
        });
        shown.collect()
    }

    #[test]
    fn a_put_deletes_first_unless_the_key_is_known_to_be_absent() {
        assert_eq!(operations(&Txn::new().put("a", "")), ["delete p/a", "set p/a"]);
        assert_eq!(operations(&Txn::new().put_leased("a", "", LeaseId(1))), ["delete p/a", "lock p/a"]);
        assert_eq!(operations(&Txn::new().absent("a").put("a", "")), ["cas p/a 0"]);
        let leased = Txn::new().absent("a").put_leased("a", "", LeaseId(1));
        assert_eq!(operations(&leased), ["check-not-exists p/a", "lock p/a"]);
        let twice = Txn::new().absent("a").put("a", "1").put("a", "2");
        assert_eq!(operations(&twice), ["cas p/a 0", "delete p/a", "set p/a"]);
    }

    #[test]
    fn compares_come_before_every_change_that_could_touch_their_keys() {
        let txn = Txn::new().absent("x/a").delete_prefix("x/").put("x/a", "");
        assert_eq!(operations(&txn), ["check-not-exists p/x/a", "delete-tree p/x/", "delete p/x/a", "set p/x/a"]);
        let txn = Txn::new().absent("a").delete("a").put("a", "");
        assert_eq!(operations(&txn), ["check-not-exists p/a", "delete p/a", "delete p/a", "set p/a"]);
        let txn = Txn::new().value("a", "x").revision("b", 3).put("b", "");
        assert_eq!(operations(&txn), ["check-index p/a 7", "check-index p/b 3", "delete p/b", "set p/b"]);
    }

    #[test]
    fn deleting_alone_leaves_a_trace_of_its_index() {
        let txn = Txn::new().delete("a");
        assert_eq!(operations(&txn), ["delete p/a", "set p/.tick", "delete p/.tick"]);
    }

    #[test]
    fn of_several_reasons_the_first_compare_is_told() {
        let txn = Txn::new().absent("a").revision("b", 3).put_leased("c", "", LeaseId(1)).put("a", "");
        let sessions = BTreeMap::from([(LeaseId(1), "s-1".to_owned())]);
        let plan = Plan::new("p/", &txn, &Known { indexes: &BTreeMap::new(), sessions: &sessions });
        let fault = |op_index, what: &str| TxnFault { op_index, what: what.to_owned() };
        // check-index b, delete c, lock c, cas a
        let stale = fault(0, "failed index check for key \"p/b\", current modify index 4 != 3");
        let gone = fault(2, "invalid session \"s-1\"");
        let taken = fault(3, "failed to set key \"p/a\", index is stale");
        assert_eq!(plan.not_applied(&[stale, gone, taken]), NotApplied::Compare(0));
        let gone = fault(2, "invalid session \"s-1\"");
        assert_eq!(plan.not_applied(&[gone]), NotApplied::Lease(LeaseId(1)));
        // Words of a compare in a refusal for lack of permission are no compare.
        let denied = fault(0, "Permission denied: token lacks permission 'key:read' on \"failed index check\"");
        assert!(matches!(plan.not_applied(&[denied]), NotApplied::Other(_)));
    }
}
