//! `archive`: what is archived, and whether repositories do what they must.

use matriarch_api::{
    ArchiveCheckRow, ArchiveDurability, ArchiveEnding, ArchiveFailure, ArchiveRepositoryRow, ArchiveStatus,
    ArchivedFile, BackupFailure, BackupRun, ScheduledBackups, ScheduledDumps,
};
use serde::Serialize;

use crate::fail::{Failure, code};
use crate::grid::{Grid, Part, Tone};
use crate::movement::in_turn;
use crate::target::Target;
use crate::ui::Ui;
use crate::units;
use crate::verbs::ArchiveVerb;
use crate::view;

pub(crate) async fn run(target: &Target, ui: &mut Ui, verb: ArchiveVerb) -> anyhow::Result<()> {
    match verb {
        ArchiveVerb::Status => status(target, ui).await,
        ArchiveVerb::Check(_) => check(target, ui, false).await,
        ArchiveVerb::Init => check(target, ui, true).await,
    }
}

/// The archive as `archive status -o json` shows it: the leader's word, and each member's.
#[derive(Clone, Debug, Default, Serialize)]
struct Page {
    leader: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<String>,
    repositories: Vec<ArchiveRepositoryRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_archived: Option<ArchivedFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<ArchiveFailure>,
    /// Files that wait on all members together.
    waiting: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_waiting: Option<ArchivedFile>,
    /// Whether commits wait for the archive; only when that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<ArchiveDurability>,
    /// Scheduled backups; only with a schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    backups: Option<ScheduledBackups>,
    /// Scheduled dumps; only with a schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    dumps: Option<ScheduledDumps>,
    members: Vec<Line>,
}

#[derive(Clone, Debug, Serialize)]
struct Line {
    member: String,
    #[serde(flatten)]
    status: ArchiveStatus,
}

async fn status(target: &Target, ui: &mut Ui) -> anyhow::Result<()> {
    let view = view::read(target).await?;
    let mut members = Vec::new();
    for endpoint in view.in_order(view.leader()) {
        if let Ok(status) = target.client(&endpoint.api_url)?.archive().await {
            members.push(Line { member: endpoint.name.clone(), status });
        }
    }
    if !members.iter().any(|line| line.status.configured) {
        let text =
            "this cluster has no archive; name its repositories with 'matriarch config edit' (archive: repositories)";
        return Err(Failure::new(code::CONFIG, text).into());
    }
    let page = page(view.leader(), members);
    ui.show(&page, || parts(&page))
}

fn page(leader: Option<&str>, members: Vec<Line>) -> Page {
    let best = members.iter().find(|line| leader == Some(line.member.as_str())).or(members.first());
    let best = best.map(|line| line.status.clone()).unwrap_or_default();
    let waiting = members.iter().map(|line| line.status.waiting).sum();
    let oldest = members.iter().filter_map(|line| line.status.oldest_waiting.clone()).min_by(|a, b| a.at.cmp(&b.at));
    Page {
        leader: leader.map(str::to_owned),
        incarnation: best.incarnation,
        repositories: best.repositories,
        last_archived: best.last_archived,
        last_failure: best.last_failure,
        waiting,
        oldest_waiting: oldest,
        durability: best.durability,
        backups: best.backups,
        dumps: best.dumps,
        members,
    }
}

