//! Takes a cluster back to an earlier moment: this member's part in it, step by step. See [`crate::in_place`].

mod clear;
mod replace;

use matriarch_core::decide::{Data, Millis};
use matriarch_core::record::Versioned;
use matriarch_core::{Incarnation, Timeline};
use matriarch_dcs::{Revision, Txn};
use matriarch_postgres::restored as recovered;
use tokio::sync::oneshot::Receiver;

use super::Shell;
use crate::in_place::{InPlace, KEY, Phase, Prepared, Preparing, Request, What, Wish};
use crate::restored;

/// What was sent is sent again after this time, unless the record has changed.
const AGAIN: Millis = 2_000;
/// How often it is told how far it is.
const TELL: Millis = 2_000;
/// Until the next look while PostgreSQL stands still for it.
const SOON: Millis = 50;

/// What the loop remembers of it.
#[derive(Default)]
pub(super) struct Work {
    /// For the request of this name.
    preparing: Option<(String, Preparing)>,
    prepared: Option<(String, Prepared)>,
    /// Since when PostgreSQL is to stop, and since when it has stopped.
    stopping: Option<Millis>,
    stopped: Option<Millis>,
    /// The record as it was when a change was last sent, and when that was.
    sent: Option<(Option<Revision>, Millis)>,
    told: Millis,
    removing: Option<Receiver<Result<(), String>>>,
    /// What an earlier process may have left was looked for, and is being removed.
    swept: bool,
    sweeping: Option<Receiver<Result<(), String>>>,
    failure: Option<String>,
}

impl Shell {
    /// A data directory of a line that counts no more is none: it is copied anew, and nobody leads with it.
    pub(super) fn data_that_counts(&self) -> Data {
        if self.is_void() { Data::Missing } else { self.pg.data.clone() }
    }

    /// Identity of the data, if that counts.
    pub(super) fn incarnation_that_counts(&self) -> Option<Incarnation> {
        self.pg.incarnation().filter(|_| !self.is_void())
    }

    fn is_void(&self) -> bool {
        let record = self.present().and_then(|reading| reading.in_place.as_ref());
        let line = self.pg.line.as_deref().filter(|_| matches!(self.pg.data, Data::Ready(_)));
        record.zip(line).is_some_and(|(record, line)| record.value.voids(line))
    }

    /// PostgreSQL of this leader stands still because its data is about to be another one.
    pub(super) fn replaces_data(&self) -> bool {
        let Some(request) = self.request_of_ours().filter(|_| !self.stopping) else { return false };
        let elsewhere = self.leader_name().is_some_and(|leader| leader != self.options.name());
        let ready = self.in_place.prepared.as_ref().is_some_and(|(id, _)| *id == request.id);
        match request.phase {
            Phase::Stopping => ready && !elsewhere,
            Phase::Replacing => self.is_void() && !elsewhere,
            _ => false,
        }
    }

    fn request_of_ours(&self) -> Option<&Request> {
        let record = self.present()?.in_place.as_ref()?;
        record.value.under_way().filter(|request| request.member.as_ref() == Some(self.options.name()))
    }

    /// What stands in its way, for the member's record.
    pub(super) fn in_place_problem(&self) -> Option<String> {
        self.in_place.failure.clone()
    }

