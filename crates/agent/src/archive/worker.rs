//! The worker: opens repositories, uploads what waits, answers whoever waits for it.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use matriarch_api::ArchiveCheckRow;
use matriarch_archive::configured::Configured;
use matriarch_archive::wal::{self, Segment, WalName};
use matriarch_core::{Lsn, Timeline};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::backfill::{Failure, backfill};
use super::endings::Endings;
use super::files::{Stamps, stamps};
use super::open::{NOT_BEGUN, Opened, Opening, check, open};
use super::tail::{Manner, tidy};
use super::waiting::{self, Waiting};
use super::wire::Answer;
use super::{Ask, Board, Charge, Place, Shown, Standing};

/// How often the data directory is looked at without a reason.
const LOOK: Duration = Duration::from_secs(10);
/// Pauses between attempts that nobody waits for.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Bytes of segments that are read ahead at the same time, and the most of them.
const AHEAD: u64 = 64 << 20;
const MOST_AHEAD: u64 = 4;

/// The thread's whole life.
pub(super) fn main(
    place: &Place,
    charge: watch::Receiver<Charge>,
    asks: mpsc::UnboundedReceiver<Ask>,
    board: &Arc<Board>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(4).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(Worker::new(place, charge, asks, board).run()),
        Err(error) => tracing::error!("the archive's thread cannot work: {error}"),
    }
}

enum Done {
    Opened(u64, Opened),
    Pushed(WalName, bool, Result<(), Failure>),
    Backfilled(Timeline, Result<usize, Failure>),
    Tidied(Lsn, Result<(), String>),
    Checked(oneshot::Sender<Vec<ArchiveCheckRow>>, Vec<ArchiveCheckRow>),
}

struct Worker {
    place: Place,
    charge: watch::Receiver<Charge>,
    told: Charge,
    asks: mpsc::UnboundedReceiver<Ask>,
    board: Arc<Board>,
    opened: watch::Sender<Arc<Opened>>,
    /// Counts openings, so that one of an earlier configuration is not taken for the present one's.
    generation: u64,
    /// The files of the section as they were then.
    files: Option<Stamps>,
    /// When what is in them ends.
    endings: Endings,
    opening: bool,
    /// Why not all repositories are open, and since when.
    closed: Option<(String, Instant)>,
    tasks: JoinSet<Done>,
    waiting: BTreeMap<WalName, Waiting>,
    in_flight: BTreeSet<WalName>,
    /// Confirmed by every repository, and still marked as ready.
    held: BTreeSet<WalName>,
    askers: BTreeMap<WalName, Vec<oneshot::Sender<Answer>>>,
    /// Another content has their name: an alarm until somebody has looked.
    conflicts: BTreeMap<WalName, String>,
    tidying: bool,
    /// Up to where the tail was tidied.
    tidied: Lsn,
    backfilling: bool,
    backfilled: Option<Timeline>,
    look: bool,
    looked: Instant,
    retry: Instant,
    pause: Duration,
}

impl Worker {
    fn new(
        place: &Place,
        charge: watch::Receiver<Charge>,
        asks: mpsc::UnboundedReceiver<Ask>,
        board: &Arc<Board>,
    ) -> Worker {
        Worker {
            place: place.clone(),
            told: Charge::default(),
            charge,
            asks,
            board: board.clone(),
            opened: watch::channel(Arc::default()).0,
            generation: 0,
            files: None,
            endings: Endings::default(),
            opening: false,
            closed: None,
            tasks: JoinSet::new(),
            waiting: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            held: BTreeSet::new(),
            askers: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            tidying: false,
            tidied: Lsn::ZERO,
            backfilling: false,
            backfilled: None,
            look: true,
            looked: Instant::now(),
            retry: Instant::now(),
            pause: PAUSES.0,
        }
    }

