//! Streaming: who may connect, how WAL and confirmations travel, and when a commit is acknowledged.

use std::rc::Rc;

use crate::event::PgEvent;
use crate::node::NodeId;
use crate::server::{Names, Process, Receiver, Sender};
use crate::wal::Record;
use crate::world::World;

impl World {
    /// A standby tries to connect, and keeps trying.
    pub(crate) fn connect(&mut self, node: NodeId) {
        let this = &self.nodes[node];
        if !this.pg.standby() || this.pg.receiver.is_some() || this.pg.promoting.is_some() {
            return;
        }
        let Some(upstream) = this.pg.loaded.upstream.clone() else { return };
        if !self.try_connect(node, self.find(&upstream)) {
            let delay = self.random(100, 300);
            self.pg_after(node, delay, PgEvent::Connect);
        }
    }

    fn try_connect(&mut self, node: NodeId, upstream: Option<NodeId>) -> bool {
        let Some(upstream) = upstream.filter(|upstream| *upstream != node) else { return false };
        let server = &self.nodes[upstream];
        let running = matches!(server.pg.process, Process::Running { .. });
        if !running || !server.moves() || !self.connected(node, upstream) {
            return false;
        }
        let (Some(mine), Some(theirs), Some(app)) = (self.nodes[node].wal(), server.wal(), self.nodes[node].app())
        else {
            return false;
        };
        let system = |node: NodeId| self.nodes[node].disk.dir().map(|dir| &dir.system);
        if system(node) != system(upstream) {
            return false;
        }
        let have = mine.len();
        if theirs.serves(mine.timeline(have), mine.end(have)).is_err() {
            return false;
        }
        if !theirs.begins_with(mine) {
            let text = format!(
                "{} streams from {} though their WAL differs at {}/{}: the same timeline was written twice",
                self.nodes[node].name,
                server.name,
                mine.timeline(have),
                mine.end(have)
            );
            self.violate(text);
            return false;
        }
        let conn = self.unique();
        let names = Rc::new(Names::parse(&self.nodes[upstream].pg.loaded.synchronous_standby_names));
        let sender = Sender { conn, node, sent: have, flushed: 0, names, arrives: 0, silent: 0 };
        self.nodes[upstream].pg.senders.insert(app, sender);
        self.nodes[node].pg.received = true;
        self.nodes[node].pg.receiver = Some(Receiver { conn, upstream, ending: false, silent: 0 });
        // What an earlier life of the standby wrote is flushed before it is confirmed.
        let delay = self.random(1, 4);
        self.pg_after(node, delay, PgEvent::StandbyFlushed(conn, have));
        self.note(|| format!("{node}: streams from {upstream}"));
        self.send_wal(upstream);
        self.poke(node, 1);
        self.poke(upstream, 5);
        true
    }

    /// Sends what is flushed to every standby that does not have it yet.
    pub(crate) fn send_wal(&mut self, node: NodeId) {
        if !self.nodes[node].pg.sends() {
            return;
        }
        let Some(flushed) = self.nodes[node].wal().map(|wal| wal.flushed) else { return };
        let apps: Vec<String> = self.nodes[node]
            .pg
            .senders
            .iter()
            .filter(|(_, sender)| sender.sent < flushed)
            .map(|(app, _)| app.clone())
            .collect();
        for app in apps {
            let Some(sender) = self.nodes[node].pg.senders.get_mut(&app) else { continue };
            let (conn, to, from) = (sender.conn, sender.node, sender.sent);
            sender.sent = flushed;
            let records = self.nodes[node].wal().map(|wal| wal.slice(from, flushed)).unwrap_or_default();
            let soonest = self.now + self.random(1, 3);
            let Some(sender) = self.nodes[node].pg.senders.get_mut(&app) else { continue };
            // One stream: nothing overtakes.
            sender.arrives = sender.arrives.max(soonest);
            let delay = sender.arrives - self.now;
            self.pg_after(to, delay, PgEvent::Data(conn, from, records));
        }
    }