    /// Does what is to be done now; when to look again.
    pub(super) fn keep_in_place(&mut self, now: Millis) -> Millis {
        let Some(reading) = self.reading.as_ref().filter(|_| !self.past.is_shown()) else { return Millis::MAX };
        let seen = reading.in_place.clone();
        let record = seen.as_ref().map(|seen| seen.value.clone()).unwrap_or_default();
        let Some(request) = record.under_way().cloned() else {
            self.nothing_to_replace();
            return Millis::MAX;
        };
        let Some(seen) = seen else { return Millis::MAX };
        if request.what == What::Confirm {
            let ours = seen.value.kept.as_ref().is_some_and(|kept| kept.member == *self.options.name());
            self.remove_kept(&seen, request, now);
            return if ours { now + SOON } else { Millis::MAX };
        }
        let ours = request.member.as_ref() == Some(self.options.name());
        if ours && request.phase == Phase::Replacing {
            self.put_in_place(&request);
        }
        if !self.leads() || self.view_is_old || self.stopping {
            return Millis::MAX;
        }
        match request.phase {
            Phase::Asked => self.take_on(&seen, request, now),
            Phase::Replacing => self.finish_replacing(&seen, request, now),
            _ if !ours => {
                let who = request.member.clone().map(|member| member.to_string()).unwrap_or_default();
                self.give_up(&seen, request, &format!("the lead moved away from {who}, and nothing was changed"), now);
            }
            Phase::Restoring => self.look_at_preparation(&seen, request, now),
            Phase::Stopping => return self.stop_and_go_over(&seen, request, now),
            Phase::Done | Phase::Failed => {}
        }
        now + 1_000
    }

    /// Sends a changed record, unless that was just done.
    fn write_in_place(&mut self, seen: &Versioned<InPlace>, request: Request, now: Millis) -> bool {
        let record = InPlace { request: Some(request), ..seen.value.clone() };
        self.send_in_place(Some(seen.revision), &record, now)
    }

    fn send_in_place(&mut self, revision: Option<Revision>, record: &InPlace, now: Millis) -> bool {
        if self.in_place.sent.is_some_and(|(sent, at)| sent == revision && now < at + AGAIN) {
            return false;
        }
        self.in_place.sent = Some((revision, now));
        let text = serde_json::to_string(record).expect("it has string keys and finite numbers only");
        let store = self.storage.handle();
        tokio::spawn(async move {
            let txn = match revision {
                Some(revision) => Txn::new().revision(KEY, revision),
                None => Txn::new().absent(KEY),
            };
            // Whoever has changed it meanwhile is seen, and what is still due then is sent again.
            let _ = store.commit(txn.put(KEY, text)).await;
        });
        true
    }

    fn give_up(&mut self, seen: &Versioned<InPlace>, mut request: Request, why: &str, now: Millis) {
        if request.phase != Phase::Failed {
            tracing::warn!("the restore in place was not done: {why}");
        }
        request.phase = Phase::Failed;
        request.text = why.to_owned();
        self.write_in_place(seen, request, now);
    }

    fn take_on(&mut self, seen: &Versioned<InPlace>, mut request: Request, now: Millis) {
        let me = self.options.name().clone();
        let begun = match &request.what {
            What::Restore(wish) => self.begin_restore(seen, &request.id, &wish.clone()).map(|()| Phase::Restoring),
            What::Undo => self.begin_undo(seen, &request.id).map(|()| Phase::Stopping),
            What::Confirm => return,
        };
        match begun {
            Ok(phase) => {
                request.text = match phase {
                    Phase::Restoring => "the backup is restored beside the data; the cluster goes on meanwhile",
                    _ => "PostgreSQL stops",
                }
                .to_owned();
                (request.phase, request.member) = (phase, Some(me));
                self.write_in_place(seen, request, now);
            }
            Err(why) => self.give_up(seen, request, &why, now),
        }
    }

    /// What must hold before anything is begun.
    fn may_replace(&self) -> Result<(), String> {
        if self.config.pause {
            return Err("the cluster is paused: 'matriarch resume' first".to_owned());
        }
        let reading = self.reading.as_ref().ok_or("the store is not read yet")?;
        if reading.view.failover.is_some() || self.sync().is_some_and(|sync| sync.handover) {
            return Err("a switchover is under way or scheduled: 'matriarch switchover --cancel' first".to_owned());
        }
        Ok(())
    }

