//! From the store to routes: who is primary, who may serve reads, and whether to hold.

mod past;

use std::sync::Arc;
use std::time::{Duration, Instant};

use matriarch_agent::view::{self, Reading};
use matriarch_core::MemberName;
use matriarch_core::decide::ClusterView;
use matriarch_core::record::{MemberRecord, Role, RouterKind, RouterRecord};
use matriarch_dcs::Store;
use matriarch_proxy::{Backend, Routes};
use past::Past;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Pause between two looks at a store that does not answer, or does not show what it should.
const AGAIN: Duration = Duration::from_millis(500);
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long routes stay while nobody leads and nobody has taken over.
const GRACE: Duration = Duration::from_secs(5);
/// Why there is nothing new while a store shows the past.
const WENT_BACK: &str = "the cluster's store went back in time, as if it was wiped or restored from an older backup; its primary \
                         has not written the records anew";

/// What routers are told: where sessions go, and then which switchover to hold new work for.
pub struct News {
    /// Where sessions go.
    pub routes: watch::Receiver<Arc<Routes>>,
    /// The announced switchover; changes after the routes.
    pub handover: watch::Receiver<Handover>,
}

/// A switchover that is announced, as the revision of `sync` that does so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Handover {
    /// Poolers pause for it.
    pub poolers: Option<u64>,
    /// Proxies hold for it: not before every pooler is paused, since a pooler may stand in front of a proxy, and the
    /// sessions that the proxy then ends would be in use.
    pub proxies: Option<u64>,
}

/// Where news come from.
pub struct Feed {
    routes: watch::Sender<Arc<Routes>>,
    handover: watch::Sender<Handover>,
}

/// News that stay as they are before their feed follows a store.
pub fn news(routes: Routes, handover: Handover) -> (News, Feed) {
    let (routes, seen) = watch::channel(Arc::new(routes));
    let (handover, announced) = watch::channel(handover);
    (News { routes: seen, handover: announced }, Feed { routes, handover })
}

impl Feed {
    /// Follows the store for as long as somebody listens.
    pub fn follow(self, store: Arc<dyn Store>) {
        tokio::spawn(keep(store, self.routes, self.handover));
    }

    /// Says why there is nothing new.
    pub fn stalled(&self, problem: String) {
        stalled(&self.routes, problem);
    }
}

/// The routes stay, and those who wait in vain are told the reason.
fn stalled(routes: &watch::Sender<Arc<Routes>>, problem: String) {
    routes.send_if_modified(|current| {
        let changed = current.problem.as_ref() != Some(&problem);
        if changed {
            *current = Arc::new(Routes { problem: Some(problem), ..(**current).clone() });
        }
        changed
    });
}

async fn keep(store: Arc<dyn Store>, routes: watch::Sender<Arc<Routes>>, handover: watch::Sender<Handover>) {
    let mut changes = store.watch();
    let host = crate::host::id();
    changes.mark_changed();
    let mut past = Past::since_epoch(routes.borrow().generation);
    let (mut trouble, mut gone_since) = (None, None);
    loop {
        // Nothing tells when a store that was away is back, nor when what is missing has been missing for too long.
        let waits = trouble.is_some() || gone_since.is_some_and(|since: Instant| since.elapsed() < GRACE);
        let again = if waits { AGAIN } else { NEVER };
        match tokio::time::timeout(again, changes.changed()).await {
            Ok(Err(_)) => return,
            Ok(Ok(())) => drop(changes.borrow_and_update()),
            Err(_) => {}
        }
        // The last known routes stay in trouble: the primary goes on without the store for a while.
        let looked = look(&*store, &mut past).await;
        if let Err(reason) = &looked {
            if trouble.is_none() {
                tracing::warn!("routes stay as they are: {reason}");
            }
            stalled(&routes, reason.clone());
        }
        trouble = looked.as_ref().err().cloned();
        if let Ok(reading) = looked {
            let next = from_view(&reading, &host);
            let keeps = may_be_back(&reading.view) && next.generation == routes.borrow().generation;
            gone_since = keeps.then(|| gone_since.unwrap_or_else(Instant::now));
            if !routes.is_closed() && gone_since.is_some_and(|since| since.elapsed() < GRACE) {
                continue;
            }
            replace(&routes, next);
            let announced = announced(&reading.view);
            handover.send_if_modified(|current| std::mem::replace(current, announced) != announced);
        }
        if routes.is_closed() {
            return;
        }
    }
}

