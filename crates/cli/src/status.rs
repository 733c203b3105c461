//! `status`: one page about everything.

use std::collections::BTreeMap;

use matriarch_api::{CertificateRow, ClusterStatus, PendingRestartRow, ReplicationRow, RouterRow, RuleView, SlotRow};
use serde::Serialize;

use crate::grid::{Grid, Part, Tone};
use crate::list;
use crate::units;
use crate::view::View;

/// Fewer days than this, and a certificate needs attention.
const EXPIRES_SOON: i64 = 14;

/// The page as `status -o json` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    cluster: ClusterStatus,
    members: Vec<list::Line>,
    replication: Vec<ReplicationRow>,
    slots: BTreeMap<String, Vec<SlotRow>>,
    certificates: BTreeMap<String, Vec<CertificateRow>>,
    pending_restarts: Vec<PendingRestartRow>,
    lease_remaining_ms: Option<u64>,
}

/// Puts the page together from what the agents said.
pub fn page(view: &View) -> Page {
    let pages = || {
        let said =
            |answer: &crate::view::Answer| Some((answer.endpoint.name.clone(), answer.page.as_ref().ok()?.clone()));
        view.answers.iter().filter_map(said)
    };
    let best = view.best_page();
    Page {
        cluster: view.cluster.clone(),
        members: list::lines(view),
        replication: best.map(|page| page.member.replication.clone()).unwrap_or_default(),
        slots: pages()
            .map(|(name, page)| (name, page.member.matriarch.slots))
            .filter(|(_, slots)| !slots.is_empty())
            .collect(),
        certificates: pages()
            .map(|(name, page)| (name, page.member.matriarch.certificates))
            .filter(|(_, certificates)| !certificates.is_empty())
            .collect(),
        pending_restarts: best.map(|page| page.pending_restarts.clone()).unwrap_or_default(),
        lease_remaining_ms: best.and_then(|page| page.lease_remaining_ms),
    }
}

/// The page for people.
pub fn parts(view: &View) -> Vec<Part> {
    let page = page(view);
    let mut parts = list::parts(view);
    parts.splice(1..1, summary(view, &page));
    section(&mut parts, "Replication", replication(&page.replication));
    section(&mut parts, "Proxies and poolers", routers(&view.cluster.matriarch.routers));
    section(&mut parts, "Slots", slots(&page.slots));
    section(&mut parts, "Certificates", certificates(&page.certificates));
    section(&mut parts, "Waiting for a restart", pending(&page.pending_restarts));
    parts
}

fn section(parts: &mut Vec<Part>, title: &str, grid: Grid) {
    if !grid.is_empty() {
        parts.push(Part::Line(Tone::Plain, String::new()));
        parts.push(Part::Line(Tone::Strong, title.to_owned()));
        parts.push(Part::Grid(grid));
    }
}

fn summary(view: &View, page: &Page) -> Vec<Part> {
    let detail = &view.cluster.matriarch;
    let mut lines = Vec::new();
    let mut line = |tone: Tone, name: &str, text: String| lines.push(Part::Line(tone, format!("{name:<11} {text}")));
    match view.leader() {
        Some(leader) => {
            let lease = page.lease_remaining_ms.map(|left| format!(", lease {:.1} s", left as f64 / 1000.0));
            line(Tone::Plain, "Leader:", format!("{leader} (epoch {}{})", detail.epoch, lease.unwrap_or_default()));
        }
        None => line(Tone::Bad, "Leader:", format!("nobody (last epoch {})", detail.epoch)),
    }
    if let Some(rule) = &detail.rule {
        let (tone, text) = durability(rule);
        line(tone, "Durability:", text);
    }
    if let Some(store) = &detail.store {
        let state = match &store.problem {
            Some(problem) => format!("; {problem}"),
            None if store.reachable => String::new(),
            None => "; it cannot be read".to_owned(),
        };
        let tone = if state.is_empty() { Tone::Plain } else { Tone::Bad };
        line(tone, "Store:", format!("{} (revision {}){state}", store.address, store.revision));
    }
    let versions: std::collections::BTreeSet<String> = view
        .answers
        .iter()
        .filter_map(|answer| answer.page.as_ref().ok()?.member.server_version)
        .map(|version| format!("{}.{}", version / 10_000, version % 10_000))
        .collect();
    if !versions.is_empty() {
        line(Tone::Plain, "PostgreSQL:", versions.into_iter().collect::<Vec<_>>().join(", "));
    }
    lines
}

