//! Restoring a dump into a running server: everything is looked at before anything is written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use matriarch_postgres::dump::{self as server, Access, Restoring};
use matriarch_postgres::roles::quote_identifier;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio_postgres::Client;

use super::DumpError;
use super::look::{self, Job, Looked};
use super::manifest::{Format, GLOBALS, Manifest};
use super::read;
use crate::archive::Archive;
use crate::progress::Progress;

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

/// Restores into the server. What fails leaves no half-made database behind, and in one that was there nothing at all, unless
/// several sessions worked on it.
pub async fn restore(
    archive: &Archive,
    manifest: &Manifest,
    access: &Access,
    request: &Request,
) -> Result<Vec<Restored>, DumpError> {
    let client = access.connect("postgres").await?;
    let Looked { major, jobs, problems, .. } = look::look(manifest, access, &client, request).await?;
    if !problems.is_empty() {
        return Err(DumpError::Refused(problems.join("; ")));
    }
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
                created: job.there.is_none(),
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
            Err(error.unless_removed(archive, &manifest.summary.dump).await)
        }
    }
}

pub(super) async fn roles(client: &Client) -> Result<BTreeSet<String>, DumpError> {
    let rows = client.query("select rolname::text from pg_roles", &[]).await;
    let rows = rows.map_err(|error| server::DumpError::said("list its roles", &error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Roles that are missing and whose belongings another one gets: they are made for as long as that takes.
async fn passing_roles(client: &Client, request: &Request) -> Result<Vec<String>, DumpError> {
    let known = roles(client).await?;
    let mut made = Vec::new();
    for from in look::passing(request, &known) {
        let statement = format!("CREATE ROLE {} NOLOGIN", quote_identifier(from));
        let created = client.batch_execute(&statement).await;
        created.map_err(|error| server::DumpError::said(&format!("create the role {from}"), &error))?;
        request.begun.note(|half| half.roles.push(from.to_owned()));
        made.push(from.to_owned());
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
    let Some(text) = globals(archive, manifest).await? else { return Ok(()) };
    let made = server::apply(client, &text, request.no_tablespaces).await?;
    tracing::debug!(?made, "roles of the dump");
    Ok(())
}

/// What the dump has of roles and tablespaces, if it has any.
pub(super) async fn globals(archive: &Archive, manifest: &Manifest) -> Result<Option<String>, DumpError> {
    let Some(number) = manifest.files().iter().position(|(path, _)| *path == GLOBALS) else { return Ok(None) };
    let mut text = Vec::new();
    read::read(archive, manifest, &(number as u32..number as u32 + 1), async |_, content| {
        text.extend(content?);
        Ok::<_, DumpError>(())
    })
    .await?;
    let text = String::from_utf8(text).map_err(|error| {
        DumpError::Refused(format!("{GLOBALS} of the dump is no UTF-8: {error}; restore with --no-roles"))
    })?;
    Ok(Some(text))
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
    let create = job.there.is_none() && job.into == about.name && request.owner.is_none();
    if job.there.is_none() {
        request.begun.note(|half| half.database = Some(job.into.clone()));
    }
    if job.there.is_none() && !create {
        let known = roles(client).await?;
        let owner = request.owner.as_deref().or(Some(about.owner.as_str()).filter(|owner| known.contains(*owner)));
        about.make(client, &job.into, owner, major).await?;
    }
    let how = Restoring {
        create,
        clean: job.there.is_some() && request.onto == Onto::Clean,
        owner: request.owner.clone(),
        no_tablespaces: request.no_tablespaces,
        jobs: request.jobs,
    };
    if !look::is_staged(manifest, request) {
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
