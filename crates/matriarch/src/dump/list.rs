//! Which dumps there are.

use jiff::Timestamp;
use matriarch_archive::archive::Archive;
use matriarch_archive::dump::{Format, Summary};
use matriarch_cli::{Grid, Part, Tone, Ui, units};
use serde::Serialize;

use crate::backup::archives::Found;
use crate::backup::list::seconds;

/// A dump as `dump list -o json` shows it. Units: bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub dump: String,
    pub incarnation: String,
    pub repository: String,
    pub began: Timestamp,
    pub ended: Timestamp,
    pub major: u32,
    pub format: Format,
    pub databases: Vec<String>,
    /// Whether roles and tablespaces are in it.
    pub globals: bool,
    /// As PostgreSQL has written it.
    pub size: u64,
    /// In the repository.
    pub stored: u64,
    pub from_standby: bool,
    /// Whether the schedule wanted it.
    pub scheduled: bool,
}

impl Line {
    pub fn new(archive: &Archive, summary: &Summary) -> Line {
        Line {
            dump: summary.dump.clone(),
            incarnation: archive.place().incarnation().to_owned(),
            repository: archive.repository().name().to_owned(),
            began: summary.began,
            ended: summary.ended,
            major: summary.major,
            format: summary.format,
            databases: summary.databases.iter().map(|one| one.database.name.clone()).collect(),
            globals: summary.globals,
            size: summary.size,
            stored: summary.stored,
            from_standby: summary.from_standby,
            scheduled: summary.scheduled,
        }
    }
}

/// `dump list`: of every repository.
pub async fn list(found: &Found, ui: &mut Ui) -> anyhow::Result<()> {
    let each = found.each(async |repository| {
        let all = found.all::<Summary>(&repository).await?;
        let lines: Vec<Line> = all.iter().map(|(archive, summary)| Line::new(archive, summary)).collect();
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
    let head = ["Dump", "Ended", "Databases", "Size", "Stored", "From", "By", "Incarnation"];
    let mut grid = Grid::new(&head).numeric(&["Size", "Stored"]);
    for line in lines {
        let cells = vec![
            line.dump.clone(),
            seconds(line.ended),
            line.databases.join(", "),
            units::bytes(line.size),
            units::bytes(line.stored),
            if line.from_standby { "standby" } else { "primary" }.to_owned(),
            if line.scheduled { "schedule" } else { "hand" }.to_owned(),
            line.incarnation.clone(),
        ];
        grid.row(Tone::Plain, cells);
    }
    vec![Part::Line(Tone::Strong, format!("Dumps of {} in {repository}", found.scope)), Part::Grid(grid)]
}

/// `dump show`.
pub async fn show(found: &Found, name: Option<&str>, ui: &mut Ui) -> anyhow::Result<()> {
    let (archive, summary) = found.find::<Summary>(name, ui).await?;
    ui.show(&summary, || {
        let rows = [
            ("Dump", summary.dump.clone()),
            ("Repository", archive.repository().name().to_owned()),
            ("Incarnation", archive.place().incarnation().to_owned()),
            ("PostgreSQL", summary.major.to_string()),
            ("Began", seconds(summary.began)),
            ("Ended", seconds(summary.ended)),
            ("From", if summary.from_standby { "a standby" } else { "the primary" }.to_owned()),
            ("Format", if summary.format == Format::Custom { "custom" } else { "directory" }.to_owned()),
            ("Roles", if summary.globals { "with roles and tablespaces" } else { "left out" }.to_owned()),
            ("Size", units::bytes(summary.size)),
            ("Stored", format!("{} in {} packs", units::bytes(summary.stored), summary.packs)),
        ];
        let mut about = Grid::new(&["What", "Is"]);
        for (what, is) in rows {
            about.row(Tone::Plain, vec![what.to_owned(), is]);
        }
        let mut databases = Grid::new(&["Database", "Owner", "Encoding", "Locale", "Size"]).numeric(&["Size"]);
        for one in &summary.databases {
            let about = &one.database;
            let locale = about.locale.clone().unwrap_or_else(|| about.collate.clone());
            let cells =
                vec![about.name.clone(), about.owner.clone(), about.encoding.clone(), locale, units::bytes(one.size)];
            databases.row(Tone::Plain, cells);
        }
        vec![Part::Grid(about), Part::Grid(databases)]
    })
}
