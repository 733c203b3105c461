//! The tail: WAL that fills no segment yet, streamed from the own primary into each repository.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use matriarch_api::ArchiveTail;
use matriarch_archive::archive::Archive;
use matriarch_archive::tail::{self, Chunk, Joiner, Progress, Settings, Start, TailError};
use matriarch_core::{Lsn, Timeline};
use matriarch_postgres::Instance;
use matriarch_postgres::replication::{ReplicationError, Target};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The name that `pg_stat_replication` shows.
const NAME: &str = "matriarch_tail";
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The tails of a primary, by repository.
#[derive(Default)]
pub(super) struct Tails(BTreeMap<String, Running>);

struct Running {
    task: JoinHandle<()>,
    progress: watch::Receiver<Progress>,
    trouble: Arc<Mutex<Trouble>>,
    interval: Duration,
}

#[derive(Clone, Debug, Default)]
struct Trouble {
    why: Option<String>,
    /// Another server has written what only this one may write.
    deposed: bool,
}

impl Tails {
    /// Sees to it that each of these repositories has one.
    pub fn run(&mut self, archives: &[Archive], instance: &Instance, interval: Duration) {
        self.0.retain(|name, running| {
            let wanted =
                archives.iter().any(|archive| archive.repository().name() == name) && running.interval == interval;
            if !wanted {
                running.task.abort();
            }
            wanted
        });
        for archive in archives {
            let name = archive.repository().name().to_owned();
            self.0.entry(name).or_insert_with(|| {
                // Without a slot of its own: the archive's keeps the WAL, and what is archived as a segment needs no tail.
                let target = Target::local(instance, NAME);
                let settings = Settings { interval, ..Settings::new(archive.clone(), target, None) };
                let (sender, progress) = watch::channel(Progress::default());
                let trouble = Arc::new(Mutex::new(Trouble::default()));
                let task = tokio::spawn(go_on(settings, sender, trouble.clone()));
                Running { task, progress, trouble, interval }
            });
        }
    }

    /// Ends them at once. What was not held was not acknowledged to the server.
    pub fn end(&mut self) {
        for (_, running) in std::mem::take(&mut self.0) {
            running.task.abort();
        }
    }

    /// Another server writes this primary's timeline.
    pub fn deposed(&self) -> Option<String> {
        self.0.values().map(Running::trouble).find(|trouble| trouble.deposed).and_then(|trouble| trouble.why)
    }

    pub fn row(&self, repository: &str, flushed: Lsn) -> Option<ArchiveTail> {
        let running = self.0.get(repository)?;
        let (progress, trouble) = (running.progress.borrow(), running.trouble());
        let stored = progress.stored;
        Some(ArchiveTail {
            timeline: progress.timeline,
            stored: stored.to_string(),
            behind: if stored == Lsn::ZERO { 0 } else { flushed.0.saturating_sub(stored.0) },
            problem: trouble.why.or_else(|| progress.trouble.clone()),
        })
    }
}

impl Running {
    fn trouble(&self) -> Trouble {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Until it is aborted, or until another server turns out to write the same timeline.
async fn go_on(settings: Settings, progress: watch::Sender<Progress>, trouble: Arc<Mutex<Trouble>>) {
    let (mut start, mut pause) = (Start::Resume, PAUSES.0);
    loop {
        let before = progress.borrow().chunks;
        let ended = tail::run(&settings, start, &progress, std::future::pending()).await;
        if progress.borrow().chunks > before {
            pause = PAUSES.0;
        }
        let repository = settings.archive.repository().name();
        let (why, deposed) = match ended {
            Ok(_) => (None, false),
            Err(error) => {
                start = match &error {
                    // The segments fill the gap.
                    TailError::Replication(ReplicationError::WalRemoved { .. }) => Start::Anew,
                    _ => Start::Resume,
                };
                let deposed = matches!(&error, TailError::Deposed { .. } | TailError::Behind { .. });
                (Some(error.to_string()), deposed)
            }
        };
        let known = std::mem::replace(
            &mut *trouble.lock().unwrap_or_else(PoisonError::into_inner),
            Trouble { why: why.clone(), deposed },
        );
        if let Some(why) = why.filter(|why| known.why.as_ref() != Some(why)) {
            match deposed {
                true => tracing::error!(repository, "the tail of the WAL ends: {why}"),
                false => tracing::warn!(repository, "the tail of the WAL begins again: {why}"),
            }
        }
        if deposed {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Removes the chunks of segments before `safe`, which are archived as a whole; those of the newest segment stay, since a tail
/// finds by them where it goes on.
pub(super) async fn tidy(archives: &[Archive], timeline: Timeline, safe: Lsn) -> Result<(), String> {
    for archive in archives {
        let size = archive.incarnation().segment_size;
        let joiner = Joiner::new(archive).map_err(|error| error.to_string())?;
        let chunks = joiner.chunks(timeline).await.map_err(|error| error.to_string())?;
        let Some(newest) = chunks.keys().next_back().copied() else { continue };
        let old = |chunk: &&Chunk| chunk.segment < newest && chunk.segment.start(size).0 + size <= safe.0;
        for chunk in chunks.values().flatten().filter(old) {
            let removed = archive.repository().delete(&chunk.name(archive.place())).await;
            removed.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
