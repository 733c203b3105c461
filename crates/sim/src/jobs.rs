//! The jobs a decision may ask for, and how they end.

use matriarch_core::decide::{Job, JobFailure};

use crate::disk::{Dir, Disk};
use crate::event::{AgentEvent, PgEvent};
use crate::mutation::Mutation;
use crate::node::NodeId;
use crate::server::Process;
use crate::wal::Wal;
use crate::world::World;

impl World {
    pub(crate) fn run_job(&mut self, node: NodeId, job: Job) {
        let id = self.unique();
        self.note(|| format!("{node}: {job:?} begins"));
        self.check_untouched(node, &job);
        self.nodes[node].agent.job = Some((id, job.clone()));
        self.nodes[node].agent.work_done = false;
        self.nodes[node].held_start = None;
        if self.chance(self.setup.flaky) && !matches!(job, Job::StopImmediate | Job::StopFast) {
            let delay = self.random(10, 500);
            let failure = JobFailure { message: format!("{job:?} did not work this time"), hopeless: self.chance(20) };
            self.agent_after(node, delay, AgentEvent::JobEnd(id, Some(failure)));
            return;
        }
        let started = match job {
            Job::Initdb | Job::Clone | Job::Rewind => {
                let delay = match job {
                    Job::Initdb => self.random(300, 1500),
                    Job::Clone => self.random(300, 4000),
                    _ => self.random(100, 1500),
                };
                self.agent_after(node, delay, AgentEvent::Work(id));
                true
            }
            Job::StartPrimary | Job::StartStandby if self.nodes[node].holds_starts => {
                self.nodes[node].held_start = Some(id);
                true
            }
            Job::StartPrimary | Job::StartStandby => match self.nodes[node].pg.process {
                Process::Stopped => self.start_postgres(node, job == Job::StartPrimary),
                _ => false,
            },
            Job::StopFast => {
                self.stop_fast(node);
                true
            }
            Job::StopImmediate => {
                let delay = self.random(2, 20);
                self.agent_after(node, delay, AgentEvent::Work(id));
                true
            }
            Job::Promote => self.promote_postgres(node),
            Job::Checkpoint => {
                let delay = self.random(5, 400);
                self.pg_after(node, delay, PgEvent::Checkpointed);
                self.nodes[node].pg.writable()
            }
            Job::Settle => {
                let delay = self.random(1, 100);
                self.agent_after(node, delay, AgentEvent::JobEnd(id, None));
                true
            }
            Job::Restart => false,
        };
        if !started {
            let failure = JobFailure { message: format!("{job:?} is not possible now"), hopeless: false };
            self.agent_after(node, 5, AgentEvent::JobEnd(id, Some(failure)));
        }
    }

    /// What was held up before there was a process goes on. A guard that has fired looks every 20 ms, sooner than PostgreSQL
    /// lets anybody in.
    pub(crate) fn start_held(&mut self, node: NodeId, id: u64) {
        let Some((_, job)) = self.nodes[node].agent.job.clone().filter(|(running, _)| *running == id) else { return };
        self.nodes[node].held_start = None;
        let primary = job == Job::StartPrimary;
        let stopped = self.nodes[node].pg.process == Process::Stopped;
        if !stopped || !self.start_postgres(node, primary) {
            let failure = JobFailure { message: format!("{job:?} is not possible now"), hopeless: false };
            return self.end_job(node, |running| *running == job, Some(failure));
        }
        self.note(|| format!("{node}: {job:?} is held up no longer"));
        let acts = self.setup.mutation != Some(Mutation::GuardFiresOnce) && !self.mutes_guard();
        if primary && self.nodes[node].fired && acts {
            self.note(|| format!("{node}: the guard, which has fired, kills PostgreSQL"));
            self.kill_postgres(node);
        }
    }

