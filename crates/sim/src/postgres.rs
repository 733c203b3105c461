//! The simulated PostgreSQL: starting, stopping, promoting, and what a data directory looks like afterwards.

use matriarch_core::Timeline;
use matriarch_core::decide::{Ailment, Job, JobFailure};

use crate::disk::Disk;
use crate::event::{AgentEvent, PgEvent};
use crate::mutation::Mutation;
use crate::node::NodeId;
use crate::server::Process;
use crate::world::World;

impl World {
    pub(crate) fn pg_event(&mut self, node: NodeId, event: PgEvent) {
        match event {
            PgEvent::Started => self.pg_started(node),
            PgEvent::Replayed(_) if self.nodes[node].replay_is_still() => {}
            PgEvent::Replayed(count) => {
                let pg = &mut self.nodes[node].pg;
                pg.replayed = pg.replayed.max(count);
                if pg.receiver.is_none() {
                    self.poke(node, 1);
                }
            }
            PgEvent::Reload => self.pg_reload(node),
            PgEvent::SessionReload => {
                let pg = &mut self.nodes[node].pg;
                pg.shown = pg.loaded.upstream.clone();
            }
            PgEvent::SenderReload(conn) => self.sender_reload(node, conn),
            PgEvent::CheckpointerReload => self.checkpointer_reload(node),
            PgEvent::Promoted if self.nodes[node].holds_starts => self.pg_after(node, 50, event),
            PgEvent::Promoted => self.pg_promoted(node),
            PgEvent::Checkpointed => self.pg_checkpointed(node),
            PgEvent::ShutdownCheckpoint => self.shutdown_checkpoint(node),
            PgEvent::ShutdownDeadline | PgEvent::Ended => self.pg_ended(node),
            PgEvent::Connect => self.connect(node),
            PgEvent::ReceiverEnd(conn) => self.receiver_end(node, conn),
            PgEvent::SenderEnd(conn) => self.sender_end(node, conn),
            PgEvent::Data(conn, from, records) => self.wal_arrives(node, conn, from, records),
            // On a volume that swallows writes a flush does not end.
            PgEvent::StandbyFlushed(..) | PgEvent::Flushed(_) if self.nodes[node].stalls() => {
                self.pg_after(node, 50, event);
            }
            PgEvent::StandbyFlushed(..) | PgEvent::Flushed(_) if self.nodes[node].failing => self.panic(node),
            PgEvent::StandbyFlushed(conn, upto) => self.standby_flushed(node, conn, upto),
            PgEvent::Confirm(conn, upto) => self.confirmed(node, conn, upto),
            PgEvent::Flushed(upto) => self.primary_flushed(node, upto),
            PgEvent::Timeouts => self.stream_timeouts(node),
            PgEvent::Panic => {
                self.note(|| "PostgreSQL panics: its files are gone".to_owned());
                self.kill_postgres(node);
            }
        }
    }

    /// A flush has failed: what was not flushed before is not there, and nobody goes on as if it were.
    fn panic(&mut self, node: NodeId) {
        if let Some(dir) = self.nodes[node].disk.dir_mut() {
            let flushed = dir.wal.flushed;
            dir.wal.truncate(flushed);
        }
        self.note(|| format!("{node}: PostgreSQL panics: a flush has failed"));
        self.kill_postgres(node);
    }

    /// Begins to start the server; false when there is nothing to start.
    pub(crate) fn start_postgres(&mut self, node: NodeId, primary: bool) -> bool {
        let settings = self.nodes[node].settings.clone();
        let this = &mut self.nodes[node];
        let Some(dir) = this.disk.dir_mut() else { return false };
        dir.clean = false;
        // standby.signal is written before the server starts, and its control file follows.
        dir.standby |= !primary;
        this.pg.end();
        this.pg.process = Process::Starting { primary };
        this.pg.shown = settings.upstream.clone();
        this.pg.loaded = settings;
        let delay = self.random(50, 600);
        self.pg_after(node, delay, PgEvent::Started);
        true
    }

