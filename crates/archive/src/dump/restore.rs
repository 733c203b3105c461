//! Restoring a dump into a running server: everything is looked at before anything is written.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use matriarch_postgres::dump::{self as server, Access, Restoring};
use matriarch_postgres::roles::quote_identifier;
use matriarch_postgres::volumes;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio_postgres::Client;

use super::DumpError;
use super::manifest::{Dumped, Format, GLOBALS, Manifest};
use super::read;
use crate::archive::Archive;
use crate::progress::Progress;

/// Beside what is put down to be restored from.
const SPARE: u64 = 64 << 20;

/// What is restored, and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Databases of the dump, each with the name that it gets; none named: all, under their own names.
    pub databases: Vec<(String, String)>,
    /// Roles and tablespaces that are missing are made as the dump has them.
    pub globals: bool,
    /// Everything goes to the databases' own tablespace, and none is made.
    pub no_tablespaces: bool,
    /// Everything belongs to this role; roles and privileges are left out.
    pub owner: Option<String>,
    /// What the first owns in the dump belongs to the second.
    pub map_owner: Vec<(String, String)>,
    /// What happens to what is there.
    pub onto: Onto,
    /// Sessions side by side for each database.
    pub jobs: u16,
    /// A folder of ours, with room for a database; not needed for one session and the custom format.
    pub scratch: PathBuf,
    /// Counts bytes of the dump.
    pub progress: Progress,
    /// What would have to be taken away again.
    pub begun: Begun,
}

/// What happens to a database that is there and not empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Onto {
    /// Nothing is done.
    #[default]
    Refuse,
    /// The dump is added; a name that is taken is an error.
    Add,
    /// What the dump has is dropped first.
    Clean,
}

/// A database that was restored.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// Its name in the dump.
    pub database: String,
    /// Its name in the server.
    pub into: String,
    /// It was made for this.
    pub created: bool,
    /// Bytes of the dump.
    pub size: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What is half made just now, for whoever gives up.
#[derive(Clone, Debug, Default)]
pub struct Begun(Arc<Mutex<Half>>);

#[derive(Clone, Debug, Default)]
struct Half {
    database: Option<String>,
    roles: Vec<String>,
}

impl Begun {
    fn note(&self, change: impl FnOnce(&mut Half)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes it away again. Safe to call when there is nothing.
    pub async fn undo(&self, access: &Access) -> Result<(), DumpError> {
        let half = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if half.database.is_none() && half.roles.is_empty() {
            return Ok(());
        }
        let client = access.connect("postgres").await?;
        if let Some(name) = &half.database {
            server::remove(&client, name).await?;
        }
        for role in &half.roles {
            drop_role(&client, role).await?;
        }
        Ok(())
    }
}

/// One database on its way.
struct Job<'a> {
    dumped: &'a Dumped,
    into: String,
    exists: bool,
    /// Its files.
    files: Range<u32>,
}

/// Restores into the server. What fails leaves no half-made database behind, and in one that was there nothing at all, unless
/// several sessions worked on it.
pub async fn restore(
    archive: &Archive,
    manifest: &Manifest,
    access: &Access,
    request: &Request,
) -> Result<Vec<Restored>, DumpError> {
    let client = access.connect("postgres").await?;
    let major = check(manifest, access, &client, request).await?;
    let jobs = jobs(manifest, access, &client, request).await?;
    request.progress.expect(jobs.iter().map(|job| job.dumped.size).sum());
    let work = async {
        let passing = passing_roles(&client, request).await?;
        if request.globals && request.owner.is_none() {
            apply_globals(archive, manifest, &client, request).await?;
        }
        let mut done = Vec::new();
        for job in &jobs {
            let began = Instant::now();
            one(archive, manifest, access, (&client, major), request, job).await?;
            for (from, to) in &request.map_owner {
                access.reassign(&job.into, from, to, passing.contains(from)).await?;
            }
            request.begun.note(|half| half.database = None);
            done.push(Restored {
                database: job.dumped.database.name.clone(),
                into: job.into.clone(),
                created: !job.exists,
                size: job.dumped.size,
                seconds: began.elapsed().as_secs_f64(),
            });
        }
        for role in &passing {
            drop_role(&client, role).await?;
        }
        request.begun.note(|half| half.roles.clear());
        Ok::<_, DumpError>(done)
    };
    match work.await {
        Ok(done) => Ok(done),
        Err(error) => {
            // A session of the program that was ended may take a moment; then its words still count more than ours.
            if let Err(left) = request.begun.undo(access).await {
                tracing::warn!("what was begun could not be taken away: {left}");
            }
            Err(error)
        }
    }
}

