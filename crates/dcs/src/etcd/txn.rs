//! From our transactions to etcd's and back.

use std::collections::{BTreeMap, BTreeSet};

use super::proto::{
    Compare as EtcdCompare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, Request, RequestOp, Target,
    TxnRequest, TxnResponse, Wanted,
};
use crate::store::{Committed, Compare, Entry, LeaseId, Revision, Txn, Write};

/// An entry as etcd holds it. Text is what everybody writes here; other bytes are shown as well as can be.
pub(super) fn entry(kv: &KeyValue) -> Entry {
    Entry {
        value: String::from_utf8_lossy(&kv.value).into_owned(),
        revision: kv.mod_revision.cast_unsigned(),
        lease: (kv.lease != 0).then(|| LeaseId(kv.lease.cast_unsigned())),
    }
}

/// The end of the range of all keys that begin with `prefix`.
pub(super) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // All keys from here on.
    vec![0]
}

/// The transaction for the keys under `prefix`. Its other branch reads what the conditions looked at, so that a refusal
/// needs no second question.
pub(super) fn request(prefix: &str, txn: &Txn) -> TxnRequest {
    let key = |key: &str| format!("{prefix}{key}").into_bytes();
    let compare = txn.compares.iter().map(|compare| {
        let (target, wanted) = match compare {
            Compare::Absent { .. } => (Target::CreateRevision, Wanted::CreateRevision(0)),
            // To etcd a missing key has revision 0; to us it has none.
            Compare::Revision { revision: 0, .. } => (Target::ModRevision, Wanted::ModRevision(-1)),
            Compare::Revision { revision, .. } => (Target::ModRevision, Wanted::ModRevision(revision.cast_signed())),
            Compare::Value { value, .. } => (Target::Value, Wanted::Value(value.clone().into_bytes())),
        };
        EtcdCompare { target: target.into(), key: key(compare.key()), wanted: Some(wanted) }
    });
    let failure = txn.compares.iter().map(|compare| {
        let keys_only = !matches!(compare, Compare::Value { .. });
        op(Request::Range(RangeRequest { key: key(compare.key()), keys_only, ..RangeRequest::default() }))
    });
    TxnRequest { compare: compare.collect(), success: changes(prefix, &txn.writes), failure: failure.collect() }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// The writes as etcd takes them: each key at most once, and no put within a deleted range. What a later write undoes is
/// left out, and a deleted prefix becomes the ranges between the keys that are put under it.
fn changes(prefix: &str, writes: &[Write]) -> Vec<RequestOp> {
    let (mut puts, mut keys, mut prefixes) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for write in writes {
        match write {
            Write::Put { key, value, lease } => {
                keys.remove(key.as_str());
                puts.insert(key.as_str(), (value, lease));
            }
            Write::Delete { key } => {
                puts.remove(key.as_str());
                keys.insert(key.as_str());
            }
            Write::DeletePrefix { prefix } => {
                puts.retain(|key, _| !key.starts_with(prefix.as_str()));
                prefixes.insert(prefix.as_str());
            }
        }
    }
    let whole = |key: &str| format!("{prefix}{key}").into_bytes();
    let mut out = Vec::new();
    for deleted in prefixes {
        let mut from = whole(deleted);
        let end = after_prefix(&from);
        for key in puts.keys().filter(|key| key.starts_with(deleted)) {
            let key = whole(key);
            let next = [&key[..], &[0]].concat();
            if from < key {
                out.push(op(Request::DeleteRange(DeleteRangeRequest { key: from, range_end: key })));
            }
            from = next;
        }
        out.push(op(Request::DeleteRange(DeleteRangeRequest { key: from, range_end: end })));
    }
    let delete = |key: &str| op(Request::DeleteRange(DeleteRangeRequest { key: whole(key), range_end: Vec::new() }));
    out.extend(keys.into_iter().map(delete));
    out.extend(puts.into_iter().map(|(key, (value, lease))| {
        let lease = lease.map_or(0, |lease| lease.0.cast_signed());
        op(Request::Put(PutRequest { key: whole(key), value: value.clone().into_bytes(), lease }))
    }));
    out
}

/// What became of it, and the store's revision then. None when the answer does not fit the question.
pub(super) fn outcome(txn: &Txn, answer: &TxnResponse) -> Option<(Committed, Revision)> {
    let revision = answer.header.as_ref()?.revision.cast_unsigned();
    if answer.succeeded {
        return Some((Committed::Applied { revision }, revision));
    }
    if answer.responses.len() != txn.compares.len() {
        return None;
    }
    let found =
        answer.responses.iter().map(|response| response.range.as_ref().and_then(|range| range.kvs.first()).map(entry));
    let failed = txn.compares.iter().zip(found).find(|(compare, entry)| !compare.holds(entry.as_ref()))?;
    Some((Committed::Refused { key: failed.0.key().to_owned() }, revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The changes as text: `-from..to`, `-key`, `+key=value`.
    fn shown(txn: &Txn) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "~");
        let show = |op: RequestOp| match op.request.unwrap() {
            Request::Put(put) => format!("+{}={}", text(&put.key), text(&put.value)),
            Request::DeleteRange(range) if range.range_end.is_empty() => format!("-{}", text(&range.key)),
            Request::DeleteRange(range) => format!("-{}..{}", text(&range.key), text(&range.range_end)),
            Request::Range(_) => unreachable!("changes read nothing"),
        };
        changes("/s/", &txn.writes).into_iter().map(show).collect()
    }

    #[test]
    fn a_later_write_of_a_key_wins() {
        let txn = Txn::new().put("a", "1").delete("a").put("b", "1").put("b", "2").delete("c").put("c", "3");
        assert_eq!(shown(&txn), ["-/s/a", "+/s/b=2", "+/s/c=3"]);
    }

    #[test]
    fn puts_after_a_deleted_prefix_are_holes_in_it() {
        let txn = Txn::new().put("p/gone", "1").delete_prefix("p/").put("p/a", "2").put("p/b", "3").put("q", "4");
        let wanted = ["-/s/p/../s/p/a", "-/s/p/a~../s/p/b", "-/s/p/b~../s/p0", "+/s/p/a=2", "+/s/p/b=3", "+/s/q=4"];
        assert_eq!(shown(&txn), wanted);
        assert_eq!(shown(&Txn::new().delete_prefix("").put("a", "1")), ["-/s/../s/a", "-/s/a~../s0", "+/s/a=1"]);
        assert_eq!(shown(&Txn::new().delete_prefix("p").put("p", "1")), ["-/s/p~../s/q", "+/s/p=1"]);
    }

    #[test]
    fn the_range_of_a_prefix_ends_after_it() {
        assert_eq!(after_prefix(b"/s/"), b"/s0");
        assert_eq!(after_prefix(&[b'a', 0xff]), b"b");
        assert_eq!(after_prefix(&[0xff]), [0]);
        assert_eq!(after_prefix(b""), [0]);
    }
}
