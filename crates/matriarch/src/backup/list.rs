//! Which backups there are.

use jiff::Timestamp;
use matriarch_archive::archive::Archive;
use matriarch_archive::base::{self, DamagedPage, FoundBy, Hold, Increment, Notes, Summary, Tablespace};
use matriarch_archive::restore::{self, RestoreError, Target, Wanted};
use matriarch_cli::{Grid, Part, Tone, Ui, units};
use serde::Serialize;

use super::archives::Found;
use super::fail::failed;

/// A backup as `backup list -o json` shows it. Units: bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub backup: String,
    pub incarnation: String,
    pub repository: String,
    pub start_time: Timestamp,
    pub stop_time: Timestamp,
    pub timeline: u32,
    pub start_lsn: String,
    pub stop_lsn: String,
    pub major: u32,
    /// Of all files.
    pub size: u64,
    /// In the repository.
    pub stored: u64,
    pub from_standby: bool,
    /// `full` or `incremental`.
    pub kind: &'static str,
    /// Of an incremental one: the backup that it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The earlier backups without which it cannot be restored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Why it is a full one although an incremental one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Pages that were damaged on the server's disk.
    pub damaged: usize,
    pub hold: Option<Hold>,
    pub notes: Notes,
}

impl Line {
    pub fn new(archive: &Archive, summary: &Summary, hold: Option<Hold>, notes: Notes) -> Line {
        Line {
            backup: summary.backup.clone(),
            incarnation: archive.place().incarnation().to_owned(),
            repository: archive.repository().name().to_owned(),
            start_time: summary.start_time,
            stop_time: summary.stop_time,
            timeline: summary.timeline,
            start_lsn: summary.start_lsn.to_string(),
            stop_lsn: summary.stop_lsn.to_string(),
            major: summary.major,
            size: summary.size,
            stored: summary.stored,
            from_standby: summary.from_standby,
            kind: if summary.increment.is_some() { "incremental" } else { "full" },
            parent: summary.increment.as_ref().map(|increment| increment.parent.clone()),
            needs: summary.needs().to_vec(),
            fallback: summary.fallback.clone(),
            damaged: summary.damaged.len(),
            hold,
            notes,
        }
    }

    async fn whole(archive: &Archive, summary: &Summary) -> anyhow::Result<Line> {
        let hold = base::hold_of(archive, &summary.backup).await.map_err(failed)?;
        let notes = base::notes_of(archive, &summary.backup).await.map_err(failed)?;
        Ok(Line::new(archive, summary, hold.filter(|hold| hold.holds(Timestamp::now())), notes))
    }

    fn remarks(&self) -> String {
        let mut remarks = Vec::new();
        if let Some(hold) = &self.hold {
            let until = hold.until.map(|until| format!(" until {}", seconds(until))).unwrap_or_default();
            let why = if hold.reason.is_empty() { String::new() } else { format!(": {}", hold.reason) };
            remarks.push(format!("held{until}{why}"));
        }
        remarks.extend(self.parent.iter().map(|parent| format!("since {parent}")));
        if self.damaged > 0 {
            remarks.push(format!("{} damaged pages", self.damaged));
        }
        remarks.extend(self.notes.iter().map(|(key, value)| format!("{key}: {value}")));
        remarks.join("; ")
    }
}

/// Without fractions of a second.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// `backup list`: of every repository.
pub async fn list(found: &Found, ui: &mut Ui) -> anyhow::Result<()> {
    let each = found.each(async |repository| {
        let mut lines = Vec::new();
        for (archive, summary) in found.all::<Summary>(&repository).await? {
            lines.push(Line::whole(&archive, &summary).await?);
        }
        Ok((repository.name().to_owned(), lines))
    });
    let shelves = each.await?.noted(ui);
    let lines: Vec<&Line> = shelves.iter().flat_map(|(_, lines)| lines).collect();
    ui.show(&lines, || shelves.iter().flat_map(|(repository, lines)| shelf(found, repository, lines)).collect())
}

fn shelf(found: &Found, repository: &str, lines: &[Line]) -> Vec<Part> {
    if lines.is_empty() {
        return vec![Part::Line(Tone::Warn, found.none::<Summary>(repository))];
    }
    let head = ["Backup", "Kind", "Ended", "TL", "Consistent at", "Size", "Stored", "From", "Incarnation", "Remarks"];
    let mut grid = Grid::new(&head).numeric(&["TL", "Size", "Stored"]);
    for line in lines {
        let tone = if line.damaged > 0 { Tone::Warn } else { Tone::Plain };
        let cells = vec![
            line.backup.clone(),
            line.kind.to_owned(),
            seconds(line.stop_time),
            line.timeline.to_string(),
            line.stop_lsn.clone(),
            units::bytes(line.size),
            units::bytes(line.stored),
            if line.from_standby { "standby" } else { "primary" }.to_owned(),
            line.incarnation.clone(),
            line.remarks(),
        ];
        grid.row(tone, cells);
    }
    vec![Part::Line(Tone::Strong, format!("Backups of {} in {repository}", found.scope)), Part::Grid(grid)]
}

