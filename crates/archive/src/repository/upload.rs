//! Objects that are written in parts while they come into being. They get their name with the last part.

use bytes::Bytes;
use object_store::{PutMultipartOptions, WriteMultipart};

use super::{Repository, RepositoryError};

/// S3 takes no part below 5 MiB but the last.
const PART: usize = 8 << 20;

/// An object under way. Dropped, it leaves no object behind, at most parts that the store's own rules clear away.
pub struct Upload {
    repository: Repository,
    name: String,
    parts: WriteMultipart,
    in_flight: usize,
}

impl Repository {
    /// Begins an object that will overwrite whatever has that name; at most `in_flight` parts of 8 MiB are on their way
    /// at a time.
    pub async fn upload(&self, name: &str, in_flight: usize) -> Result<Upload, RepositoryError> {
        self.still_there().await?;
        let path = self.path(name)?;
        let options = PutMultipartOptions { attributes: self.attributes.clone(), ..PutMultipartOptions::default() };
        let upload = self.store.put_multipart_opts(&path, options).await;
        let upload = upload.map_err(|error| self.error("begin", name, error))?;
        let parts = WriteMultipart::new_with_chunk_size(upload, PART);
        Ok(Upload { repository: self.clone(), name: name.to_owned(), parts, in_flight })
    }
}

impl Upload {
    /// Adds bytes; waits while too many parts are on their way.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), RepositoryError> {
        self.repository.sends(bytes.len()).await;
        let waited = self.parts.wait_for_capacity(self.in_flight).await;
        waited.map_err(|error| self.repository.error("write", &self.name, error))?;
        self.parts.put(bytes);
        Ok(())
    }

    /// Gives the object its name; confirmed when it returns.
    pub async fn finish(self) -> Result<(), RepositoryError> {
        let finished = self.parts.finish().await;
        finished.map_err(|error| self.repository.error("finish", &self.name, error))?;
        Ok(())
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("name", &self.name).finish_non_exhaustive()
    }
}
