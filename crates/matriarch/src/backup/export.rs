//! `archive export`: a backup in another tool's form.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use matriarch_archive::archive::Archive;
use matriarch_archive::base::Summary;
use matriarch_archive::door::{Chosen, Foreign, Tool};
use matriarch_archive::export::{Compression, Export, ExportError, Written};
use matriarch_archive::progress::Progress;
use matriarch_archive::restore::{self, Plan, RestoreError, Target, Wanted};
use matriarch_cli::{Failure, Grid, Part, Tone, Ui, code, units};
use matriarch_config::ArchiveLocation;
use serde::Serialize;

use super::archives::{Found, PATIENCE, WhereArgs, find};
use super::fail::failed;
use super::list::seconds;
use super::meter::{Meter, interrupted};
use super::restore::door::StoreArgs;
use crate::cluster::Which;

/// How long what was begun is cleared away after an interruption.
const CLEARING: Duration = Duration::from_secs(20);

/// `archive export`.
#[derive(Clone, Debug, Subcommand)]
pub enum ExportVerb {
    /// As Barman's cloud scripts keep it: barman-cloud-restore and barman-cloud-wal-restore read it
    #[command(
        long_about = "Writes a backup (an incremental one as a full one) and the WAL without which it is not consistent to where Barman's \
        cloud scripts look for theirs, so that barman-cloud-backup-list shows it and barman-cloud-restore restores it, without \
        Matriarch. With --wal the WAL that follows comes along, as far as it is archived, and so does what the tail has.\n\nThe form knows no \
        encryption: what is encrypted in the archive lies there in the clear, so let the store encrypt it or keep others out of it. The \
        keys of the archive are needed as for a restore.\n\nNothing is written over: a backup of that name, another database under that \
        name of a server, and WAL of the same name with another content are refused. What makes it a backup is written last, so an \
        interrupted export leaves none. It can be repeated; WAL that is there already is compared, not written again.",
        after_long_help = "Examples:\n  matriarch archive export barman s3://backups/barman --server main --dry-run\n  matriarch archive export barman \
        s3://backups/barman --wal --endpoint https://minio.example.com --credentials /etc/matriarch/s3\n  matriarch archive export barman \
        /mnt/usb --backup 20261122T010000Z-3f2a --identity key.txt --archive archive.yml --scope main"
    )]
    Barman(Box<BarmanArgs>),
}

/// `archive export barman`.
#[derive(Args, Clone, Debug)]
pub struct BarmanArgs {
    /// Where to: what barman-cloud-restore is given as its URL. s3://bucket/path, gs://bucket/path,
    /// azure://account/container/path, or a directory
    #[arg(value_name = "LOCATION")]
    to: ArchiveLocation,
    /// Barman's name of the server, the folder below; the cluster's name unless given
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Which backup; the newest one unless given
    #[arg(long, value_name = "BACKUP")]
    backup: Option<String>,
    /// Bring all WAL that follows it along, not only what makes it consistent
    #[arg(long)]
    wal: bool,
    /// How tars and WAL are compressed
    #[arg(long, value_enum, default_value_t)]
    compression: Packing,
    /// Tars that are written at a time
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Say what would be written, and whether anything is in the way; write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    place: WhereArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Packing {
    /// gzip.
    #[default]
    Gzip,
    /// None.
    None,
}

impl From<Packing> for Compression {
    fn from(packing: Packing) -> Compression {
        match packing {
            Packing::Gzip => Compression::Gzip,
            Packing::None => Compression::None,
        }
    }
}

/// What is exported, as `-o json` shows it. Units: bytes.
#[derive(Clone, Debug, Serialize)]
struct Page {
    tool: Tool,
    /// Our name of the backup.
    backup: String,
    incarnation: String,
    /// The tool's name of it.
    id: String,
    server: String,
    /// Where it goes.
    repository: String,
    backup_ended: Timestamp,
    timeline: u32,
    /// Bytes of all files.
    size: u64,
    /// Segments that go along, those included of which only the tail has a part.
    segments: usize,
    tail_segments: usize,
    /// Bytes of these segments, uncompressed.
    wal: u64,
    /// Where the WAL ends that goes along.
    reach: String,
    /// It is encrypted here, and there it is not.
    decrypted: bool,
    /// Pages that were damaged when the backup was taken.
    damaged: usize,
    written: Option<Done>,
    dry_run: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, Serialize)]