    async fn run(mut self) {
        tokio::spawn(super::serve::serve(self.place.clone(), self.board.clone(), self.opened.subscribe()));
        self.take_charge();
        loop {
            self.step();
            self.show();
            let wake = if self.wants_retry() { self.retry } else { self.looked + LOOK };
            tokio::select! {
                changed = self.charge.changed() => match changed {
                    Ok(()) => self.take_charge(),
                    // The agent has ended.
                    Err(_) => return,
                },
                Some(ask) = self.asks.recv() => self.hear(ask),
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => tracing::error!("a task of the archive has failed: {error}"),
                },
                () = sleep_until(wake) => self.look = true,
            }
        }
    }

    fn take_charge(&mut self) {
        let charge = self.charge.borrow_and_update().clone();
        let place = |charge: &Charge| (charge.section.clone(), charge.identity, charge.line.clone());
        if place(&charge) != place(&self.told) || self.begins(&charge) {
            self.close();
        }
        if charge.standing != self.told.standing {
            (self.backfilled, self.tidied) = (None, Lsn::ZERO);
            // A clean stop of PostgreSQL waits until a stream has taken everything.
            self.board.tails().end();
        }
        if charge.standing == Standing::Stopping {
            for (_, askers) in std::mem::take(&mut self.askers) {
                askers.into_iter().for_each(|asker| drop(asker.send(Answer::Stopping)));
            }
        }
        self.told = charge;
        self.look = true;
        self.try_now();
    }

    /// A primary may begin what a standby could only find missing.
    fn begins(&self, charge: &Charge) -> bool {
        let is_primary = |charge: &Charge| matches!(charge.standing, Standing::Primary(_));
        is_primary(charge) && !is_primary(&self.told) && self.opened.borrow().all().is_err()
    }

    fn close(&mut self) {
        self.generation += 1;
        self.files = None;
        self.opening = false;
        self.held.clear();
        self.board.tails().end();
        self.opened.send_replace(Arc::default());
    }

    fn try_now(&mut self) {
        (self.retry, self.pause) = (Instant::now(), PAUSES.0);
    }

    fn hear(&mut self, ask: Ask) {
        let section = self.told.section.clone();
        let (sender, init) = match ask {
            Ask::Push(name, sender) => return self.asked_to_push(name, sender),
            Ask::Check(sender) => (sender, false),
            Ask::Init(sender) => (sender, true),
        };
        // Whoever asked learns from the closed channel that no archive is configured.
        let Some(section) = section else { return };
        let scope = self.place.scope.clone();
        self.tasks.spawn(async move { Done::Checked(sender, check(&section, &scope, init).await) });
    }

    fn asked_to_push(&mut self, name: WalName, sender: oneshot::Sender<Answer>) {
        let at_once = if self.held.contains(&name) {
            Some(Answer::Done)
        } else if self.told.standing == Standing::Stopping {
            Some(Answer::Stopping)
        } else if self.told.section.is_none() {
            Some(Answer::Failed("no archive is configured any more; restart PostgreSQL".to_owned()))
        } else {
            None
        };
        match at_once {
            Some(answer) => drop(sender.send(answer)),
            None => {
                self.askers.entry(name).or_default().push(sender);
                self.try_now();
            }
        }
        self.look = true;
    }

    /// Begins what is to be done.
    fn step(&mut self) {
        let Some(section) = self.told.section.clone() else {
            self.waiting.clear();
            return;
        };
        if self.look {
            self.look_at_files(&section);
        }
        self.run_tails(&section);
        if self.look {
            self.look_around();
        }
        if Instant::now() < self.retry {
            return;
        }
        self.open();
        let Ok(archives) = self.opened.borrow().all() else { return };
        let size = archives.first().map_or(AHEAD, |archive| archive.incarnation().segment_size);
        let most = (AHEAD / size).clamp(1, MOST_AHEAD) as usize;
        for (name, path, kept) in self.next_files(most.saturating_sub(self.in_flight.len())) {
            self.in_flight.insert(name.clone());
            let archives = archives.clone();
            self.tasks.spawn(async move {
                let pushed = wal::push(&archives, &path, &name).await;
                let pushed = pushed.map_err(|error| Failure::of(&name, &error));
                Done::Pushed(name, kept, pushed)
            });
        }
        if let Standing::Primary(timeline) = self.told.standing
            && self.backfilled != Some(timeline)
            && !self.backfilling
        {
            self.backfilling = true;
            let data_dir = self.place.data_dir.clone();
            self.tasks.spawn(async move { Done::Backfilled(timeline, backfill(&archives, &data_dir, timeline).await) });
        }
    }

    /// Repositories whose credentials were renewed are opened anew, before the old ones have ended.
    fn look_at_files(&mut self, section: &matriarch_config::Archive) {
        let files = stamps(section);
        if self.files.as_ref().is_some_and(|known| *known != files) {
            tracing::info!(
                "a file that the archive's configuration names has changed: the repositories are opened anew"
            );
            self.close();
            self.try_now();
        }
        if self.files.as_ref() != Some(&files) {
            let configured = Configured::new(section, &self.place.scope, Duration::ZERO);
            self.endings = configured.map(|configured| Endings::read(section, &configured)).unwrap_or_default();
        }
        self.files = Some(files);
        self.endings.log(Timestamp::now());
    }

    fn run_tails(&mut self, section: &matriarch_config::Archive) {
        let primary = matches!(self.told.standing, Standing::Primary(_));
        if primary && !section.tail.is_zero() {
            let (archives, _) = self.opened.borrow().some();
            let votes = self.told.votes;
            let interval = if votes > 0 { Duration::ZERO } else { section.tail };
            self.board.tails().run(&archives, &self.place.instance, Manner { interval, votes });
        } else {
            self.board.tails().end();
        }
    }

    /// Chunks of segments that are archived as a whole are of no use any more.
    fn tidy_tails(&mut self, safe: Option<Lsn>) {
        let (Some(safe), Standing::Primary(timeline)) = (safe, self.told.standing) else { return };
        if self.tidying || safe <= self.tidied {
            return;
        }
        self.tidying = true;
        let (archives, _) = self.opened.borrow().some();
        self.tasks.spawn(async move { Done::Tidied(safe, tidy(&archives, timeline, safe).await) });
    }

    fn open(&mut self) {
        let (Some(section), Some(identity)) = (self.told.section.clone(), self.told.identity) else { return };
        if self.opening || self.opened.borrow().all().is_ok() {
            return;
        }
        self.opening = true;
        let primary = matches!(self.told.standing, Standing::Primary(_));
        let opening = Opening { section, scope: self.place.scope.clone(), identity, primary };
        let (generation, data_dir) = (self.generation, self.place.data_dir.clone());
        self.tasks.spawn(async move { Done::Opened(generation, open(&opening, &data_dir).await) });
    }

    /// What somebody waits for first, then the oldest.
    fn next_files(&self, most: usize) -> Vec<(WalName, PathBuf, bool)> {
        let mut order: Vec<&WalName> = self.askers.keys().chain(self.waiting.keys()).collect();
        order.sort_by_key(|name| (!self.askers.contains_key(name), !matches!(name, WalName::History(_))));
        order.dedup();
        let free = order.into_iter().filter(|name| !self.in_flight.contains(name) && !self.held.contains(name));
        let place = |name: &WalName| match self.waiting.get(name) {
            Some(waiting) => (name.clone(), waiting.path.clone(), waiting.kept),
            None => (name.clone(), self.place.data_dir.join("pg_wal").join(name.to_string()), false),
        };
        free.take(most).map(place).collect()
    }

    fn look_around(&mut self) {
        (self.look, self.looked) = (false, Instant::now());
        // Before the files: a segment that was complete then is marked by now.
        let flushed = self.board.flushed();
        match waiting::waiting(&self.place.data_dir) {
            Ok(found) => {
                self.waiting = found.into_iter().collect();
                let (waiting, askers) = (&self.waiting, &self.askers);
                self.held.retain(|name| waiting.contains_key(name) || askers.contains_key(name));
                let kept = waiting::kept_folder(&self.place.data_dir);
                let refused = |name: &WalName| kept.join(format!("{name}.refused")).exists();
                self.conflicts.retain(|name, _| waiting.contains_key(name) || refused(name));
            }
            Err(error) => {
                tracing::warn!("the WAL of {} cannot be looked at: {error}", self.place.data_dir.display());
                return;
            }
        }
        let safe = self.safe(flushed);
        self.board.shown().safe = safe;
        self.tidy_tails(safe);
    }

    /// All WAL before it is archived: known only of a primary that hands its WAL over, and that has made up for the one before.
    fn safe(&self, flushed: Lsn) -> Option<Lsn> {
        let Standing::Primary(timeline) = self.told.standing else { return None };
        let size = self.told.identity?.segment_size;
        if !self.told.archives || self.backfilled != Some(timeline) || flushed == Lsn::ZERO {
            return None;
        }
        let missing = self.waiting.iter().filter(|(name, waiting)| !waiting.kept && !self.held.contains(name));
        let oldest = waiting::oldest(missing.map(|(name, _)| name.clone()), size);
        let current = Segment::at(timeline, flushed, size).start(size);
        Some(oldest.map_or(current, |oldest| oldest.min(current)))
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Opened(generation, _) if generation != self.generation => {}
            Done::Opened(_, opened) => {
                self.opening = false;
                let failure = opened.all().err();
                self.closed = match (&failure, self.closed.take()) {
                    (None, _) => None,
                    (Some(why), since) => Some((why.clone(), since.map_or_else(Instant::now, |(_, since)| since))),
                };
                self.opened.send_replace(Arc::new(opened));
                if let Some(why) = failure {
                    self.failed_all(&why);
                }
            }
            Done::Pushed(name, kept, pushed) => self.pushed(name, kept, pushed),
            Done::Backfilled(timeline, result) => {
                self.backfilling = false;
                match result {
                    Ok(count) => {
                        if count > 0 {
                            tracing::info!(count, "files of earlier timelines are archived now");
                        }
                        self.backfilled = Some(timeline);
                    }
                    Err(failure) => self.note_failure(&failure),
                }
                self.look = true;
            }
            Done::Tidied(safe, result) => {
                (self.tidying, self.tidied) = (false, safe);
                if let Err(why) = result {
                    tracing::warn!("parts of the tail that are not needed any more could not be removed: {why}");
                }
            }
            Done::Checked(sender, rows) => {
                // What was initialised can be opened now.
                if self.opened.borrow().all().is_err() {
                    self.try_now();
                }
                let _ = sender.send(rows);
            }
        }
    }

    fn pushed(&mut self, name: WalName, kept: bool, pushed: Result<(), Failure>) {
        self.in_flight.remove(&name);
        self.look = true;
        let answer = match pushed {
            Ok(()) => {
                self.conflicts.remove(&name);
                self.note_archived(&name);
                // While PostgreSQL's archiver waits for the file, it sees to its mark itself.
                let asked = self.askers.contains_key(&name);
                if let Err(error) = self.tidy(&name, kept, asked) {
                    tracing::warn!(file = %name, "it is archived, and its mark could not be removed: {error}");
                }
                self.held.insert(name.clone());
                Answer::Done
            }
            Err(failure) => {
                self.note_failure(&failure);
                if failure.refused {
                    // Perhaps the credentials have changed.
                    self.close();
                }
                if failure.conflict {
                    self.conflicts.insert(name.clone(), failure.why.clone());
                }
                if let Some(waiting) = self.waiting.get(&name).filter(|waiting| waiting.kept && failure.conflict) {
                    // The repository has both contents; it would be refused for ever.
                    let refused = waiting.path.with_file_name(format!("{name}.refused"));
                    let _ = std::fs::rename(&waiting.path, refused);
                }
                Answer::Failed(failure.why)
            }
        };
        for asker in self.askers.remove(&name).unwrap_or_default() {
            let _ = asker.send(answer.clone());
        }
    }

    /// What no archiver of PostgreSQL looks after.
    fn tidy(&self, name: &WalName, kept: bool, asked: bool) -> std::io::Result<()> {
        match self.waiting.get(name) {
            Some(waiting) if kept => std::fs::remove_file(&waiting.path),
            _ if self.told.standing == Standing::Other && !asked => waiting::mark_done(&self.place.data_dir, name),
            _ => Ok(()),
        }
    }

    /// Nothing can be archived at the moment.
    fn failed_all(&mut self, why: &str) {
        let waiting = self.waiting.keys().next().cloned();
        for (name, askers) in std::mem::take(&mut self.askers) {
            self.note_failure(&Failure { file: name.to_string(), why: why.to_owned(), ..Failure::default() });
            askers.into_iter().for_each(|asker| drop(asker.send(Answer::Failed(why.to_owned()))));
        }
        if let Some(name) = waiting {
            self.note_failure(&Failure { file: name.to_string(), why: why.to_owned(), ..Failure::default() });
        }
        self.later();
    }

    fn later(&mut self) {
        self.retry = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSES.1);
    }

    /// There is something that was not done.
    fn wants_retry(&self) -> bool {
        let Standing::Primary(timeline) = self.told.standing else { return self.has_waiting() };
        let open = self.opened.borrow().all().is_ok();
        !self.opening && !open && self.told.section.is_some()
            || self.has_waiting()
            || open && !self.backfilling && self.backfilled != Some(timeline)
    }

    fn has_waiting(&self) -> bool {
        self.told.section.is_some()
            && !self.opening
            && self.waiting.keys().any(|name| !self.held.contains(name) && !self.in_flight.contains(name))
            && self.in_flight.is_empty()
    }
}
