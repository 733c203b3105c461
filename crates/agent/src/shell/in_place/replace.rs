//! The leader's PostgreSQL stops, the store goes over, and the directories change places.

use matriarch_core::decide::{Data, Job, Millis, Proposed, Purpose, Server};
use matriarch_core::record::{AcceptedLoss, SyncRecord, Versioned, key};
use matriarch_core::transaction::Txn;
use matriarch_postgres::{process, restored as recovered};

use super::super::Shell;
use super::Work;
use crate::in_place::{self, InPlace, KEY, Kept, Phase, Prepared, Request, Swap};
use crate::restored;

/// How long a stop waits for the archive to get the WAL of before. What it does not get stays with the data that is kept.
const ARCHIVED: Millis = 10_000;
/// A stop that takes longer is called off.
const STOPPED: Millis = 300_000;
/// Until the next look while PostgreSQL stands still for it.
const SOON: Millis = 50;

impl Shell {
    pub(super) fn stop_and_go_over(&mut self, seen: &Versioned<InPlace>, request: Request, now: Millis) -> Millis {
        let mine = self.in_place.prepared.clone().filter(|(id, _)| *id == request.id);
        let Some((_, prepared)) = mine else {
            let why = "the agent ended before the cluster went over, and nothing was changed: ask again";
            self.give_up(seen, request, why, now);
            return now + SOON;
        };
        let begun = *self.in_place.stopping.get_or_insert(now);
        if now >= begun + STOPPED {
            self.give_up(seen, request, "PostgreSQL did not stop in time, and nothing was changed", now);
            return now + SOON;
        }
        if self.pg.busy().is_some() || self.pg.data == Data::Unknown {
            return now + SOON;
        }
        if !prepared.dir.join("global/pg_control").exists() {
            let why = format!("{} is not there any more, and nothing was changed: ask again", prepared.dir.display());
            self.give_up(seen, request, &why, now);
            return now + SOON;
        }
        if self.pg.server != Server::Stopped {
            self.in_place.stopped = None;
            self.begin(Job::StopFast);
            return now + SOON;
        }
        let stopped = *self.in_place.stopped.get_or_insert(now);
        if !self.archiver.is_idle() && now < stopped + ARCHIVED {
            return now + SOON;
        }
        if self.rests_on_lease() {
            self.go_over(seen, request, &prepared);
        }
        now + SOON
    }

    /// The new epoch begins under the empty rule, where the lease is all that fences a primary: from here on what the voters say
    /// counts no more, and the guard must have been told so.
    fn rests_on_lease(&mut self) -> bool {
        let sync = self.reading.as_ref().and_then(|reading| reading.view.sync.as_ref());
        let announced = sync.map(|sync| Proposed { revision: sync.revision, rule: Default::default() });
        let known = announced == self.memory.announced;
        self.memory.announced = announced;
        let Some(lease) = self.storage.lease().map(|lease| lease.until) else { return false };
        let guarded = self.guard_state.borrow().deadline;
        // Whoever is alone goes on beyond its lease in any epoch: there is nobody who could take over.
        known && (self.nobody_else_is_there() || guarded <= lease && self.authority.is_some_and(|until| until <= lease))
    }

    fn nobody_else_is_there(&self) -> bool {
        let Some(view) = self.reading.as_ref().map(|reading| &reading.view) else { return false };
        let admitted = view.sync.iter().flat_map(|sync| &sync.value.membership);
        admitted.chain(view.members.keys()).all(|name| name == self.options.name())
    }

