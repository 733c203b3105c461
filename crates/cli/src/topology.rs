//! `topology`: members as a tree.

use std::collections::BTreeSet;

use matriarch_api::MemberRow;
use serde::Serialize;

use crate::grid::{Part, Tone};
use crate::list::{address, role, title};
use crate::units;
use crate::view::View;

/// A member and those that stream from it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Node {
    member: String,
    role: String,
    state: String,
    followers: Vec<Node>,
    #[serde(skip)]
    text: String,
}

/// The tree: the leader first, then members that follow nobody known.
pub fn tree(view: &View) -> Vec<Node> {
    let rows = &view.cluster.members;
    let mut placed = BTreeSet::new();
    let mut roots = Vec::new();
    let leader = view.leader();
    for row in rows.iter().filter(|row| upstream(view, row).is_none()) {
        let node = grow(view, row, &mut placed);
        if Some(row.name.as_str()) == leader { roots.insert(0, node) } else { roots.push(node) }
    }
    // Members that name each other as upstream hang on nothing; they are shown all the same.
    for row in rows {
        if !placed.contains(&row.name) {
            roots.push(grow(view, row, &mut placed));
        }
    }
    roots
}

fn upstream<'a>(view: &'a View, row: &'a MemberRow) -> Option<&'a str> {
    if view.leader() == Some(row.name.as_str()) {
        return None;
    }
    let tagged = row.tags.get("replicatefrom").and_then(|tag| tag.as_str());
    let named = row.upstream.as_deref().or(tagged).filter(|name| *name != row.name && view.row(name).is_some());
    named.or(view.leader())
}

fn grow(view: &View, row: &MemberRow, placed: &mut BTreeSet<String>) -> Node {
    placed.insert(row.name.clone());
    let mut followers = Vec::new();
    for follower in &view.cluster.members {
        if upstream(view, follower) == Some(row.name.as_str()) && !placed.contains(&follower.name) {
            followers.push(grow(view, follower, placed));
        }
    }
    Node {
        member: row.name.clone(),
        role: row.role.clone(),
        state: row.state.clone(),
        followers,
        text: text(view, row),
    }
}

fn text(view: &View, row: &MemberRow) -> String {
    let mut facts = vec![role(&row.role).to_owned(), row.state.clone()];
    facts.push(address(row.host.as_deref(), row.port));
    facts.push(row.timeline.map(|timeline| format!("timeline {timeline}")).unwrap_or_default());
    let lag = units::lag(row.replay_lag.or(row.lag));
    facts.push(if lag.is_empty() { lag } else { format!("lag {lag}") });
    if row.expired {
        facts.push("agent is gone".to_owned());
    } else if view.answered(&row.name) == Some(false) {
        facts.push("agent does not answer".to_owned());
    }
    facts.retain(|fact| !fact.is_empty());
    facts.join(", ")
}

/// The tree as lines.
pub fn parts(view: &View) -> Vec<Part> {
    let mut parts = vec![Part::Line(Tone::Strong, title(view))];
    for root in tree(view) {
        draw(&root, "", "", &mut parts);
    }
    parts
}

fn draw(node: &Node, first: &str, rest: &str, parts: &mut Vec<Part>) {
    parts.push(Part::Line(Tone::Plain, format!("{first}{}  ({})", node.member, node.text)));
    for (at, follower) in node.followers.iter().enumerate() {
        let last = at + 1 == node.followers.len();
        let (branch, trunk) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(follower, &format!("{rest}{branch}"), &format!("{rest}{trunk}"), parts);
    }
}