async fn check(manifest: &Manifest, access: &Access, client: &Client, request: &Request) -> Result<u32, DumpError> {
    let query = "select current_setting('server_version_num')::int / 10000, pg_is_in_recovery()";
    let row = client.query_one(query, &[]).await.map_err(|error| server::DumpError::said("say what it is", &error))?;
    let (major, is_standby) = (row.get::<_, i32>(0).unsigned_abs(), row.get::<_, bool>(1));
    if is_standby {
        return Err(DumpError::Refused("the server is a standby: restore on the primary".to_owned()));
    }
    let (summary, ours) = (&manifest.summary, access.binaries().version().major);
    if major < summary.major || ours < summary.major {
        let text = format!("dump {} is of PostgreSQL {}, and the server is {major}", summary.dump, summary.major);
        let programs = format!("the programs in {} are {ours}", access.binaries().dir().display());
        return Err(DumpError::Refused(format!("{text}, {programs}: an older one cannot read it")));
    }
    let known = roles(client).await?;
    let targets = request.owner.iter().chain(request.map_owner.iter().map(|(_, to)| to));
    if let Some(missing) = targets.into_iter().find(|name| !known.contains(*name)) {
        return Err(DumpError::Refused(format!("the server has no role '{missing}': create it first")));
    }
    Ok(major)
}