fn durability(rule: &RuleView) -> (Tone, String) {
    if rule.needed == 0 || rule.voters.is_empty() {
        let text = "asynchronous: a failover may lose the newest commits (config set synchronous_mode=quorum)";
        return (Tone::Warn, text.to_owned());
    }
    let text = format!("a commit waits for {}", rule.describe());
    match &rule.previous {
        _ if rule.established => (Tone::Plain, text),
        Some(previous) => {
            let (needed, voters) = (previous.needed, previous.voters.join(", "));
            (
                Tone::Warn,
                format!("{text} (not established yet; before: {} with any {needed} of {voters})", previous.leader),
            )
        }
        None => (Tone::Warn, format!("{text} (not established yet)")),
    }
}

fn replication(rows: &[ReplicationRow]) -> Grid {
    let mut grid = Grid::new(&["Follower", "Address", "State", "Sync", "Flush lag", "Replay lag", "Delay"]).numeric(&[
        "Flush lag",
        "Replay lag",
        "Delay",
    ]);
    for row in rows {
        let lag = |lag: Option<u64>| lag.map(units::bytes).unwrap_or_default();
        let tone = if row.state == "streaming" { Tone::Plain } else { Tone::Warn };
        grid.row(
            tone,
            vec![
                row.application_name.clone(),
                row.client_addr.clone().unwrap_or_else(|| "local".to_owned()),
                row.state.clone(),
                row.sync_state.clone(),
                lag(row.flush_lag),
                lag(row.replay_lag),
                row.replay_lag_ms.map(|delay| format!("{delay} ms")).unwrap_or_default(),
            ],
        );
    }
    grid
}

fn routers(rows: &[RouterRow]) -> Grid {
    let mut grid = Grid::new(&["Name", "Kind", "Address", "State"]);
    for row in rows {
        let (tone, state) = match (&row.problem, row.holds) {
            (Some(_), _) => (Tone::Warn, "in trouble"),
            (None, true) => (Tone::Warn, "holds new work"),
            (None, false) => (Tone::Plain, "routes"),
        };
        let cells = [&row.id, &row.kind, &row.address, state];
        grid.row(tone, cells.into_iter().map(ToString::to_string).collect());
    }
    grid
}

fn slots(members: &BTreeMap<String, Vec<SlotRow>>) -> Grid {
    let mut grid = Grid::new(&["Member", "Slot", "Kind", "Active", "Restart LSN", "Retained", "WAL status"])
        .numeric(&["Retained"]);
    for (member, slot) in members.iter().flat_map(|(member, slots)| slots.iter().map(move |slot| (member, slot))) {
        let status = slot.wal_status.clone().unwrap_or_default();
        let tone = match status.as_str() {
            "lost" => Tone::Bad,
            "unreserved" => Tone::Warn,
            _ => Tone::Plain,
        };
        grid.row(
            tone,
            vec![
                member.clone(),
                slot.name.clone(),
                slot.kind.clone(),
                if slot.active { "yes" } else { "no" }.to_owned(),
                slot.restart_lsn.clone().unwrap_or_default(),
                slot.retained.map(units::bytes).unwrap_or_default(),
                status,
            ],
        );
    }
    grid
}

fn certificates(members: &BTreeMap<String, Vec<CertificateRow>>) -> Grid {
    let mut grid = Grid::new(&["Member", "Purpose", "Subject", "Ends", "Days left", "File"]).numeric(&["Days left"]);
    for (member, row) in members.iter().flat_map(|(member, rows)| rows.iter().map(move |row| (member, row))) {
        let tone = match row.days_left {
            ..0 => Tone::Bad,
            0..EXPIRES_SOON => Tone::Warn,
            _ => Tone::Plain,
        };
        let days = if row.days_left < 0 { "expired".to_owned() } else { row.days_left.to_string() };
        let cells = [member, &row.purpose, &row.subject, &row.not_after, &days, &row.path];
        grid.row(tone, cells.into_iter().cloned().collect());
    }
    grid
}

fn pending(rows: &[PendingRestartRow]) -> Grid {
    let mut grid = Grid::new(&["Member", "Parameter", "Now", "After the restart"]);
    for row in rows {
        if row.parameters.is_empty() {
            grid.row(Tone::Warn, vec![row.member.clone(), "(not told)".to_owned(), String::new(), String::new()]);
        }
        for (name, change) in &row.parameters {
            let cells = [&row.member, name, &change.old_value, &change.new_value];
            grid.row(Tone::Warn, cells.into_iter().cloned().collect());
        }
    }
    grid
}