    fn pg_started(&mut self, node: NodeId) {
        let Process::Starting { primary } = self.nodes[node].pg.process else { return };
        if self.fired_early(node) {
            return;
        }
        if self.nodes[node].failing {
            return self.panic(node);
        }
        let uid = self.unique();
        let this = &mut self.nodes[node];
        let Some(dir) = this.disk.dir_mut() else { return self.kill_postgres(node) };
        let count = dir.wal.len();
        dir.wal.flushed = count;
        this.pg.process = Process::Running { recovery: !primary };
        this.pg.waits = !this.pg.loaded.synchronous_standby_names.is_empty();
        if primary {
            // Whoever starts without standby.signal goes on writing on the timeline its log ends with.
            let timeline = dir.wal.timeline(count);
            let place = dir.wal.append(timeline, 120, uid);
            dir.wal.flushed = place + 1;
            dir.checkpoint = (timeline, dir.wal.end(place));
            dir.standby = false;
            this.pg.replayed = place + 1;
            self.note(|| format!("{node}: PostgreSQL runs as a primary on timeline {timeline}"));
            self.check_new_primary(node);
        } else {
            let delay = self.random(0, 200);
            self.pg_after(node, delay, PgEvent::Replayed(count));
            self.pg_after(node, 1, PgEvent::Connect);
            self.note(|| format!("{node}: PostgreSQL runs as a standby"));
        }
        self.pg_after(node, 1000, PgEvent::Timeouts);
        self.end_job(node, |job| matches!(job, Job::StartPrimary | Job::StartStandby | Job::Restart), None);
        self.poke(node, 1);
    }

    /// Begins a clean shutdown.
    pub(crate) fn stop_fast(&mut self, node: NodeId) {
        let pg = &mut self.nodes[node].pg;
        match pg.process {
            Process::Stopped => self.end_job(node, is_stop, None),
            Process::Running { recovery } => {
                pg.process = Process::Stopping { recovery, target: None };
                // Sessions end at once; those that waited are told that nobody confirmed.
                pg.waiting.clear();
                let delay = self.random(10, 300);
                let event = if recovery { PgEvent::Ended } else { PgEvent::ShutdownCheckpoint };
                self.pg_after(node, delay, event);
            }
            // Recovery is interrupted; nothing to write.
            Process::Starting { .. } => self.kill_postgres(node),
            Process::Stopping { .. } => {}
        }
    }

    fn shutdown_checkpoint(&mut self, node: NodeId) {
        let uid = self.unique();
        let this = &mut self.nodes[node];
        let Some(dir) = this.disk.dir_mut() else { return self.kill_postgres(node) };
        let timeline = dir.wal.timeline(dir.wal.len());
        let place = dir.wal.append(timeline, 120, uid);
        dir.wal.flushed = place + 1;
        dir.checkpoint = (timeline, dir.wal.end(place));
        dir.clean = true;
        this.pg.process = Process::Stopping { recovery: false, target: Some(place + 1) };
        self.note(|| format!("{node}: shutdown checkpoint written"));
        self.send_wal(node);
        self.pg_after(node, 3000, PgEvent::ShutdownDeadline);
        self.finish_shutdown_when_sent(node);
    }

    /// A primary that shuts down ends once every standby that streams has the shutdown checkpoint.
    pub(crate) fn finish_shutdown_when_sent(&mut self, node: NodeId) {
        let pg = &self.nodes[node].pg;
        if let Process::Stopping { target: Some(target), .. } = pg.process
            && pg.senders.values().all(|sender| sender.flushed >= target)
        {
            self.pg_after(node, 1, PgEvent::Ended);
        }
    }

