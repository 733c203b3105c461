//! Descriptors that tokio waits on: pidfds and inotify.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime; must be called within one.
// tokio deprecated this for types whose descriptor may change or close under it. An `OwnedFd` cannot, and the
// replacement is an unsafe function, which this workspace forbids.
#[expect(
    deprecated,
    reason = "the replacement is unsafe; an OwnedFd keeps its descriptor open for as long as it lives"
)]
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
