//! One call of `decide`: gathers actions while the situation functions look at the observation.

use crate::decide::{
    Action, Change, Data, Decision, Failures, Job, Memory, Millis, Observation, Policy, Purpose, Remedy, Server,
    Settings, Stance, Why,
};
use crate::name::MemberName;
use crate::record::SyncRecord;
use crate::transaction::Txn;

/// Until a look shows what PostgreSQL has been told: its processes load settings within milliseconds, and nobody may write
/// meanwhile.
pub(super) const SOON: Millis = 10;

/// We look again after this time even if nothing happens, in milliseconds.
pub const TICK: Millis = 1000;

/// Waits before a failed job is tried again, in milliseconds; the last one repeats.
pub const RETRY_STEPS: [Millis; 5] = [200, 500, 1000, 3000, 10_000];

pub(super) struct Turn<'a> {
    pub policy: &'a Policy,
    pub obs: &'a Observation,
    pub memory: Memory,
    pub actions: Vec<Action>,
    pub problem: Option<String>,
    pub stance: Stance,
    pub authority: Option<Millis>,
    pub asks_promise: bool,
    wake: Millis,
}

impl<'a> Turn<'a> {
    pub fn new(policy: &'a Policy, memory: &Memory, obs: &'a Observation) -> Self {
        let mut memory = memory.clone();
        memory.started.get_or_insert(obs.now);
        Turn {
            policy,
            obs,
            memory,
            actions: Vec::new(),
            problem: None,
            stance: Stance::default(),
            authority: obs.lease.map(|lease| lease.until),
            asks_promise: false,
            wake: obs.now + TICK,
        }
    }

    pub fn finish(self, why: Why) -> Decision {
        Decision {
            actions: self.actions,
            memory: self.memory,
            next_wake: self.wake.max(self.obs.now + 1),
            why,
            problem: self.problem,
            stance: self.stance,
            authority: self.authority,
            asks_promise: self.asks_promise,
        }
    }

    pub fn decide(&mut self) -> Why {
        self.account_for_finished_job();
        self.tell_of_full_volume();
        self.tell_of_still_replay();
        self.look_at_names();
        let Some(view) = &self.obs.store else {
            return Why::new("store_unread", "the store has not been read yet");
        };
        if self.obs.data == Data::Unknown {
            return Why::new("data_unread", "the data directory has not been looked at yet");
        }
        if let Some(why) = self.store_went_back(view) {
            return why;
        }
        if let Some(why) = self.run_by_others(view) {
            return why;
        }
        let Some(initialize) = &view.initialize else {
            return self.nothing_initialized(view);
        };
        if initialize.value.is_empty() {
            return self.being_initialized(view, initialize.revision);
        }
        if let Some(why) = self.foreign_data(&initialize.value) {
            return why;
        }
        let Some(sync) = &view.sync else {
            return self.adopt(view, initialize);
        };
        self.memory.announced.take_if(|announced| announced.revision != sync.revision);
        self.recall_pledges(view, &sync.value);
        self.weigh_authority(view, sync);
        match &view.leader {
            Some(leader) if leader.name == self.policy.me => self.lead(view, sync, leader),
            Some(leader) => match self.suspected(&sync.value, leader) {
                Some(vacancy) => self.fence(view, sync, vacancy),
                None => self.follow(view, sync, leader),
            },
            None => self.elect(view, sync),
        }
    }

    fn foreign_data(&mut self, cluster: &str) -> Option<Why> {
        let facts = self.obs.facts()?;
        if facts.system_identifier == cluster || facts.unclaimed {
            return None;
        }
        Some(self.trouble(
            "foreign_data",
            format!(
                "the data directory belongs to another cluster (system identifier {}, this cluster has {cluster}); \
                 nothing was touched: point this member at another directory, or move that one away to have it cloned",
                facts.system_identifier
            ),
        ))
    }

    /// A reason that people must hear of.
    pub fn trouble(&mut self, code: &'static str, text: impl Into<String>) -> Why {
        let text = text.into();
        self.problem = Some(text.clone());
        Why::new(code, text)
    }

    pub fn wake_at(&mut self, at: Millis) {
        self.wake = self.wake.min(at);
    }

    pub fn commit(&mut self, purpose: Purpose, txn: Txn) {
        self.actions.push(Action::Commit(Change { purpose, txn }));
    }

    pub fn configure(&mut self, settings: Settings) {
        // A barrier says nothing about names that were changed in between, even if they are the same again.
        self.memory.barrier.take_if(|barrier| barrier.names != settings.synchronous_standby_names);
        self.names_asked(&settings.synchronous_standby_names);
        self.actions.push(Action::Configure(settings));
    }