fn parts(page: &Page) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut line = |tone: Tone, name: &str, text: String| parts.push(Part::Line(tone, format!("{name:<15} {text}")));
    line(Tone::Plain, "Incarnation:", page.incarnation.clone().unwrap_or_else(|| "not known yet".to_owned()));
    let file = |file: &ArchivedFile| format!("{} at {}", file.file, file.at);
    let last = page.last_archived.as_ref().map_or("none since the agent started".to_owned(), file);
    line(Tone::Plain, "Last archived:", last);
    match &page.oldest_waiting {
        Some(oldest) => {
            line(
                Tone::Warn,
                "Waiting:",
                format!("{} files, the oldest {} since {}", page.waiting, oldest.file, oldest.at),
            );
        }
        None => line(Tone::Plain, "Waiting:", "nothing".to_owned()),
    }
    if let Some(failure) = &page.last_failure {
        line(Tone::Bad, "Last failure:", format!("{} at {}: {}", failure.file, failure.at, failure.why));
    }
    if let Some(durability) = &page.durability {
        let (tone, text) = durable(durability);
        line(tone, "Durability:", text);
    }
    for (tone, name, text) in page.backups.iter().flat_map(scheduled).chain(page.dumps.iter().flat_map(dumps)) {
        line(tone, name, text);
    }
    let mut repositories = Grid::new(&["Repository", "State", "Tail stored", "Behind", "Problem"]).numeric(&["Behind"]);
    for row in &page.repositories {
        let (tone, state) = match (row.open, &row.problem) {
            (true, None) if row.ends.iter().any(|end| end.soon) => (Tone::Warn, "open"),
            (true, None) => (Tone::Plain, "open"),
            (true, Some(_)) => (Tone::Bad, "in trouble"),
            (false, _) => (Tone::Bad, "not open"),
        };
        let tail = row.tail.clone().unwrap_or_default();
        let behind = row.tail.as_ref().map(|tail| units::bytes(tail.behind)).unwrap_or_default();
        let problem = row.problem.clone().or(tail.problem).unwrap_or_default();
        repositories.row(tone, vec![row.name.clone(), state.to_owned(), tail.stored, behind, problem]);
    }
    parts.push(Part::Grid(repositories));
    parts.extend(page.repositories.iter().flat_map(|row| endings(&row.name, &row.ends)));
    let mut members = Grid::new(&["Member", "Archives", "Archived", "Failures", "Waiting", "Kept", "Problem"])
        .numeric(&["Archived", "Failures", "Waiting", "Kept"]);
    for Line { member, status } in &page.members {
        let leads = page.leader.as_deref() == Some(member.as_str());
        let archives = match (status.archiving, leads) {
            (true, true) => "yes",
            (true, false) => "when it leads",
            (false, _) => "after a restart",
        };
        let tone = if status.problem.is_some() { Tone::Bad } else { Tone::Plain };
        let number = |number: u64| number.to_string();
        members.row(
            tone,
            vec![
                member.clone(),
                archives.to_owned(),
                number(status.archived),
                number(status.failures),
                number(status.waiting),
                number(status.kept),
                status.problem.clone().unwrap_or_default(),
            ],
        );
    }
    parts.push(Part::Grid(members));
    parts
}

/// What a repository needs and what ends by itself.
pub fn endings(repository: &str, ends: &[ArchiveEnding]) -> Vec<Part> {
    let tone = |end: &ArchiveEnding| if end.soon { Tone::Warn } else { Tone::Plain };
    ends.iter().map(|end| Part::Line(tone(end), format!("{repository}: {}", end.text))).collect()
}

/// What an acknowledged commit is worth.
fn durable(durability: &ArchiveDurability) -> (Tone, String) {
    let ArchiveDurability { mode, holds, problem } = durability;
    let why = problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
    match (*holds, mode.as_str(), problem) {
        (true, _, None) => (Tone::Plain, format!("{mode}: every repository holds what is acknowledged")),
        (true, _, Some(_)) => (Tone::Bad, format!("{mode}: commits wait for a repository{why}")),
        (false, "required", _) => (Tone::Bad, format!("{mode}: commits wait until the tail is there{why}")),
        (false, _, _) => (Tone::Bad, format!("{mode}: commits do NOT wait for every repository at the moment{why}")),
    }
}

/// What is to be said of scheduled backups.
fn scheduled(backups: &ScheduledBackups) -> Vec<(Tone, &'static str, String)> {
    let mut lines = vec![(Tone::Plain, "Schedule:", backups.schedule.clone())];
    lines.push(match &backups.last {
        Some(last) => {
            let from = if last.from_standby { "replica" } else { "primary" };
            let kind = if last.incremental { "incremental" } else { "full" };
            let text = format!(
                "{} ({kind}) at {}, by the {from} {}, {} stored, {} expired",
                last.backup,
                last.ended,
                last.member,
                units::bytes(last.stored),
                last.expired
            );
            (Tone::Plain, "Last backup:", text)
        }
        None => (Tone::Plain, "Last backup:", "none by this schedule yet".to_owned()),
    });
    let (next, running) = (backups.next.as_deref(), backups.running.as_ref());
    lines.push(upcoming("Next backup:", next, running, backups.blocked.as_deref(), backups.failures));
    lines.extend(failed("Backup failure:", backups.last_failure.as_ref(), backups.failures));
    lines
}

