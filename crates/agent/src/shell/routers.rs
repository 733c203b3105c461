//! Routers that are gone although the lease of their record has not ended: nobody waits for them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use matriarch_core::decide::{ClusterView, Millis};
use matriarch_core::record::RouterRecord;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::Shell;
use crate::event::Event;

/// Those that are there mostly hold by then.
const PATIENCE: Millis = 300;
/// Also the longest time that one may take to answer.
const AGAIN: Millis = 500;

/// What is known of them while new work is to be held.
#[derive(Default)]
pub(super) struct Routers {
    /// The announcement, and when to ask those that do not hold for it.
    announced: Option<(u64, Millis)>,
    /// As their records were when they proved to be gone.
    gone: BTreeMap<String, RouterRecord>,
}

impl Routers {
    /// Leaves out those that are gone.
    pub fn forget(&self, view: &mut ClusterView) {
        view.routers.retain(|id, record| self.gone.get(id) != Some(record));
    }

    pub fn is_gone(&mut self, id: String, record: RouterRecord) {
        tracing::warn!(
            "nothing listens at {}, where a {} said to be: it is not waited for",
            record.address,
            record.kind
        );
        self.gone.insert(id, record);
    }
}

impl Shell {
    /// Asks routers that do not hold new work whether they are there at all; returns when to ask again.
    pub(super) fn look_for_routers(&mut self, now: Millis) -> Millis {
        let view = self.reading.as_ref().map(|reading| &reading.view).filter(|_| self.leads());
        let sync = view.and_then(|view| view.sync.as_ref()).filter(|sync| sync.value.handover);
        let (Some(view), Some(sync)) = (view, sync) else {
            self.routers = Routers::default();
            return Millis::MAX;
        };
        let due = match self.routers.announced {
            Some((revision, due)) if revision == sync.revision => due,
            _ => now + PATIENCE,
        };
        let next = if now >= due { now + AGAIN } else { due };
        self.routers.announced = Some((sync.revision, next));
        if now >= due {
            let known = &self.routers.gone;
            let open = view.routers.iter().filter(|(_, router)| router.holds != Some(sync.revision));
            for (id, record) in open.filter(|(id, record)| known.get(*id) != Some(record)) {
                let (id, record, sender) = (id.clone(), record.clone(), self.sender.clone());
                tokio::spawn(async move {
                    if is_refused(&record).await {
                        let _ = sender.send(Event::RouterGone(id, Box::new(record)));
                    }
                });
            }
        }
        next
    }
}

/// Every address where it said to be refuses connections. An address of the loopback interface says that only to those
/// who share it.
async fn is_refused(record: &RouterRecord) -> bool {
    let limit = Duration::from_millis(AGAIN);
    let Ok(Ok(addresses)) = timeout(limit, lookup_host(&record.address)).await else { return false };
    let shared = record.network.is_some() && record.network == crate::network::id();
    let mut refused = false;
    for address in addresses {
        let answer = timeout(limit, TcpStream::connect(address)).await;
        let refuses = matches!(&answer, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused);
        if !refuses || address.ip().is_loopback() && !shared {
            return false;
        }
        refused = true;
    }
    refused
}

#[cfg(test)]
mod tests {
    use matriarch_core::record::RouterKind;

    use super::*;

    #[tokio::test]
    async fn only_a_refusal_that_can_be_trusted_counts() {
        // A socket of its own that does not listen: a port that was given back may be another test's by then.
        let silent = tokio::net::TcpSocket::new_v4().expect("a socket");
        silent.bind("127.0.0.1:0".parse().expect("an address")).expect("a port is free");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = |bound: std::io::Result<std::net::SocketAddr>| bound.expect("bound").to_string();
        let record = RouterRecord {
            kind: RouterKind::Proxy,
            address: address(listener.local_addr()),
            network: crate::network::id(),
            holds: None,
            problem: None,
        };
        assert!(!is_refused(&record).await, "it listens");
        let record = RouterRecord { address: address(silent.local_addr()), ..record };
        assert!(is_refused(&record).await, "nobody listens");
        let elsewhere = RouterRecord { network: Some("another host".to_owned()), ..record.clone() };
        assert!(!is_refused(&elsewhere).await, "another host's loopback interface");
        assert!(!is_refused(&RouterRecord { network: None, ..record }).await, "an older program's record");
    }
}
