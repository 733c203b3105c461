//! The API's backend: shows what the loop wrote, changes the store, or asks the loop.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use matriarch_api::heartbeat::{HeartbeatStream, Hello, NotAdmitted};
use matriarch_api::{
    ArchiveCheckRow, ArchiveStatus, Backend, ClusterStatus, Command, CommandDone, CommandError, DrillLog, DrillRecord,
    HistoryLine, Live, MemberStatus,
};
use matriarch_config::DynamicConfig;
use matriarch_core::MemberName;
use matriarch_core::record::{FailoverRequest, key};
use matriarch_dcs::{Committed, Txn};
use serde_json::Value;

use crate::event::Request;
use crate::shared::Shared;

/// How long a switchover may take before the person who asked is told that it has not happened.
const SWITCHOVER_LIMIT: Duration = Duration::from_secs(60);

/// The same for a failover while nobody leads: a member that can take over does so within seconds.
const LEADERLESS_LIMIT: Duration = Duration::from_secs(20);

/// The agent behind the API.
pub struct AgentBackend {
    shared: Arc<Shared>,
}

impl AgentBackend {
    /// A backend that shows and serves this agent.
    pub fn new(shared: Arc<Shared>) -> Self {
        AgentBackend { shared }
    }

    async fn change_config(&self, make: impl Fn(&Value) -> Value) -> Result<CommandDone, CommandError> {
        // Somebody else may change it at the same time: then look again.
        for _ in 0..5 {
            let snapshot =
                self.shared.store.read().await.map_err(|error| CommandError::StoreAway(error.to_string()))?;
            let entry = snapshot.get(key::CONFIG);
            let current = entry.and_then(|entry| serde_json::from_str(&entry.value).ok()).unwrap_or(Value::Null);
            let next = make(&current);
            if let Err(problems) = DynamicConfig::from_json(&next) {
                return Err(CommandError::Unacceptable(problems.to_string()));
            }
            let txn = match entry {
                Some(entry) => Txn::new().revision(key::CONFIG, entry.revision),
                None => Txn::new().absent(key::CONFIG),
            };
            if self.commit(txn.put(key::CONFIG, next.to_string())).await? {
                return Ok(CommandDone::config(next));
            }
        }
        Err(CommandError::Conflict("the configuration kept changing meanwhile; look at it and try again".to_owned()))
    }

    async fn commit(&self, txn: Txn) -> Result<bool, CommandError> {
        match self.shared.store.commit(txn).await {
            Ok(Committed::Applied { .. }) => Ok(true),
            Ok(Committed::Refused { .. }) => Ok(false),
            Err(error) => Err(CommandError::StoreAway(error.to_string())),
        }
    }

