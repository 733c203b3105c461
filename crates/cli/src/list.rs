//! `list`: one row per member.

use matriarch_api::MemberRow;
use serde::Serialize;

use crate::grid::{Grid, Part, Tone};
use crate::units;
use crate::view::View;

/// A member as `list -o json` shows it. Units: bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    cluster: String,
    member: String,
    host: Option<String>,
    port: Option<u16>,
    role: String,
    state: String,
    timeline: Option<u32>,
    /// Bytes not received.
    lag: Option<u64>,
    /// Bytes not replayed.
    replay_lag: Option<u64>,
    pending_restart: bool,
    /// When a restart is to come (RFC 3339).
    scheduled_restart: Option<String>,
    /// `ok`, `silent` (does not answer) or `gone` (its record has expired).
    agent: &'static str,
    problem: Option<String>,
    #[serde(skip)]
    lags: (String, String),
}

/// Rows of the table.
pub fn lines(view: &View) -> Vec<Line> {
    view.cluster.members.iter().map(|row| line(view, row)).collect()
}

fn line(view: &View, row: &MemberRow) -> Line {
    let agent = match view.answered(&row.name) {
        _ if row.expired => "gone",
        Some(false) => "silent",
        // Not asked: nothing is known against it.
        Some(true) | None => "ok",
    };
    let received = row.receive_lag.filter(|lag| lag.bytes().is_some()).or(row.lag);
    Line {
        cluster: view.cluster.scope.clone(),
        member: row.name.clone(),
        host: row.host.clone(),
        port: row.port,
        role: row.role.clone(),
        state: row.state.clone(),
        timeline: row.timeline,
        lag: received.and_then(|lag| lag.bytes()),
        replay_lag: row.replay_lag.and_then(|lag| lag.bytes()),
        pending_restart: row.pending_restart,
        scheduled_restart: row.scheduled_restart.as_ref().map(|planned| planned.schedule.clone()),
        agent,
        problem: row.problem.clone(),
        lags: (units::lag(received), units::lag(row.replay_lag)),
    }
}

/// The table with what is above and below it.
pub fn parts(view: &View) -> Vec<Part> {
    let lines = lines(view);
    let mut parts = vec![Part::Line(Tone::Strong, title(view))];
    let notes = lines.iter().any(|line| absence(line).is_some());
    let mut head = vec!["Member", "Host", "Role", "State", "TL", "Lag", "Replay lag", "Pending restart"];
    if notes {
        head.push("Note");
    }
    let mut grid = Grid::new(&head).numeric(&["TL", "Lag", "Replay lag"]);
    for line in &lines {
        let mut cells = vec![
            line.member.clone(),
            address(line.host.as_deref(), line.port),
            role(&line.role).to_owned(),
            line.state.clone(),
            line.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
            line.lags.0.clone(),
            line.lags.1.clone(),
            if line.pending_restart { "*".to_owned() } else { String::new() },
        ];
        if notes {
            cells.push(absence(line).unwrap_or_default().to_owned());
        }
        grid.row(tone(line), cells);
    }
    parts.push(Part::Grid(grid));
    // Sentences would make the table wider than any terminal.
    let one_line = |text: &String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let problems =
        lines.iter().filter_map(|line| Some(format!("{}: {}", line.member, line.problem.as_ref().map(one_line)?)));
    parts.extend(problems.map(|text| Part::Line(Tone::Warn, text)));
    parts.extend(footer(view));
    parts
}

/// `Cluster: demo (7300…)`.
pub fn title(view: &View) -> String {
    match &view.cluster.matriarch.system_identifier {
        Some(identifier) => format!("Cluster: {} ({identifier})", view.cluster.scope),
        None => format!("Cluster: {}", view.cluster.scope),
    }
}

fn footer(view: &View) -> Vec<Part> {
    let mut parts = Vec::new();
    if view.leader().is_none() {
        parts.push(Part::Line(Tone::Bad, "Nobody leads: writes wait until a member takes over".to_owned()));
    }
    if view.cluster.matriarch.handover {
        parts.push(Part::Line(Tone::Warn, "A switchover is under way".to_owned()));
    }
    if let Some(restore) = &view.cluster.matriarch.restore {
        parts.push(Part::Line(Tone::Warn, restore.clone()));
    }
    if view.cluster.pause {
        parts.push(Part::Line(
            Tone::Warn,
            "Paused: nothing is done automatically ('matriarch resume' goes on)".to_owned(),
        ));
    }
    if let Some(planned) = &view.cluster.scheduled_switchover {
        parts.push(Part::Line(Tone::Warn, format!("Switchover scheduled: {}", scheduled(planned))));
    }
    for router in &view.cluster.matriarch.routers {
        if let Some(problem) = &router.problem {
            parts.push(Part::Line(Tone::Warn, format!("The {} at {}: {problem}", router.kind, router.address)));
        }
    }
    for row in &view.cluster.members {
        if let Some(planned) = &row.scheduled_restart {
            parts.push(Part::Line(Tone::Warn, format!("Restart of {} scheduled: {}", row.name, planned.schedule)));
        }
    }
    parts
}

/// `2026-12-24T03:00:00Z, from a, to b`.
pub fn scheduled(planned: &matriarch_api::ScheduledSwitchover) -> String {
    let from = planned.from.as_ref().map(|name| format!(", from {name}")).unwrap_or_default();
    let to = planned.to.as_ref().map(|name| format!(", to {name}")).unwrap_or_default();
    format!("{}{from}{to}", planned.at)
}

fn absence(line: &Line) -> Option<&'static str> {
    match line.agent {
        "gone" => Some("agent is gone (record expired)"),
        "silent" => Some("agent does not answer"),
        _ => None,
    }
}

fn tone(line: &Line) -> Tone {
    let leads = line.role.ends_with("leader");
    match line.agent {
        "gone" => Tone::Bad,
        "silent" => Tone::Warn,
        _ if line.problem.is_some()
            || !matches!(line.state.as_str(), "running" | "streaming" | "in archive recovery") =>
        {
            Tone::Warn
        }
        _ if leads => Tone::Strong,
        _ => Tone::Plain,
    }
}

/// A role as people write it.
pub fn role(role: &str) -> &str {
    match role {
        "leader" => "Leader",
        "standby_leader" => "Standby Leader",
        "sync_standby" => "Sync Standby",
        "quorum_standby" => "Quorum Standby",
        "replica" => "Replica",
        other => other,
    }
}

/// `host:port`.
pub fn address(host: Option<&str>, port: Option<u16>) -> String {
    match (host, port) {
        (Some(host), Some(port)) if host.contains(':') => format!("[{host}]:{port}"),
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => String::new(),
    }
}
