//! Putting one chunk away, however long it takes.

use std::time::Duration;

use bytes::Bytes;
use matriarch_core::Lsn;
use tokio::sync::watch;

use super::chunk::Chunk;
use super::error::TailError;
use super::writer::Progress;
use crate::archive::Archive;
use crate::format::Kind;
use crate::repository::RepositoryError;

/// The longest pause between two attempts, each of which takes up to the repository's patience.
const PAUSE: Duration = Duration::from_secs(2);

/// Puts a chunk, again and again during an outage, and returns its end once the repository holds it.
pub(super) async fn store(
    archive: Archive,
    chunk: Chunk,
    content: Bytes,
    progress: watch::Sender<Progress>,
) -> Result<Lsn, TailError> {
    let name = chunk.name(archive.place());
    let mut pause = Duration::from_millis(100);
    loop {
        match archive.put_new(Kind::Tail, &name, content.clone()).await {
            Ok(_) => return Ok(chunk.to),
            Err(error) if error.is_outage() => {
                tracing::warn!(chunk = name, %error, "a chunk of the tail could not be archived yet");
                progress.send_modify(|progress| progress.trouble = Some(error.to_string()));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE);
            }
            Err(source @ RepositoryError::Conflict { .. }) => {
                return Err(TailError::Deposed { timeline: chunk.segment.timeline, from: chunk.from, source });
            }
            Err(error) => return Err(error.into()),
        }
    }
}
