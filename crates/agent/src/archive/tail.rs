//! The tail: WAL that fills no segment yet, streamed from the own primary into each repository.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use matriarch_api::ArchiveTail;
use matriarch_archive::archive::Archive;
use matriarch_archive::tail::{self, Chunk, Ended, Joiner, Progress, Settings, Start, TailError};
use matriarch_core::{Lsn, Timeline};
use matriarch_postgres::Instance;
use matriarch_postgres::replication::{ReplicationError, Target};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::echo::{self, Voices};
use crate::durability::{Tail, names};

/// The name that `pg_stat_replication` shows of one that nobody waits for.
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
    votes: watch::Sender<usize>,
    voices: Voices,
}

/// How a tail is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    /// How long WAL may wait for more; zero: not at all, since commits wait for it.
    pub interval: Duration,
    /// How many connections report what is put away; zero: the tail's own, and nobody waits for it.
    pub votes: usize,
}

#[derive(Clone, Debug, Default)]
struct Trouble {
    why: Option<String>,
    /// Another server has written what only this one may write.
    deposed: bool,
}

impl Tails {
    /// Sees to it that each of these repositories has one.
    pub fn run(&mut self, archives: &[Archive], instance: &Instance, manner: Manner) {
        let Manner { interval, votes } = manner;
        self.0.retain(|name, running| {
            let same = running.interval == interval && (*running.votes.borrow() == 0) == (votes == 0);
            let wanted = same && archives.iter().any(|archive| archive.repository().name() == name);
            if !wanted {
                running.task.abort();
            }
            wanted
        });
        for running in self.0.values() {
            running.votes.send_if_modified(|known| {
                let grows = votes > *known;
                *known = votes.max(*known);
                grows
            });
        }
        for archive in archives {
            let name = archive.repository().name().to_owned();
            self.0.entry(name).or_insert_with(|| {
                // Without a slot of its own: the archive's keeps the WAL, and what is archived as a segment needs no tail.
                let target = Target::local(instance, NAME);
                let settings = Settings { interval, ..Settings::new(archive.clone(), target, None) };
                let (sender, progress) = watch::channel(Progress::default());
                let (trouble, voices) = (Arc::new(Mutex::new(Trouble::default())), Voices::default());
                let (votes, wanted) = watch::channel(votes);
                let one =
                    One { settings, progress: sender, trouble: trouble.clone(), votes: wanted, voices: voices.clone() };
                let task = tokio::spawn(one.go_on());
                Running { task, progress, trouble, interval, votes, voices }
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

    /// Those that commits may wait for.
    pub fn all(&self) -> Vec<Tail> {
        let tail = |(name, running): (&String, &Running)| {
            let progress = running.progress.borrow();
            Tail {
                repository: name.clone(),
                names: running.voices.all(),
                begun: progress.begun,
                trouble: running.problem(&progress),
            }
        };
        self.0.iter().filter(|(_, running)| *running.votes.borrow() > 0).map(tail).collect()
    }

    pub fn row(&self, repository: &str, flushed: Lsn) -> Option<ArchiveTail> {
        let running = self.0.get(repository)?;
        let progress = running.progress.borrow();
        let stored = progress.stored;
        Some(ArchiveTail {
            timeline: progress.timeline,
            stored: stored.to_string(),
            behind: if stored == Lsn::ZERO { 0 } else { flushed.0.saturating_sub(stored.0) },
            awaited: false,
            problem: running.problem(&progress),
        })
    }
}

impl Running {
    /// Why nothing is put away; why the last stream ended is that no more once there is another.
    fn problem(&self, progress: &Progress) -> Option<String> {
        let ended = || self.trouble().why.filter(|_| progress.begun.is_none());
        progress.trouble.clone().or_else(ended)
    }

    fn trouble(&self) -> Trouble {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct One {
    settings: Settings,
    progress: watch::Sender<Progress>,
    trouble: Arc<Mutex<Trouble>>,
    votes: watch::Receiver<usize>,
    voices: Voices,
}

impl One {
    /// Until it is aborted, or until another server turns out to write the same timeline.
    async fn go_on(mut self) {
        let (mut start, mut pause) = (Start::Resume, PAUSES.0);
        loop {
            let before = self.progress.borrow().chunks;
            let ended = self.once(start).await;
            self.progress.send_modify(|progress| progress.begun = None);
            if self.progress.borrow().chunks > before {
                pause = PAUSES.0;
            }
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
            self.tell(why, deposed);
            if deposed {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// One connection to PostgreSQL, with those beside it, under names of their own: one that lingers counts for nothing.
    async fn once(&mut self, start: Start) -> Result<Ended, TailError> {
        if *self.votes.borrow() == 0 {
            return tail::run(&self.settings, start, &self.progress, std::future::pending()).await;
        }
        let name = names::fresh();
        self.settings.target.application_name = name.clone();
        self.voices.add(&name);
        let target = self.settings.target.clone();
        let echoes = echo::keep(target, self.progress.subscribe(), self.votes.clone(), self.voices.clone());
        let ended = tokio::select! {
            ended = tail::run(&self.settings, start, &self.progress, std::future::pending()) => ended,
            never = echoes => match never {},
        };
        self.voices.clear();
        ended
    }

    fn tell(&self, why: Option<String>, deposed: bool) {
        let repository = self.settings.archive.repository().name();
        let known = std::mem::replace(
            &mut *self.trouble.lock().unwrap_or_else(PoisonError::into_inner),
            Trouble { why: why.clone(), deposed },
        );
        if let Some(why) = why.filter(|why| known.why.as_ref() != Some(why)) {
            match deposed {
                true => tracing::error!(repository, "the tail of the WAL ends: {why}"),
                false => tracing::warn!(repository, "the tail of the WAL begins again: {why}"),
            }
        }
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
