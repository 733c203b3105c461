//! Segments that lie ready before PostgreSQL asks for them: recovery goes through the log in order, and a file that is there
//! needs only to be renamed.
//!
//! They lie in a folder of `pg_wal`, so that they are on its file system, and hold no memory. Whoever reads backwards or here and
//! there, as `pg_rewind` does, gets nothing ahead.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use matriarch_archive::wal::{self, Segment, WalName};
use tokio_util::task::AbortOnDropHandle;

use super::Place;
use super::open::Opened;

/// In `pg_wal`.
const FOLDER: &str = "matriarch.ahead";
/// The most that lies ready or is under way.
const BYTES: u64 = 128 << 20;
const MOST: u64 = 8;
/// What nobody has asked for within this time is removed.
const KEPT: Duration = Duration::from_secs(30);

/// The segments ahead of one recovery.
pub(super) struct Ahead {
    place: Place,
    course: Mutex<Course>,
}

#[derive(Default)]
struct Course {
    /// Where they come from: others may hold other content under the same name.
    opened: Arc<Opened>,
    last: Option<Segment>,
    /// How many segments ahead: twice as many after each that was of use, one again after the end was met.
    reach: u64,
    fetched: BTreeMap<Segment, AbortOnDropHandle<Option<PathBuf>>>,
    asked: Option<Instant>,
    /// Somebody removes them when they are of no use any more.
    watched: bool,
}

impl Ahead {
    /// Removes what an earlier agent has left.
    pub fn new(place: Place) -> Arc<Ahead> {
        let ahead = Ahead { place, course: Mutex::default() };
        ahead.clear_folder();
        Arc::new(ahead)
    }

    fn folder(&self) -> PathBuf {
        self.place.data_dir.join("pg_wal").join(FOLDER)
    }

    fn clear_folder(&self) {
        match std::fs::remove_dir_all(self.folder()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} cannot be removed: {error}", self.folder().display());
            }
            _ => {}
        }
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that holds a segment, if it was fetched ahead; it belongs to whoever asks. Waits for one that is under way.
    pub async fn take(&self, opened: &Arc<Opened>, segment: Segment) -> Option<PathBuf> {
        let fetched = {
            let mut course = self.course();
            course.asked = Some(Instant::now());
            if !Arc::ptr_eq(&course.opened, opened) {
                *course = Course {
                    opened: opened.clone(),
                    asked: course.asked,
                    watched: course.watched,
                    ..Course::default()
                };
            }
            course.fetched.remove(&segment)?
        };
        let path = fetched.await.ok().flatten();
        let mut course = self.course();
        course.reach = if path.is_some() { (course.reach * 2).max(1) } else { 0 };
        path
    }

    /// A segment was found: those after it will be wanted, if it came after the last one itself.
    pub fn go_on(self: &Arc<Self>, segment: Segment) {
        let mut course = self.course();
        let (archives, _) = course.opened.some();
        let Some(size) = archives.first().map(|archive| archive.incarnation().segment_size) else { return };
        let in_order = course.last.replace(segment).is_some_and(|last| last.next(size) == segment);
        if !in_order {
            course.fetched.clear();
            course.reach = 0;
            return;
        }
        let most = (BYTES / size).clamp(1, MOST);
        course.reach = course.reach.clamp(1, most);
        let mut next = segment;
        for _ in 0..course.reach {
            next = next.next(size);
            course.fetched.entry(next).or_insert_with(|| {
                let (ahead, archives) = (self.clone(), archives.clone());
                let fetching = async move { ahead.fetch(&archives, next).await };
                AbortOnDropHandle::new(tokio::spawn(fetching))
            });
        }
        if !std::mem::replace(&mut course.watched, true) {
            tokio::spawn(self.clone().watch());
        }
    }

    async fn fetch(&self, archives: &[matriarch_archive::archive::Archive], segment: Segment) -> Option<PathBuf> {
        // What is absent or cannot be had now is asked for again when PostgreSQL wants it, and told of then.
        let content = wal::content(archives, &WalName::Segment(segment)).await.ok()?;
        let (folder, owner) = (self.folder(), self.place.instance.owner.clone());
        // It travels in a line of text.
        folder.to_str().filter(|text| !text.contains('\n'))?;
        let owner = owner.map(|owner| (owner.uid, owner.gid));
        let written = tokio::task::spawn_blocking(move || {
            let path = folder.join(segment.to_string());
            write(&folder, &path, &content, owner).map(|()| path)
        });
        written.await.ok()?.inspect_err(|error| tracing::debug!("{segment} is not kept ready: {error}")).ok()
    }

    /// Until nobody has asked for a while.
    async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(KEPT).await;
            let mut course = self.course();
            if course.asked.is_none_or(|asked| asked.elapsed() >= KEPT) {
                *course = Course::default();
                // While nobody can begin another one.
                self.clear_folder();
                return;
            }
        }
    }
}

/// Whole or not at all, for PostgreSQL's user.
fn write(folder: &Path, path: &Path, content: &[u8], owner: Option<(u32, u32)>) -> io::Result<()> {
    let own = |path: &Path| match owner {
        Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    };
    // Not its parents: without them there is no server here that could ask.
    match std::fs::create_dir(folder) {
        Ok(()) => own(folder)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let part = path.with_extension("part");
    let written = std::fs::write(&part, content).and_then(|()| own(&part)).and_then(|()| std::fs::rename(&part, path));
    written.inspect_err(|_| drop(std::fs::remove_file(&part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("pg_wal").join(FOLDER);
        let path = folder.join("000000010000000000000001");
        assert!(write(&folder, &path, b"abc", None).is_err(), "there is no pg_wal");
        std::fs::create_dir(data.path().join("pg_wal")).unwrap();
        for content in [&b"abc"[..], b"other"] {
            write(&folder, &path, content, None).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }
}
