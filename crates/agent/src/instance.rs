//! The agent's hand on PostgreSQL: what was last seen of it, and the tasks that look and act.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use matriarch_core::decide::{Data, Finished, Job, Millis, Server};
use matriarch_core::settling::Settling;
use matriarch_core::{Incarnation, MemberName};
use matriarch_dcs::boot_clock_ms;
use matriarch_postgres::clone::CloneProgress;
use matriarch_postgres::sql::PendingRestart;
use matriarch_postgres::{ControlData, Instance, Postmaster, Probe, Sql, foreign, postmaster, process};
use rustix::process::Signal;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::conf_files::ConfFiles;
pub use crate::data_dir::DataReport;
use crate::data_dir::data_report;
use crate::event::Event;
pub use crate::jobs::JobReport;
use crate::jobs::{self, JobContext};
use crate::options::Options;
pub use crate::sighting::Sighting;
use crate::sighting::{self, sight};

/// How often PostgreSQL is asked which settings wait for a restart.
const PENDING_INTERVAL: Millis = 10_000;
/// When PostgreSQL has surely loaded settings.
const LOADED_BY: Millis = 1_000;
/// It takes some milliseconds as a rule, and a promotion waits for it: when to look again.
const LOADING: [Duration; 3] = [Duration::from_millis(4), Duration::from_millis(8), Duration::from_millis(16)];
/// How long it is asked at every look after settings were loaded.
const PENDING_AFTER_RELOAD: Millis = 3_000;

/// Everything known about PostgreSQL.
pub struct Pg {
    options: Arc<Options>,
    instance: Arc<Instance>,
    /// Its settings and rules.
    pub files: Arc<ConfFiles>,
    events: UnboundedSender<Event>,
    /// The data directory as last looked at.
    pub data: Data,
    /// The control file as last read.
    pub control: Option<ControlData>,
    /// The line of data in the directory.
    pub line: Option<String>,
    /// The server as last seen.
    pub server: Server,
    /// The newest answer, while it runs.
    pub probe: Option<Probe>,
    /// Settings that wait for a restart, as PostgreSQL says.
    pending_restart: Vec<PendingRestart>,
    pending_due: Millis,
    configured_at: Millis,
    /// Whether what is seen of the upstream is all there is.
    settling: Settling,
    /// Why a standby that should stream cannot, as its log tells.
    pub stream_problem: Option<String>,
    /// The newest job that ended.
    pub finished: Option<Finished>,
    /// When the look that what is known rests on began.
    pub looked: Millis,
    /// Bytes of the clone under way.
    pub progress: Arc<watch::Sender<CloneProgress>>,
    /// The newest copy came from the archive and has not streamed yet.
    pub unproved: Arc<AtomicBool>,
    postmaster: Option<Arc<Postmaster>>,
    sql: Option<Arc<Sql>>,
    busy: Option<(Job, JoinHandle<()>)>,
    /// Taken over from an earlier agent and not yet looked at.
    unseen: bool,
    probing: bool,
    probe_again: bool,
    /// `primary_conninfo` as we wrote it, and whom it names.
    upstreams: BTreeMap<String, MemberName>,
    /// Counts them, so that a look at the data from before a job is not taken for one from after it.
    jobs_begun: u64,
}

impl Pg {
    pub fn new(options: Arc<Options>, events: UnboundedSender<Event>) -> Pg {
        let instance = Arc::new(options.instance.clone());
        Pg {
            files: Arc::new(ConfFiles::new(instance.clone())),
            instance,
            options,
            events,
            data: Data::Unknown,
            control: None,
            line: None,
            server: Server::Stopped,
            probe: None,
            pending_restart: Vec::new(),
            pending_due: 0,
            configured_at: 0,
            settling: Settling::default(),
            stream_problem: None,
            finished: None,
            looked: 0,
            progress: Arc::new(watch::channel(CloneProgress::default()).0),
            unproved: Arc::default(),
            postmaster: None,
            sql: None,
            busy: None,
            unseen: false,
            probing: false,
            probe_again: false,
            upstreams: BTreeMap::new(),
            jobs_begun: 0,
        }
    }

    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// The connection, for the odd question; decisions use probes.
    pub fn sql(&self) -> Option<Arc<Sql>> {
        self.sql.clone()
    }

    /// The job under way.
    pub fn busy(&self) -> Option<&Job> {
        self.busy.as_ref().map(|(job, _)| job)
    }

    /// Identity of the data.
    pub fn incarnation(&self) -> Option<Incarnation> {
        match &self.data {
            Data::Ready(facts) => facts.incarnation.clone(),
            _ => None,
        }
    }

