//! Members as a service in Consul's catalogue, with their role as a tag, as Patroni registers them: whoever asks Consul's
//! DNS for `primary.<service>.service.consul` gets the primary. It has no part in any decision.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::answer::Failure;
use super::http::{Ask, Client};
use super::options::ConsulOptions;
use super::query::escape;
use crate::error::StoreError;

/// Longest name of a service: `replica.<name>.service.consul` must fit into a DNS name.
const LONGEST_NAME: usize = 230;
/// How often the agent is asked whether it still knows the service.
const LOOK: Duration = Duration::from_secs(30);
/// Before the next try after a failure.
const REST: Duration = Duration::from_secs(1);
/// How long leaving may take.
const LEAVE: Duration = Duration::from_secs(2);

/// What is the same for a member as long as its agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOptions {
    /// Name of the cluster; the service's name is made of it by [`service_name`].
    pub scope: String,
    /// Name of the member.
    pub member: String,
    /// Further tags.
    pub tags: Vec<String>,
    /// How often Consul's agent checks the member's REST interface.
    pub check_interval: Duration,
    /// The name that the check expects in the REST interface's certificate.
    pub check_tls_server_name: Option<String>,
    /// A member whose check fails for as long is taken out by Consul's agent.
    pub deregister_after: Duration,
}

/// What a running member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceRole {
    /// Tagged `primary`, and `master` for those who still ask for that.
    Primary,
    /// Tagged `replica`.
    Replica,
    /// The leader of a standby cluster, tagged `standby-leader`.
    StandbyLeader,
}

impl ServiceRole {
    /// Its tag, which is the path of its health check too.
    fn tag(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::StandbyLeader => "standby-leader",
        }
    }
}

/// A member as it is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// What it is.
    pub role: ServiceRole,
    /// Host name or address of its PostgreSQL.
    pub host: String,
    /// Port of its PostgreSQL.
    pub port: u16,
    /// Its REST interface without a path: `http://host:port`.
    pub api_url: String,
}

/// A cluster's name as the name of a service, which is part of a DNS name: lower case, with a dash for a dot, a blank and an
/// underscore, and `u` and four digits of the code for all else.
pub fn service_name(scope: &str) -> String {
    let mut name = String::with_capacity(scope.len());
    for c in scope.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '-' => name.push(c),
            '.' | ' ' | '_' => name.push('-'),
            _ => {
                let _ = write!(name, "u{:04}", u32::from(c));
            }
        }
    }
    name.truncate(LONGEST_NAME);
    name
}

/// Keeps the registration at Consul's agent as `wanted` says; ends, having taken it out, when the sender is gone. `None` takes it
/// out; it is what a member that stops tells.
pub async fn follow(options: ConsulOptions, service: ServiceOptions, mut wanted: watch::Receiver<Option<Instance>>) {
    let agent = Agent { place: options.place(), client: Client::new(options), service };
    let mut done: Option<Option<Instance>> = None;
    let mut trouble: Option<String> = None;
    loop {
        let now = wanted.borrow_and_update().clone();
        let told =
            if done.as_ref() == Some(&now) { agent.look(now.as_ref()).await } else { agent.tell(now.as_ref()).await };
        let rest = match told {
            Ok(()) => {
                if trouble.take().is_some() {
                    tracing::info!(agent = %agent.place, "the service is registered in Consul again");
                }
                done = Some(now);
                LOOK
            }
            Err(error) => {
                done = None;
                let error = error.to_string();
                if trouble.as_ref() != Some(&error) {
                    tracing::warn!(agent = %agent.place, %error, "the service cannot be registered in Consul; trying again");
                    trouble = Some(error);
                }
                REST
            }
        };
        if timeout(rest, wanted.changed()).await.is_ok_and(|changed| changed.is_err()) {
            break;
        }
    }
    if let Err(error) = timeout(LEAVE, agent.tell(None)).await.unwrap_or(Ok(())) {
        tracing::warn!(agent = %agent.place, %error, "the service could not be taken out of Consul");
    }
}

/// The Consul agent with which a member is registered.
struct Agent {
    client: Client,
    place: String,
    service: ServiceOptions,
}

impl Agent {
    /// Registers the member as it is, or takes it out.
    async fn tell(&self, instance: Option<&Instance>) -> Result<(), StoreError> {
        let Some(instance) = instance else {
            let ask = Ask::put(self.path("deregister/", &escape(&self.id(), false)), Bytes::new());
            // 404: it is not there, which is as it should be.
            return self.ask(&ask, &[200, 404]).await.map(drop);
        };
        tracing::info!(agent = %self.place, role = instance.role.tag(), "registering the service in Consul");
        let body = registration(&self.service, instance).to_string();
        self.ask(&Ask::put(self.path("register", ""), body.into()), &[200]).await.map(drop)
    }

