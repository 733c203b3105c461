//! What a restore of a dump finds before anything is written: what is there, what would be made, and what stands in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use matriarch_postgres::dump::{self as server, Access, Contents, Globals};
use matriarch_postgres::volumes;
use serde::Serialize;
use tokio_postgres::Client;

use super::DumpError;
use super::manifest::{Dumped, Format, Line, Manifest, Summary};
use super::restore::{Onto, Request, globals, roles};
use crate::archive::Archive;

/// Beside what is put down to be restored from.
const SPARE: u64 = 64 << 20;

/// One database on its way.
pub(super) struct Job<'a> {
    pub dumped: &'a Dumped,
    pub into: String,
    /// What is in it, if it is there.
    pub there: Option<Contents>,
    /// Its files.
    pub files: Range<u32>,
}

/// What was found.
pub(super) struct Looked<'a> {
    /// Major version of the server.
    pub major: u32,
    pub jobs: Vec<Job<'a>>,
    /// The server's.
    pub roles: BTreeSet<String>,
    /// What a folder of ours must hold, and what it can.
    pub room: Option<Room>,
    /// What stands in the way; then nothing may be begun.
    pub problems: Vec<String>,
}

/// What a restore would do.
#[derive(Clone, Debug, Serialize)]
pub struct Outlook {
    /// Major version of the server.
    pub major: u32,
    /// Each database that is wanted.
    pub databases: Vec<Prospect>,
    /// What the server lacks and would be made.
    pub made: Lacking,
    /// What the dump names, the server lacks, and would not be made.
    pub missing: Lacking,
    /// Roles that would be there for as long as it takes, since another one gets what they own.
    pub passing_roles: Vec<String>,
    /// Room for what is put down before it is restored.
    pub room: Option<Room>,
    /// What stands in the way; empty: it can begin.
    pub problems: Vec<String>,
}

/// What would become of one database.
#[derive(Clone, Debug, Serialize)]
pub struct Prospect {
    /// Its name in the dump.
    pub database: String,
    /// Its name in the server.
    pub into: String,
    /// Bytes of the dump.
    pub size: u64,
    /// It is there already.
    pub exists: bool,
    /// How many objects people have put into it.
    pub objects: u64,
    /// Some of them by name.
    pub some: Vec<String>,
}

/// Names of what a server does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lacking {
    /// Roles.
    pub roles: Vec<String>,
    /// Tablespaces.
    pub tablespaces: Vec<String>,
}

/// Room in a folder. Units: bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Of the largest database, and some.
    pub needed: u64,
    /// What there is.
    pub free: u64,
}

/// Looks what [`restore`](super::restore()) would do, and what stands in its way. Nothing is written.
pub async fn outlook(
    archive: &Archive,
    manifest: &Manifest,
    access: &Access,
    request: &Request,
) -> Result<Outlook, DumpError> {
    let client = access.connect("postgres").await?;
    let looked = look(manifest, access, &client, request).await?;
    let text = if request.owner.is_none() { globals(archive, manifest).await? } else { None };
    let there = Globals::there(&client, request.no_tablespaces).await?;
    let (mut roles, tablespaces) = text.as_deref().map(|text| there.lacking(text)).unwrap_or_default();
    let passing_roles: Vec<String> = passing(request, &looked.roles).into_iter().map(str::to_owned).collect();
    roles.retain(|role| !passing_roles.contains(role));
    let lacking = Lacking { roles, tablespaces };
    let (made, mut missing) = match request.globals {
        true => (lacking, Lacking::default()),
        false => (Lacking::default(), lacking),
    };
    // A dump may be without roles; its databases have owners all the same.
    let owners = looked.jobs.iter().map(|job| &job.dumped.database.owner).filter(|_| request.owner.is_none());
    for owner in owners.filter(|owner| !looked.roles.contains(*owner) && !passing_roles.contains(*owner)) {
        if !made.roles.contains(owner) && !missing.roles.contains(owner) {
            missing.roles.push(owner.clone());
        }
    }
    let mut problems = looked.problems;
    problems.extend(packs(archive, manifest, looked.jobs.iter().map(|job| &job.files)).await?);
    let databases = looked.jobs.iter().map(Prospect::of).collect();
    Ok(Outlook { major: looked.major, databases, made, missing, passing_roles, room: looked.room, problems })
}

