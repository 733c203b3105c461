//! `history`: past timelines.

use matriarch_api::HistoryLine;
use serde::Serialize;

use crate::grid::{Grid, Part, Tone};
use crate::units;

/// A timeline that ended, as `history -o json` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    timeline: u32,
    /// Where the next timeline begins.
    lsn: String,
    reason: String,
    timestamp: String,
    new_leader: String,
}

/// Rows of the table.
pub fn lines(history: &[HistoryLine]) -> Vec<Line> {
    history
        .iter()
        .map(|HistoryLine(timeline, lsn, reason, timestamp, new_leader)| Line {
            timeline: *timeline,
            lsn: units::lsn(*lsn),
            reason: reason.clone(),
            timestamp: timestamp.clone(),
            new_leader: new_leader.clone(),
        })
        .collect()
}

/// The table.
pub fn parts(history: &[HistoryLine]) -> Vec<Part> {
    let mut grid = Grid::new(&["TL", "LSN", "Reason", "Time", "New leader"]).numeric(&["TL", "LSN"]);
    for line in lines(history) {
        grid.row(Tone::Plain, vec![line.timeline.to_string(), line.lsn, line.reason, line.timestamp, line.new_leader]);
    }
    if grid.is_empty() {
        return vec![Part::Line(Tone::Plain, "The primary has never moved: still on timeline 1".to_owned())];
    }
    vec![Part::Grid(grid)]
}
