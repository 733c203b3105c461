//! Several repositories: what is done in each of them, and what is chosen among what they hold.
//!
//! Each is to hold everything, and none is needed for another: what one repository lacks or does not answer is told, and the
//! others count.

use jiff::Timestamp;
use matriarch_archive::archive::Archive;
use matriarch_archive::repository::{Repository, RepositoryError};
use matriarch_archive::{base, dump};
use matriarch_cli::{Failure, Ui, code, exit_code};

use super::archives::Found;
use super::fail::failed;

/// What lies in an archive under a name of its own: a backup or a dump.
pub trait Item: Sized {
    /// What people call it, and the verb that it has.
    const WHAT: &'static str;
    /// All of an incarnation, the oldest first.
    fn list(archive: &Archive) -> impl Future<Output = Result<Vec<Self>, RepositoryError>>;
    /// Its name.
    fn name(&self) -> &str;
    /// When it was complete.
    fn ended(&self) -> Timestamp;
}

impl Item for base::Summary {
    const WHAT: &'static str = "backup";

    async fn list(archive: &Archive) -> Result<Vec<Self>, RepositoryError> {
        base::list(archive).await
    }

    fn name(&self) -> &str {
        &self.backup
    }

    fn ended(&self) -> Timestamp {
        self.stop_time
    }
}

impl Item for dump::Summary {
    const WHAT: &'static str = "dump";

    async fn list(archive: &Archive) -> Result<Vec<Self>, RepositoryError> {
        dump::list(archive).await
    }

    fn name(&self) -> &str {
        &self.dump
    }

    fn ended(&self) -> Timestamp {
        self.ended
    }
}

/// What became of something that was done in each repository.
#[derive(Debug)]
pub struct Each<T> {
    /// Where it went well.
    pub done: Vec<T>,
    /// Where not: the repository's name, and why.
    pub failed: Vec<(String, anyhow::Error)>,
}

impl<T> Each<T> {
    /// Where it went well; the others are told beside it.
    pub fn noted(self, ui: &mut Ui) -> Vec<T> {
        for (name, why) in &self.failed {
            ui.note(&format!("{name}: {why:#}"));
        }
        self.done
    }

    /// Where it did not go well, in words.
    pub fn trouble(&self) -> Option<String> {
        let told: Vec<String> = self.failed.iter().map(|(name, why)| format!("{name}: {why:#}")).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// An error if it did not go well everywhere. `but`: what was done all the same.
    pub fn everywhere(&self, but: &str) -> anyhow::Result<()> {
        match (self.trouble(), self.failed.first()) {
            (Some(text), Some((_, first))) => Err(Failure::new(exit_code(first), format!("{but}; {text}")).into()),
            _ => Ok(()),
        }
    }
}

impl Found {
    /// Opens every repository that is meant; each with its name and its own outcome.
    pub async fn opened(&self) -> Vec<(String, anyhow::Result<Repository>)> {
        let opened = self.configured.repositories().await;
        self.configured.names().zip(opened).map(|(name, opened)| (name, opened.map_err(failed))).collect()
    }

    /// Does something in every repository that is meant, one after the other.
    ///
    /// # Errors
    /// When it goes well in none: why not in the first.
    pub async fn each<T>(&self, mut work: impl AsyncFnMut(Repository) -> anyhow::Result<T>) -> anyhow::Result<Each<T>> {
        let mut each = Each { done: Vec::new(), failed: Vec::new() };
        for (name, opened) in self.opened().await {
            let outcome = match opened {
                Ok(repository) => work(repository).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(done) => each.done.push(done),
                Err(error) => each.failed.push((name, error)),
            }
        }
        if !each.done.is_empty() {
            return Ok(each);
        }
        match each.failed.into_iter().next() {
            Some((_, first)) => Err(first),
            None => Err(Failure::new(code::CONFIG, "the archive has no repository").into()),
        }
    }

    /// All that is meant in one repository, with its incarnation: the oldest incarnation first, and the oldest of each.
    pub async fn all<S: Item>(&self, repository: &Repository) -> anyhow::Result<Vec<(Archive, S)>> {
        let mut found = Vec::new();
        for archive in self.incarnations(repository).await? {
            for item in S::list(&archive).await.map_err(failed)? {
                found.push((archive.clone(), item));
            }
        }
        Ok(found)
    }

    /// One of one repository by its name, or the newest.
    pub async fn one<S: Item>(&self, repository: &Repository, name: Option<&str>) -> anyhow::Result<(Archive, S)> {
        let mut all = self.all::<S>(repository).await?;
        all.sort_by_key(|(_, item)| item.ended());
        let what = S::WHAT;
        let text = match (name, all.last()) {
            (None, _) => self.none::<S>(repository.name()),
            (Some(name), None) => format!("there is no {what} '{name}', nor any other"),
            (Some(name), Some((_, newest))) => {
                format!("there is no {what} '{name}'; the newest is {} ('matriarch {what} list')", newest.name())
            }
        };
        let found = match name {
            None => all.pop(),
            Some(name) => all.into_iter().find(|(_, item)| item.name() == name),
        };
        found.ok_or_else(|| Failure::new(code::DATA, text).into())
    }

    /// One by its name, or the newest; of those that are alike, that of the first repository. Where it is not is told.
    pub async fn find<S: Item>(&self, name: Option<&str>, ui: &mut Ui) -> anyhow::Result<(Archive, S)> {
        let each = self.each(async |repository| self.one::<S>(&repository, name).await).await?;
        let found = each.noted(ui).into_iter();
        let found = found.reduce(|best, next| if next.1.ended() > best.1.ended() { next } else { best });
        found.ok_or_else(|| Failure::new(code::DATA, format!("there is no {}", S::WHAT)).into())
    }

    /// That a repository has none.
    pub fn none<S: Item>(&self, repository: &str) -> String {
        format!("{repository} holds no {what} of {}; 'matriarch {what}' takes one", self.scope, what = S::WHAT)
    }
}