/// What the store shows, or why that is not to be acted on.
async fn look(store: &dyn Store, past: &mut Past) -> Result<Reading, String> {
    let snapshot = store.read().await.map_err(|error| format!("the cluster's store cannot be read: {error}"))?;
    let reading = view::read(&snapshot, None, jiff::Timestamp::now());
    if past.is_shown_by(&reading.view, Instant::now()) { Err(WENT_BACK.to_owned()) } else { Ok(reading) }
}

fn replace(routes: &watch::Sender<Arc<Routes>>, next: Routes) {
    routes.send_if_modified(|current| {
        let changed = **current != next;
        if changed {
            *current = Arc::new(next);
        }
        changed
    });
}

fn announced(view: &ClusterView) -> Handover {
    let poolers = view.sync.as_ref().filter(|sync| sync.value.handover).map(|sync| sync.revision);
    let open = |router: &&RouterRecord| router.kind == RouterKind::Pooler && router.holds != poolers;
    Handover { poolers, proxies: poolers.filter(|_| !view.routers.values().any(|router| open(&router))) }
}

/// Nobody leads, or the leader's record is missing or of old, although nobody has given up or taken over: after an outage of the
/// store the leases in it have ended, and in one that went back in time members tell anew how they are, while the primary went on.
fn may_be_back(view: &ClusterView) -> bool {
    let Some(sync) = view.sync.as_ref().map(|sync| &sync.value) else { return false };
    let key = view.leader.as_ref().is_none_or(|leader| leader.name == sync.leader);
    let whole = view.leader.is_some() && view.members.get(&sync.leader).is_some_and(|it| it.epoch >= sync.epoch);
    key && !whole && sync.released.is_none()
}

fn from_view(reading: &Reading, host: &str) -> Routes {
    let view = &reading.view;
    let Some(sync) = view.sync.as_ref().map(|sync| &sync.value) else { return Routes::default() };
    let leader = view.leader.as_ref().map(|leader| &leader.name).filter(|name| **name == sync.leader);
    let primary = leader.and_then(|name| {
        let member = view.members.get(name)?;
        let promoted = member.role == Role::Primary && member.state == "running" && member.epoch == sync.epoch;
        (promoted && sync.released.is_none()).then(|| backend(name, member, None, host))
    });
    let head = leader.and_then(|name| view.members.get(name)?.xlog_location);
    let replicas = view
        .members
        .iter()
        .filter(|(name, member)| Some(*name) != leader && member.follows() && !member.tag("noloadbalance"))
        .map(|(name, member)| {
            let lag = head.zip(member.replay_lsn).map(|(head, replayed)| head.saturating_sub(replayed));
            backend(name, member, lag, host)
        })
        .collect();
    Routes { generation: sync.epoch, primary, replicas, hold: announced(view).proxies.is_some(), problem: None }
}

fn backend(name: &MemberName, member: &MemberRecord, lag_bytes: Option<u64>, host: &str) -> Backend {
    let here = member.host_id.as_deref() == Some(host);
    Backend {
        name: name.to_string(),
        tcp: member.address().unwrap_or_default().to_owned(),
        unix_socket: member.unix_socket.as_ref().filter(|_| here).map(Into::into),
        lag_bytes,
        tls: member.tls,
    }
}

#[cfg(test)]
mod tests {
    use matriarch_core::decide::LeaderKey;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_leader_that_has_not_told_how_it_is_in_its_epoch_may_be_back() {
        let mut view = past::tests::view(2, 5, "7575");
        assert!(may_be_back(&view), "its key has expired");
        view.leader = Some(LeaderKey { name: "a".parse().unwrap(), revision: 3, held: false });
        assert!(may_be_back(&view), "its record has expired");
        for (epoch, back) in [(1, true), (2, false)] {
            let member = serde_json::from_value(json!({
                "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running", "role": "replica",
                "version": "4.1.5", "epoch": epoch,
            }));
            view.members.insert("a".parse().unwrap(), member.unwrap());
            assert_eq!(may_be_back(&view), back, "it last told of epoch {epoch}");
        }
        view.leader = Some(LeaderKey { name: "b".parse().unwrap(), revision: 4, held: false });
        view.members.clear();
        assert!(!may_be_back(&view), "somebody else has taken over");
    }
}
