//! Objects that are written in parts while they come into being. They get their name with the last part.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use object_store::{ObjectStoreExt, PutMultipartOptions, WriteMultipart};
use tokio::runtime::Handle;

use super::{Repository, RepositoryError};

/// S3 takes no part below 5 MiB but the last.
const PART: usize = 8 << 20;
/// How far the store's clock may be behind ours.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// An object under way. Dropped, it leaves no object behind, and tells the store to forget the parts that it has; where that cannot
/// be told any more, the store's own rules clear them away.
pub struct Upload {
    repository: Repository,
    name: String,
    /// `None` once it has ended.
    parts: Option<WriteMultipart>,
    in_flight: usize,
    sent: u64,
    begun: Timestamp,
}

impl Repository {
    /// Begins an object that will overwrite whatever has that name; at most `in_flight` parts of 8 MiB are on their way
    /// at a time.
    pub async fn upload(&self, name: &str, in_flight: usize) -> Result<Upload, RepositoryError> {
        self.still_there().await?;
        let path = self.path(name)?;
        let options = PutMultipartOptions { attributes: self.attributes.clone(), ..PutMultipartOptions::default() };
        let upload = self.again(|| self.store.put_multipart_opts(&path, options.clone())).await;
        let upload = upload.map_err(|error| self.error("begin", name, error))?;
        let parts = Some(WriteMultipart::new_with_chunk_size(upload, PART));
        let begun = Timestamp::now();
        Ok(Upload { repository: self.clone(), name: name.to_owned(), parts, in_flight, sent: 0, begun })
    }
}

impl Repository {
    /// A store that has put the parts together, and whose answer got lost, knows no such parts when it is asked again.
    async fn has_got(&self, name: &str, size: u64, since: Timestamp) -> bool {
        let Ok(path) = self.path(name) else { return false };
        if self.directory.is_some() {
            return false;
        }
        let Ok(found) = self.store.head(&path).await else { return false };
        let modified = Timestamp::from_millisecond(found.last_modified.timestamp_millis()).unwrap_or_default();
        found.size == size && modified >= since
    }
}

impl Upload {
    /// Adds bytes; waits while too many parts are on their way.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), RepositoryError> {
        self.repository.sends(bytes.len()).await;
        let Some(parts) = &mut self.parts else { return Ok(()) };
        let waited = parts.wait_for_capacity(self.in_flight).await;
        waited.map_err(|error| self.repository.error("write", &self.name, error))?;
        self.sent += bytes.len() as u64;
        parts.put(bytes);
        Ok(())
    }

    /// Gives the object its name; confirmed when it returns.
    pub async fn finish(mut self) -> Result<(), RepositoryError> {
        let Some(parts) = self.parts.take() else { return Ok(()) };
        let (repository, name) = (self.repository.clone(), self.name.clone());
        match parts.finish().await {
            Ok(_) => Ok(()),
            Err(_) if repository.has_got(&name, self.sent, self.begun - SKEW).await => Ok(()),
            Err(error) => Err(repository.error("finish", &name, error)),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(parts), Ok(runtime)) = (self.parts.take(), Handle::try_current()) {
            let name = std::mem::take(&mut self.name);
            runtime.spawn(async move {
                if let Err(error) = parts.abort().await {
                    tracing::debug!(object = name, %error, "the parts of an upload that was given up were left behind");
                }
            });
        }
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("name", &self.name).finish_non_exhaustive()
    }
}
