//! How `synchronous_standby_names` change while a primary runs, in a cluster that insists on other zones.
//!
//! Walsenders load new names one by one. Each marks itself as synchronous by the names that it has loaded, and counts whoever is
//! marked until it has the number that it has loaded. So for a moment neighbours of the old names and of the new ones may
//! together be as many as are needed. Where they could, a step is taken in between: only neighbours of both, and the greater number;
//! and no step is taken before every process has loaded the one before.

use std::collections::BTreeSet;

use crate::decide::candidates::{insist, split};
use crate::decide::turn::Turn;
use crate::decide::voters::RELOAD_MARGIN;
use crate::decide::{ClusterView, Names, Zones};
use crate::name::MemberName;
use crate::rule::{NOBODY, Rule};

impl Turn<'_> {
    /// `synchronous_standby_names` for a rule that is enforced.
    pub(super) fn names_for(&self, view: &ClusterView, rule: &Rule) -> String {
        let wanted = insist(self.policy, view, rule);
        let Some(known) = &self.memory.names else { return wanted.synchronous_standby_names() };
        if self.obs.now < known.since + RELOAD_MARGIN || known.asked != known.loaded {
            return known.asked.clone();
        }
        let neighbours = |names| split(self.policy, view, &names).0;
        let (number, before) = parse(&known.loaded);
        let (before, after) = (neighbours(before), neighbours(wanted.voters.keys().cloned().collect()));
        let together = before.union(&after).count();
        let step = match number {
            Some(number) if !wanted.is_empty() && together >= number.min(wanted.needed) as usize => {
                let kept = |name: &MemberName| before.contains(name) || !after.contains(name);
                Rule { needed: number.max(wanted.needed), ..wanted.only(|name, _| kept(name)) }
            }
            _ => wanted,
        };
        step.synchronous_standby_names()
    }

    /// Remembers since when a primary that must be careful with its names has those it has.
    pub(super) fn look_at_names(&mut self) {
        let careful = self.policy.synchronous.zones == Zones::Require;
        let Some(running) = self.obs.running().filter(|running| careful && !running.in_recovery) else {
            self.memory.names = None;
            return;
        };
        let (loaded, now) = (&running.synchronous_standby_names, self.obs.now);
        let known = self.memory.names.get_or_insert_with(|| Names {
            loaded: loaded.clone(),
            asked: loaded.clone(),
            since: now,
        });
        if known.loaded != *loaded {
            known.loaded = loaded.clone();
            known.since = now;
        }
        let settled = known.since + RELOAD_MARGIN;
        if settled > now {
            self.wake_at(settled);
        }
    }

    /// PostgreSQL is told of these names.
    pub(super) fn names_asked(&mut self, names: &str) {
        if let Some(known) = self.memory.names.as_mut().filter(|known| known.asked != names) {
            known.asked = names.to_owned();
            known.since = self.obs.now;
        }
    }
}

/// How many are needed, if any, and whom the text names.
fn parse(text: &str) -> (Option<u32>, BTreeSet<MemberName>) {
    let number = (!text.is_empty()).then(|| text.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(1));
    let names = text.split('"').skip(1).step_by(2).filter(|name| *name != NOBODY);
    let member = |name: &str| name.rsplit_once(':').map_or(name, |(member, _)| member).parse().ok();
    (number, names.filter_map(member).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_in_force() {
        let set = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<MemberName>>();
        assert_eq!(parse(""), (None, set(&[])));
        assert_eq!(parse(r#"ANY 2 ("b:0a0b0c0d", "c-1:01020304")"#), (Some(2), set(&["b", "c-1"])));
        assert_eq!(parse(r#"FIRST 1 ("b:0a0b0c0d")"#), (Some(1), set(&["b"])));
        assert_eq!(parse(r#"ANY 3 ("nobody:00000000")"#), (Some(3), set(&[])));
        // Somebody else's: the least that can be meant.
        assert_eq!(parse("*"), (Some(1), set(&[])));
    }
}
