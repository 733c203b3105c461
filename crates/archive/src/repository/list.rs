//! What a repository shows of its objects.

use futures_util::TryStreamExt;
use jiff::Timestamp;
use object_store::path::Path;

use super::{Repository, RepositoryError};

/// One object of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name below the repository.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When the store says that it was written.
    pub modified: Timestamp,
}

impl Repository {
    /// The objects below `folder`, in the order of their names. A store may show an old list: what is missing from it
    /// is not proven absent, and what is in it may be gone.
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>, RepositoryError> {
        self.list_after(folder, None).await
    }

    /// The same, from behind the name `after` on.
    pub async fn list_after(&self, folder: &str, after: Option<&str>) -> Result<Vec<Entry>, RepositoryError> {
        let path = self.path(folder)?;
        let from = after.map(|after| self.path(after)).transpose()?;
        let listed = || match &from {
            Some(from) => self.store.list_with_offset(Some(&path), from),
            None => self.store.list(Some(&path)),
        };
        let found: Result<Vec<_>, _> = self.again(|| listed().try_collect()).await;
        let found = found.map_err(|error| self.error("list", folder, error))?;
        if found.is_empty() {
            self.still_there().await?;
        }
        let below = |path: &Path| path.prefix_match(&self.prefix).map(|parts| parts.collect::<Path>().to_string());
        let mut entries: Vec<Entry> = found
            .into_iter()
            .filter_map(|meta| {
                let modified = Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).unwrap_or_default();
                Some(Entry { name: below(&meta.location)?, size: meta.size, modified })
            })
            // A store that does not know where to begin (an older Azure) lists everything.
            .filter(|entry| after.is_none_or(|after| entry.name.as_str() > after))
            .collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    /// Names of the folders that lie directly in `folder`.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, RepositoryError> {
        let path = self.path(folder)?;
        let listed = self.again(|| self.store.list_with_delimiter(Some(&path))).await;
        let found = listed.map_err(|error| self.error("list", folder, error))?;
        if found.common_prefixes.is_empty() {
            self.still_there().await?;
        }
        let mut names: Vec<String> =
            found.common_prefixes.iter().filter_map(|path| Some(path.filename()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    /// Names of the objects that lie directly in `folder`, without it.
    pub async fn files(&self, folder: &str) -> Result<Vec<String>, RepositoryError> {
        let path = self.path(folder)?;
        let listed = self.again(|| self.store.list_with_delimiter(Some(&path))).await;
        let found = listed.map_err(|error| self.error("list", folder, error))?;
        let mut names: Vec<String> =
            found.objects.iter().filter_map(|meta| Some(meta.location.filename()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }
}