    pub(crate) fn wal_arrives(&mut self, node: NodeId, conn: u64, from: usize, records: Vec<Record>) {
        let Some(receiver) = self.nodes[node].pg.receiver.as_ref().filter(|receiver| receiver.conn == conn) else {
            return;
        };
        if !self.connected(node, receiver.upstream) {
            // Sent again and again, until timeouts end the stream.
            self.pg_after(node, 200, PgEvent::Data(conn, from, records));
            return;
        }
        let full = self.nodes[node].is_full();
        let Some(dir) = self.nodes[node].disk.dir_mut() else { return };
        if dir.wal.len() != from {
            // A segment was lost while the members were cut off from each other: the stream ends.
            if from > dir.wal.len() {
                self.pg_after(node, 1, PgEvent::ReceiverEnd(conn));
            }
            return;
        }
        if full {
            // What does not fit ends the stream, which begins anew and ends again.
            self.pg_after(node, 1, PgEvent::ReceiverEnd(conn));
            return;
        }
        for record in records {
            dir.wal.push(record);
        }
        let upto = dir.wal.len();
        let slow = self.nodes[node].slow_disk.unwrap_or(0);
        let delay = slow + self.random(0, 2);
        self.pg_after(node, delay, PgEvent::StandbyFlushed(conn, upto));
    }

    pub(crate) fn standby_flushed(&mut self, node: NodeId, conn: u64, upto: usize) {
        let Some(receiver) = self.nodes[node].pg.receiver.clone().filter(|receiver| receiver.conn == conn) else {
            return;
        };
        let Some(dir) = self.nodes[node].disk.dir_mut() else { return };
        let upto = upto.min(dir.wal.len());
        dir.wal.flushed = dir.wal.flushed.max(upto);
        if !self.nodes[node].replay_is_still() {
            self.nodes[node].pg.replayed = self.nodes[node].pg.replayed.max(upto);
        }
        if self.connected(node, receiver.upstream) {
            let delay = self.random(1, 3);
            self.pg_after(receiver.upstream, delay, PgEvent::Confirm(conn, upto));
        } else {
            self.pg_after(node, 200, PgEvent::StandbyFlushed(conn, upto));
        }
        // A standby passes on what it has.
        if !self.nodes[node].pg.senders.is_empty() {
            self.send_wal(node);
        }
    }

    pub(crate) fn confirmed(&mut self, node: NodeId, conn: u64, upto: usize) {
        let Some((app, sender)) = self.nodes[node].pg.senders.iter_mut().find(|(_, sender)| sender.conn == conn) else {
            return;
        };
        sender.flushed = sender.flushed.max(upto);
        sender.silent = 0;
        let (app, names) = (app.clone(), sender.names.clone());
        if names.apps.contains(&app) {
            self.acknowledge_up_to(node, &names);
        }
        self.finish_shutdown_when_sent(node);
    }

    /// What a walsender does when a confirmation comes: it releases those who waited for enough voters, by the rule
    /// that it has loaded itself.
    fn acknowledge_up_to(&mut self, node: NodeId, names: &Names) {
        let pg = &mut self.nodes[node].pg;
        if !pg.writable() || pg.waiting.is_empty() {
            return;
        }
        let Some(count) = pg.quorum(names.needed) else { return };
        let (released, waiting) = pg.waiting.iter().partition(|commit| commit.index < count);
        pg.waiting = waiting;
        let released: Vec<_> = released;
        for commit in released {
            self.acknowledge(node, commit, names);
        }
    }