struct Done {
    tars: usize,
    stored: u64,
    new_segments: usize,
    /// Segments that were there with the same content.
    same_segments: usize,
}

/// Does what `archive export …` says.
pub async fn export(verb: ExportVerb, which: &Which, ui: &mut Ui) -> anyhow::Result<()> {
    let ExportVerb::Barman(args) = verb;
    let found = find(which, &args.place).await?;
    let (archive, summary) = found.find::<Summary>(args.backup.as_deref(), ui).await?;
    let plan = plan(&archive, &summary, args.wal).await?;
    let server = args.server.clone().unwrap_or_else(|| found.scope.clone());
    let repository = args.store.repository(args.to.clone())?;
    let to = Foreign { tool: Tool::Barman, repository, name: None, chosen: Chosen::default(), key_file: None };
    let prepared = Export::prepare(&archive, plan, (&to, &server), args.compression.into(), PATIENCE).await;
    let export = prepared.map_err(failed)?;
    let written = if args.dry_run { None } else { Some(follow(&export, args.jobs.into()).await?) };
    let page = page(&found, &archive, &export, written);
    ui.show(&page, || parts(&page, &args))
}

async fn plan(archive: &Archive, summary: &Summary, all: bool) -> anyhow::Result<Plan> {
    let target = if all { Target::Latest } else { Target::Immediate };
    let wanted = Wanted { backup: Some(summary.backup.clone()), ..Wanted::new(target) };
    restore::plan(archive, &wanted).await.map_err(|error| match error {
        RestoreError::OutOfReach { target, why } => {
            let why = format!("{why}; without --wal the backup is exported with the WAL that makes it consistent");
            failed(RestoreError::OutOfReach { target, why })
        }
        error => failed(error),
    })
}

/// Does it, and tells how far it is; what is cut off is cleared away.
async fn follow(export: &Export, workers: usize) -> anyhow::Result<Written> {
    let progress = Progress::default();
    let meter = Meter::start("export", &progress);
    let ended = tokio::select! {
        written = export.write(workers, &progress) => Some(written),
        () = interrupted()? => None,
    };
    drop(meter);
    let error = match ended {
        Some(Ok(written)) => return Ok(written),
        // Somebody else's backup is there.
        Some(Err(error @ ExportError::Taken { .. })) => return Err(failed(error)),
        Some(Err(error)) => failed(error),
        None => {
            let text = "interrupted: the backup is not exported. WAL that was written stays; do it again to go on";
            Failure::new(code::TEMPORARY, text).into()
        }
    };
    match tokio::time::timeout(CLEARING, export.abandon()).await {
        Ok(Ok(())) => Err(error),
        _ => Err(error.context(format!(
            "tars without a backup.info may be left in base/{} of server {}; they are no backup to Barman, and the next export \
             removes them",
            export.id(),
            export.server()
        ))),
    }
}

fn page(found: &Found, archive: &Archive, export: &Export, written: Option<Written>) -> Page {
    let plan = export.plan();
    let summary = &plan.summary;
    Page {
        tool: Tool::Barman,
        backup: summary.backup.clone(),
        incarnation: archive.place().incarnation().to_owned(),
        id: export.id().to_owned(),
        server: export.server().to_owned(),
        repository: export.repository().to_owned(),
        backup_ended: summary.stop_time,
        timeline: plan.history.timeline,
        size: summary.size,
        segments: plan.complete.len() + plan.tail.len(),
        tail_segments: plan.tail.len(),
        wal: plan.wal(archive.incarnation().segment_size),
        reach: plan.until.to_string(),
        decrypted: !found.section.encryption.recipients.is_empty(),
        damaged: summary.damaged.len(),
        written: written.map(|written| Done {
            tars: written.tars,
            stored: written.stored,
            new_segments: written.segments,
            same_segments: written.there,
        }),
        dry_run: written.is_none(),
    }
}

