//! What other tools have archived comes back from where it lies.

mod barman;
mod clouds;
mod cut_off;
mod export;
mod pgbackrest;
mod walg;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matriarch_archive::door::{Chosen, Door, Foreign, Stock, Tool};
use matriarch_archive::progress::Progress;
use matriarch_archive::restore::{self, AtTarget, Options, Plan, RestoreError, Wanted};
use matriarch_config::ArchiveRepository;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::postgres::{self, Installation};
use matriarch_testkit::s3::{BUCKET, KEYS, S3Server};
use matriarch_testkit::server::Server;
use matriarch_testkit::user;
use tokio_postgres::Client;

use crate::common::PATIENT;
use crate::common::database::{self, command, connect, one, recovered};

/// The work of a process that a test kills, if that is what it was begun for.
pub async fn hand() {
    if let Some([description, data, backup]) = database::told("unpack") {
        let foreign = serde_json::from_slice(&std::fs::read(description).unwrap()).unwrap();
        cut_off::unpack(&foreign, Path::new(&data), &backup).await.unwrap();
        std::process::exit(0);
    }
}

/// The newest major that Debian's tools know.
fn installation() -> Option<&'static Installation> {
    postgres::all_majors().iter().find(|found| found.major == 15)
}

/// A program of another tool.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists())
}

fn foreign(tool: Tool, folder: &Path) -> Foreign {
    let repository = ArchiveRepository::at(folder.display().to_string().parse().unwrap());
    Foreign { tool, repository, name: None, chosen: Chosen::default(), key_file: None }
}

/// What lies below `prefix` of the bucket. The credentials are in a file that PostgreSQL's user can read.
fn in_bucket(tool: Tool, dir: &TestDir, store: &S3Server, prefix: &str) -> Foreign {
    let credentials = dir.join("credentials");
    std::fs::write(&credentials, format!("aws_access_key_id={}\naws_secret_access_key={}\n", KEYS.0, KEYS.1)).unwrap();
    user::give(&credentials).unwrap();
    let repository = ArchiveRepository {
        endpoint: Some(store.endpoint()),
        allow_http: true,
        region: Some("us-east-1".into()),
        credentials: Some(credentials),
        ..ArchiveRepository::at(format!("s3://{BUCKET}/{prefix}").parse().unwrap())
    };
    Foreign { tool, repository, name: None, chosen: Chosen::default(), key_file: None }
}

async fn stock(foreign: &Foreign) -> Result<Stock, RestoreError> {
    Door::open(foreign, PATIENT).await?.survey(None).await
}

fn options(dir: &TestDir, stock: &Stock, plan: &Plan, name: &str) -> Options {
    let description = dir.join(format!("{name}.json"));
    std::fs::write(&description, serde_json::to_vec(&stock.foreign(plan)).unwrap()).unwrap();
    user::give(&description).unwrap();
    let places = plan.summary.tablespaces.iter().map(|space| (space.oid, dir.join(format!("{name}-space"))));
    Options {
        data: dir.join(name),
        tablespaces: places.collect(),
        restore_command: command("door", &description, "%p %f"),
        place_wal: false,
        files: Vec::new(),
        at_target: AtTarget::Promote,
        owner: user::unprivileged().map(|user| (user.uid, user.gid)),
        workers: 2,
        progress: Progress::default(),
    }
}

/// Restores into `name`, with its tablespace beside it, and starts it with further settings.
async fn restored(
    dir: &TestDir,
    installation: &Installation,
    foreign: &Foreign,
    wanted: &Wanted,
    (name, place_wal): (&str, bool),
    settings: &str,
) -> Server {
    let stock = stock(foreign).await.unwrap();
    let plan = stock.plan(wanted).await.unwrap();
    let options = Options { place_wal, ..options(dir, &stock, &plan, name) };
    restore::restore_from(&stock, &plan, &options).await.unwrap();
    assert!(options.progress.done() > 1 << 20, "it is told how far it is");
    let server = recovered(installation, &options.data, settings).await;
    if settings.is_empty() {
        let mode: String = one(&connect(&server).await, "show archive_mode").await;
        assert_eq!(mode, "off", "nobody archives into the old repository");
    }
    server
}

/// Tries to restore what cannot be; what it says.
async fn refused(dir: &TestDir, foreign: &Foreign, wanted: &Wanted, name: &str) -> String {
    let stock = match stock(foreign).await {
        Ok(stock) => stock,
        Err(error) => return error.to_string(),
    };
    let plan = match stock.plan(wanted).await {
        Ok(plan) => plan,
        Err(error) => return error.to_string(),
    };
    let options = options(dir, &stock, &plan, name);
    let error = restore::restore_from(&stock, &plan, &options).await.unwrap_err();
    assert!(!options.data.join("global/pg_control").exists(), "it could be started: {error}");
    error.to_string()
}

async fn count(server: &Server, table: &str) -> i64 {
    one(&connect(server).await, &format!("select count(*) from {table}")).await
}

/// Ends the segment and waits until it is archived; its name.
async fn archive_all(client: &Client) -> String {
    client.batch_execute("select txid_current()").await.unwrap();
    let last: String = one(client, "select pg_walfile_name(pg_switch_wal())").await;
    let deadline = Instant::now() + PATIENT;
    let newest = "select coalesce(last_archived_wal, '') from pg_stat_archiver";
    while one::<String>(client, newest).await < last {
        assert!(Instant::now() < deadline, "{last} was not archived");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    last
}

/// The largest file below `folder` whose path fits.
fn find(folder: &Path, fits: &dyn Fn(&str) -> bool) -> PathBuf {
    let mut found: Option<(u64, PathBuf)> = None;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if fits(&path.display().to_string()) {
                found = found.max(Some((path.metadata().unwrap().len(), path)));
            }
        }
    }
    found.unwrap().1
}

/// Changes a file for as long as `meanwhile` takes.
async fn damaged<T>(path: &Path, change: impl FnOnce(&mut Vec<u8>), meanwhile: impl Future<Output = T>) -> T {
    let whole = std::fs::read(path).unwrap();
    let mut bytes = whole.clone();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
    let done = meanwhile.await;
    std::fs::write(path, whole).unwrap();
    done
}

#[allow(clippy::ptr_arg, reason = "a change may also shorten it")]
fn flip(bytes: &mut Vec<u8>) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

fn cut(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() / 2);
}