    /// The settings of a member that does not lead: should a promotion that was begun earlier still come to its end, it
    /// acknowledges nothing that the rule does not allow.
    pub fn configure_standby(&mut self, sync: &SyncRecord, upstream: Option<MemberName>) {
        let Some(view) = &self.obs.store else { return };
        // A rule that has become empty loosens nothing here: a promotion of before would acknowledge alone.
        let in_force = self.obs.running().map(|running| running.synchronous_standby_names.clone());
        let synchronous_standby_names = match sync.rule.is_empty() {
            true => in_force.unwrap_or_default(),
            false => self.names_for(view, &sync.rule),
        };
        self.configure(Settings { upstream, synchronous_standby_names });
    }

    pub fn drop_lease(&mut self) {
        if self.obs.lease.is_some() {
            self.actions.push(Action::DropLease);
        }
    }

    /// Starts a job unless one is under way, its last failure is too recent, or the cluster is paused.
    pub fn run(&mut self, job: Job, why: Why) -> Why {
        let switching = self.memory.switching.is_some();
        if self.policy.paused
            && !self.obs.stopping
            && !switching
            && !matches!(job, Job::Promote | Job::Checkpoint | Job::Settle | Job::Restart)
        {
            return Why::new("paused", format!("paused, else: {why}"));
        }
        if let Some(busy) = &self.obs.busy {
            // Losing the lead cannot wait for a restart or a promotion to end.
            if job != Job::StopImmediate || *busy == Job::StopImmediate {
                return Why::new("busy", format!("{why} ({busy:?} is under way)"));
            }
        }
        if let Some(failures) = self.memory.failures.as_ref().filter(|failures| failures.job == job) {
            let step = RETRY_STEPS[(failures.count as usize - 1).min(RETRY_STEPS.len() - 1)];
            let (again, message) = (failures.last + step, failures.message.clone());
            if self.obs.now < again {
                self.wake_at(again);
                let first = message.lines().next().unwrap_or_default();
                return self.trouble("retry_later", format!("{job:?} failed and is tried again soon: {first}"));
            }
        }
        self.actions.push(Action::Run(job));
        why
    }

    pub fn failures_of(&self, job: &Job) -> u32 {
        self.memory.failures.as_ref().filter(|failures| failures.job == *job).map_or(0, |failures| failures.count)
    }

    /// Stops a PostgreSQL that must not be writable any more, if it runs at all.
    pub fn stop_writable(&mut self, why: Why) -> Why {
        if self.obs.server == Server::Stopped {
            return why;
        }
        self.run(Job::StopImmediate, why)
    }

    /// The data directory was deleted under a running PostgreSQL, which would go on answering with errors for a while.
    pub fn stop_without_data(&mut self) -> Why {
        let why = self.trouble("data_deleted", "the data directory was deleted: stopping PostgreSQL");
        self.run(Job::StopImmediate, why)
    }

    pub fn runs_without_data(&self) -> bool {
        self.obs.data == Data::Missing && self.obs.server != Server::Stopped
    }

    fn account_for_finished_job(&mut self) {
        let Some(finished) = &self.obs.finished else { return };
        if self.memory.accounted == Some(finished.at) {
            return;
        }
        self.memory.accounted = Some(finished.at);
        let Some(failure) = &finished.failure else {
            if self.memory.failures.as_ref().is_some_and(|failures| failures.job == finished.job) {
                self.memory.failures = None;
            }
            match finished.job {
                Job::Rewind => {
                    self.memory.rewound = self.epoch();
                    self.memory.remedy = Remedy::None;
                }
                Job::Clone => {
                    self.memory.rewound = None;
                    self.memory.remedy = Remedy::None;
                    self.memory.failures = None;
                }
                _ => {}
            }
            return;
        };
        let before = self.failures_of(&finished.job);
        self.memory.failures = Some(Failures {
            job: finished.job.clone(),
            count: before + 1,
            last: finished.at,
            message: failure.message.clone(),
            hopeless: failure.hopeless,
        });
        match finished.job {
            Job::Rewind if failure.hopeless || before + 1 >= 3 => self.memory.remedy = Remedy::Clone,
            Job::Promote => {
                let reserved = self.sync().map_or(0, |sync| sync.timeline);
                self.memory.timeline_used = self.memory.timeline_used.max(reserved);
            }
            _ => {}
        }
    }

    fn epoch(&self) -> Option<u64> {
        Some(self.sync()?.epoch)
    }

    pub fn sync(&self) -> Option<&'a SyncRecord> {
        Some(&self.obs.store.as_ref()?.sync.as_ref()?.value)
    }
}