fn parts(page: &Page, args: &BarmanArgs) -> Vec<Part> {
    let would = if page.dry_run { "would be" } else { "is" };
    let title = format!("{} {would} exported as {} of server {}", page.backup, page.id, page.server);
    let tail = match page.tail_segments {
        0 => String::new(),
        count => format!(", {count} of them from the tail"),
    };
    let mut rows = vec![
        ("Backup", format!("{}, ended {}", page.backup, seconds(page.backup_ended))),
        ("To", page.repository.clone()),
        ("Timeline", page.timeline.to_string()),
        ("Files", units::bytes(page.size)),
        ("WAL", format!("{} segments{tail}: {}, up to {}", page.segments, units::bytes(page.wal), page.reach)),
    ];
    if let Some(done) = &page.written {
        let text = format!(
            "{} in {} tars, {} segments; {} segments were there",
            units::bytes(done.stored),
            done.tars,
            done.new_segments,
            done.same_segments
        );
        rows.push(("Written", text));
    }
    let mut grid = Grid::new(&["What", "Is"]);
    for (what, is) in rows {
        grid.row(Tone::Plain, vec![what.to_owned(), is]);
    }
    let mut parts = vec![Part::Line(Tone::Strong, title), Part::Grid(grid)];
    if page.decrypted {
        let text = "It is encrypted in the archive, and not there: let the store encrypt it, or keep others out of it";
        parts.push(Part::Line(Tone::Warn, text.to_owned()));
    }
    if page.damaged > 0 {
        let text = format!("{} pages were damaged when the backup was taken (matriarch backup show)", page.damaged);
        parts.push(Part::Line(Tone::Warn, text));
    }
    if let (false, Some(place)) = (page.dry_run, as_barman_names(&args.to, args.store.endpoint.as_deref())) {
        let text = format!("Restore it with: barman-cloud-restore {place} {} {} DIRECTORY", page.server, page.id);
        parts.push(Part::Line(Tone::Plain, text));
    }
    parts
}

/// How Barman's cloud scripts are told the place; they know no directories.
fn as_barman_names(to: &ArchiveLocation, endpoint: Option<&str>) -> Option<String> {
    Some(match to {
        ArchiveLocation::Directory(_) => return None,
        ArchiveLocation::S3 { .. } => {
            let endpoint = endpoint.map(|url| format!("--endpoint-url {url} ")).unwrap_or_default();
            format!("{endpoint}{to}")
        }
        ArchiveLocation::Gcs { .. } => format!("--cloud-provider google-cloud-storage {to}"),
        ArchiveLocation::Azure { account, container, prefix } => {
            let host = format!("https://{account}.blob.core.windows.net");
            let host = endpoint.unwrap_or(&host).trim_end_matches('/');
            let below = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
            format!("--cloud-provider azure-blob-storage {host}/{container}{below}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barman_is_told_each_place_in_its_own_words() {
        let named = |to: &str, endpoint| as_barman_names(&to.parse().unwrap(), endpoint);
        assert_eq!(named("/srv/barman", None), None);
        for (to, endpoint, words) in [
            ("s3://b/p", None, "s3://b/p"),
            ("s3://b/p", Some("http://m:9000"), "--endpoint-url http://m:9000 s3://b/p"),
            ("gs://b/p", None, "--cloud-provider google-cloud-storage gs://b/p"),
            ("azure://a/c/p", None, "--cloud-provider azure-blob-storage https://a.blob.core.windows.net/c/p"),
            (
                "azure://a/c",
                Some("https://a.blob.example/"),
                "--cloud-provider azure-blob-storage https://a.blob.example/c",
            ),
        ] {
            assert_eq!(named(to, endpoint).as_deref(), Some(words));
        }
    }
}