    /// Asks for another primary and waits until there is one, or until it is clear that there will be none.
    async fn move_primary(&self, request: FailoverRequest) -> Result<CommandDone, CommandError> {
        let before = self.shared.shown().cluster;
        let text = serde_json::to_string(&request).expect("names and times are JSON");
        if !self.commit(Txn::new().absent(key::FAILOVER).put(key::FAILOVER, text.clone())).await? {
            return Err(CommandError::Conflict(
                "a switchover is already asked for; cancel it or wait until it is done".to_owned(),
            ));
        }
        if let Some(at) = &request.scheduled_at {
            return Ok(CommandDone::scheduled(format!("Switchover scheduled at {at}")));
        }
        let (name, limit) = match (&request.leader, &before.matriarch.leader) {
            (None, None) => ("Failover", LEADERLESS_LIMIT),
            (None, Some(_)) => ("Failover", SWITCHOVER_LIMIT),
            (Some(_), _) => ("Switchover", SWITCHOVER_LIMIT),
        };
        let (old, wanted) = (before.matriarch.leader.as_ref(), request.member.as_ref().map(ToString::to_string));
        match tokio::time::timeout(limit, self.next_leader(&before)).await {
            Ok(Ok(leader)) if Some(&leader) == old => {
                Err(CommandError::Failed(format!("{name} failed: {leader} leads again")))
            }
            Ok(Ok(leader)) if wanted.as_ref().is_some_and(|wanted| *wanted != leader) => Err(CommandError::Failed(
                format!("{name} ended with \"{leader}\" as the leader instead of \"{}\"", wanted.unwrap_or_default()),
            )),
            Ok(Ok(leader)) => Ok(CommandDone::done(match name {
                "Failover" => format!("Successfully failed over to \"{leader}\""),
                _ => format!("Successfully switched over to \"{leader}\""),
            })),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.withdraw(name, limit, &text).await),
        }
    }

    /// The leader of an epoch after the one of `before`, as soon as its PostgreSQL runs as the primary.
    async fn next_leader(&self, before: &ClusterStatus) -> Result<String, CommandError> {
        let mut watch = self.shared.watch();
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let old = before.matriarch.leader.as_deref();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = watch.changed() => if changed.is_err() {
                    return Err(CommandError::Failed("the agent is stopping".to_owned()));
                },
            }
            let cluster = watch.borrow_and_update().cluster.clone();
            let leader = cluster.members.iter().find(|member| member.role == "leader" && member.state == "running");
            if let Some(leader) = leader.filter(|leader| {
                cluster.matriarch.epoch > before.matriarch.epoch
                    && Some(&leader.name) == cluster.matriarch.leader.as_ref()
            }) {
                return Ok(leader.name.clone());
            }
            let snapshot =
                self.shared.store.read().await.map_err(|error| CommandError::StoreAway(error.to_string()))?;
            let same = snapshot.value(key::LEADER) == old;
            if same && snapshot.get(key::FAILOVER).is_none() {
                let leader = cluster.members.iter().find(|row| Some(row.name.as_str()) == old);
                let text = match (old, leader.and_then(|row| row.problem.clone())) {
                    (_, Some(problem)) => problem,
                    (Some(leader), None) => format!("{leader} has called it off; see its log"),
                    (None, None) => "it was cancelled".to_owned(),
                };
                return Err(CommandError::Impossible(text));
            }
        }
    }

    /// Takes a request back that nobody has carried out, so that nobody does when it is no longer expected.
    async fn withdraw(&self, name: &str, limit: Duration, request: &str) -> CommandError {
        let withdrawn = self.commit(Txn::new().value(key::FAILOVER, request).delete(key::FAILOVER)).await;
        let outcome = match withdrawn {
            Ok(true) => "and was withdrawn",
            Ok(false) => "yet",
            Err(_) => "and could not be withdrawn: cancel it when the store is back",
        };
        let cluster = self.shared.shown().cluster;
        let problems =
            cluster.members.iter().filter_map(|row| Some(format!("{}: {}", row.name, row.problem.as_ref()?)));
        let mut problems = problems.collect::<Vec<_>>().join("; ");
        if problems.is_empty() {
            problems = match &cluster.matriarch.leader {
                Some(leader) => format!("see the log of {leader}"),
                None => "nobody leads, and no member that answers is known to hold everything that was acknowledged: \
                         start the missing members"
                    .to_owned(),
            };
        }
        CommandError::Failed(format!("{name} has not happened within {} s {outcome}: {problems}", limit.as_secs()))
    }

    /// Takes a member out of the cluster's list. Only the leader drops voters, with the proof that this needs.
    async fn forget(&self, member: &MemberName) -> Result<CommandDone, CommandError> {
        let away = |error: matriarch_dcs::StoreError| CommandError::StoreAway(error.to_string());
        for _ in 0..5 {
            let snapshot = self.shared.store.read().await.map_err(away)?;
            let view = crate::view::read(&snapshot, None, jiff::Timestamp::now()).view;
            let Some(sync) = view.sync.filter(|sync| sync.value.membership.contains(member)) else {
                return Err(CommandError::Absent(format!("'{member}' is not known any more")));
            };
            if view.members.contains_key(member) || sync.value.leader == *member {
                return Err(CommandError::Impossible(format!("'{member}' is alive, or was the last to lead")));
            }
            let previous = sync.value.previous.iter().any(|earlier| earlier.rule.voters.contains_key(member));
            if sync.value.rule.voters.contains_key(member) || previous {
                return Err(CommandError::Conflict(format!(
                    "the durability rule still counts on '{member}': wait until the leader has dropped it, which needs a \
                     leader and another voter that streams"
                )));
            }
            let mut record = sync.value;
            record.membership.remove(member);
            record.serial += 1;
            let text = serde_json::to_string(&record).expect("records have string keys");
            let txn = Txn::new()
                .revision(key::SYNC, sync.revision)
                .absent(key::member(member))
                .put(key::SYNC, text)
                .delete(key::pledge(member));
            if self.commit(txn).await? {
                return Ok(CommandDone::done(format!("'{member}' is forgotten")));
            }
        }
        Err(CommandError::Conflict("the cluster's record kept changing meanwhile; try again".to_owned()))
    }

    /// Adds a drill to those that all members show.
    async fn keep_drill(&self, record: DrillRecord) -> Result<CommandDone, CommandError> {
        for _ in 0..5 {
            let snapshot =
                self.shared.store.read().await.map_err(|error| CommandError::StoreAway(error.to_string()))?;
            let entry = snapshot.get(key::DRILLS);
            // What cannot be read is of no use to anybody, and must not keep new results out.
            let mut log: DrillLog = entry.and_then(|entry| serde_json::from_str(&entry.value).ok()).unwrap_or_default();
            log.add(record.clone());
            let text = serde_json::to_string(&log).expect("its keys are words and its numbers finite");
            let txn = match entry {
                Some(entry) => Txn::new().revision(key::DRILLS, entry.revision),
                None => Txn::new().absent(key::DRILLS),
            };
            if self.commit(txn.put(key::DRILLS, text)).await? {
                return Ok(CommandDone::done("the drill is kept"));
            }
        }
        Err(CommandError::Conflict("the list of drills kept changing meanwhile; try again".to_owned()))
    }

    async fn ask(&self, request: Request) -> Result<CommandDone, CommandError> {
        match self.shared.ask(request).await {
            Ok(text) => Ok(CommandDone::done(text)),
            Err(text) => Err(CommandError::Failed(text)),
        }
    }
}

