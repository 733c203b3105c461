//! The durability rule: which members must have flushed a commit before it is acknowledged.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{Incarnation, MemberName};

/// An application name that no replica bears, to wait for when there is no voter and none may be done without.
pub(crate) const NOBODY: &str = "nobody:00000000";

/// A commit is acknowledged only when `needed` of `voters` have flushed it. With `needed` 0 it is empty: asynchronous.
///
/// It is PostgreSQL's `synchronous_standby_names = 'ANY needed (voters)'`, or `FIRST`. A strict cluster may need more than there are:
/// then nothing is acknowledged until another voter has joined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Voters: a name and the identity of its data.
    pub voters: BTreeMap<MemberName, Incarnation>,
    /// How many of them must have flushed.
    pub needed: u32,
    /// All voters in the order in which they are asked, when it is always the first ones that connect whose word counts
    /// (`FIRST`); else whichever flush soonest (`ANY`). Nothing that is proved depends on it: either way an acknowledged
    /// commit is on `needed` of the voters, and nobody knows on which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<MemberName>,
}

impl Rule {
    /// No voter is needed: an acknowledged commit may be on the leader alone.
    pub fn is_empty(&self) -> bool {
        self.needed == 0
    }

    /// Some are needed, and there is none: nothing is acknowledged.
    pub fn is_of_nobody(&self) -> bool {
        self.needed > 0 && self.voters.is_empty()
    }

    /// How many voters must pledge so that no acknowledgement is possible any more and every acknowledged commit is
    /// held by one of them: |S| - k + 1.
    pub fn fence(&self) -> usize {
        if self.is_empty() { 0 } else { self.voters.len() + 1 - (self.needed as usize).min(self.voters.len()) }
    }

    /// Is this member, with this data, a voter?
    pub fn has(&self, name: &MemberName, incarnation: &Incarnation) -> bool {
        self.voters.get(name) == Some(incarnation)
    }

    /// The same rule without a voter; `needed` never exceeds the voters left.
    pub fn without(&self, name: &MemberName) -> Rule {
        let mut rule = self.only(|voter, _| voter != name);
        rule.needed = rule.needed.min(rule.voters.len() as u32);
        rule
    }

    /// The same rule with those voters only; as many are needed as before.
    pub fn only(&self, keep: impl Fn(&MemberName, &Incarnation) -> bool) -> Rule {
        let mut rule = self.clone();
        rule.voters.retain(|name, incarnation| keep(name, incarnation));
        rule.first.retain(|name| rule.voters.contains_key(name));
        rule
    }

    /// Voters in the order in which PostgreSQL is told of them.
    fn in_order(&self) -> impl Iterator<Item = (&MemberName, &Incarnation)> {
        let rest = self.voters.iter().filter(|(name, _)| !self.first.contains(name));
        self.first.iter().filter_map(|name| self.voters.get_key_value(name)).chain(rest)
    }

    fn method(&self) -> &'static str {
        if self.first.is_empty() { "ANY" } else { "FIRST" }
    }

    /// The value of `synchronous_standby_names` that enforces the rule.
    pub fn synchronous_standby_names(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        if self.voters.is_empty() {
            return format!("ANY {} (\"{NOBODY}\")", self.needed);
        }
        let names: Vec<String> =
            self.in_order().map(|(name, incarnation)| format!("\"{}\"", application_name(name, incarnation))).collect();
        format!("{} {} ({})", self.method(), self.needed, names.join(", "))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("asynchronous");
        }
        if self.voters.is_empty() {
            return write!(f, "any {} of nobody", self.needed);
        }
        let names: Vec<&str> = self.in_order().map(|(name, _)| name.as_str()).collect();
        write!(f, "{} {} of {}", self.method().to_lowercase(), self.needed, names.join(", "))
    }
}

/// What a replica calls itself when it streams: its name and the identity of its data, within PostgreSQL's 63 bytes.
pub fn application_name(name: &MemberName, incarnation: &Incarnation) -> String {
    let short = &incarnation.as_str()[..8];
    format!("{name}:{short}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(names: &[&str], needed: u32) -> Rule {
        let voters =
            names.iter().map(|name| (name.parse().unwrap(), Incarnation::from_bits(0xABCD_0000_0000_0001))).collect();
        Rule { voters, needed, first: Vec::new() }
    }

    #[test]
    fn fence_meets_every_acknowledgement() {
        for (names, needed, fence) in [
            (&["b", "c"][..], 1, 2),
            (&["b"][..], 1, 1),
            (&["b", "c", "d", "e"][..], 2, 3),
            (&["b", "c"][..], 2, 1),
            (&["c"][..], 2, 1),
            (&[][..], 1, 1),
            (&[][..], 0, 0),
        ] {
            assert_eq!(rule(names, needed).fence(), fence, "{names:?} {needed}");
        }
    }

    #[test]
    fn renders_what_postgresql_enforces() {
        assert_eq!(rule(&["b", "c-1"], 1).synchronous_standby_names(), r#"ANY 1 ("b:abcd0000", "c-1:abcd0000")"#);
        assert_eq!(rule(&[], 0).synchronous_standby_names(), "");
        assert_eq!(rule(&["b"], 0).synchronous_standby_names(), "");
        let ordered = Rule { first: vec!["c-1".parse().unwrap(), "b".parse().unwrap()], ..rule(&["b", "c-1"], 1) };
        assert_eq!(ordered.synchronous_standby_names(), r#"FIRST 1 ("c-1:abcd0000", "b:abcd0000")"#);
        assert_eq!(ordered.to_string(), "first 1 of c-1, b");
        assert_eq!(ordered.without(&"c-1".parse().unwrap()).to_string(), "first 1 of b");
        assert_eq!(rule(&[], 1).synchronous_standby_names(), r#"ANY 1 ("nobody:00000000")"#);
    }

    #[test]
    fn never_needs_more_than_there_are() {
        let rule = rule(&["b", "c"], 2).without(&"c".parse().unwrap());
        assert_eq!((rule.voters.len(), rule.needed), (1, 1));
    }
}