    /// An error if the agent has forgotten what it was told.
    async fn look(&self, instance: Option<&Instance>) -> Result<(), StoreError> {
        if instance.is_none() {
            return Ok(());
        }
        let id = escape(&self.id(), false);
        let mut path = format!("/v1/agent/service/{id}");
        if !self.enterprise().is_empty() {
            path = format!("{path}?{}", self.enterprise());
        }
        match self.ask(&Ask::get(path), &[200, 404]).await? {
            404 => self.tell(instance).await,
            _ => Ok(()),
        }
    }

    fn id(&self) -> String {
        format!("{}/{}", self.service.scope, self.service.member)
    }

    fn path(&self, what: &str, id: &str) -> String {
        let enterprise = self.enterprise();
        let mark = if enterprise.is_empty() { "" } else { "?" };
        format!("/v1/agent/service/{what}{id}{mark}{enterprise}")
    }

    fn enterprise(&self) -> String {
        let parts = [("ns", &self.client.options.namespace), ("partition", &self.client.options.partition)];
        let given = parts.iter().filter_map(|(name, value)| Some(format!("{name}={}", escape(value.as_ref()?, false))));
        given.collect::<Vec<_>>().join("&")
    }

    async fn ask(&self, ask: &Ask, expected: &[u16]) -> Result<u16, StoreError> {
        let unavailable = |failure: Failure| {
            let (place, reason) = (self.place.clone(), failure.reason());
            StoreError::Unavailable { place, reason }
        };
        let answer = self.client.ask(ask).await.map_err(|failure| unavailable(Failure::of(failure)))?;
        let status = answer.status.as_u16();
        if expected.contains(&status) { Ok(status) } else { Err(unavailable(Failure::told(&answer))) }
    }
}

/// What Consul's agent is told.
fn registration(service: &ServiceOptions, instance: &Instance) -> Value {
    let mut tags = service.tags.clone();
    tags.sort();
    tags.push(instance.role.tag().to_owned());
    if instance.role == ServiceRole::Primary {
        tags.push("master".to_owned());
    }
    let mut check = json!({
        "HTTP": format!("{}/{}", instance.api_url, instance.role.tag()),
        "Interval": format!("{}ms", service.check_interval.as_millis()),
        "DeregisterCriticalServiceAfter": format!("{}s", service.deregister_after.as_secs().max(60)),
        // Who registers it knows that it runs; without this it would be out of the DNS until the first check.
        "Status": "passing",
    });
    if let Some(name) = &service.check_tls_server_name {
        check["TLSServerName"] = json!(name);
    }
    json!({
        "ID": format!("{}/{}", service.scope, service.member), "Name": service_name(&service.scope),
        "Address": instance.host, "Port": instance.port, "Tags": tags, "EnableTagOverride": true, "Check": check,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_part_of_a_dns_name() {
        assert_eq!(service_name("demo"), "demo");
        assert_eq!(service_name("My_Cluster.1 x"), "my-cluster-1-x");
        assert_eq!(service_name("a:b"), "au0058b");
        assert_eq!(service_name(&"x".repeat(300)).len(), 230);
    }

    #[test]
    fn tags_and_check_follow_the_role() {
        let service = ServiceOptions {
            scope: "demo".to_owned(),
            member: "a".to_owned(),
            tags: vec!["z".to_owned(), "b".to_owned()],
            check_interval: Duration::from_secs(5),
            check_tls_server_name: Some("a.example".to_owned()),
            deregister_after: Duration::from_secs(100),
        };
        let mut instance = Instance {
            role: ServiceRole::Primary,
            host: "10.0.0.1".to_owned(),
            port: 5432,
            api_url: "http://10.0.0.1:8008".to_owned(),
        };
        let told = registration(&service, &instance);
        assert_eq!(told["Tags"], json!(["b", "z", "primary", "master"]));
        assert_eq!(told["Check"]["HTTP"], "http://10.0.0.1:8008/primary");
        assert_eq!(told["Check"]["TLSServerName"], "a.example");
        instance.role = ServiceRole::StandbyLeader;
        let told = registration(&service, &instance);
        assert_eq!(told["Tags"], json!(["b", "z", "standby-leader"]));
        assert_eq!(told["Check"]["HTTP"], "http://10.0.0.1:8008/standby-leader");
    }
}
