//! Drills as tables and as data.

use matriarch_api::{DrillKind, DrillRecord, DrillResult};
use matriarch_cli::{Grid, Part, Target, Tone, Ui, in_turn, units, view};

/// `drill history`.
pub async fn show(target: &Target, ui: &mut Ui) -> anyhow::Result<()> {
    let view = view::read(target).await?;
    let endpoints = view.in_order(view.leader());
    let log = in_turn(target, &endpoints, |client| async move { client.drills().await }).await?;
    if log.drills.is_empty() {
        let line = "No drill was done yet; 'matriarch drill switchover --dry-run' says whether one could be";
        return ui.show(&log.drills, || vec![Part::Line(Tone::Plain, line.to_owned())]);
    }
    ui.show(&log.drills, || parts(&log.drills))
}

/// A table of moves and one of restores, and what is to be said of single drills below them.
pub fn parts(drills: &[DrillRecord]) -> Vec<Part> {
    let (restores, moved): (Vec<_>, Vec<_>) = drills.iter().partition(|drill| drill.kind == DrillKind::Restore);
    let mut parts = Vec::new();
    if !moved.is_empty() {
        parts.push(Part::Grid(moves(&moved)));
    }
    if !restores.is_empty() {
        parts.push(Part::Grid(restored(&restores)));
    }
    let notes = drills.iter().filter(|drill| !drill.note.is_empty());
    parts.extend(notes.map(|drill| Part::Line(tone(drill.result), format!("{}: {}", drill.at, drill.note))));
    parts
}

fn restored(drills: &[&DrillRecord]) -> Grid {
    let head = [
        "Time",
        "Backup",
        "Size",
        "Reached",
        "Files",
        "WAL",
        "Start",
        "Ready after",
        "Query",
        "Databases",
        "Relations",
        "Checks",
        "Result",
    ];
    let numeric = ["Size", "Files", "WAL", "Start", "Ready after", "Query", "Databases", "Relations"];
    let mut grid = Grid::new(&head).numeric(&numeric);
    for drill in drills {
        let figures = drill.restore.clone().unwrap_or_default();
        let seconds = figures.seconds;
        let cells = vec![
            drill.at.clone(),
            figures.backup,
            units::bytes(figures.bytes),
            figures.reached_at.unwrap_or(figures.reached),
            time(seconds.files),
            time(seconds.wal),
            time(seconds.start),
            time(seconds.until_ready()),
            time(seconds.query),
            figures.databases.to_string(),
            figures.relations.to_string(),
            figures.checks.join(", "),
            drill.result.as_str().replace('_', " "),
        ];
        grid.row(tone(drill.result), cells);
    }
    grid
}

fn moves(drills: &[&DrillRecord]) -> Grid {
    let head = [
        "Time",
        "Drill",
        "From",
        "To",
        "TL",
        "Gap",
        "Acknowledged",
        "Unknown",
        "Errors",
        "Lost",
        "Well after",
        "Result",
    ];
    let numeric = ["TL", "Gap", "Acknowledged", "Unknown", "Errors", "Lost", "Well after"];
    let mut grid = Grid::new(&head).numeric(&numeric);
    for drill in drills {
        grid.row(tone(drill.result), cells(drill));
    }
    grid
}

fn time(seconds: f64) -> String {
    format!("{seconds:.2} s")
}

fn cells(drill: &DrillRecord) -> Vec<String> {
    vec![
        drill.at.clone(),
        what(drill),
        drill.from.clone(),
        drill.to.clone(),
        drill.timeline.to_string(),
        time(drill.gap_seconds),
        drill.acknowledged.to_string(),
        drill.unacknowledged.to_string(),
        drill.errors.to_string(),
        drill.lost_writes.map_or_else(|| "?".to_owned(), |lost| lost.to_string()),
        drill.well_after_seconds.map(time).unwrap_or_default(),
        drill.result.as_str().replace('_', " "),
    ]
}

fn what(drill: &DrillRecord) -> String {
    use matriarch_api::Blow;
    match drill.blow {
        Some(Blow::Instance) => format!("{} (instance)", drill.kind.as_str()),
        _ => drill.kind.as_str().to_owned(),
    }
}

fn tone(result: DrillResult) -> Tone {
    if result == DrillResult::Passed { Tone::Plain } else { Tone::Bad }
}
