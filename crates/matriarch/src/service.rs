//! Members as a service in Consul's catalogue: what the agent shows about itself, told to Consul whenever it changes.

use std::time::Duration;

use matriarch_agent::Shared;
use matriarch_api::MemberStatus;
use matriarch_config::{LocalConfig, Store};
use matriarch_dcs::consul::{self, Instance, ServiceOptions, ServiceRole};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::store::consul_options;

/// A member whose check has failed for as long is taken out by Consul, in case its host never comes back.
const DEREGISTER_AFTER: Duration = Duration::from_secs(600);

/// Registers this member, if the configuration wants that, until the task's `Shared` has told that PostgreSQL has stopped and
/// the returned sender is dropped.
pub fn start(config: &LocalConfig, shared: &Shared) -> Option<(watch::Sender<()>, JoinHandle<()>)> {
    let Store::Consul(section) = &config.store else { return None };
    if !section.register_service {
        return None;
    }
    let service = ServiceOptions {
        scope: config.scope.clone(),
        member: config.name.to_string(),
        tags: section.service_tags.clone(),
        check_interval: section.service_check_interval,
        check_tls_server_name: section.service_check_tls_server_name.clone(),
        deregister_after: DEREGISTER_AFTER,
    };
    let name = consul::service_name(&config.scope);
    if name != config.scope {
        tracing::warn!("in Consul the service is called {name}: '{}' cannot be part of a DNS name", config.scope);
    }
    let address = config.postgresql.connect_address.clone();
    let api_url = config.restapi.url();
    let instance =
        move |role| Instance { role, host: address.host.clone(), port: address.port, api_url: api_url.clone() };

    let (tell, wanted) = watch::channel(None);
    let (stop, mut stopped) = watch::channel(());
    let mut shown = shared.watch();
    let options = consul_options(section);
    let task = tokio::spawn(async move {
        let following = tokio::spawn(consul::follow(options, service, wanted));
        loop {
            let now = shown.borrow_and_update().member.clone();
            match wish(&now) {
                Wish::Be(role) => drop(tell.send_if_modified(|told| replace(told, Some(instance(role))))),
                Wish::Leave => drop(tell.send_if_modified(|told| replace(told, None))),
                Wish::Stay => {}
            }
            tokio::select! {
                changed = shown.changed() => if changed.is_err() { break },
                _ = stopped.changed() => break,
            }
        }
        drop(tell);
        let _ = following.await;
    });
    Some((stop, task))
}

fn replace(told: &mut Option<Instance>, wanted: Option<Instance>) -> bool {
    let differs = *told != wanted;
    *told = wanted;
    differs
}

/// What becomes of the registration.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Be(ServiceRole),
    Leave,
    /// PostgreSQL is on its way somewhere; the health check tells the difference meanwhile.
    Stay,
}

fn wish(member: &MemberStatus) -> Wish {
    match (member.state.as_str(), member.role.as_str()) {
        ("running", "primary") => Wish::Be(ServiceRole::Primary),
        ("running", "replica") => Wish::Be(ServiceRole::Replica),
        ("running", "standby_leader") => Wish::Be(ServiceRole::StandbyLeader),
        ("stopped", _) => Wish::Leave,
        _ => Wish::Stay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_is_registered() {
        let wish = |state: &str, role: &str| {
            wish(&MemberStatus { state: state.to_owned(), role: role.to_owned(), ..MemberStatus::default() })
        };
        assert_eq!(wish("running", "primary"), Wish::Be(ServiceRole::Primary));
        assert_eq!(wish("running", "standby_leader"), Wish::Be(ServiceRole::StandbyLeader));
        assert_eq!(wish("starting", "replica"), Wish::Stay);
        assert_eq!(wish("stopped", "replica"), Wish::Leave);
        assert_eq!(wish("", ""), Wish::Stay);
    }
}