    /// A job that the agent does itself reaches its end.
    pub(crate) fn work_done(&mut self, node: NodeId, id: u64) {
        let Some((_, job)) = self.nodes[node].agent.job.clone().filter(|(running, _)| *running == id) else { return };
        let failure = match job {
            Job::Initdb => {
                self.initdb(node);
                None
            }
            Job::Clone => self.copy_leader(node).err(),
            Job::Rewind => self.rewind(node).err(),
            _ => {
                self.kill_postgres(node);
                None
            }
        };
        self.nodes[node].agent.work_done = true;
        // Stopping ends its job itself once the server is gone.
        self.end_job(node, |running| *running == job, failure);
    }

    fn initdb(&mut self, node: NodeId) {
        self.nodes[node].disk = self.unclaimed();
        self.nodes[node].settings = Default::default();
    }

    /// What initdb makes.
    pub(crate) fn unclaimed(&mut self) -> Disk {
        let system = format!("{}", 7_000_000_000_000_000_000 + self.unique());
        let uid = self.unique();
        let incarnation = Some(self.incarnation());
        let mut wal = Wal::default();
        wal.append(1, 120, uid);
        wal.flushed = 1;
        let checkpoint = (1, wal.end(0));
        let dir = Dir { system, incarnation, wal, opened: 0, checkpoint, clean: true, standby: false, unclaimed: true };
        Disk::Ready(Box::new(dir))
    }

    /// The leader the agent believes in, if a primary answers there.
    fn source(&self, node: NodeId) -> Result<NodeId, JobFailure> {
        let failed = |text: &str| JobFailure { message: text.to_owned(), hopeless: false };
        let view = self.nodes[node].agent.view.as_ref().ok_or_else(|| failed("the store was never read"))?;
        let leader = view.cluster.leader.as_ref().ok_or_else(|| failed("nobody leads"))?;
        let source = self.find(&leader.name).ok_or_else(|| failed("the leader is unknown"))?;
        let server = &self.nodes[source];
        if source == node || !server.pg.writable() || !server.moves() || !self.connected(node, source) {
            return Err(failed("the leader does not answer"));
        }
        Ok(source)
    }

    fn copy_leader(&mut self, node: NodeId) -> Result<(), JobFailure> {
        let source = self.source(node)?;
        let failed = JobFailure { message: "the leader's data is gone".to_owned(), hopeless: false };
        let mut dir = self.nodes[source].disk.dir().cloned().ok_or(failed)?;
        self.adopt_copy(node, &mut dir);
        self.nodes[node].disk = Disk::Ready(Box::new(dir));
        self.nodes[node].settings = Default::default();
        self.nodes[node].agent.reinit = false;
        Ok(())
    }

    /// What a copy of a running primary holds: everything it had flushed, and an identity of its own.
    fn adopt_copy(&mut self, _node: NodeId, dir: &mut Dir) {
        dir.wal.truncate(dir.wal.flushed);
        dir.incarnation = Some(self.incarnation());
        dir.clean = false;
        dir.standby = true;
        dir.unclaimed = false;
        dir.checkpoint = (dir.wal.timeline(dir.wal.len()), dir.wal.end(dir.wal.len()));
    }

    fn rewind(&mut self, node: NodeId) -> Result<(), JobFailure> {
        let source = self.source(node)?;
        let hopeless = |text: &str| JobFailure { message: text.to_owned(), hopeless: true };
        let mut theirs = self.nodes[source].disk.dir().cloned().ok_or_else(|| hopeless("the leader's data is gone"))?;
        let mine = self.nodes[node].disk.dir().ok_or_else(|| hopeless("there is nothing to rewind"))?;
        if mine.system != theirs.system {
            return Err(hopeless("the data belongs to another cluster"));
        }
        let common = mine.wal.common(&theirs.wal).ok_or_else(|| hopeless("no common timeline"))?;
        if common == mine.wal.len() {
            // Nothing to undo: PostgreSQL is content with its own log and goes on from there.
            if let Some(dir) = self.nodes[node].disk.dir_mut() {
                dir.standby = true;
            }
            return Ok(());
        }
        self.adopt_copy(node, &mut theirs);
        self.nodes[node].disk = Disk::Ready(Box::new(theirs));
        self.nodes[node].settings = Default::default();
        Ok(())
    }
}