    fn begin_restore(&mut self, seen: &Versioned<InPlace>, id: &str, wish: &Wish) -> Result<(), String> {
        if self.in_place.preparing.as_ref().is_some_and(|(begun, _)| begun == id) {
            return Ok(());
        }
        self.may_replace()?;
        if let Some(kept) = &seen.value.kept {
            return Err(format!(
                "the data before the last restore is still kept on {}: 'matriarch restore --confirm' or --undo first",
                kept.member
            ));
        }
        let section = self.config.archive.clone().ok_or("the cluster has no archive")?;
        let order = restored::Order {
            whence: restored::Whence::Archive {
                section: Box::new(section),
                cluster: self.options.scope.clone(),
                own: true,
                incarnation: wish.incarnation.clone(),
            },
            wanted: wish.wanted()?,
            tablespaces: wish.tablespaces.clone(),
        };
        let timeline = self.unused_timeline();
        let log = self.options.postgres_log.clone();
        let preparing = Preparing::begin(self.pg.instance(), order, log, timeline)?;
        self.in_place = Work { preparing: Some((id.to_owned(), preparing)), swept: true, ..Work::default() };
        Ok(())
    }

    /// No timeline that anybody may have opened is opened once more.
    fn unused_timeline(&self) -> Timeline {
        let Some(view) = self.reading.as_ref().map(|reading| &reading.view) else { return 0 };
        let history = view.history.iter().map(|entry| entry.0);
        let members = view.members.values().filter_map(|member| member.timeline);
        let pledges = view.pledges.values().map(|pledge| pledge.value.timeline);
        let own = self.pg.probe.as_ref().map(|probe| probe.timeline);
        let reserved = view.sync.as_ref().map(|sync| sync.value.timeline);
        history.chain(members).chain(pledges).chain(own).chain(reserved).max().unwrap_or(0) + 1
    }

    fn begin_undo(&mut self, seen: &Versioned<InPlace>, id: &str) -> Result<(), String> {
        if self.in_place.prepared.as_ref().is_some_and(|(begun, _)| begun == id) {
            return Ok(());
        }
        self.may_replace()?;
        let kept = seen.value.kept.clone().ok_or("nothing is kept: there is nothing to undo")?;
        if kept.member != *self.options.name() {
            let member = &kept.member;
            return Err(format!("the data is on {member}: 'matriarch switchover --candidate {member}' first"));
        }
        if !kept.path.join("global/pg_control").exists() {
            return Err(format!("{} is not there any more", kept.path.display()));
        }
        let incarnation = recovered::revive(self.pg.instance(), &kept.path).map_err(|error| error.to_string())?;
        let prepared = Prepared {
            dir: kept.path,
            incarnation,
            timeline: kept.timeline,
            to_promote: true,
            line: kept.line,
            text: format!("undone: {}", kept.why),
        };
        self.in_place = Work { prepared: Some((id.to_owned(), prepared)), swept: true, ..Work::default() };
        Ok(())
    }

    fn look_at_preparation(&mut self, seen: &Versioned<InPlace>, mut request: Request, now: Millis) {
        let mine = self.in_place.preparing.as_mut().filter(|(id, _)| *id == request.id);
        let Some((id, preparing)) = mine else {
            if self.in_place.prepared.as_ref().is_some_and(|(id, _)| *id == request.id) {
                (request.phase, request.text) = (Phase::Stopping, "PostgreSQL stops".to_owned());
                self.write_in_place(seen, request, now);
            } else {
                let why = "the agent ended while it restored, and nothing was changed: ask again";
                self.give_up(seen, request, why, now);
            }
            return;
        };
        match preparing.outcome() {
            None => {
                let (done, total) = preparing.progress();
                if now >= self.in_place.told + TELL && (done, total) != (request.done, request.total) {
                    (request.done, request.total) = (done, total);
                    self.in_place.told = now;
                    self.write_in_place(seen, request, now);
                }
            }
            Some(Ok(prepared)) => {
                let id = id.clone();
                self.in_place.preparing = None;
                self.in_place.prepared = Some((id, prepared));
            }
            Some(Err(why)) => {
                (self.in_place.preparing, self.in_place.swept) = (None, false);
                self.give_up(seen, request, &format!("{why}; nothing was changed"), now);
            }
        }
    }
}
