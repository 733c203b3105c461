//! An object as a stream of bytes: what unpacks it is not asynchronous, so a task fetches ahead in ranges while a thread takes
//! what came before.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Unfit;
use crate::repository::{Repository, RepositoryError};
use crate::restore::RestoreError;

/// Bytes that are asked for at a time.
pub const RANGE: u64 = 4 << 20;

/// Hands the bytes `range` of an object to `work`, which runs in a thread of its own.
pub async fn take<T: Send + 'static>(
    repository: &Repository,
    name: &str,
    range: Range<u64>,
    work: impl FnOnce(Stream) -> Result<T, Unfit> + Send + 'static,
) -> Result<T, RestoreError> {
    let (sender, receiver) = mpsc::channel(1);
    let failed = Failed::default();
    let stream = Stream { receiver, current: Bytes::new(), failed: failed.clone() };
    let fetching = tokio::spawn(fetch(repository.clone(), name.to_owned(), range, sender));
    let done = tokio::task::spawn_blocking(move || work(stream)).await;
    fetching.abort();
    match done.map_err(|error| RestoreError::Worker(error.to_string()))? {
        Ok(value) => Ok(value),
        Err(Unfit::Restore(error)) => Err(error),
        Err(unfit) => Err(failed.take().map_or_else(|| unfit.about(repository, name), RestoreError::from)),
    }
}

async fn fetch(
    repository: Repository,
    name: String,
    range: Range<u64>,
    sender: mpsc::Sender<Result<Bytes, RepositoryError>>,
) {
    let mut at = range.start;
    while at < range.end {
        let next = range.end.min(at + RANGE);
        let read = repository.range(&name, at..next).await;
        let is_last = read.is_err();
        // Whoever takes no more has an error to tell.
        if sender.send(read).await.is_err() || is_last {
            return;
        }
        at = next;
    }
}

/// Why the store did not give the bytes: the decoders between it and us keep no more than a text.
#[derive(Clone, Debug, Default)]
struct Failed(Arc<Mutex<Option<RepositoryError>>>);

impl Failed {
    fn take(&self) -> Option<RepositoryError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The bytes. To be read outside of the asynchronous runtime.
#[derive(Debug)]
pub struct Stream {
    receiver: mpsc::Receiver<Result<Bytes, RepositoryError>>,
    current: Bytes,
    failed: Failed,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(Ok(bytes)) => self.current = bytes,
                Some(Err(error)) => {
                    let text = error.to_string();
                    *self.failed.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Err(io::Error::other(text));
                }
            }
        }
        let bytes = self.current.split_to(buffer.len().min(self.current.len()));
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}
