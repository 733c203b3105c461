//! The file's layout, how it is created whole or not at all, and how it is opened without harming others'.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::fault::{Stage, store_error};
use super::file::{FileId, Place, beside, check_access, check_file_system};
use super::holder::Breaker;
use crate::error::StoreError;

/// `MTRC`: says to `file(1)` and to us that the database is a Matriarch store.
const APPLICATION_ID: i64 = 0x4d54_5243;
/// The layout this binary writes; kept in the file's `user_version`.
const SCHEMA_VERSION: i64 = 1;
/// How long a writer waits for its turn before it gives up. A turn takes one fsync.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(3);
/// How long it waits for what can as well be done later, while others wait behind it.
pub(super) const SHORT_WAIT: Duration = Duration::from_millis(100);
/// SQLite's own back-off grows to 100 ms, which starves one of several busy writers.
const LOCK_RETRY: Duration = Duration::from_millis(1);

const TABLES: &str = "
    CREATE TABLE meta (
        row INTEGER PRIMARY KEY CHECK (row = 1),
        store_id TEXT NOT NULL,
        revision INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE entries (
        scope TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        revision INTEGER NOT NULL,
        lease INTEGER,
        PRIMARY KEY (scope, key)
    ) STRICT;
    CREATE INDEX entries_by_lease ON entries (lease) WHERE lease IS NOT NULL;
    CREATE TABLE leases (
        id INTEGER PRIMARY KEY,
        boot TEXT NOT NULL,
        deadline_ms INTEGER NOT NULL,
        ttl_ms INTEGER NOT NULL
    ) STRICT;
";

/// A store file that was found to be ours and sound.
pub(super) struct Opened {
    pub place: Place,
    pub file: FileId,
    pub identity: String,
    /// Never writes: `PRAGMA data_version` tells it about everybody's commits.
    pub reader: Connection,
    pub writer: Connection,
    pub patience: Patience,
}

/// How long a connection waits for a lock from now on.
#[derive(Clone, Debug)]
pub(super) struct Patience(Arc<AtomicU64>);

impl Patience {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(millis(LOCK_WAIT))))
    }

    pub fn set(&self, wait: Duration) {
        self.0.store(millis(wait), Ordering::Relaxed);
    }

    fn lasts(&self, waited: Duration) -> bool {
        millis(waited) < self.0.load(Ordering::Relaxed)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Opens the store at `path`; creates it first if it is missing and `create` is set.
pub(super) fn open(path: &Path, scope: &str, create: bool) -> Result<Opened, StoreError> {
    let path = ensure_exists(&Place { path: path.to_owned(), scope: scope.to_owned() }, create)?;
    let place = Place { path, scope: scope.to_owned() };
    let file = FileId::of(&place.path)?;
    check_file_system(&place.path)?;
    check_access(&place.path)?;
    let fail = |error| store_error(&place, Stage::Open, &error);

    // Somebody else's database must be left exactly as it is, so look without the right to write.
    let reader = connect(&place.path, OpenFlags::SQLITE_OPEN_READ_ONLY, Patience::new()).map_err(fail)?;
    let identity = verify(&reader, &place)?;
    let patience = Patience::new();
    let writer = connect(&place.path, OpenFlags::SQLITE_OPEN_READ_WRITE, patience.clone()).map_err(fail)?;
    let mode: String = writer.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(fail)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(super::fault::unavailable(&place, format!("SQLite cannot use WAL mode here, only {mode}")));
    }
    match file.lost(&place.path) {
        Some(reason) => Err(super::fault::unavailable(&place, reason)),
        None => Ok(Opened { place, file, identity, reader, writer, patience }),
    }
}

