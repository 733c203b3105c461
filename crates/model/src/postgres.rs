//! PostgreSQL: what it shows, how WAL travels, when a commit is acknowledged, and what jobs do to it.

use std::sync::Arc;

use matriarch_core::Lsn;
use matriarch_core::Timeline;
use matriarch_core::decide::{Data, DataFacts, Job, Running, Server};
use matriarch_core::rule::application_name;

use crate::check::Violation;
use crate::scene::Scene;
use crate::setup::{incarnation, member_name};
use crate::state::{Dir, Ended, Id, Names, Pg, Process, Record, Sender, name};
use crate::store::SYSTEM;

impl Scene<'_> {
    /// What the agent finds in its data directory.
    pub fn data(&self, me: Id) -> Data {
        match &self.state.at(me).dir {
            None => Data::Missing,
            Some(dir) => Data::Ready(DataFacts {
                system_identifier: SYSTEM.to_owned(),
                incarnation: Some(incarnation(dir.incarnation)),
                timeline: dir.checkpoint.0,
                checkpoint: Lsn(dir.checkpoint.1),
                clean: dir.clean,
                standby: dir.standby,
                unclaimed: false,
            }),
        }
    }

    /// What PostgreSQL answers.
    pub fn server(&self, me: Id) -> Server {
        let member = self.state.at(me);
        let (pg, Some(dir)) = (&member.pg, &member.dir) else { return Server::Stopped };
        if pg.process == Process::Stopped {
            return Server::Stopped;
        }
        if pg.process == Process::Stopping {
            return Server::Unready;
        }
        let app = |sender: &Sender| application_name(&member_name(sender.to), &incarnation(sender.incarnation));
        Server::Running(Running {
            in_recovery: pg.process == Process::Standby,
            timeline: dir.timeline(),
            lsn: Lsn(dir.wal.len() as u64),
            receiving: pg.receiver.is_some(),
            streaming: pg.receiver.is_some(),
            caught_up: true,
            upstream: pg.loaded.upstream.map(member_name),
            synchronous_standby_names: pg.loaded.names.text.clone(),
            replicas: pg.senders.iter().map(|sender| (app(sender), Lsn(sender.confirmed as u64))).collect(),
        })
    }

    /// The postmaster loads the settings; with `all`, so does every other process.
    pub fn reload(&mut self, me: Id, all: bool) -> bool {
        let before = self.state.at(me).pg.clone();
        let member = self.state.member(me);
        member.pg.loaded = member.file.clone();
        if all {
            for sender in &mut member.pg.senders {
                sender.names = member.file.names.clone();
            }
        }
        if member.pg.process == Process::Stopped {
            return false;
        }
        let changed = member.pg != before;
        if member.pg.process == Process::Primary && member.pg.loaded.names.needed == 0 {
            let waiting = std::mem::take(&mut member.pg.waiting);
            self.acknowledged(me, waiting, &Names::default());
        }
        changed
    }

    /// A standby connects to its upstream.
    pub fn connect(&mut self, me: Id) -> bool {
        let member = self.state.at(me);
        let Some(from) = member.pg.loaded.upstream else { return false };
        let idle =
            member.pg.process == Process::Standby && member.pg.receiver.is_none() && member.pg.promoting.is_none();
        let server = self.state.at(from);
        let (true, Process::Primary, Some(mine), Some(theirs)) = (idle, server.pg.process, &member.dir, &server.dir)
        else {
            return false;
        };
        if !theirs.serves(mine) {
            return false;
        }
        if !theirs.wal.starts_with(&mine.wal) {
            self.violate(Violation::TimelineTwice, || format!("{} streams other WAL from {}", name(me), name(from)));
            return true;
        }
        let (have, number) = (mine.wal.len(), mine.incarnation);
        self.state.member(me).pg.receiver = Some(from);
        let server = self.state.member(from);
        let names = server.pg.loaded.names.clone();
        server.pg.senders.retain(|sender| sender.to != me);
        let sender = Sender { to: me, incarnation: number, confirmed: have, under_way: have, names, alive: true };
        server.pg.senders.push(sender);
        server.pg.senders.sort_by_key(|sender| sender.to);
        self.note(|| format!("{}: streams from {}", name(me), name(from)));
        self.release_waiting(from);
        true
    }

    /// The next record reaches a standby, which flushes it; with `late`, the confirmation is still under way.
    pub fn stream(&mut self, me: Id, late: bool) -> bool {
        let Some(from) = self.state.at(me).pg.receiver else { return false };
        let sends = |sender: &Sender| sender.to == me && sender.alive;
        if !self.state.at(from).pg.senders.iter().any(sends) {
            return false;
        }
        let (Some(mine), Some(theirs)) = (&self.state.at(me).dir, &self.state.at(from).dir) else { return false };
        let Some(record) = theirs.wal.get(mine.wal.len()).copied() else { return false };
        let have = mine.wal.len() + 1;
        self.note(|| format!("{}: receives and flushes record {have} of {}", name(me), name(from)));
        if let Some(dir) = &mut self.state.member(me).dir {
            dir.wal.push(record);
        }
        if let Some(sender) = self.state.member(from).pg.senders.iter_mut().find(|sender| sender.to == me) {
            sender.under_way = have;
        }
        self.check_received(me, from);
        if !late {
            self.confirm(from, me);
        }
        true
    }

    /// A confirmation reaches the primary.
    pub fn confirm(&mut self, at: Id, from: Id) -> bool {
        let senders = &mut self.state.member(at).pg.senders;
        let Some(sender) = senders.iter_mut().find(|sender| sender.to == from) else { return false };
        if sender.confirmed == sender.under_way {
            return false;
        }
        sender.confirmed = sender.under_way;
        self.note(|| format!("{}: hears that {} has flushed", name(at), name(from)));
        self.release_waiting(at);
        self.state.member(at).pg.senders.retain(|sender| sender.alive || sender.confirmed < sender.under_way);
        true
    }

    /// Each walsender releases those who waited for enough voters, by the names that it has loaded itself.
    fn release_waiting(&mut self, at: Id) {
        let member = self.state.at(at);
        if member.pg.waiting == 0 || member.pg.process != Process::Primary {
            return;
        }
        let app = |sender: &Sender| application_name(&member_name(sender.to), &incarnation(sender.incarnation));
        let counts = |sender: &&Sender| sender.names.apps.contains(&app(sender));
        let mut confirmed: Vec<usize> =
            member.pg.senders.iter().filter(counts).map(|sender| sender.confirmed).collect();
        confirmed.sort_unstable_by(|a, b| b.cmp(a));
        let Some(dir) = &member.dir else { return };
        let reached = |names: &Names| names.needed.checked_sub(1).and_then(|at| confirmed.get(at)).copied();
        let most = member
            .pg
            .senders
            .iter()
            .filter(counts)
            .filter_map(|sender| Some((reached(&sender.names)?, sender.names.clone())))
            .max_by_key(|(reached, _)| *reached);
        let Some((reached, mut names)) = most else { return };
        // A process that has loaded the names late counts by those it knows.
        Arc::make_mut(&mut names).apps = member.pg.senders.iter().filter(counts).map(app).collect();
        let held = dir.wal.iter().take(reached).fold(0, |set: u16, record| set | 1 << record.commit);
        let done = member.pg.waiting & held;
        if done != 0 {
            self.state.member(at).pg.waiting &= !done;
            self.acknowledged(at, done, &names);
        }
    }

    /// A walreceiver ends that follows settings which are no longer loaded, or because its stream broke.
    pub fn receiver_end(&mut self, me: Id, broken: bool) -> bool {
        let pg = &self.state.at(me).pg;
        let Some(from) = pg.receiver.filter(|from| broken || pg.loaded.upstream != Some(*from)) else { return false };
        self.note(|| format!("{}: streams no more from {}", name(me), name(from)));
        self.state.member(me).pg.receiver = None;
        let senders = &mut self.state.member(from).pg.senders;
        senders.iter_mut().filter(|sender| sender.to == me).for_each(|sender| sender.alive = false);
        senders.retain(|sender| sender.alive || sender.confirmed < sender.under_way);
        true
    }

    /// A client commits.
    pub fn write(&mut self, me: Id) -> bool {
        let number = self.state.ledger.commits + 1;
        let member = self.state.member(me);
        let (Process::Primary, Some(dir)) = (member.pg.process, &mut member.dir) else { return false };
        dir.wal.push(Record { timeline: dir.timeline(), author: me, commit: number });
        let waits = member.pg.loaded.names.needed > 0;
        if waits {
            member.pg.waiting |= 1 << number;
        }
        self.state.ledger.commits = number;
        self.note(|| format!("{}: a client writes commit {number}", name(me)));
        if !waits {
            self.acknowledged(me, 1 << number, &Names::default());
        }
        true
    }

    /// Every process of PostgreSQL is gone.
    pub fn kill_postgres(&mut self, me: Id) {
        let member = self.state.member(me);
        let led = member.pg.led;
        member.pg = Pg { led, ..Pg::default() };
        for other in self.state.ids() {
            let pg = &self.state.at(other).pg;
            if pg.receiver == Some(me) {
                self.state.member(other).pg.receiver = None;
            } else if pg.senders.iter().any(|sender| sender.to == me) {
                let senders = &mut self.state.member(other).pg.senders;
                senders.iter_mut().filter(|sender| sender.to == me).for_each(|sender| sender.alive = false);
                senders.retain(|sender| sender.alive || sender.confirmed < sender.under_way);
            }
        }
    }

    /// The data directory is lost, and PostgreSQL with it.
    pub fn wipe(&mut self, me: Id) -> bool {
        if self.state.at(me).dir.is_none() {
            return false;
        }
        self.note(|| format!("{}: loses its data", name(me)));
        self.kill_postgres(me);
        let member = self.state.member(me);
        member.dir = None;
        member.file = Default::default();
        true
    }

    /// Somebody puts an old backup in the place of the data directory; it has an identity of its own.
    pub fn restore_backup(&mut self, me: Id) -> bool {
        self.note(|| format!("{}: its data is replaced by an old backup", name(me)));
        self.kill_postgres(me);
        let incarnation = self.state.incarnations;
        self.state.incarnations += 1;
        let wal = vec![Record { timeline: 1, author: 0, commit: 0 }];
        let member = self.state.member(me);
        member.dir = Some(Dir { incarnation, wal, checkpoint: (1, 0), clean: false, standby: true });
        member.file = Default::default();
        true
    }

    /// The job under way reaches its end, well or in vain.
    pub fn finish_job(&mut self, me: Id) -> bool {
        let Some(job) = self.state.at(me).busy.clone() else { return false };
        let process = self.state.at(me).pg.process;
        match job {
            Job::StartPrimary if process == Process::Stopped && self.starts_in_vain(me) => {
                self.note(|| format!("{}: the guard ends PostgreSQL before it lets anybody in", name(me)));
                let member = self.state.member(me);
                member.busy = None;
                member.finished = Some(Ended { job, failed: true });
                return true;
            }
            Job::StartPrimary | Job::StartStandby if process == Process::Stopped => self.start(me, &job),
            Job::StopImmediate => {
                self.kill_postgres(me);
                self.note(|| format!("{}: PostgreSQL is stopped at once", name(me)));
            }
            Job::StopFast if process == Process::Primary => return self.shutdown_checkpoint(me),
            Job::StopFast if process == Process::Stopping => return false,
            Job::StopFast => self.stopped(me, process),
            // It fails, and is tried again.
            Job::Clone | Job::Rewind if self.state.left.copies == 0 => return false,
            Job::Clone | Job::Rewind if process != Process::Stopped || !self.copy_leader(me, job == Job::Rewind) => {
                let member = self.state.member(me);
                member.busy = None;
                member.source = None;
                return true;
            }
            // It ends with the promotion, or with the process.
            Job::Promote if process == Process::Standby => return false,
            Job::Promote => return self.end_promotion(me),
            _ => {}
        }
        let member = self.state.member(me);
        member.busy = None;
        member.source = None;
        member.finished = Some(Ended { job, failed: false });
        true
    }

    fn start(&mut self, me: Id, job: &Job) {
        let member = self.state.member(me);
        let Some(dir) = &mut member.dir else { return };
        dir.clean = false;
        let primary = *job == Job::StartPrimary;
        dir.standby = !primary;
        member.pg.loaded = member.file.clone();
        member.pg.process = if primary { Process::Primary } else { Process::Standby };
        self.note(|| format!("{}: PostgreSQL runs as a {}", name(me), if primary { "primary" } else { "standby" }));
        if primary && let Some(sync) = self.state.sync().cloned().filter(|sync| sync.leader == member_name(me)) {
            self.check_new_leader(me, &sync);
        }
    }

    fn shutdown_checkpoint(&mut self, me: Id) -> bool {
        let member = self.state.member(me);
        let Some(dir) = &mut member.dir else { return false };
        dir.checkpoint = (dir.timeline(), dir.wal.len() as u64);
        dir.wal.push(Record { timeline: dir.timeline(), author: me, commit: 0 });
        dir.clean = true;
        member.pg.process = Process::Stopping;
        // Sessions end at once; those that waited are told that nobody confirmed.
        member.pg.waiting = 0;
        self.note(|| format!("{}: writes its shutdown checkpoint", name(me)));
        true
    }

    /// A primary that has written its shutdown checkpoint ends, whoever has received it.
    pub fn ended(&mut self, me: Id) -> bool {
        self.stopped(me, Process::Stopping);
        let member = self.state.member(me);
        if let Some(job) = member.busy.take_if(|job| *job == Job::StopFast) {
            member.finished = Some(Ended { job, failed: false });
        }
        true
    }

    fn stopped(&mut self, me: Id, process: Process) {
        self.kill_postgres(me);
        if process == Process::Standby
            && let Some(dir) = &mut self.state.member(me).dir
        {
            dir.clean = true;
            dir.checkpoint = (dir.timeline(), dir.wal.len() as u64);
        }
        self.note(|| format!("{}: PostgreSQL has shut down", name(me)));
    }

    /// A copy of the running leader; a rewind keeps the own data where there is nothing to undo.
    fn copy_leader(&mut self, me: Id, rewind: bool) -> bool {
        let leader = self.state.at(me).source;
        let Some(source) = leader.filter(|leader| *leader != me).map(|leader| self.state.at(leader)) else {
            return false;
        };
        let (Process::Primary, Some(theirs)) = (source.pg.process, &source.dir) else { return false };
        if rewind && let Some(mine) = &self.state.at(me).dir {
            let undone = !theirs.wal.starts_with(&mine.wal) && mine.timeline() != theirs.timeline();
            if !undone {
                if let Some(dir) = &mut self.state.member(me).dir {
                    dir.standby = true;
                }
                return true;
            }
        }
        let wal = theirs.wal.clone();
        self.state.left.copies -= 1;
        let number = self.state.incarnations;
        self.state.incarnations += 1;
        let checkpoint = (theirs_timeline(&wal), wal.len() as u64);
        let member = self.state.member(me);
        member.dir = Some(Dir { incarnation: number, wal, checkpoint, clean: false, standby: true });
        member.file = Default::default();
        self.note(|| format!("{}: has a copy of the leader's data", name(me)));
        true
    }

    /// The walsender of a primary that loads its names late.
    pub fn sender_reload(&mut self, me: Id, to: Id) -> bool {
        let member = self.state.member(me);
        let names: Arc<Names> = member.pg.loaded.names.clone();
        let Some(sender) = member.pg.senders.iter_mut().find(|sender| sender.to == to) else { return false };
        if sender.names == names {
            return false;
        }
        sender.names = names;
        self.note(|| format!("{}: the walsender to {} loads its settings", name(me), name(to)));
        true
    }
}

fn theirs_timeline(wal: &[Record]) -> Timeline {
    wal.last().map_or(1, |record| record.timeline)
}