fn checked(rows: Option<Vec<ArchiveCheckRow>>) -> Result<CommandDone, CommandError> {
    let none = "no archive is configured; name its repositories: matriarch config edit (archive: repositories)";
    let rows = rows.ok_or_else(|| CommandError::Impossible(none.to_owned()))?;
    Ok(CommandDone::config(serde_json::json!(rows)))
}

fn name(text: &str) -> Result<MemberName, CommandError> {
    text.parse().map_err(|error: matriarch_core::name::BadName| CommandError::Invalid(error.to_string()))
}

#[async_trait]
impl Backend for AgentBackend {
    fn status(&self) -> Arc<MemberStatus> {
        self.shared.shown().member
    }

    fn cluster(&self) -> Arc<ClusterStatus> {
        self.shared.shown().cluster
    }

    fn live(&self) -> Live {
        self.shared.live()
    }

    fn config(&self) -> Option<Value> {
        self.shared.shown().config.map(|(config, _)| Value::clone(&config))
    }

    fn history(&self) -> Vec<HistoryLine> {
        self.shared.shown().history.to_vec()
    }

    fn drills(&self) -> Arc<DrillLog> {
        self.shared.shown().drills
    }

    fn archive(&self) -> Arc<ArchiveStatus> {
        Arc::new(self.shared.archive.status())
    }

    fn admit(&self, hello: &Hello) -> Result<(), NotAdmitted> {
        self.shared.heartbeats.admit(hello)
    }

    async fn heartbeat(&self, hello: Hello, stream: HeartbeatStream) {
        self.shared.heartbeats.clone().listen(hello, stream).await;
    }

    async fn command(&self, command: Command) -> Result<CommandDone, CommandError> {
        match command {
            Command::PatchConfig(patch) => self.change_config(|current| matriarch_config::patch(current, &patch)).await,
            Command::PutConfig(config) => self.change_config(|_| config.clone()).await,
            Command::Reload => self.ask(Request::Reload).await,
            Command::Restart(request) => {
                let later = request.schedule.is_some();
                let done = self.ask(Request::Restart(request)).await;
                match done {
                    Ok(done) if later => Ok(CommandDone::scheduled(done.message)),
                    Err(CommandError::Failed(text)) if later => Err(CommandError::Conflict(text)),
                    done => done,
                }
            }
            Command::CancelRestart => {
                self.shared.ask(Request::CancelRestart).await.map(CommandDone::done).map_err(CommandError::Absent)
            }
            // There is no other source than the leader yet.
            Command::Reinitialize { force, from_leader: _ } => self.ask(Request::Reinitialize { force }).await,
            Command::Switchover { leader, candidate, scheduled_at } => {
                let request = FailoverRequest {
                    leader: Some(name(&leader)?),
                    member: candidate.as_deref().map(name).transpose()?,
                    scheduled_at: scheduled_at.map(|at| at.to_string()),
                    accept_data_loss: false,
                };
                self.move_primary(request).await
            }
            Command::Failover { candidate, accept_data_loss } => {
                let member = Some(name(&candidate)?);
                let request = FailoverRequest { member, accept_data_loss, ..FailoverRequest::default() };
                self.move_primary(request).await
            }
            Command::CancelSwitchover => {
                let snapshot =
                    self.shared.store.read().await.map_err(|error| CommandError::StoreAway(error.to_string()))?;
                let Some(entry) = snapshot.get(key::FAILOVER) else {
                    return Err(CommandError::Absent("no switchover is scheduled".to_owned()));
                };
                let txn = Txn::new().revision(key::FAILOVER, entry.revision).delete(key::FAILOVER);
                match self.commit(txn).await? {
                    true => Ok(CommandDone::done("scheduled switchover deleted")),
                    false => Err(CommandError::Conflict("the switchover has begun meanwhile".to_owned())),
                }
            }
            Command::Forget { member } => self.forget(&name(&member)?).await,
            Command::Blow(body) => {
                self.shared.ask(Request::Blow(body)).await.map(CommandDone::done).map_err(CommandError::Impossible)
            }
            Command::KeepDrill(record) => self.keep_drill(*record).await,
            Command::CheckArchive => checked(self.shared.archive.check().await),
            Command::InitArchive => checked(self.shared.archive.init().await),
            Command::Stop => self.ask(Request::Stop).await,
        }
    }
}
