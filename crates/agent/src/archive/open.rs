//! Opening the repositories of a configuration for the database that is here.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use matriarch_api::{ArchiveCheckRow, ArchiveRepositoryRow};
use matriarch_archive::archive::{Archive, ArchiveError};
use matriarch_archive::configured::{Configured, Identity, Own};
use matriarch_archive::keys;
use matriarch_archive::repository::{Repository, RepositoryError};

use super::endings::Endings;

/// How long one call is repeated while a store does not answer. What fails is tried again anyway.
const PATIENCE: Duration = Duration::from_secs(3);
/// Repositories are made without being asked for only for a database that cannot have archived much: an empty directory
/// may be one whose file system is not mounted.
const YOUNG: Duration = Duration::from_secs(3600);

/// What a standby may find until the primary has opened a repository.
pub(super) const NOT_BEGUN: &str = "the primary has not archived anything there yet";

/// The repositories, each open or not, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Opened {
    pub incarnation: Option<String>,
    pub archives: Vec<(String, Result<Archive, String>)>,
    /// The section itself cannot be used.
    pub failure: Option<String>,
}

impl Opened {
    /// All of them, or why one is missing.
    pub fn all(&self) -> Result<Vec<Archive>, String> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.archives.is_empty() {
            return Err("the repositories are not open yet".to_owned());
        }
        self.archives.iter().map(|(_, archive)| archive.clone()).collect()
    }

    /// Those that are open, and whether that is all of them.
    pub fn some(&self) -> (Vec<Archive>, Option<String>) {
        let open = self.archives.iter().filter_map(|(_, archive)| archive.clone().ok()).collect();
        (open, self.all().err())
    }

    pub fn rows(&self) -> Vec<ArchiveRepositoryRow> {
        let row = |(name, archive): &(String, Result<Archive, String>)| ArchiveRepositoryRow {
            name: name.clone(),
            open: archive.is_ok(),
            problem: archive.as_ref().err().cloned(),
            ..ArchiveRepositoryRow::default()
        };
        self.archives.iter().map(row).collect()
    }
}

/// What is opened, and by whom.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub section: Arc<matriarch_config::Archive>,
    pub scope: String,
    pub identity: Identity,
    /// Only a primary begins an incarnation.
    pub primary: bool,
}

pub(super) async fn open(opening: &Opening, data_dir: &Path) -> Opened {
    let failed = |failure: String| Opened { failure: Some(failure), ..Opened::default() };
    let configured = match Configured::new(&opening.section, &opening.scope, PATIENCE) {
        Ok(configured) => configured,
        Err(error) => return failed(error.to_string()),
    };
    let own = match Own::of(data_dir, opening.identity) {
        Ok(own) => own,
        Err(error) => return failed(error.to_string()),
    };
    let repositories = if opening.primary && is_young(opening.identity) {
        configured.init().await
    } else {
        configured.repositories().await
    };
    let mut opened = Opened { incarnation: Some(own.name.clone()), ..Opened::default() };
    for (name, repository) in configured.names().zip(repositories) {
        let archive = match repository {
            Ok(repository) if opening.primary => {
                configured.begin(&repository, &own).await.map_err(|error| error.to_string())
            }
            Ok(repository) => configured.open(&repository, &own.name).await.map_err(|error| match &error {
                ArchiveError::Repository(absent) if absent.is_absent() => NOT_BEGUN.to_owned(),
                _ => error.to_string(),
            }),
            Err(error) => Err(explain(&error)),
        };
        opened.archives.push((name, archive));
    }
    opened
}

fn explain(error: &RepositoryError) -> String {
    match error {
        RepositoryError::NotARepository { .. } => format!("{error} (`matriarch archive init` initialises it)"),
        error => error.to_string(),
    }
}

/// A system identifier begins with the second in which initdb made it.
fn is_young(identity: Identity) -> bool {
    let made = Duration::from_secs(identity.system_identifier >> 32);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.checked_sub(made).is_some_and(|age| age < YOUNG)
}

/// A round trip with each repository, which is made one first if `init`.
pub(super) async fn check(section: &matriarch_config::Archive, scope: &str, init: bool) -> Vec<ArchiveCheckRow> {
    let configured = match Configured::new(section, scope, PATIENCE) {
        Ok(configured) => configured,
        Err(error) => {
            let problem = Some(error.to_string());
            return vec![ArchiveCheckRow { name: "archive".to_owned(), problem, ..ArchiveCheckRow::default() }];
        }
    };
    let repositories = if init { configured.init().await } else { configured.repositories().await };
    let ending = Endings::read(section, &configured);
    let mut rows = Vec::new();
    for (name, repository) in configured.names().zip(repositories) {
        let checked = match repository {
            Ok(repository) => repository.check().await.map(|took| (took, repository)),
            Err(error) => Err(error),
        };
        rows.push(match checked {
            Ok((took, repository)) => {
                let row =
                    ArchiveCheckRow { name, ok: true, took_ms: Some(took.as_millis() as u64), ..Default::default() };
                with_keys(row, &configured, &repository).await
            }
            Err(error) => ArchiveCheckRow { name, problem: Some(explain(&error)), ..ArchiveCheckRow::default() },
        });
    }
    for row in &mut rows {
        row.ends = ending.of(&row.name, Timestamp::now());
    }
    rows
}

/// What is to be said of the newest backup's keys.
async fn with_keys(row: ArchiveCheckRow, configured: &Configured, repository: &Repository) -> ArchiveCheckRow {
    let newest = match keys::newest(configured, repository).await {
        Ok(Some(newest)) => newest,
        Ok(None) => return row,
        Err(error) => return ArchiveCheckRow { ok: false, problem: Some(error.to_string()), ..row },
    };
    let failure = newest.opens.as_ref().and_then(|opens| opens.as_ref().err()).map(ToString::to_string);
    ArchiveCheckRow {
        ok: failure.is_none(),
        newest_backup: Some(newest.backup),
        recipients: Some(newest.recipients.unwrap_or(0) as u32),
        opens: newest.opens.map(|opens| opens.is_ok()),
        problem: failure.map(|failure| format!("its newest backup: {failure}")),
        ..row
    }
}
