//! Drills as tables and as data.

use matriarch_api::{DrillRecord, DrillResult};
use matriarch_cli::{Grid, Part, Target, Tone, Ui, in_turn, view};

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

/// A table, and what is to be said of single drills below it.
pub fn parts(drills: &[DrillRecord]) -> Vec<Part> {
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
    let notes = drills.iter().filter(|drill| !drill.note.is_empty());
    let notes = notes.map(|drill| Part::Line(tone(drill.result), format!("{}: {}", drill.at, drill.note)));
    std::iter::once(Part::Grid(grid)).chain(notes).collect()
}

fn cells(drill: &DrillRecord) -> Vec<String> {
    let time = |seconds: f64| format!("{seconds:.2} s");
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