    /// Takes over what an earlier agent left running, or makes sure that nothing runs.
    pub fn adopt(&mut self) -> anyhow::Result<()> {
        match postmaster::adopt(&self.instance, &self.options.postgres_log)? {
            Some(_) if process::any_stopped(&self.instance.data_dir) => {
                // The kernel continues the postmaster when its stopped agent dies, but not its children: a primary that
                // answers and cannot commit, or replicas that never get their slots back.
                tracing::warn!("PostgreSQL was stopped by a signal together with an agent that is gone: ending it");
                self.server = Server::Unready;
                self.confirm_gone();
            }
            Some(found) => {
                tracing::info!("PostgreSQL already runs (pid {}): taking it over", found.pid());
                if foreign::is_running(&self.instance) {
                    self.come_in(&found);
                }
                self.unseen = true;
                self.running(Arc::new(found));
            }
            None if process::tree(&self.instance.data_dir).is_empty() => {}
            None => {
                tracing::warn!("processes of a PostgreSQL that died are left: ending them");
                self.server = Server::Unready;
                self.confirm_gone();
            }
        }
        Ok(())
    }

    /// Another program has started it: its rules may not let us in.
    fn come_in(&self, found: &Postmaster) {
        foreign::forget_old_socket(&self.instance);
        match foreign::let_us_in(&self.instance) {
            Ok(changed) => {
                tracing::info!(
                    "another program has started it: it goes on with that program's settings until it is restarted"
                );
                if changed && let Err(error) = found.signal(Signal::HUP) {
                    tracing::error!("PostgreSQL could not be told to load the rules for our users: {error}");
                }
            }
            Err(error) => tracing::error!("PostgreSQL may not let us in: {error}"),
        }
    }

    fn running(&mut self, postmaster: Arc<Postmaster>) {
        self.server = Server::Unready;
        self.postmaster = Some(postmaster.clone());
        let (events, data_dir) = (self.events.clone(), self.instance.data_dir.clone());
        tokio::spawn(async move {
            postmaster.wait_exit().await;
            // Backends outlive their postmaster for a while and may commit.
            end_everything(&data_dir).await;
            let _ = events.send(Event::ServerGone);
        });
    }

    fn confirm_gone(&self) {
        let (events, data_dir) = (self.events.clone(), self.instance.data_dir.clone());
        tokio::spawn(async move {
            end_everything(&data_dir).await;
            let _ = events.send(Event::ServerGone);
        });
    }

    /// Every process is gone. Jobs report for themselves, so this may come twice.
    pub fn gone(&mut self) {
        if self.postmaster.as_ref().is_some_and(|postmaster| postmaster.is_alive()) {
            // The news of an earlier postmaster.
            return;
        }
        (self.postmaster, self.unseen) = (None, false);
        self.sql = None;
        self.probe = None;
        self.server = Server::Stopped;
        self.look_at_data();
    }

    /// Looks at the data directory; the answer is an event. Until then it is unknown.
    pub fn look_at_data(&mut self) {
        self.data = Data::Unknown;
        let (events, instance) = (self.events.clone(), self.instance.clone());
        tokio::spawn(async move {
            let report = data_report(&instance).await;
            let _ = events.send(Event::DataSeen(Box::new(report)));
        });
    }

    /// Looks at it once more while PostgreSQL rests: somebody may have put it right. What is known stays so until then.
    pub fn look_at_data_again(&mut self) {
        if self.busy.is_some() || self.server != Server::Stopped || self.data == Data::Unknown {
            return;
        }
        let (events, instance, second_look) = (self.events.clone(), self.instance.clone(), Some(self.jobs_begun));
        tokio::spawn(async move {
            let report = DataReport { second_look, ..data_report(&instance).await };
            let _ = events.send(Event::DataSeen(Box::new(report)));
        });
    }

    /// A running server whose directory was deleted under it; PostgreSQL itself notices only within a minute.
    pub fn notice_deleted_data(&mut self) {
        let deleted = matches!(self.data, Data::Ready(_)) && !self.instance.data("global/pg_control").exists();
        if deleted && self.busy.is_none() && self.server != Server::Stopped {
            tracing::error!("the data directory {} was deleted", self.instance.data_dir.display());
            self.data = Data::Missing;
        }
    }