/// And of scheduled dumps.
fn dumps(dumps: &ScheduledDumps) -> Vec<(Tone, &'static str, String)> {
    let mut lines = vec![(Tone::Plain, "Dump schedule:", dumps.schedule.clone())];
    let last = match &dumps.last {
        Some(last) => {
            let from = if last.from_standby { "replica" } else { "primary" };
            let (stored, at) = (units::bytes(last.stored), &last.ended);
            format!("{} at {at}, by the {from} {}, {stored} stored, {} expired", last.dump, last.member, last.expired)
        }
        None => "none by this schedule yet".to_owned(),
    };
    lines.push((Tone::Plain, "Last dump:", last));
    let (next, running) = (dumps.next.as_deref(), dumps.running.as_ref());
    lines.push(upcoming("Next dump:", next, running, dumps.blocked.as_deref(), dumps.failures));
    lines.extend(failed("Dump failure:", dumps.last_failure.as_ref(), dumps.failures));
    lines
}

fn upcoming(
    name: &'static str,
    next: Option<&str>,
    running: Option<&BackupRun>,
    blocked: Option<&str>,
    failures: u32,
) -> (Tone, &'static str, String) {
    let next = next.unwrap_or("not known yet");
    match (running, blocked) {
        (Some(run), _) => (Tone::Plain, name, format!("under way on {} since {}", run.member, run.since)),
        (None, Some(why)) => (Tone::Bad, name, format!("{next}, and no member may take it: {why}")),
        (None, None) if failures > 0 => (Tone::Warn, name, format!("tried again at {next}")),
        (None, None) => (Tone::Plain, name, next.to_owned()),
    }
}

fn failed(name: &'static str, failure: Option<&BackupFailure>, failures: u32) -> Option<(Tone, &'static str, String)> {
    let failure = failure?;
    let count = if failures > 1 { format!(" ({failures} attempts)") } else { String::new() };
    Some((Tone::Bad, name, format!("on {} at {}{count}: {}", failure.member, failure.at, failure.why)))
}

/// What the leader's agent says of each repository after a round trip; it makes repositories first if `init`.
///
/// # Errors
/// When no agent does it.
pub async fn round_trips(target: &Target, init: bool) -> anyhow::Result<Vec<ArchiveCheckRow>> {
    let view = view::read(target).await?;
    let endpoints = view.in_order(view.leader());
    let rows = in_turn(target, &endpoints, |client| async move {
        if init { client.init_archive().await } else { client.check_archive().await }
    });
    Ok(rows.await?)
}

async fn check(target: &Target, ui: &mut Ui, init: bool) -> anyhow::Result<()> {
    let rows = round_trips(target, init).await?;
    ui.show(&rows, || {
        let unproved = rows.iter().any(|row| row.opens.is_none() && row.recipients.is_some_and(|count| count > 0));
        let text = "Nobody knows here whether a private key opens the backups: 'matriarch archive check --identity FILE' tries one";
        let hint = unproved.then(|| Part::Line(Tone::Warn, text.to_owned()));
        let ends = rows.iter().flat_map(|row| endings(&row.name, &row.ends));
        std::iter::once(Part::Grid(checks(&rows))).chain(ends).chain(hint).collect()
    })?;
    match rows.iter().find_map(|row| row.problem.as_ref().map(|_| &row.name)) {
        None => Ok(()),
        Some(name) => Err(Failure::new(code::TEMPORARY, format!("{name} cannot be archived to as it is")).into()),
    }
}

/// The table of [`round_trips`].
pub fn checks(rows: &[ArchiveCheckRow]) -> Grid {
    let head = ["Repository", "Result", "Round trip", "Newest backup", "Encrypted to", "Problem"];
    let mut grid = Grid::new(&head).numeric(&["Round trip"]);
    for row in rows {
        let (tone, result) = if row.ok { (Tone::Plain, "good") } else { (Tone::Bad, "failed") };
        let took = row.took_ms.map(|took| format!("{took} ms")).unwrap_or_default();
        let sealed = match (row.recipients, row.opens) {
            (None, _) => String::new(),
            (Some(0), _) => "nobody: in the clear".to_owned(),
            (Some(count), Some(true)) => format!("{count} keys, one of them here"),
            (Some(count), Some(false)) => format!("{count} keys, none of them here"),
            (Some(count), None) => format!("{count} keys"),
        };
        let newest = row.newest_backup.clone().unwrap_or_default();
        let problem = row.problem.clone().unwrap_or_default();
        grid.row(tone, vec![row.name.clone(), result.to_owned(), took, newest, sealed, problem]);
    }
    grid
}
