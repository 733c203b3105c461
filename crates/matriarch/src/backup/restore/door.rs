//! `restore --from`: from a repository that another tool has made.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
use matriarch_archive::base::{DamagedPage, SOURCE};
use matriarch_archive::configured::{ORIGIN, Origin};
use matriarch_archive::door::{Chosen, Door, Foreign, Stock, Tool};
use matriarch_archive::progress::Progress;
use matriarch_archive::restore::{self, Options, Plan, Wanted, Window};
use matriarch_cli::{Failure, Grid, Part, Tone, Ui, code, units};
use matriarch_config::{ArchiveLocation, ArchiveRepository};
use matriarch_postgres::{Owner, owner};
use serde::Serialize;

use super::{Reach, RestoreArgs, again, earlier, follow, readable, tablespaces};
use crate::backup::archives::PATIENCE;
use crate::backup::fail::failed;
use crate::backup::fetch::{Passage, command};
use crate::backup::list::seconds;

const HEADING: &str = "Another tool's repository";

/// Another tool's repository.
#[derive(Args, Clone, Debug, Default)]
pub struct FromArgs {
    /// Restore from what another tool has made, read where it lies: `pgbackrest:`, `walg:` or `barman:`, and a directory,
    /// s3://bucket/path, gs://bucket/path or azure://account/container/path
    #[arg(long, value_name = "TOOL:LOCATION", help_heading = HEADING, conflicts_with_all = ["archive", "repository", "incarnation", "identity"])]
    from: Option<Place>,
    /// Which stanza of pgBackRest's, or which server of Barman's; the only one unless given
    #[arg(long, visible_alias = "server", value_name = "NAME", requires = "from", help_heading = HEADING)]
    stanza: Option<String>,
    /// File with the passphrase of pgBackRest (repo1-cipher-pass) or WAL-G's key of libsodium, where it is encrypted; the tool's
    /// own variable unless given (PGBACKREST_REPO1_CIPHER_PASS, WALG_LIBSODIUM_KEY)
    #[arg(long, value_name = "FILE", requires = "from", help_heading = HEADING)]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

/// How another tool's repository is reached.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreArgs {
    /// URL of an S3-compatible store that is not Amazon's
    #[arg(long, value_name = "URL", help_heading = HEADING)]
    pub endpoint: Option<String>,
    /// Region of the bucket
    #[arg(long, value_name = "REGION", help_heading = HEADING)]
    region: Option<String>,
    /// File with the store's credentials, as in `archive.repositories` of a configuration; the environment and what the cloud
    /// gives to the host unless given
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    credentials: Option<PathBuf>,
    /// PEM file with the CA of the endpoint
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    ca: Option<PathBuf>,
    /// The bucket is part of the host's name, not of the path
    #[arg(long, help_heading = HEADING)]
    virtual_hosted: bool,
}