impl Prospect {
    fn of(job: &Job<'_>) -> Prospect {
        let there = job.there.clone().unwrap_or_default();
        Prospect {
            database: job.dumped.database.name.clone(),
            into: job.into.clone(),
            size: job.dumped.size,
            exists: job.there.is_some(),
            objects: there.objects.unsigned_abs(),
            some: there.some,
        }
    }
}

/// What there is in the server, and what stands in the way.
pub(super) async fn look<'a>(
    manifest: &'a Manifest,
    access: &Access,
    client: &Client,
    request: &Request,
) -> Result<Looked<'a>, DumpError> {
    let query = "select current_setting('server_version_num')::int / 10000, pg_is_in_recovery()";
    let row = client.query_one(query, &[]).await.map_err(|error| server::DumpError::said("say what it is", &error))?;
    let (major, is_standby) = (row.get::<_, i32>(0).unsigned_abs(), row.get::<_, bool>(1));
    let mut problems = Vec::new();
    if is_standby {
        problems.push("the server is a standby: restore on the primary".to_owned());
    }
    problems.extend(too_old(&manifest.summary, access, major));
    let roles = roles(client).await?;
    let targets = request.owner.iter().chain(request.map_owner.iter().map(|(_, to)| to));
    let missing: BTreeSet<&String> = targets.filter(|name| !roles.contains(*name)).collect();
    problems.extend(missing.iter().map(|name| format!("the server has no role '{name}': create it first")));
    let mut jobs: Vec<Job<'a>> = Vec::new();
    for (name, into) in wanted(&manifest.summary, request) {
        if jobs.iter().any(|job| job.into == into) {
            problems.push(format!("two databases would become '{into}'"));
            continue;
        }
        let Some(dumped) = manifest.summary.database(&name) else {
            problems.push(unknown(&manifest.summary, &name));
            continue;
        };
        let there = contents(access, client, &into).await?;
        problems.extend(there.as_ref().and_then(|there| in_the_way(&name, &into, there, request.onto)));
        jobs.push(Job { dumped, into, there, files: files_of(manifest, dumped) });
    }
    let room = room(manifest, request, &jobs)?;
    problems.extend(room.as_ref().filter(|room| room.free < room.needed).map(|room| {
        let Room { needed, free } = room;
        let place = request.scratch.display();
        format!(
            "{place} has {free} bytes free, and the dump is put down there for {needed} bytes: free some, or name another place"
        )
    }));
    Ok(Looked { major, jobs, roles, room, problems })
}

fn wanted(summary: &Summary, request: &Request) -> Vec<(String, String)> {
    if !request.databases.is_empty() {
        return request.databases.clone();
    }
    summary.databases.iter().map(|one| (one.database.name.clone(), one.database.name.clone())).collect()
}

fn too_old(summary: &Summary, access: &Access, major: u32) -> Option<String> {
    let ours = access.binaries().version().major;
    if major >= summary.major && ours >= summary.major {
        return None;
    }
    let text = format!("dump {} is of PostgreSQL {}, and the server is {major}", summary.dump, summary.major);
    let programs = format!("the programs in {} are {ours}", access.binaries().dir().display());
    Some(format!("{text}, {programs}: an older one cannot read it"))
}

fn unknown(summary: &Summary, name: &str) -> String {
    let names: Vec<&str> = summary.databases.iter().map(|one| one.database.name.as_str()).collect();
    format!("dump {} has no database '{name}'; it has {}", summary.dump, names.join(", "))
}