    pub(crate) fn primary_flushed(&mut self, node: NodeId, upto: usize) {
        let Some(dir) = self.nodes[node].disk.dir_mut() else { return };
        dir.wal.flushed = dir.wal.flushed.max(upto.min(dir.wal.len()));
        let flushed = dir.wal.flushed;
        self.send_wal(node);
        let pg = &mut self.nodes[node].pg;
        let waits = pg.waits;
        let (mut done, mut waiting) = (Vec::new(), Vec::new());
        for mut commit in std::mem::take(&mut pg.waiting) {
            if commit.index < flushed && !commit.synchronous && !waits {
                done.push(commit);
            } else {
                commit.synchronous |= commit.index < flushed;
                waiting.push(commit);
            }
        }
        pg.waiting = waiting;
        for commit in done {
            self.acknowledge(node, commit, &Names::default());
        }
        self.flush_soon(node);
    }

    /// Begins a flush of what is written, unless one is under way.
    pub(crate) fn flush_soon(&mut self, node: NodeId) {
        let Some((len, flushed)) = self.nodes[node].wal().map(|wal| (wal.len(), wal.flushed)) else { return };
        let slow = self.nodes[node].slow_disk.unwrap_or(0);
        let pg = &mut self.nodes[node].pg;
        if pg.flushing > flushed || len == flushed {
            return;
        }
        pg.flushing = len;
        let delay = slow + self.random(1, 3);
        self.pg_after(node, delay, PgEvent::Flushed(len));
    }

    /// The postmaster reads the settings; its children follow one by one. Without the files it keeps those it has.
    pub(crate) fn pg_reload(&mut self, node: NodeId) {
        if self.nodes[node].disk.dir().is_none() {
            return;
        }
        let settings = self.nodes[node].settings.clone();
        let sees = !self.nodes[node].replay_is_still();
        let pg = &mut self.nodes[node].pg;
        // Under another name it streams anew.
        let renamed = std::mem::take(&mut pg.by_others);
        if pg.loaded == settings && !renamed {
            return;
        }
        let upstream_changed = pg.loaded.upstream != settings.upstream || renamed;
        pg.loaded = settings;
        // A session looks for signals before its next statement.
        let delay = self.random(0, 5);
        self.pg_after(node, delay, PgEvent::SessionReload);
        let pg = &mut self.nodes[node].pg;
        let conns: Vec<u64> = pg.senders.values().map(|sender| sender.conn).collect();
        if upstream_changed
            && sees
            && let Some(receiver) = &mut pg.receiver
        {
            receiver.ending = true;
            let conn = receiver.conn;
            let delay = self.random(1, 40);
            self.pg_after(node, delay, PgEvent::ReceiverEnd(conn));
        }
        for conn in conns {
            // Each process looks at its own pace; a busy one is late.
            let delay = if self.chance(10) { self.random(5, 80) } else { self.random(0, 5) };
            self.pg_after(node, delay, PgEvent::SenderReload(conn));
        }
        let delay = self.random(0, 5);
        self.pg_after(node, delay, PgEvent::CheckpointerReload);
        self.pg_after(node, 1, PgEvent::Connect);
        self.poke(node, 1);
    }

    /// The startup process goes on: it sees its settings and replays what has come meanwhile.
    pub(crate) fn replay_again(&mut self, node: NodeId) {
        self.nodes[node].ailment = None;
        let count = self.nodes[node].wal().map_or(0, |wal| wal.len());
        self.pg_after(node, 1, PgEvent::Replayed(count));
        let pg = &mut self.nodes[node].pg;
        let upstream = pg.loaded.upstream.clone();
        let current = pg.receiver.as_ref().map(|receiver| (receiver.upstream, receiver.conn));
        if let Some((from, conn)) = current
            && upstream.is_none_or(|name| self.find(&name) != Some(from))
        {
            self.pg_after(node, 1, PgEvent::ReceiverEnd(conn));
        }
        self.poke(node, 1);
    }