/// A backup as `backup show -o json` shows it.
#[derive(Clone, Debug, Serialize)]
struct Page {
    #[serde(flatten)]
    line: Line,
    packs: u32,
    data_checksums: bool,
    /// How it was found out what has changed, and how many bytes of files lie in earlier packs.
    #[serde(skip_serializing_if = "Option::is_none")]
    increment: Option<Increment>,
    tablespaces: Vec<Tablespace>,
    damaged_pages: Vec<DamagedPage>,
    /// Where the WAL ends that follows it without a gap.
    reach: Option<String>,
    /// Why it cannot be restored to the end of the archive.
    problem: Option<String>,
}

/// `backup show`.
pub async fn show(found: &Found, name: &str, ui: &mut Ui) -> anyhow::Result<()> {
    let (archive, summary) = found.find::<Summary>(Some(name), ui).await?;
    let wanted = Wanted { backup: Some(name.to_owned()), ..Wanted::new(Target::Latest) };
    let (reach, problem) = match restore::plan(&archive, &wanted).await {
        Ok(plan) => (Some(plan.reach.to_string()), None),
        Err(error @ (RestoreError::Archive(_) | RestoreError::Worker(_))) => return Err(failed(error)),
        Err(error) => (None, Some(error.to_string())),
    };
    let page = Page {
        line: Line::whole(&archive, &summary).await?,
        packs: summary.packs,
        data_checksums: summary.data_checksums,
        increment: summary.increment.clone(),
        tablespaces: summary.tablespaces.clone(),
        damaged_pages: summary.damaged.clone(),
        reach,
        problem,
    };
    ui.show(&page, || parts(&page))
}

/// What it builds upon, and how.
fn kind(page: &Page) -> String {
    let Some(increment) = &page.increment else {
        let why = page.line.fallback.as_ref().map(|why| format!("; it is no incremental one, since {why}"));
        return format!("full{}", why.unwrap_or_default());
    };
    let how = match (increment.found_by, &increment.because) {
        (FoundBy::Summaries, _) => "changed blocks by WAL summaries".to_owned(),
        (FoundBy::Digests, None) => "everything read and compared".to_owned(),
        (FoundBy::Digests, Some(because)) => format!("everything read and compared ({because})"),
    };
    format!("incremental since {}: {how}, {} as before", increment.parent, units::bytes(increment.reused))
}

fn parts(page: &Page) -> Vec<Part> {
    let line = &page.line;
    let mut rows = vec![
        ("Backup", line.backup.clone()),
        ("Kind", kind(page)),
        ("Repository", line.repository.clone()),
        ("Incarnation", line.incarnation.clone()),
        ("PostgreSQL", line.major.to_string()),
        ("Began", format!("{} at {}", seconds(line.start_time), line.start_lsn)),
        ("Ended", format!("{} at {}", seconds(line.stop_time), line.stop_lsn)),
        ("Timeline", line.timeline.to_string()),
        ("From", if line.from_standby { "a standby" } else { "the primary" }.to_owned()),
        ("Size", units::bytes(line.size)),
        ("Stored", format!("{} in {} packs", units::bytes(line.stored), page.packs)),
        ("Checksums", if page.data_checksums { "verified" } else { "the server has none" }.to_owned()),
    ];
    rows.extend(page.tablespaces.iter().map(|space| ("Tablespace", format!("{} in {}", space.name, space.path))));
    rows.extend(page.damaged_pages.iter().map(|one| ("Damaged page", format!("{} block {}", one.path, one.block))));
    if !line.needs.is_empty() {
        rows.push(("Needs", line.needs.join(", ")));
    }
    if !line.remarks().is_empty() {
        rows.push(("Remarks", line.remarks()));
    }
    if let Some(reach) = &page.reach {
        rows.push(("Restores to", format!("{} and any point up to {reach}", line.stop_lsn)));
    }
    let mut grid = Grid::new(&["What", "Is"]);
    for (what, is) in rows {
        grid.row(if what == "Damaged page" { Tone::Warn } else { Tone::Plain }, vec![what.to_owned(), is]);
    }
    let mut parts = vec![Part::Grid(grid)];
    parts.extend(page.problem.iter().map(|problem| Part::Line(Tone::Warn, problem.clone())));
    parts
}
