//! Who is to vote, and in which order: tags, lag, and failure domains.
//!
//! A leader in zone Z dies with everybody in Z. What was acknowledged survives that if at least one of the voters that
//! acknowledged it is elsewhere. So voters are taken from other zones as long as there are enough of them, and at most
//! one fewer than are needed from the leader's own.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::decide::{ClusterView, Policy, Zones};
use crate::name::{Incarnation, MemberName};
use crate::record::MemberRecord;
use crate::rule::Rule;

/// The voters wanted, out of members that could vote.
pub(super) fn choose(policy: &Policy, view: &ClusterView, able: &BTreeSet<MemberName>) -> BTreeSet<MemberName> {
    let (inside, outside) = split(policy, view, able);
    if outside.is_empty() {
        return inside;
    }
    let missing = (policy.synchronous.needed as usize).saturating_sub(outside.len());
    outside.into_iter().chain(by_preference(view, inside).into_iter().take(missing)).collect()
}

/// The rule that PostgreSQL is to enforce when `rule` is published and the loss of a zone must lose nothing. With fewer
/// voters and the same number needed, whoever acknowledges under it acknowledges under `rule` as well.
pub(super) fn insist(policy: &Policy, view: &ClusterView, rule: &Rule) -> Rule {
    if policy.synchronous.zones != Zones::Require || rule.is_empty() {
        return rule.clone();
    }
    let (inside, outside) = split(policy, view, &rule.voters.keys().cloned().collect());
    let spare = if outside.is_empty() { 0 } else { rule.needed as usize - 1 };
    let mut kept: BTreeSet<MemberName> = by_preference(view, inside).into_iter().take(spare).collect();
    kept.extend(outside);
    rule.only(|name, _| kept.contains(name))
}

/// The same rule, with the order among its voters that is wanted now.
pub(super) fn in_order(policy: &Policy, view: &ClusterView, mut rule: Rule) -> Rule {
    let ordered = policy.synchronous.first && !rule.is_empty();
    rule.first = if ordered { by_preference(view, rule.voters.keys().cloned().collect()) } else { Vec::new() };
    rule
}

/// May this member vote with this data, as far as it says itself? Where it streams from and its lag are another matter.
pub(super) fn may_vote(member: &MemberRecord, incarnation: &Incarnation) -> bool {
    member.incarnation.as_ref() == Some(incarnation) && member.may_vote()
}

/// Members of the leader's zone, or of one that is not known, and those elsewhere. Without a zone of its own the leader
/// has no neighbours, and everybody counts as elsewhere.
pub(super) fn split(
    policy: &Policy,
    view: &ClusterView,
    names: &BTreeSet<MemberName>,
) -> (BTreeSet<MemberName>, BTreeSet<MemberName>) {
    let Some(zone) = policy.zone.as_deref().filter(|_| policy.synchronous.zones != Zones::Ignore) else {
        return (BTreeSet::new(), names.clone());
    };
    let elsewhere =
        |name: &&MemberName| view.members.get(*name).and_then(MemberRecord::zone).is_some_and(|theirs| theirs != zone);
    let outside: BTreeSet<_> = names.iter().filter(elsewhere).cloned().collect();
    (names.difference(&outside).cloned().collect(), outside)
}