impl StoreArgs {
    /// The repository that lies there.
    pub fn repository(&self, location: ArchiveLocation) -> anyhow::Result<ArchiveRepository> {
        let StoreArgs { endpoint, region, credentials, ca, virtual_hosted } = self.clone();
        let file = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        Ok(ArchiveRepository {
            allow_http: endpoint.as_ref().is_some_and(|url| url.starts_with("http://")),
            endpoint,
            region,
            path_style: !virtual_hosted,
            credentials: file(credentials)?,
            ca: file(ca)?,
            ..ArchiveRepository::at(location)
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    tool: Tool,
    location: ArchiveLocation,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let (tool, location) =
            text.split_once(':').ok_or("expected TOOL:LOCATION, as in pgbackrest:/var/lib/pgbackrest")?;
        Ok(Place { tool: tool.parse()?, location: location.parse()? })
    }
}

impl FromArgs {
    /// The repository that is meant, if another tool's is.
    pub fn foreign(&self) -> anyhow::Result<Option<Foreign>> {
        let FromArgs { from, stanza, key_file, store } = self.clone();
        let Some(Place { tool, location }) = from else {
            if store == StoreArgs::default() {
                return Ok(None);
            }
            let text =
                "--endpoint, --region, --credentials, --ca and --virtual-hosted say how --from is reached: name it";
            return Err(Failure::new(code::USAGE, text).into());
        };
        let key_file = key_file.map(std::path::absolute).transpose()?;
        let repository = store.repository(location)?;
        Ok(Some(Foreign { tool, repository, name: stanza, chosen: Chosen::default(), key_file }))
    }
}

/// What is restored, as `-o json` shows it. Units: bytes.
#[derive(Clone, Debug, Serialize)]
struct Page {
    directory: PathBuf,
    target: String,
    tool: Tool,
    repository: String,
    /// Which part of the repository: `stanza main`.
    part: String,
    backup: String,
    timeline: u32,
    /// When the backup ended; nothing before can be reached with it.
    backup_ended: Timestamp,
    /// Bytes of all files.
    size: u64,
    /// Bytes of them in the repository.
    stored: u64,
    /// Segments that recovery replays, at most.
    segments: usize,
    /// Bytes of them, uncompressed.
    wal: u64,
    /// Where the WAL ends.
    reach: String,
    window: Reach,
    /// Pages that were damaged when the backup was taken.
    damaged: Vec<DamagedPage>,
    /// What an archive of ours will know the new directory by.
    new_incarnation: String,
    /// Bytes that an earlier try had restored there.
    there_already: u64,
    dry_run: bool,
}

/// Restores, or says what it would do.
pub async fn restore(args: &RestoreArgs, data: &Path, foreign: &Foreign, ui: &mut Ui) -> anyhow::Result<()> {
    let data = std::path::absolute(data)?;
    let (stock, plan) = choose(foreign, &args.goal.wanted()).await?;
    let window = restore::window(&stock, Some(plan.history.timeline)).await.map_err(failed)?;
    let now = Timestamp::now();
    let name = format!("{}-{}", plan.summary.system_identifier, now.strftime("%Y%m%dT%H%M%SZ"));
    let options = options(args, &stock, &plan, data, &name)?;
    let mut page = page(args, &stock, &plan, window, &options, name);
    if !args.dry_run {
        let remedy = again(&page.backup);
        page.there_already = follow(&options, restore::restore_from(&stock, &plan, &options), &remedy).await?.there;
    }
    ui.show(&page, || parts(&page))
}

/// What serves the target.
pub async fn choose(foreign: &Foreign, wanted: &Wanted) -> anyhow::Result<(Stock, Plan)> {
    let door = Door::open(foreign, PATIENCE).await.map_err(failed)?;
    let stock = door.survey(wanted.backup.as_deref()).await.map_err(failed)?;
    let plan = stock.plan(wanted).await.map_err(failed)?;
    Ok((stock, plan))
}

fn options(args: &RestoreArgs, stock: &Stock, plan: &Plan, data: PathBuf, name: &str) -> anyhow::Result<Options> {
    let owner = Owner::choose(args.owner.as_deref())?;
    if let (Some(owner), Some(parent)) = (&owner, data.parent())
        && parent.exists()
    {
        owner::check_reachable(parent, owner)?;
    }
    let foreign = stock.foreign(plan);
    if !args.place_wal {
        fetchable(stock, &foreign, owner.as_ref())?;
    }
    let program = std::env::current_exe().context("cannot find our own program, which fetches the WAL")?;
    let passage = Passage { format: 1, from: foreign };
    let origin = Origin { incarnation: name.to_owned(), parent: None };
    Ok(Options {
        tablespaces: tablespaces(&args.tablespace, &plan.summary)?,
        restore_command: command(&program, &data.join(SOURCE)),
        place_wal: args.place_wal,
        files: vec![
            (SOURCE.to_owned(), serde_json::to_string_pretty(&passage)?),
            (ORIGIN.to_owned(), serde_json::to_string_pretty(&origin)?),
        ],
        at_target: args.at_target.into(),
        owner: owner.map(|owner| (owner.uid, owner.gid)),
        workers: args.jobs.into(),
        progress: Progress::default(),
        data,
    })
}

/// PostgreSQL fetches the WAL when it is started, as its user and in its environment.
fn fetchable(stock: &Stock, foreign: &Foreign, owner: Option<&Owner>) -> anyhow::Result<()> {
    if stock.door().is_encrypted() && foreign.key_file.is_none() {
        let text = format!(
            "the passphrase or key is only in {}, and fetching WAL needs it when PostgreSQL starts: write it into a file of PostgreSQL's \
             user and name it with --key-file, or restore with --place-wal",
            foreign.tool.variable().unwrap_or("the environment")
        );
        return Err(Failure::new(code::USAGE, text).into());
    }
    let Some(owner) = owner else { return Ok(()) };
    let ArchiveRepository { location, credentials, ca, .. } = &foreign.repository;
    let proof = match location {
        ArchiveLocation::Directory(path) => stock.door().proof().map(|object| path.join(object)),
        _ => None,
    };
    let files = proof.iter().chain(&foreign.key_file).chain(credentials).chain(ca);
    readable(files.map(PathBuf::as_path), owner)
}

fn page(
    args: &RestoreArgs,
    stock: &Stock,
    plan: &Plan,
    window: Option<Window>,
    options: &Options,
    new_incarnation: String,
) -> Page {
    let summary = &plan.summary;
    Page {
        directory: options.data.clone(),
        target: plan.target.to_string(),
        tool: stock.door().tool(),
        repository: stock.door().repository().name().to_owned(),
        part: stock.door().name(),
        backup: summary.backup.clone(),
        timeline: plan.history.timeline,
        backup_ended: summary.stop_time,
        size: summary.size,
        stored: summary.stored,
        segments: plan.complete.len(),
        wal: plan.wal(stock.segment_size()),
        reach: plan.reach.to_string(),
        window: Reach::of(plan, window),
        damaged: summary.damaged.clone(),
        new_incarnation,
        there_already: 0,
        dry_run: args.dry_run,
    }
}

fn parts(page: &Page) -> Vec<Part> {
    let title = match page.dry_run {
        true => format!("{} would be restored to {}", page.directory.display(), page.target),
        false => format!("{} is restored; it replays to {} when it is started", page.directory.display(), page.target),
    };
    let rows = [
        ("Backup", format!("{}, ended {}", page.backup, seconds(page.backup_ended))),
        ("Repository", format!("{} in {}, made by {}", page.part, page.repository, page.tool)),
        ("Timeline", page.timeline.to_string()),
        ("Files", format!("{}, {} in the repository", units::bytes(page.size), units::bytes(page.stored))),
        ("WAL", format!("{} segments at most: {}", page.segments, units::bytes(page.wal))),
        ("Reachable", page.window.shown()),
        ("New incarnation", page.new_incarnation.clone()),
    ];
    let mut grid = Grid::new(&["What", "Is"]);
    for (what, is) in rows {
        grid.row(Tone::Plain, vec![what.to_owned(), is]);
    }
    let mut parts = vec![Part::Line(Tone::Strong, title), Part::Grid(grid)];
    parts.extend(page.window.gap());
    if let Some(DamagedPage { path, block }) = page.damaged.first() {
        let count = page.damaged.len();
        let text =
            format!("{count} pages were damaged when the backup was taken, the first of them block {block} of {path}");
        parts.push(Part::Line(Tone::Warn, text));
    }
    parts.extend(earlier(page.there_already));
    if !page.dry_run {
        let text = format!("Start it with: pg_ctl -D {} start", page.directory.display());
        parts.push(Part::Line(Tone::Plain, text));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_with_their_tool() {
        let place: Place = "walg:/srv/walg".parse().unwrap();
        assert_eq!((place.tool, place.location.to_string()), (Tool::WalG, "/srv/walg".to_owned()));
        let place: Place = "pgbackrest:s3://bucket/repo".parse().unwrap();
        assert_eq!((place.tool, place.location.to_string()), (Tool::PgBackRest, "s3://bucket/repo".to_owned()));
        assert!("/var/lib/pgbackrest".parse::<Place>().unwrap_err().contains("TOOL:LOCATION"));
        assert!("tar:/x".parse::<Place>().unwrap_err().contains("'tar'"));
        assert!("pgbackrest:repo".parse::<Place>().unwrap_err().contains("must begin with"));
    }
}