    pub(crate) fn sender_reload(&mut self, node: NodeId, conn: u64) {
        let pg = &mut self.nodes[node].pg;
        let names = Rc::new(Names::parse(&pg.loaded.synchronous_standby_names));
        if let Some(sender) = pg.senders.values_mut().find(|sender| sender.conn == conn) {
            sender.names = names;
        }
    }

    pub(crate) fn checkpointer_reload(&mut self, node: NodeId) {
        let pg = &mut self.nodes[node].pg;
        pg.waits = !pg.loaded.synchronous_standby_names.is_empty();
        if pg.waits || !pg.writable() {
            return;
        }
        let (released, waiting) = std::mem::take(&mut pg.waiting).into_iter().partition(|commit| commit.synchronous);
        pg.waiting = waiting;
        let released: Vec<_> = released;
        for commit in released {
            self.acknowledge(node, commit, &Names::default());
        }
    }

    /// A walreceiver ends; what it wrote is flushed, and nobody is told.
    pub(crate) fn receiver_end(&mut self, node: NodeId, conn: u64) {
        let pg = &mut self.nodes[node].pg;
        let Some(receiver) = pg.receiver.take_if(|receiver| receiver.conn == conn) else { return };
        if let Some(dir) = self.nodes[node].disk.dir_mut() {
            dir.wal.flushed = dir.wal.len();
            let (count, delay) = (dir.wal.len(), self.random(0, 30));
            self.pg_after(node, delay, PgEvent::Replayed(count));
        }
        if self.connected(node, receiver.upstream) {
            self.pg_after(receiver.upstream, 1, PgEvent::SenderEnd(conn));
        }
        self.note(|| format!("{node}: streams no more"));
        let delay = self.random(5, 100);
        self.pg_after(node, delay, PgEvent::Connect);
        self.poke(node, 1);
    }

    pub(crate) fn sender_end(&mut self, node: NodeId, conn: u64) {
        self.nodes[node].pg.senders.retain(|_, sender| sender.conn != conn);
        self.finish_shutdown_when_sent(node);
        self.poke(node, 5);
    }

    /// wal_sender_timeout and wal_receiver_timeout.
    pub(crate) fn stream_timeouts(&mut self, node: NodeId) {
        let limit = self.setup.stream_timeout;
        let mut over = Vec::new();
        let senders: Vec<(String, NodeId, u64)> =
            self.nodes[node].pg.senders.iter().map(|(app, s)| (app.clone(), s.node, s.conn)).collect();
        for (app, peer, conn) in senders {
            let other = &self.nodes[peer];
            let hears = other.moves()
                && self.connected(node, peer)
                && other.pg.receiver.as_ref().is_some_and(|receiver| receiver.conn == conn);
            if let Some(sender) = self.nodes[node].pg.senders.get_mut(&app) {
                sender.silent = if hears { 0 } else { sender.silent + 1 };
                if sender.silent >= limit {
                    over.push(PgEvent::SenderEnd(conn));
                }
            }
        }
        if let Some(Receiver { upstream, conn, .. }) = self.nodes[node].pg.receiver {
            let other = &self.nodes[upstream];
            let hears = other.moves()
                && self.connected(node, upstream)
                && other.pg.senders.values().any(|sender| sender.conn == conn);
            if let Some(receiver) = &mut self.nodes[node].pg.receiver {
                receiver.silent = if hears { 0 } else { receiver.silent + 1 };
                if receiver.silent >= limit {
                    over.push(PgEvent::ReceiverEnd(conn));
                }
            }
        }
        for event in over {
            self.pg_after(node, 0, event);
        }
        // Standbys report now and then even when nothing is new.
        let reports: Vec<Rc<Names>> = self.nodes[node]
            .pg
            .senders
            .iter()
            .filter(|(app, sender)| sender.names.apps.contains(*app))
            .map(|(_, sender)| sender.names.clone())
            .collect();
        for names in reports {
            self.acknowledge_up_to(node, &names);
        }
        self.pg_after(node, 1000, PgEvent::Timeouts);
    }
}
