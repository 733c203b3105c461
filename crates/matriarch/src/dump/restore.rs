//! Restoring databases of a dump into a running server.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use matriarch_archive::dump::{self, Begun, Onto, Request, Restored, Summary};
use matriarch_archive::progress::Progress;
use matriarch_cli::{Failure, Grid, Part, Tone, Ui, code, units};
use matriarch_postgres::dump::Access;
use serde::Serialize;

use super::dry_run;
use super::server::ServerArgs;
use super::take::scratch;
use crate::backup::archives::Found;
use crate::backup::fail::failed;
use crate::backup::meter::{Meter, interrupted};
use crate::cluster::Which;

/// For taking away what is half made.
const UNDO: Duration = Duration::from_secs(30);

/// What is restored, and how.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// Its name; the newest one unless given
    #[arg(value_name = "DUMP")]
    dump: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// Only this database, under another name with '=NEW'; may be given several times
    #[arg(long = "database", value_name = "NAME[=NEW]")]
    databases: Vec<String>,
    /// Everything belongs to this role, which must be there; roles and privileges of the dump are left out
    #[arg(long, value_name = "ROLE", conflicts_with = "map_owner")]
    owner: Option<String>,
    /// What OLD owns in the dump belongs to NEW, which must be there; may be given several times
    #[arg(long, value_name = "OLD=NEW", value_parser = mapping)]
    map_owner: Vec<(String, String)>,
    /// Make no roles and tablespaces that are missing
    #[arg(long)]
    no_roles: bool,
    /// Make no tablespaces, and put everything into the databases' own
    #[arg(long)]
    no_tablespaces: bool,
    /// Into a database that is not empty: drop what the dump has before it is restored
    #[arg(long)]
    clean: bool,
    /// Into a database that is not empty: add to what is there; a name that is taken is an error
    #[arg(long, conflicts_with = "clean")]
    add: bool,
    /// Sessions side by side for each database; more than one needs room for it in --scratch
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Directory with room for a database; the system's temporary directory unless given
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Say which dump would be restored into which databases, what is there already, and what would be made; write nothing
    #[arg(long)]
    dry_run: bool,
}

fn mapping(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err("expected OLD=NEW, the names of two roles".to_owned()),
    }
}

/// What `dump restore -o json` shows.
#[derive(Clone, Debug, Serialize)]
struct Page {
    dump: String,
    repository: String,
    databases: Vec<Restored>,
}

/// `dump restore`.
pub async fn restore(args: RestoreArgs, which: &Which, found: &Found, ui: &mut Ui) -> anyhow::Result<()> {
    let (archive, summary) = found.find::<Summary>(args.dump.as_deref(), ui).await?;
    let manifest = dump::manifest(&archive, &summary.dump).await.map_err(failed)?;
    let access = args.server.find(None, which).await?;
    if args.dry_run {
        let within = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let wanted = request(&args, &summary, within);
        let outlook = dump::outlook(&archive, &manifest, &access, &wanted).await.map_err(failed)?;
        return dry_run::show(&archive, &summary, &access, wanted.onto, outlook, ui);
    }
    let place = scratch(args.scratch.clone())?;
    let request = request(&args, &summary, place.data());
    let meter = Meter::start("restore", &request.progress);
    let done = tokio::select! {
        done = dump::restore(&archive, &manifest, &access, &request) => Some(done),
        () = interrupted()? => None,
    };
    drop(meter);
    let Some(done) = done else { return Err(given_up(&request.begun, &access).await) };
    let repository = archive.repository().name().to_owned();
    let page = Page { dump: summary.dump, repository, databases: done.map_err(failed)? };
    ui.show(&page, || {
        let mut grid = Grid::new(&["Database", "Restored as", "Size", "Took"]).numeric(&["Size", "Took"]);
        for one in &page.databases {
            let into = format!("{} ({})", one.into, if one.created { "new" } else { "it was there" });
            let took = format!("{:.1} s", one.seconds);
            grid.row(Tone::Plain, vec![one.database.clone(), into, units::bytes(one.size), took]);
        }
        vec![Part::Line(Tone::Strong, format!("Restored from dump {}", page.dump)), Part::Grid(grid)]
    })
}

fn request(args: &RestoreArgs, summary: &Summary, scratch: PathBuf) -> Request {
    let named = |text: &String| {
        // A name may have a '=' of its own.
        let cuts = || text.match_indices('=').map(|(at, _)| at);
        let cut = cuts().find(|at| summary.database(&text[..*at]).is_some()).or(cuts().next());
        match cut.filter(|_| summary.database(text).is_none()) {
            Some(at) => (text[..at].to_owned(), text[at + 1..].to_owned()),
            None => (text.clone(), text.clone()),
        }
    };
    Request {
        databases: args.databases.iter().map(named).collect(),
        globals: !args.no_roles,
        no_tablespaces: args.no_tablespaces,
        owner: args.owner.clone(),
        map_owner: args.map_owner.clone(),
        onto: match (args.clean, args.add) {
            (true, _) => Onto::Clean,
            (false, true) => Onto::Add,
            (false, false) => Onto::Refuse,
        },
        jobs: args.jobs,
        scratch,
        progress: Progress::default(),
        begun: Begun::default(),
    }
}

async fn given_up(begun: &Begun, access: &Access) -> anyhow::Error {
    let text = match tokio::time::timeout(UNDO, begun.undo(access)).await {
        Ok(Ok(())) => "interrupted: databases that were complete stay, and what was half made is gone".to_owned(),
        Ok(Err(error)) => format!("interrupted, and what is half made could not be removed: {error}"),
        Err(_) => "interrupted, and what is half made could not be removed in time: look at the server".to_owned(),
    };
    Failure::new(code::TEMPORARY, text).into()
}