    /// Asks PostgreSQL how it is; the answer is an event.
    pub fn look(&mut self) {
        if self.probing {
            self.probe_again = true;
            return;
        }
        if self.postmaster.is_none() {
            return;
        }
        self.probing = true;
        let (instance, events, sql) = (self.instance.clone(), self.events.clone(), self.sql.clone());
        let pending = self.pending_restart_is_due();
        tokio::spawn(async move {
            let sighting = sight(&instance, sql, pending).await;
            let _ = events.send(Event::Seen(Box::new(sighting)));
        });
    }

    /// Asked for seldom, since it reads files, and for a moment after new settings, which PostgreSQL loads in its own time.
    fn pending_restart_is_due(&mut self) -> bool {
        let now = boot_clock_ms();
        let due = now >= self.pending_due || now < self.configured_at + PENDING_AFTER_RELOAD || self.probe.is_none();
        if due {
            self.pending_due = now + PENDING_INTERVAL;
        }
        due
    }

    /// Settings that wait for a restart, also those that a standby keeps until its primary has followed.
    pub fn pending_restarts(&self) -> Vec<PendingRestart> {
        let mut pending = self.pending_restart.clone();
        let kept = self.files.kept();
        pending
            .extend(kept.into_iter().filter(|kept| !self.pending_restart.iter().any(|known| known.name == kept.name)));
        pending
    }

    /// Takes a sighting into account.
    pub fn seen(&mut self, sighting: Sighting) {
        (self.probing, self.unseen) = (false, false);
        let again = std::mem::take(&mut self.probe_again);
        if self.postmaster.is_none() {
            return;
        }
        if self.finished.as_ref().is_some_and(|finished| sighting.begun < finished.at) {
            // What it saw is from before the job that has ended.
            self.look();
            return;
        }
        self.sql = sighting.sql;
        if let Some(pending) = sighting.pending_restart {
            // It loads new settings in its own time.
            if self.is_primary() && sighting.begun > self.configured_at + LOADED_BY {
                self.files.forget_kept();
            }
            self.pending_restart = pending;
        }
        match sighting.probe {
            Ok(probe) => {
                self.settling.seen(sighting.begun);
                self.looked = sighting.begun;
                self.stream_problem = self.why_no_stream(&probe);
                if probe.receiver.as_ref().is_some_and(|receiver| receiver.status == "streaming") {
                    self.unproved.store(false, Ordering::Release);
                }
                self.server =
                    Server::Running(sighting::running(&probe, sighting.end, &self.upstreams, self.options.name()));
                self.probe = Some(probe);
            }
            Err(error) => {
                if matches!(self.server, Server::Running(_)) {
                    tracing::warn!("PostgreSQL does not answer: {error}");
                }
                self.sql = None;
                self.probe = None;
                self.server = Server::Unready;
            }
        }
        if again {
            self.look();
        }
    }

    fn why_no_stream(&self, probe: &Probe) -> Option<String> {
        let wanted = probe.in_recovery && probe.receiver.is_none() && !probe.primary_conninfo.is_empty();
        let log = self.postmaster.as_ref().filter(|_| wanted)?.log_tail();
        let signs =
            ["could not connect to the primary server", "could not start WAL streaming", "could not receive data"];
        let line = log.lines().rev().find(|line| signs.iter().any(|sign| line.contains(sign)))?;
        let text = line.split_once(":  ").map_or(line, |(_, text)| text);
        Some(format!("it cannot stream: {}", text.trim()))
    }

    /// Ends the postmaster as a crash would; what follows is what follows a crash.
    pub fn strike(&self) -> Result<(), String> {
        let postmaster = self.postmaster.as_ref().ok_or("PostgreSQL does not run")?;
        postmaster.signal(Signal::KILL).map_err(|error| format!("the postmaster could not be killed: {error}"))
    }

    /// Remembers which member a connection string that we write names.
    pub fn names_upstream(&mut self, conninfo: String, member: MemberName) {
        self.upstreams.insert(conninfo, member);
    }

    /// Starts a job. One that must not wait ends the one under way.
    pub fn start_job(&mut self, job: Job, mut context: JobContext) {
        if let Some((old, task)) = self.busy.take() {
            tracing::warn!("{old:?} is cut short for {job:?}");
            task.abort();
        }
        self.jobs_begun += 1;
        context.postmaster = self.postmaster.clone();
        context.sql = self.sql.clone();
        let events = self.events.clone();
        let task = tokio::spawn({
            let job = job.clone();
            async move {
                let result = jobs::perform(job.clone(), context).await;
                let (report, failure) = match result {
                    Ok(report) => (report, None),
                    Err(failure) => (JobReport::default(), Some(failure)),
                };
                let finished = Finished { job, at: boot_clock_ms(), failure };
                let _ = events.send(Event::JobDone(Box::new((finished, report))));
            }
        });
        self.busy = Some((job, task));
    }