async fn contents(access: &Access, client: &Client, database: &str) -> Result<Option<Contents>, DumpError> {
    let found = client.query("select from pg_database where datname = $1", &[&database]).await;
    if found.map_err(|error| server::DumpError::said("list its databases", &error))?.is_empty() {
        return Ok(None);
    }
    Ok(Some(access.contents(database).await?))
}

fn in_the_way(name: &str, into: &str, there: &Contents, onto: Onto) -> Option<String> {
    if onto != Onto::Refuse || there.objects == 0 {
        return None;
    }
    Some(format!(
        "database '{into}' is not empty: it has {} objects ({}); nothing was done. Restore under another name (--database \
         {name}=NEW), drop first what the dump has (--clean), or add to what is there (--add)",
        there.objects,
        there.some.join(", ")
    ))
}

fn room(manifest: &Manifest, request: &Request, jobs: &[Job<'_>]) -> Result<Option<Room>, DumpError> {
    let staged = jobs.iter().filter(|_| is_staged(manifest, request)).map(|job| job.dumped.size).max();
    let Some(most) = staged else { return Ok(None) };
    let free = volumes::free(&request.scratch).map_err(DumpError::file(&request.scratch))?;
    Ok(Some(Room { needed: most + SPARE, free }))
}

/// Several sessions need files, and so does a folder.
pub(super) fn is_staged(manifest: &Manifest, request: &Request) -> bool {
    request.jobs > 1 || manifest.summary.format == Format::Directory
}

fn files_of(manifest: &Manifest, dumped: &Dumped) -> Range<u32> {
    let folder = format!("{}/", dumped.path);
    let is_its = |path: &str| path == dumped.path || path.starts_with(&folder);
    let files = manifest.files();
    let first = files.iter().position(|(path, _)| is_its(path)).unwrap_or(files.len());
    let count = files[first..].iter().take_while(|(path, _)| is_its(path)).count();
    first as u32..(first + count) as u32
}

/// Roles that are missing and whose belongings another one gets.
pub(super) fn passing<'a>(request: &'a Request, known: &BTreeSet<String>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for (from, _) in request.map_owner.iter().filter(|(from, _)| !known.contains(from)) {
        if !names.contains(&from.as_str()) {
            names.push(from);
        }
    }
    names
}

/// Which packs of the wanted files are not there, or too short. What is in them is not read.
async fn packs<'a>(
    archive: &Archive,
    manifest: &Manifest,
    wanted: impl Iterator<Item = &'a Range<u32>>,
) -> Result<Vec<String>, DumpError> {
    let wanted: Vec<&Range<u32>> = wanted.collect();
    let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
    for line in &manifest.lines {
        let Line::Frame(pack, _, at, length, _, parts) = line else { continue };
        if parts.iter().any(|(file, ..)| wanted.iter().any(|files| files.contains(file))) {
            let end = ends.entry(*pack).or_default();
            *end = (*end).max(at + length);
        }
    }
    let (place, repository, dump) = (archive.place(), archive.repository(), &manifest.summary.dump);
    let listed = repository.list(&format!("{}/{dump}", place.dump_folder())).await?;
    let sizes: BTreeMap<String, u64> = listed.into_iter().map(|entry| (entry.name, entry.size)).collect();
    let mut problems = Vec::new();
    for (pack, end) in ends {
        let name = place.dump_pack(dump, pack);
        let size = match sizes.get(&name) {
            Some(size) => Ok(*size),
            // A list may be old.
            None => repository.size(&name).await,
        };
        match size {
            Ok(size) if size >= end => {}
            Ok(size) => {
                problems.push(format!("{name} in {} has {size} bytes, and {end} are needed", repository.name()))
            }
            Err(error) if error.is_absent() => problems.push(format!("{name} is missing in {}", repository.name())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(problems)
}