async fn roles(client: &Client) -> Result<BTreeSet<String>, DumpError> {
    let rows = client.query("select rolname::text from pg_roles", &[]).await;
    let rows = rows.map_err(|error| server::DumpError::said("list its roles", &error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What is to be done, if all of it can be.
async fn jobs<'a>(
    manifest: &'a Manifest,
    access: &Access,
    client: &Client,
    request: &Request,
) -> Result<Vec<Job<'a>>, DumpError> {
    let summary = &manifest.summary;
    let mut jobs = Vec::new();
    let own = summary.databases.iter().map(|one| (one.database.name.clone(), one.database.name.clone())).collect();
    let wanted: Vec<(String, String)> = if request.databases.is_empty() { own } else { request.databases.clone() };
    for (name, into) in wanted {
        let dumped = summary.database(&name).ok_or_else(|| {
            let names: Vec<&str> = summary.databases.iter().map(|one| one.database.name.as_str()).collect();
            DumpError::Refused(format!("dump {} has no database '{name}'; it has {}", summary.dump, names.join(", ")))
        })?;
        if jobs.iter().any(|job: &Job<'_>| job.into == into) {
            return Err(DumpError::Refused(format!("two databases would become '{into}'")));
        }
        let found = client.query("select from pg_database where datname = $1", &[&into]).await;
        let exists = !found.map_err(|error| server::DumpError::said("list its databases", &error))?.is_empty();
        if exists && request.onto == Onto::Refuse {
            let contents = access.contents(&into).await?;
            if contents.objects > 0 {
                let some = contents.some.join(", ");
                return Err(DumpError::Refused(format!(
                    "database '{into}' is not empty: it has {} objects ({some}); nothing was done. Restore under another name \
                     (--database {name}=NEW), drop first what the dump has (--clean), or add to what is there (--add)",
                    contents.objects
                )));
            }
        }
        jobs.push(Job { dumped, into, exists, files: files_of(manifest, dumped) });
    }
    if let Some(most) = jobs.iter().filter(|_| is_staged(manifest, request)).map(|job| job.dumped.size).max() {
        let free = volumes::free(&request.scratch).map_err(DumpError::file(&request.scratch))?;
        if free < most + SPARE {
            let place = request.scratch.display();
            return Err(DumpError::Refused(format!(
                "{place} has {free} bytes free, and the dump is put down there for {} bytes: free some, or name another place",
                most + SPARE
            )));
        }
    }
    Ok(jobs)
}

/// Several sessions need files, and so does a folder.
fn is_staged(manifest: &Manifest, request: &Request) -> bool {
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

/// Roles that are missing and whose belongings another one gets: they are made for as long as that takes.
async fn passing_roles(client: &Client, request: &Request) -> Result<Vec<String>, DumpError> {
    let known = roles(client).await?;
    let mut made = Vec::new();
    for (from, _) in request.map_owner.iter().filter(|(from, _)| !known.contains(from)) {
        if made.contains(from) {
            continue;
        }
        let statement = format!("CREATE ROLE {} NOLOGIN", quote_identifier(from));
        let created = client.batch_execute(&statement).await;
        created.map_err(|error| server::DumpError::said(&format!("create the role {from}"), &error))?;
        request.begun.note(|half| half.roles.push(from.clone()));
        made.push(from.clone());
    }
    Ok(made)
}

async fn drop_role(client: &Client, role: &str) -> Result<(), DumpError> {
    let dropped = client.batch_execute(&format!("DROP ROLE IF EXISTS {}", quote_identifier(role))).await;
    dropped.map_err(|error| server::DumpError::said(&format!("drop the role {role}"), &error).into())
}

async fn apply_globals(
    archive: &Archive,
    manifest: &Manifest,
    client: &Client,
    request: &Request,
) -> Result<(), DumpError> {
    let Some(number) = manifest.files().iter().position(|(path, _)| *path == GLOBALS) else { return Ok(()) };
    let mut text = Vec::new();
    read::read(archive, manifest, &(number as u32..number as u32 + 1), async |_, content| {
        text.extend(content?);
        Ok::<_, DumpError>(())
    })
    .await?;
    let text = String::from_utf8(text).map_err(|error| {
        DumpError::Refused(format!("{GLOBALS} of the dump is no UTF-8: {error}; restore with --no-roles"))
    })?;
    let made = server::apply(client, &text, request.no_tablespaces).await?;
    tracing::debug!(?made, "roles of the dump");
    Ok(())
}

async fn one(
    archive: &Archive,
    manifest: &Manifest,
    access: &Access,
    (client, major): (&Client, u32),
    request: &Request,
    job: &Job<'_>,
) -> Result<(), DumpError> {
    let about = &job.dumped.database;
    // Under its own name the program makes it, with its settings and privileges.
    let create = !job.exists && job.into == about.name && request.owner.is_none();
    if !job.exists {
        request.begun.note(|half| half.database = Some(job.into.clone()));
    }
    if !job.exists && !create {
        let known = roles(client).await?;
        let owner = request.owner.as_deref().or(Some(about.owner.as_str()).filter(|owner| known.contains(*owner)));
        about.make(client, &job.into, owner, major).await?;
    }
    let how = Restoring {
        create,
        clean: job.exists && request.onto == Onto::Clean,
        owner: request.owner.clone(),
        no_tablespaces: request.no_tablespaces,
        jobs: request.jobs,
    };
    if !is_staged(manifest, request) {
        return stream(archive, manifest, access, request, job, &how).await;
    }
    let path = stage(archive, manifest, request, job).await?;
    access.restore_from(&job.into, &path, &how).await?;
    let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    removed.map_err(DumpError::file(&path))
}

/// From the repository into the program.
async fn stream(
    archive: &Archive,
    manifest: &Manifest,
    access: &Access,
    request: &Request,
    job: &Job<'_>,
    how: &Restoring,
) -> Result<(), DumpError> {
    let (program, mut input) = access.restore(&job.into, how)?;
    let fed = read::read(archive, manifest, &job.files, async |_, content| {
        let content = content?;
        input.write_all(&content).await.map_err(DumpError::Stream)?;
        request.progress.add(content.len() as u64);
        Ok::<_, DumpError>(())
    })
    .await;
    match fed {
        Ok(()) => {
            drop(input);
            program.finish().await?;
            Ok(())
        }
        // It has ended before the dump did, and says why.
        Err(DumpError::Stream(error)) => {
            drop(input);
            program.finish().await?;
            Err(DumpError::Stream(error))
        }
        // It must not take the end of what could be read for the end of the dump.
        Err(error) => {
            drop(program);
            Err(error)
        }
    }
}

/// Puts the database's files down; where they are.
async fn stage(archive: &Archive, manifest: &Manifest, request: &Request, job: &Job<'_>) -> Result<PathBuf, DumpError> {
    let top = request.scratch.join(&job.dumped.path);
    if manifest.summary.format == Format::Directory {
        std::fs::create_dir(&top).map_err(DumpError::file(&top))?;
    }
    let files = manifest.files();
    for number in job.files.clone() {
        let path = request.scratch.join(inside(files[number as usize].0)?);
        let mut file = tokio::fs::File::create_new(&path).await.map_err(DumpError::file(&path))?;
        read::read(archive, manifest, &(number..number + 1), async |_, content| {
            let content = content?;
            file.write_all(&content).await.map_err(DumpError::file(&path))?;
            request.progress.add(content.len() as u64);
            Ok::<_, DumpError>(())
        })
        .await?;
        file.flush().await.map_err(DumpError::file(&path))?;
    }
    Ok(top)
}

/// A path of a manifest stays where it is put.
fn inside(path: &str) -> Result<&Path, DumpError> {
    let inside = Path::new(path);
    let plain = inside.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain {
        Ok(inside)
    } else {
        Err(DumpError::Refused(format!("the dump names the file '{path}', which it cannot have")))
    }
}
