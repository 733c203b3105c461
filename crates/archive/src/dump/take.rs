//! Taking a dump: globals, then one database after the other, then the manifest that makes it one.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use matriarch_postgres::dump::{self as server, Access, Database};
use serde::Serialize;

use super::DumpError;
use super::manifest::{Dumped, Format, GLOBALS, Manifest, Summary};
use super::write::{self, Writer};
use crate::archive::Archive;
use crate::base::{self, GRACE, UnderWay};
use crate::progress::Progress;

/// What is dumped, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The databases; none named: all.
    pub databases: Vec<String>,
    /// How they lie in the archive.
    pub format: Format,
    /// Sessions side by side for each database; only in the directory format.
    pub jobs: u16,
    /// Whether roles and tablespaces are dumped as well.
    pub globals: bool,
    /// Whether the schedule wanted it.
    pub scheduled: bool,
    /// A folder of ours; the directory format needs room for a database there.
    pub scratch: PathBuf,
    /// Counts the bytes that PostgreSQL has written; the whole is an estimate.
    pub progress: Progress,
}

/// The record `running.json` of a dump under way.
#[derive(Clone, Debug, Serialize)]
struct Running {
    format: u32,
    started: Timestamp,
}

/// The server as it said itself.
struct Server {
    system_identifier: String,
    major: u32,
    is_standby: bool,
    databases: Vec<Database>,
}

/// Takes a dump under a new name into the same incarnation of every repository.
///
/// Dropping the future is safe at any moment: without a manifest there is no dump.
pub async fn take(archives: &[Archive], access: &Access, name: &str, options: &Options) -> Result<Summary, DumpError> {
    if archives.is_empty() {
        return Err(DumpError::Refused("there is no repository to dump to".to_owned()));
    }
    let server = look(access).await?;
    for archive in archives {
        let (expected, found) = (&archive.incarnation().system_identifier, &server.system_identifier);
        if expected != found {
            return Err(DumpError::Foreign { found: found.clone(), expected: expected.clone() });
        }
    }
    let wanted = choose(server.databases, &options.databases)?;
    let began = Timestamp::now();
    let mut marks = Vec::new();
    for archive in archives {
        let mark = archive.place().of_dump(name, "running.json");
        marks.push(base::keep_up(archive, mark, &Running { format: 1, started: began }).await?);
    }
    for database in &wanted {
        options.progress.expect(access.estimate(&database.name).await?);
    }
    let mut writer = Writer::new(archives, name, &options.progress);
    if options.globals {
        let (program, output) = access.globals()?;
        writer.file(GLOBALS, output).await?;
        program.finish().await?;
    }
    let mut databases = Vec::new();
    for (number, database) in wanted.into_iter().enumerate() {
        // Not by its name, in which anything may be.
        let path = match options.format {
            Format::Custom => format!("{}.dump", number + 1),
            Format::Directory => (number + 1).to_string(),
        };
        let size = one(access, &mut writer, &database.name, &path, options).await?;
        databases.push(Dumped { database, path, size });
    }
    writer.close().await?;
    check(&marks)?;
    let summary = Summary {
        version: 1,
        dump: name.to_owned(),
        system_identifier: server.system_identifier,
        major: server.major,
        began,
        ended: Timestamp::now(),
        from_standby: server.is_standby,
        scheduled: options.scheduled,
        format: options.format,
        globals: options.globals,
        databases,
        size: writer.size,
        stored: writer.stored,
        packs: writer.packs,
    };
    let manifest = Manifest { summary, lines: writer.lines() };
    for archive in archives {
        write::commit(archive, &manifest).await?;
    }
    for mark in marks {
        mark.end().await;
    }
    Ok(manifest.summary)
}

/// Nobody may have taken it for cut off.
fn check(marks: &[UnderWay]) -> Result<(), DumpError> {
    match marks.iter().map(UnderWay::silent).find(|silent| *silent >= GRACE / 2) {
        Some(silent) => Err(DumpError::Forgotten(silent)),
        None => Ok(()),
    }
}

async fn look(access: &Access) -> Result<Server, DumpError> {
    let client = access.connect("postgres").await?;
    let query = "select current_setting('server_version_num')::int / 10000, pg_is_in_recovery(), \
        (select system_identifier::text from pg_control_system())";
    let row = client.query_one(query, &[]).await.map_err(|error| server::DumpError::said("say what it is", &error))?;
    let major = row.get::<_, i32>(0).unsigned_abs();
    let ours = access.binaries().version().major;
    if ours < major {
        let text = format!(
            "the server is PostgreSQL {major}, and {} has the programs of {ours}",
            access.binaries().dir().display()
        );
        return Err(DumpError::Refused(format!("{text}: name the right ones (--bin-dir)")));
    }
    Ok(Server {
        system_identifier: row.get(2),
        major,
        is_standby: row.get(1),
        databases: Database::all(&client, major).await?,
    })
}

fn choose(there: Vec<Database>, wanted: &[String]) -> Result<Vec<Database>, DumpError> {
    if let Some(missing) = wanted.iter().find(|name| there.iter().all(|one| one.name != **name)) {
        let names: Vec<&str> = there.iter().map(|one| one.name.as_str()).collect();
        return Err(DumpError::Refused(format!("the server has no database '{missing}'; it has {}", names.join(", "))));
    }
    Ok(there.into_iter().filter(|one| wanted.is_empty() || wanted.contains(&one.name)).collect())
}

async fn one(
    access: &Access,
    writer: &mut Writer<'_>,
    database: &str,
    path: &str,
    options: &Options,
) -> Result<u64, DumpError> {
    if options.format == Format::Custom {
        let (program, output) = access.dump(database)?;
        let size = writer.file(path, output).await?;
        program.finish().await?;
        return Ok(size);
    }
    let folder = options.scratch.join(path);
    access.dump_into(database, &folder, options.jobs).await?;
    writer.folder(path);
    let mut size = 0;
    for file in files(&folder)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let content = tokio::fs::File::open(&file).await.map_err(DumpError::file(&file))?;
        size += writer.file(&format!("{path}/{name}"), content).await?;
    }
    std::fs::remove_dir_all(&folder).map_err(DumpError::file(&folder))?;
    Ok(size)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, DumpError> {
    let entries = std::fs::read_dir(folder).map_err(DumpError::file(folder))?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(DumpError::file(folder))?;
    paths.sort();
    Ok(paths)
}
