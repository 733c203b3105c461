//! One configured repository: how it is opened, or why it cannot be, and until when.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use matriarch_config::{self as config, ArchiveLocation, ArchiveRepository};

use super::place::location;
use crate::repository::{CreateBy, Repository, RepositoryError, Settings, Tuning};

/// How a repository is opened.
#[derive(Clone, Debug)]
struct Opening {
    settings: Settings,
    tuning: Tuning,
    create_by: CreateBy,
}

/// One repository of the section.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// As [`Repository::name`] is, also where it cannot be opened.
    name: String,
    opening: Result<Opening, String>,
    /// The file with the credentials.
    credentials: Option<PathBuf>,
}

/// Credentials that end at a time that they tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What ends, and where it is: `the shared access signature in its credentials file /etc/azure.sas`.
    pub what: String,
    /// When it ends.
    pub at: Timestamp,
    /// When it began, or came here.
    pub since: Option<Timestamp>,
    /// What to do.
    pub remedy: &'static str,
}

/// A person has so long for whatever lives long.
const WEEK: i64 = 7 * 86_400;

impl Ending {
    /// The last week, and of what lives shorter than five weeks the last fifth: what is renewed by a machine is renewed by then.
    pub fn is_soon(&self, now: Timestamp) -> bool {
        let life = self.since.map(|since| self.at.as_second() - since.as_second()).filter(|life| *life > 0);
        let notice = life.map_or(WEEK, |life| (life / 5).min(WEEK));
        self.at.as_second() - now.as_second() < notice
    }

    /// In one line.
    pub fn text(&self, now: Timestamp) -> String {
        let Ending { what, at, remedy, .. } = self;
        if *at <= now {
            return format!("{what} ended at {at}: {remedy}");
        }
        format!("{what} ends at {at}: {remedy} before")
    }
}

impl Wanted {
    /// Reads its files; the `index`-th of its section.
    pub fn new(repository: &ArchiveRepository, index: usize, patience: Duration) -> Wanted {
        let create_by = match repository.create_by {
            config::CreateBy::Condition => CreateBy::Condition,
            config::CreateBy::Claims => CreateBy::Claims,
        };
        let tuning = Tuning {
            upload: repository.upload_limit,
            download: repository.download_limit,
            connect: repository.connect_timeout,
            stall: repository.request_timeout,
            storage_class: repository.storage_class.clone(),
        };
        let patience = repository.retry_for.unwrap_or(patience);
        let opening = location(repository, index)
            .map(|location| Opening { settings: Settings { location, patience }, tuning, create_by })
            .map_err(|error| error.to_string());
        let name = match (&opening, &repository.location) {
            (Ok(opening), _) => opening.settings.location.describe(),
            (Err(_), ArchiveLocation::Directory(path)) => format!("directory {}", path.display()),
            (Err(_), elsewhere) => elsewhere.to_string(),
        };
        Wanted { name, opening, credentials: repository.credentials.clone() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn opening(&self) -> Result<&Opening, RepositoryError> {
        let unusable = |why: &String| RepositoryError::Settings { repository: self.name.clone(), why: why.clone() };
        self.opening.as_ref().map_err(unusable)
    }

    pub async fn open(&self) -> Result<Repository, RepositoryError> {
        let Opening { settings, tuning, .. } = self.opening()?;
        Repository::open_tuned(settings, tuning).await
    }

    pub async fn init(&self) -> Result<Repository, RepositoryError> {
        let Opening { settings, tuning, create_by } = self.opening()?;
        Repository::init_tuned(settings, tuning, *create_by).await
    }

    pub fn ending(&self) -> Option<Ending> {
        let ends = self.opening.as_ref().ok()?.settings.location.ends()?;
        let file = self.credentials.as_deref();
        let place = file.map(|file| format!(" {}", file.display())).unwrap_or_default();
        let since = ends.since.or_else(|| written(file?));
        Some(Ending { what: format!("{}{place}", ends.what), at: ends.at, since, remedy: ends.remedy })
    }
}

fn written(path: &Path) -> Option<Timestamp> {
    Timestamp::try_from(std::fs::metadata(path).ok()?.modified().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_long_is_told_a_week_before_and_what_lives_shortly_in_its_last_fifth() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let ending = |since: Option<i64>| Ending {
            what: "its key".into(),
            at: at(100_000_000),
            since: since.map(at),
            remedy: "renew it",
        };
        for (since, first_notice) in
            [(None, WEEK), (Some(0), WEEK), (Some(100_000_000 - 3600), 720), (Some(200_000_000), WEEK)]
        {
            let ending = ending(since);
            assert!(!ending.is_soon(at(100_000_000 - first_notice)), "{since:?}");
            assert!(ending.is_soon(at(100_000_001 - first_notice)), "{since:?}");
        }
        let ending = ending(None);
        assert_eq!(ending.text(at(1)), "its key ends at 1973-03-03T09:46:40Z: renew it before");
        assert_eq!(ending.text(ending.at), "its key ended at 1973-03-03T09:46:40Z: renew it");
    }
}