    /// The one change after which only the new data counts.
    fn go_over(&mut self, seen: &Versioned<InPlace>, mut request: Request, prepared: &Prepared) {
        let Data::Ready(facts) = &self.pg.data else { return };
        let (Some(own), Some(reading)) = (self.pg.line.clone(), &self.reading) else { return };
        let (Some(leader), Some(sync)) = (&reading.view.leader, &reading.view.sync) else { return };
        if !leader.held || self.storage.committing.is_some() {
            return;
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let outgoing = in_place::aside(&self.pg.instance().data_dir, &request.id);
        let next = successor(&sync.value, prepared);
        let text = format!("{}; before, timeline {} went on to {}", prepared.text, facts.timeline, facts.checkpoint);
        let next =
            SyncRecord { accepted_loss: Some(AcceptedLoss { timeline: next.timeline, text: text.clone() }), ..next };
        let kept = Kept {
            member: self.options.name().clone(),
            path: outgoing.clone(),
            line: own,
            timeline: facts.timeline,
            lsn: facts.checkpoint,
            since: now,
            why: capital(&prepared.text),
        };
        request.phase = Phase::Replacing;
        request.text = "the cluster has gone over; the data directories change places".to_owned();
        request.swap =
            Some(Swap { incoming: prepared.dir.clone(), outgoing, incarnation: prepared.incarnation.clone() });
        let record = InPlace { line: Some(prepared.line.clone()), kept: Some(kept), request: Some(request) };
        let change = Txn::new()
            .unchanged(key::LEADER, leader.revision)
            .unchanged(KEY, seen.revision)
            .put(KEY, &record)
            .rewrite_sync(sync, next);
        tracing::info!("going over: {text}");
        if self.storage.commit(Purpose::Takeover, change)
            && let Some(unsaved) = &mut self.unsaved
        {
            unsaved.fresh = false;
        }
    }

    /// What the store says is put into effect: by whoever led then, also in a later process.
    pub(super) fn put_in_place(&mut self, request: &Request) {
        let (Some(swap), Some(sync)) = (&request.swap, self.sync()) else { return };
        let ours = sync.leader == *self.options.name() && sync.incarnation == swap.incarnation;
        let idle = self.pg.server == Server::Stopped && self.pg.busy().is_none();
        let wanted = match self.pg.data {
            Data::Unknown => false,
            Data::Ready(_) => self.is_void(),
            _ => true,
        };
        if !ours || !idle || !wanted {
            return;
        }
        let data_dir = self.pg.instance().data_dir.clone();
        // A server that another process of this agent has begun meanwhile would go on in the directory that is renamed.
        if !process::tree(&data_dir).is_empty() {
            return;
        }
        self.in_place.failure = match recovered::change_places(&data_dir, &swap.incoming, &swap.outgoing) {
            Ok(()) => {
                tracing::info!(kept = %swap.outgoing.display(), "the data directories have changed places");
                restored::settle(&swap.incoming).err().map(|error| error.to_string())
            }
            Err(error) => Some(format!("the restored data cannot be put in place: {error}")),
        };
        if let Some(failure) = &self.in_place.failure {
            tracing::error!("{failure}");
        }
        self.configured = None;
        self.pg.look_at_data();
    }

    pub(super) fn finish_replacing(&mut self, seen: &Versioned<InPlace>, mut request: Request, now: Millis) {
        let runs = matches!(&self.pg.server, Server::Running(running) if !running.in_recovery);
        let ready = matches!(self.pg.data, Data::Ready(_)) && !self.is_void();
        if !runs || !ready {
            return;
        }
        request.phase = Phase::Done;
        request.text = match &seen.value.kept {
            Some(kept) => format!("{}; the data before that is kept in {}", kept.why, kept.path.display()),
            None => "done".to_owned(),
        };
        if self.write_in_place(seen, request, now) {
            self.in_place = Work { swept: true, ..Work::default() };
        }
    }
}

/// A new epoch of the same leader with other data. What was promised under the rules so far has been given up.
fn successor(sync: &SyncRecord, prepared: &Prepared) -> SyncRecord {
    let newest = sync.timeline.max(prepared.timeline);
    SyncRecord {
        epoch: sync.epoch + 1,
        incarnation: prepared.incarnation.clone(),
        rule: Default::default(),
        established: true,
        previous: Vec::new(),
        timeline: if prepared.to_promote { newest + 1 } else { newest },
        released: None,
        handover: false,
        ..sync.clone()
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