/// Those with the highest `sync_priority` first, by name among equals; members that are away come last.
fn by_preference(view: &ClusterView, names: BTreeSet<MemberName>) -> Vec<MemberName> {
    let mut names: Vec<MemberName> = names.into_iter().collect();
    names.sort_by_cached_key(|name| {
        (Reverse(view.members.get(name).map_or(i64::MIN, MemberRecord::sync_priority)), name.clone())
    });
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::{CrashPolicy, Synchronous};

    fn name(text: &str) -> MemberName {
        text.parse().unwrap()
    }

    /// Members as `name:zone:sync_priority`, seen by a leader in zone "x".
    fn view(members: &[&str]) -> ClusterView {
        let members = members.iter().map(|text| {
            let mut parts = text.split(':');
            let (member, zone) = (parts.next().unwrap(), parts.next().unwrap());
            let priority: i64 = parts.next().map_or(1, |text| text.parse().unwrap());
            let mut tags = json!({ "sync_priority": priority });
            if !zone.is_empty() {
                tags["zone"] = json!(zone);
            }
            let record: MemberRecord = serde_json::from_value(json!({
                "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running",
                "role": "replica", "version": "4.1.5", "tags": tags,
            }))
            .unwrap();
            (name(member), record)
        });
        ClusterView { members: members.collect(), ..ClusterView::default() }
    }

    fn policy(needed: u32, zones: Zones) -> Policy {
        Policy {
            me: name("a"),
            ttl: 5_000,
            paused: false,
            crash: CrashPolicy::Failover,
            synchronous: Synchronous { needed, zones, ..Synchronous::default() },
            zone: Some("x".to_owned()),
            shrink_delay: 2_000,
            maximum_lag_on_failover: 0,
            start_timeout: 60_000,
            stall_limit: None,
            use_rewind: true,
            clone_after_rewind: true,
            clone_diverged: true,
            may_lead: true,
            from_archive: false,
            hold_timeout: 5_000,
            bootstrap_config: None,
        }
    }

    fn names(text: &str) -> BTreeSet<MemberName> {
        text.split_whitespace().map(name).collect()
    }

    fn rule(text: &str, needed: u32) -> Rule {
        let voters = names(text).into_iter().map(|name| (name, Incarnation::from_bits(7))).collect();
        Rule { voters, needed, ..Rule::default() }
    }

    #[test]
    fn voters_are_elsewhere_as_far_as_possible() {
        for (members, needed, zones, chosen) in [
            (&["b:x", "c:y", "d:z"][..], 1, Zones::Prefer, "c d"),
            (&["b:x", "c:y", "d:z"][..], 1, Zones::Require, "c d"),
            (&["b:x", "c:y", "d:z"][..], 1, Zones::Ignore, "b c d"),
            // One in the leader's zone may fill up, since the other one needed is elsewhere.
            (&["b:x", "c:y", "d:x:5"][..], 2, Zones::Prefer, "c d"),
            (&["b:x", "c:x"][..], 1, Zones::Prefer, "b c"),
            // A member that does not say where it is may be next door.
            (&["b:", "c:y"][..], 1, Zones::Prefer, "c"),
        ] {
            let view = view(members);
            let able = view.members.keys().cloned().collect();
            assert_eq!(choose(&policy(needed, zones), &view, &able), names(chosen), "{members:?} {needed} {zones:?}");
        }
        let homeless = Policy { zone: None, ..policy(1, Zones::Require) };
        let view = view(&["b:x", "c:y"]);
        assert_eq!(choose(&homeless, &view, &names("b c")), names("b c"));
    }

    #[test]
    fn insisting_never_lets_one_zone_acknowledge_alone() {
        let view = view(&["b:x", "c:x", "d:y", "e:z"]);
        for (voters, needed, enforced) in
            [("b d", 1, "d"), ("b c", 1, ""), ("b c d", 2, "b d"), ("b c d e", 2, "b d e"), ("b c", 2, "")]
        {
            let enforced = rule(enforced, needed);
            assert_eq!(insist(&policy(needed, Zones::Require), &view, &rule(voters, needed)), enforced, "{voters}");
        }
        assert_eq!(insist(&policy(1, Zones::Prefer), &view, &rule("b c", 1)), rule("b c", 1));
        assert_eq!(rule("", 1).synchronous_standby_names(), r#"ANY 1 ("nobody:00000000")"#, "writes are blocked");
    }

    #[test]
    fn the_highest_priority_comes_first() {
        let view = view(&["b:x:1", "c:y:7", "d:z:7"]);
        let first = |policy: &Policy| in_order(policy, &view, rule("b c d away", 1)).first;
        let mut policy = policy(1, Zones::Ignore);
        assert_eq!(first(&policy), Vec::<MemberName>::new());
        policy.synchronous.first = true;
        assert_eq!(first(&policy), ["c", "d", "b", "away"].map(name));
    }
}
