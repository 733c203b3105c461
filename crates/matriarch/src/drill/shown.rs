//! Restore drills on the screen and as data.

use matriarch_api::DrillRecord;
use matriarch_cli::{Part, Tone, units};
use serde::Serialize;

use super::reading::Answer;

/// A drill as `-o json` shows it.
#[derive(Serialize)]
pub struct Shown<'a> {
    #[serde(flatten)]
    pub record: &'a DrillRecord,
    pub answers: &'a [Answer],
}

/// The table that the history has, and the answers below it.
pub fn parts(record: &DrillRecord, answers: &[Answer]) -> Vec<Part> {
    let mut parts = matriarch_drill::parts(std::slice::from_ref(record));
    for answer in answers {
        parts.push(Part::Line(Tone::Strong, answer.query.clone()));
        let line = |cells: Vec<&str>| Part::Line(Tone::Plain, format!("  {}", cells.join(" | ")));
        if !answer.columns.is_empty() {
            parts.push(line(answer.columns.iter().map(String::as_str).collect()));
        }
        for row in &answer.rows {
            parts.push(line(row.iter().map(|cell| cell.as_deref().unwrap_or("null")).collect()));
        }
        if answer.count > answer.rows.len() {
            let text = format!("  … and {} more rows", answer.count - answer.rows.len());
            parts.push(Part::Line(Tone::Plain, text));
        }
    }
    parts
}

/// What would be restored. Units: bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub backup: String,
    pub repository: String,
    pub incarnation: String,
    pub target: String,
    /// Bytes of all files.
    pub size: u64,
    /// Bytes of the WAL that follows.
    pub wal: u64,
    /// Bytes that must be free.
    pub needed: u64,
    /// Bytes that are.
    pub free: u64,
    /// Where.
    pub scratch: std::path::PathBuf,
}

/// `--dry-run`.
#[derive(Serialize)]
pub struct Rehearsal {
    pub plan: Option<Plan>,
    pub possible: bool,
    pub refused_because: Vec<String>,
}

impl Rehearsal {
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        if let Some(plan) = &self.plan {
            let text = format!(
                "Restore backup {} of {} to {} in {}: {} of files and {} of WAL, {} free",
                plan.backup,
                plan.repository,
                plan.target,
                plan.scratch.display(),
                units::bytes(plan.size),
                units::bytes(plan.wal),
                units::bytes(plan.free)
            );
            parts.push(Part::Line(Tone::Plain, text));
        }
        let verdict = if self.possible { "It could be done now" } else { "It would be refused now" };
        parts.push(Part::Line(Tone::Strong, verdict.to_owned()));
        parts.extend(self.refused_because.iter().map(|reason| Part::Line(Tone::Warn, format!("  {reason}"))));
        parts
    }
}