/// The absolute path of the store file, which exists afterwards.
fn ensure_exists(place: &Place, create: bool) -> Result<PathBuf, StoreError> {
    let path = &place.path;
    loop {
        match path.canonicalize() {
            Ok(found) => return Ok(found),
            Err(error) if error.kind() == ErrorKind::NotFound && create => match path.symlink_metadata() {
                // A link to a file that is missing: not ours to create elsewhere.
                Ok(meta) if meta.is_symlink() => return Err(StoreError::Missing { path: path.clone() }),
                // Another process has created it since we looked.
                Ok(_) => {}
                Err(_) => {
                    refuse_remains(path)?;
                    create_file(place)?;
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(StoreError::Missing { path: path.clone() });
            }
            Err(error) => return Err(io_error(place, &error)),
        }
    }
}

/// A new database would swallow the log that a removed one left behind.
fn refuse_remains(path: &Path) -> Result<(), StoreError> {
    for suffix in ["-wal", "-shm"] {
        // Another process may have created the store since we looked; then the side files are its own.
        if beside(path, suffix).exists() && !path.exists() {
            let detail = format!("the file is missing, but its {suffix} file is still there");
            return Err(StoreError::Corrupt { path: path.to_owned(), detail });
        }
    }
    Ok(())
}

/// Builds an empty store under a temporary name and gives it its name only when it is complete, so that
/// no other process ever sees half a store, and of several creators one wins.
fn create_file(place: &Place) -> Result<(), StoreError> {
    let path = &place.path;
    let name = path.file_name().ok_or_else(|| StoreError::NotOurs {
        path: path.to_owned(),
        found: "the path does not end in a file name".to_owned(),
    })?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(format!(".new-{:016x}", rand::random::<u64>()));
    let draft = directory.join(draft_name);

    let built = build(&draft, place).and_then(|()| match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(io_error(place, &error)),
        _ => Ok(()),
    });
    if let Err(error) = std::fs::remove_file(&draft)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(file = %draft.display(), %error, "could not remove the draft of a new store; remove it by hand");
    }
    built?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| io_error(place, &error))
}

fn build(draft: &Path, place: &Place) -> Result<(), StoreError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft).map_err(|error| io_error(place, &error))?;
    let fill = || -> rusqlite::Result<()> {
        let mut new = connect(draft, OpenFlags::SQLITE_OPEN_READ_WRITE, Patience::new())?;
        let tx = new.transaction()?;
        tx.execute_batch(TABLES)?;
        let identity = format!("{:032x}", rand::random::<u128>());
        tx.execute("INSERT INTO meta (row, store_id, revision) VALUES (1, ?1, 0)", [identity])?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        tx.commit()?;
        new.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
    };
    fill().map_err(|error| store_error(place, Stage::Open, &error))
}

fn connect(path: &Path, access: OpenFlags, patience: Patience) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let mut since = Instant::now();
    let mut breaker = Breaker::new(path);
    connection.busy_handler(Some(move |attempt| {
        if attempt == 0 {
            since = Instant::now();
            breaker.forget();
        }
        std::thread::sleep(LOCK_RETRY);
        breaker.look();
        patience.lasts(since.elapsed())
    }))?;
    // A lease that is forgotten by a power cut is a split brain: every commit is fsynced.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The whole store is some hundred kilobytes, and an idle agent should stay small.
    connection.pragma_update(None, "cache_size", -256)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// Checks that the file is a sound store of ours; gives its identity.
fn verify(reader: &Connection, place: &Place) -> Result<String, StoreError> {
    let path = || place.path.clone();
    let fail = |error| store_error(place, Stage::Open, &error);
    let number = |pragma: &str| reader.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(fail);

    let application = number("application_id")?;
    if application != APPLICATION_ID {
        let found = format!("an SQLite database of another program, application_id {application}");
        return Err(StoreError::NotOurs { path: path(), found });
    }
    let version = number("user_version")?;
    if version > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema { path: path(), found: version, known: SCHEMA_VERSION });
    }
    let verdict: String = reader.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(fail)?;
    if verdict != "ok" {
        return Err(StoreError::Corrupt { path: path(), detail: verdict.replace('\n', ": ") });
    }
    let meta = reader.query_row("SELECT store_id FROM meta WHERE row = 1", [], |row| row.get(0));
    meta.map_err(|error| StoreError::Corrupt { path: path(), detail: format!("its meta row is unreadable: {error}") })
}

fn io_error(place: &Place, error: &std::io::Error) -> StoreError {
    let path = &place.path;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::NoSpace { place: place.to_string() },
        ErrorKind::NotFound => StoreError::Missing { path: path.parent().unwrap_or(path).to_owned() },
        _ => StoreError::Permission { path: path.to_owned(), reason: error.to_string() },
    }
}
