//! The API's backend: shows what the loop wrote, changes the store, or asks the loop.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use matriarch_api::{Backend, ClusterStatus, Command, CommandDone, CommandError, HistoryLine, Live, MemberStatus};
use matriarch_config::DynamicConfig;
use matriarch_core::record::{FailoverRequest, key};
use matriarch_dcs::{Committed, Txn};
use serde_json::Value;

use crate::event::Request;
use crate::shared::Shared;

/// How long a switchover may take before the person who asked is told that it has not happened.
const SWITCHOVER_LIMIT: Duration = Duration::from_secs(60);

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

    /// Asks for another primary and waits until there is one, or until the leader has refused.
    async fn move_primary(&self, request: FailoverRequest) -> Result<CommandDone, CommandError> {
        let before = self.shared.shown();
        let old = before.cluster.matriarch.leader.clone();
        let text = serde_json::to_string(&request).expect("names and times are JSON");
        if !self.commit(Txn::new().absent(key::FAILOVER).put(key::FAILOVER, text)).await? {
            return Err(CommandError::Conflict(
                "a switchover is already asked for; cancel it or wait until it is done".to_owned(),
            ));
        }
        if let Some(at) = &request.scheduled_at {
            return Ok(CommandDone::scheduled(format!("Switchover scheduled at {at}")));
        }
        let epoch = before.cluster.matriarch.epoch;
        let mut watch = self.shared.watch();
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let wait = async {
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    changed = watch.changed() => if changed.is_err() { return Err(CommandError::Failed("the agent is stopping".to_owned())) },
                }
                let shown = watch.borrow_and_update().clone();
                let cluster = &shown.cluster;
                let leader = cluster.members.iter().find(|member| member.role == "leader" && member.state == "running");
                if let Some(leader) = leader.filter(|leader| {
                    cluster.matriarch.epoch > epoch && Some(&leader.name) == cluster.matriarch.leader.as_ref()
                }) {
                    return Ok(leader.name.clone());
                }
                let snapshot =
                    self.shared.store.read().await.map_err(|error| CommandError::StoreAway(error.to_string()))?;
                let same = snapshot.value(key::LEADER) == old.as_deref() && old.is_some();
                if same && snapshot.get(key::FAILOVER).is_none() {
                    let problem = cluster.members.iter().find_map(|member| member.problem.clone());
                    let text = problem.unwrap_or_else(|| "the leader has called the switchover off".to_owned());
                    return Err(CommandError::Impossible(text));
                }
            }
        };
        match tokio::time::timeout(SWITCHOVER_LIMIT, wait).await {
            Ok(Ok(leader)) if Some(&leader) == old.as_ref() => {
                Err(CommandError::Failed(format!("Switchover failed: {leader} leads again")))
            }
            Ok(Ok(leader)) => Ok(CommandDone::done(format!("Successfully switched over to \"{leader}\""))),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CommandError::Failed(format!(
                "Switchover has not happened within {} s; see the leader's log and 'matriarch status'",
                SWITCHOVER_LIMIT.as_secs()
            ))),
        }
    }

    async fn ask(&self, request: Request) -> Result<CommandDone, CommandError> {
        match self.shared.ask(request).await {
            Ok(text) => Ok(CommandDone::done(text)),
            Err(text) => Err(CommandError::Failed(text)),
        }
    }
}

fn name(text: &str) -> Result<matriarch_core::MemberName, CommandError> {
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
        self.shared.shown().config.map(|(config, _)| config)
    }

    fn history(&self) -> Vec<HistoryLine> {
        self.shared.shown().history.to_vec()
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
                };
                self.move_primary(request).await
            }
            Command::Failover { candidate } => {
                let request = FailoverRequest { leader: None, member: Some(name(&candidate)?), scheduled_at: None };
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
            Command::Stop => self.ask(Request::Stop).await,
        }
    }
}