    /// Ends a copy or a rewind under way. Other jobs are short and must not be left half done.
    pub fn abandon_copy(&mut self) {
        if let Some((job, task)) = self.busy.take_if(|(job, _)| matches!(job, Job::Clone | Job::Rewind)) {
            tracing::warn!("{job:?} is ended on request");
            task.abort();
        }
    }

    /// Ends the making of a data directory, first or copied, which may take hours. What it leaves is swept at the next try.
    pub fn abandon_making(&mut self) {
        if let Some((job, task)) = self.busy.take_if(|(job, _)| matches!(job, Job::Initdb | Job::Clone)) {
            tracing::warn!("{job:?} is given up: stopping");
            task.abort();
        }
    }

    /// Takes the end of a job into account.
    pub fn job_done(&mut self, finished: Finished, report: JobReport) {
        if self.busy.as_ref().is_none_or(|(job, _)| *job != finished.job) {
            return;
        }
        self.busy = None;
        match &finished.failure {
            None => tracing::info!("{:?} done{}", finished.job, note(&report)),
            Some(failure) => tracing::error!("{:?} failed: {}", finished.job, failure.message),
        }
        if let Some(started) = report.started {
            self.sql = report.sql;
            self.settling.started();
            self.running(started);
            self.look_at_data_quietly();
        } else if report.stopped {
            self.postmaster = None;
            self.gone();
        } else {
            match finished.job {
                // Until it is seen as a primary it is not known what it is.
                Job::Promote => self.server = Server::Unready,
                Job::Initdb | Job::Clone | Job::Rewind => self.look_at_data(),
                Job::StartPrimary | Job::StartStandby | Job::Restart => {
                    self.server = Server::Unready;
                    self.confirm_gone();
                }
                _ => {}
            }
        }
        self.finished = Some(finished);
        self.look();
    }

    /// As [`Pg::look_at_data`], without forgetting what is known: the server has just started on it.
    fn look_at_data_quietly(&mut self) {
        if let Data::Ready(facts) = &mut self.data {
            facts.clean = false;
        }
    }

    /// Takes a look at the data directory into account.
    pub fn data_seen(&mut self, report: DataReport) {
        let outdated = |begun: u64| begun != self.jobs_begun || self.data == Data::Unknown;
        if report.second_look.is_some_and(outdated) {
            return;
        }
        self.data = report.data;
        self.control = report.control;
        self.line = report.line;
    }

    /// The member that a standby streams from.
    pub fn upstream(&self) -> Option<MemberName> {
        match &self.server {
            Server::Running(running) if running.streaming => running.upstream.clone(),
            _ => None,
        }
    }

    /// An earlier agent's PostgreSQL that was not yet looked at.
    pub fn is_unseen(&self) -> bool {
        self.unseen
    }

    /// The server as last seen; what it may yet receive by settings that it has not shown counts as received.
    pub fn observed(&self) -> Server {
        let mut server = self.server.clone();
        if let Server::Running(running) = &mut server {
            running.receiving |= running.in_recovery && !self.settling.is_settled();
        }
        server
    }

    /// PostgreSQL runs as a primary.
    pub fn is_primary(&self) -> bool {
        matches!(&self.server, Server::Running(running) if !running.in_recovery)
    }

    /// A job is under way that may end with a primary, whatever is seen of PostgreSQL meanwhile.
    pub fn may_become_primary(&self) -> bool {
        matches!(self.busy(), Some(Job::StartPrimary | Job::Promote | Job::Restart))
    }

    /// Settings are on their way to PostgreSQL, with an upstream or without.
    pub fn configuring(&mut self, upstream: bool) {
        self.settling.asked(upstream);
    }

    /// The newest settings that a decision asked for were loaded: look at once.
    pub fn configured(&mut self, upstream: bool) {
        self.configured_at = boot_clock_ms();
        self.settling.loaded(upstream, self.configured_at);
        self.look();
        let events = self.events.clone();
        tokio::spawn(async move {
            for pause in LOADING {
                tokio::time::sleep(pause).await;
                if events.send(Event::MayBeLoaded).is_err() {
                    return;
                }
            }
        });
    }
}

fn note(report: &JobReport) -> String {
    report.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default()
}

async fn end_everything(data_dir: &std::path::Path) {
    loop {
        match process::kill_tree_async(data_dir, Duration::from_secs(10)).await {
            Ok(_) => return,
            Err(error) => tracing::error!("{error}; trying again"),
        }
    }
}
