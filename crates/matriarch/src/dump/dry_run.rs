//! `dump restore --dry-run`: what would become of what.

use jiff::Timestamp;
use matriarch_archive::archive::Archive;
use matriarch_archive::dump::{Lacking, Onto, Outlook, Prospect, Summary};
use matriarch_cli::{Failure, Grid, Part, Tone, Ui, code, units};
use matriarch_postgres::dump::Access;
use serde::Serialize;

use crate::backup::list::seconds;

/// What `dump restore --dry-run -o json` shows. Units: bytes.
#[derive(Clone, Debug, Serialize)]
struct Page {
    dump: String,
    repository: String,
    incarnation: String,
    ended: Timestamp,
    /// Major version of PostgreSQL that was dumped.
    dump_major: u32,
    /// Where the server listens.
    server: String,
    /// Of all databases that would be restored.
    size: u64,
    #[serde(flatten)]
    outlook: Outlook,
    possible: bool,
    dry_run: bool,
}

/// Shows it. What stands in the way is an error, as it is without the option.
pub fn show(
    archive: &Archive,
    summary: &Summary,
    access: &Access,
    onto: Onto,
    outlook: Outlook,
    ui: &mut Ui,
) -> anyhow::Result<()> {
    let page = Page {
        dump: summary.dump.clone(),
        repository: archive.repository().name().to_owned(),
        incarnation: archive.place().incarnation().to_owned(),
        ended: summary.ended,
        dump_major: summary.major,
        server: access.place(),
        size: outlook.databases.iter().map(|one| one.size).sum(),
        possible: outlook.problems.is_empty(),
        outlook,
        dry_run: true,
    };
    ui.show(&page, || parts(&page, onto))?;
    if page.possible {
        return Ok(());
    }
    Err(Failure::new(code::DATA, page.outlook.problems.join("; ")).into())
}

fn parts(page: &Page, onto: Onto) -> Vec<Part> {
    let outlook = &page.outlook;
    let mut about = Grid::new(&["What", "Is"]);
    let mut row = |tone: Tone, what: &str, is: String| about.row(tone, vec![what.to_owned(), is]);
    row(Tone::Plain, "Dump", format!("{}, ended {}, PostgreSQL {}", page.dump, seconds(page.ended), page.dump_major));
    row(Tone::Plain, "Repository", format!("{}, incarnation {}", page.repository, page.incarnation));
    row(Tone::Plain, "Server", format!("{}, PostgreSQL {}", page.server, outlook.major));
    row(Tone::Plain, "Size", units::bytes(page.size));
    for (what, made) in named(&outlook.made) {
        row(Tone::Plain, what, format!("would be made: {made}"));
    }
    for (what, missing) in named(&outlook.missing) {
        row(Tone::Warn, what, format!("missing, and would not be made: {missing}"));
    }
    if !outlook.passing_roles.is_empty() {
        row(Tone::Plain, "Roles", format!("only while it lasts: {}", outlook.passing_roles.join(", ")));
    }
    if let Some(room) = &outlook.room {
        let tone = if room.free < room.needed { Tone::Bad } else { Tone::Plain };
        row(tone, "Scratch", format!("{} needed, {} free", units::bytes(room.needed), units::bytes(room.free)));
    }
    let mut databases = Grid::new(&["Database", "Into", "There now", "Outcome", "Size"]).numeric(&["Size"]);
    for one in &outlook.databases {
        let (tone, outcome) = outcome(one, onto);
        let cells = vec![one.database.clone(), one.into.clone(), now(one), outcome.to_owned(), units::bytes(one.size)];
        databases.row(tone, cells);
    }
    let title = match page.possible {
        true => format!("Dump {} would be restored; nothing was written", page.dump),
        false => format!("Dump {} would not be restored; nothing was written", page.dump),
    };
    vec![Part::Line(Tone::Strong, title), Part::Grid(about), Part::Grid(databases)]
}

fn named(lacking: &Lacking) -> impl Iterator<Item = (&'static str, String)> {
    let all = [("Roles", &lacking.roles), ("Tablespaces", &lacking.tablespaces)];
    all.into_iter().filter(|(_, names)| !names.is_empty()).map(|(what, names)| (what, names.join(", ")))
}

fn now(one: &Prospect) -> String {
    match (one.exists, one.objects) {
        (false, _) => "nothing".to_owned(),
        (true, 0) => "an empty database".to_owned(),
        (true, objects) => format!("{objects} objects ({})", one.some.join(", ")),
    }
}

fn outcome(one: &Prospect, onto: Onto) -> (Tone, &'static str) {
    match (one.exists, one.objects, onto) {
        (false, ..) => (Tone::Plain, "made"),
        (true, 0, _) => (Tone::Plain, "filled"),
        (true, _, Onto::Refuse) => (Tone::Bad, "refused: it is not empty (--clean, --add, or =NEW)"),
        (true, _, Onto::Add) => (Tone::Warn, "added to what is there"),
        (true, _, Onto::Clean) => (Tone::Warn, "what the dump has is dropped first"),
    }
}