    fn pg_ended(&mut self, node: NodeId) {
        let Process::Stopping { recovery, .. } = self.nodes[node].pg.process else { return };
        if recovery && let Some(dir) = self.nodes[node].disk.dir_mut() {
            dir.wal.flushed = dir.wal.len();
            dir.clean = true;
            dir.checkpoint = (dir.wal.timeline(dir.wal.len()), dir.wal.end(dir.wal.len()));
        }
        self.note(|| format!("{node}: PostgreSQL has shut down"));
        self.server_gone(node, true);
    }

    /// Kills every server process at once. What was written but not flushed may or may not be there afterwards.
    pub(crate) fn kill_postgres(&mut self, node: NodeId) {
        if self.nodes[node].pg.process == Process::Stopped {
            return;
        }
        if let Some(wal) = self.nodes[node].wal() {
            let (flushed, len) = (wal.flushed as u64, wal.len() as u64);
            let kept = self.random(flushed, len) as usize;
            if let Some(dir) = self.nodes[node].disk.dir_mut() {
                dir.wal.truncate(kept);
            }
        }
        self.note(|| format!("{node}: PostgreSQL is dead"));
        self.server_gone(node, true);
    }

    /// The process has ended. With `heard`, its peers notice at once, else only by timeouts.
    pub(crate) fn server_gone(&mut self, node: NodeId, heard: bool) {
        self.nodes[node].pg.held = false;
        self.nodes[node]
            .ailment
            .take_if(|ailment| matches!(ailment, Ailment::Deaf { .. } | Ailment::ReplayStill { .. }));
        let receiver = self.nodes[node].pg.receiver.take();
        let senders = std::mem::take(&mut self.nodes[node].pg.senders);
        self.cut_promotion_short(node);
        self.nodes[node].pg.end();
        if heard {
            if let Some(receiver) = receiver.filter(|receiver| self.connected(node, receiver.upstream)) {
                let delay = self.random(1, 5);
                self.pg_after(receiver.upstream, delay, PgEvent::SenderEnd(receiver.conn));
            }
            for sender in senders.into_values() {
                if self.connected(node, sender.node) {
                    let delay = self.random(1, 5);
                    self.pg_after(sender.node, delay, PgEvent::ReceiverEnd(sender.conn));
                }
            }
        }
        let died = || Some(JobFailure { message: "the postmaster died".to_owned(), hopeless: false });
        self.end_job(node, is_stop, None);
        self.end_job(
            node,
            |job| matches!(job, Job::StartPrimary | Job::StartStandby | Job::Promote | Job::Checkpoint | Job::Restart),
            died(),
        );
        if heard {
            self.poke(node, 2);
        }
        self.connections_reset(node);
    }

    /// A promotion that has opened its timeline leaves its history behind.
    fn cut_promotion_short(&mut self, node: NodeId) {
        let this = &mut self.nodes[node];
        if let (Some(timeline), Some(dir)) = (this.pg.promoting, this.disk.dir_mut())
            && self.now >= this.pg.opens
        {
            dir.opened = dir.opened.max(timeline);
            self.note(|| format!("{node}: a promotion is cut short that has opened timeline {timeline}"));
        }
    }

    /// Begins a promotion; false when there is no standby to promote, or its timeline is taken.
    pub(crate) fn promote_postgres(&mut self, node: NodeId) -> bool {
        let looks = self.setup.mutation != Some(Mutation::UsedTimelineLeft);
        if !self.nodes[node].pg.standby() || looks && self.timeline_is_taken(node) {
            return false;
        }
        if self.nodes[node].pg.promoting.is_none() {
            let delay = self.random(20, 300);
            // The history files it can see are those that it was shown by now.
            self.nodes[node].pg.promoting = Some(self.next_timeline(node));
            self.nodes[node].pg.opens = self.now + delay / 2;
            self.pg_after(node, delay, PgEvent::Promoted);
        }
        true
    }

    /// The history file of the number that is reserved is there already.
    fn timeline_is_taken(&self, node: NodeId) -> bool {
        let this = &self.nodes[node];
        let sync = this.agent.view.as_ref().and_then(|view| view.cluster.sync.as_ref());
        sync.zip(this.disk.dir()).is_some_and(|(sync, dir)| dir.opened >= sync.value.timeline)
    }

    fn pg_promoted(&mut self, node: NodeId) {
        if !self.nodes[node].pg.standby() || self.fired_early(node) {
            return;
        }
        let Some(timeline) = self.nodes[node].pg.promoting.take() else { return };
        let uid = self.unique();
        let this = &mut self.nodes[node];
        let receiver = this.pg.receiver.take();
        let senders = std::mem::take(&mut this.pg.senders);
        let Some(dir) = this.disk.dir_mut() else { return self.kill_postgres(node) };
        let place = dir.wal.append(timeline, 60, uid);
        dir.wal.flushed = place + 1;
        dir.checkpoint = (timeline, dir.wal.end(place));
        dir.standby = false;
        this.pg.replayed = place + 1;
        this.pg.flushing = place + 1;
        this.pg.process = Process::Running { recovery: false };
        this.pg.waits = !this.pg.loaded.synchronous_standby_names.is_empty();
        if let Some(receiver) = receiver {
            self.pg_after(receiver.upstream, 2, PgEvent::SenderEnd(receiver.conn));
        }
        for sender in senders.into_values() {
            self.pg_after(sender.node, 2, PgEvent::ReceiverEnd(sender.conn));
        }
        self.note(|| format!("{node}: promoted on timeline {timeline}"));
        self.promoted_by_others(node);
        self.check_new_primary(node);
        self.end_job(node, |job| *job == Job::Promote, None);
        self.poke(node, 1);
    }

    /// The number PostgreSQL picks: the first above its own without a history file. The agent shows it one for each
    /// number below the reserved one.
    fn next_timeline(&self, node: NodeId) -> Timeline {
        let this = &self.nodes[node];
        let own = this.disk.dir().map_or(1, |dir| dir.opened.max(dir.wal.timeline(dir.wal.len())));
        let sync = this.agent.view.as_ref().and_then(|view| view.cluster.sync.as_ref());
        let reserved = sync.filter(|_| self.setup.mutation != Some(Mutation::TimelineNotReserved));
        reserved.map_or(0, |sync| sync.value.timeline).max(own + 1)
    }

    fn pg_checkpointed(&mut self, node: NodeId) {
        let uid = self.unique();
        let this = &mut self.nodes[node];
        if this.pg.writable()
            && let Some(dir) = this.disk.dir_mut()
        {
            let timeline = dir.wal.timeline(dir.wal.len());
            let place = dir.wal.append(timeline, 120, uid);
            dir.checkpoint = (timeline, dir.wal.end(place));
            self.flush_soon(node);
        }
        self.end_job(node, |job| *job == Job::Checkpoint, None);
    }

    /// Replaces the data directory. PostgreSQL, if it runs, finds out later.
    pub(crate) fn replace_disk(&mut self, node: NodeId, disk: Disk) {
        self.note_loss(node);
        let before = std::mem::replace(&mut self.nodes[node].disk, disk);
        self.nodes[node].settings = Default::default();
        if self.nodes[node].pg.process != Process::Stopped {
            if let Disk::Ready(dir) = before {
                self.nodes[node].pg.open_files = Some(dir.wal);
            }
            let delay = self.random(0, 1000);
            self.pg_after(node, delay, PgEvent::Panic);
        }
        self.poke(node, 1);
    }

    /// Ends the job under way if it is one of these; the agent hears of it a little later.
    pub(crate) fn end_job(&mut self, node: NodeId, which: impl Fn(&Job) -> bool, failure: Option<JobFailure>) {
        if let Some((id, job)) = &self.nodes[node].agent.job
            && which(job)
        {
            let (id, delay) = (*id, self.random(0, 5));
            self.agent_after(node, delay, AgentEvent::JobEnd(id, failure));
        }
    }
}

fn is_stop(job: &Job) -> bool {
    matches!(job, Job::StopFast | Job::StopImmediate)
}
