//! Cancel requests: which member issued a key, and the way there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::ProxyConfig;
use crate::connect::Server;
use crate::opening::cancel_request;
use crate::proxy_protocol::Origin;
use crate::routes::{Backend, Port, Routes};

/// A postmaster takes a cancel request in milliseconds; a stuck one must not hold a socket here.
const DELIVERY_TIME: Duration = Duration::from_secs(5);

/// Keys of all running sessions whose BackendKeyData could be read. Keys are opaque bytes.
#[derive(Debug, Default)]
pub(crate) struct CancelKeys {
    keys: Mutex<HashMap<Box<[u8]>, Arc<Backend>>>,
}

/// A known key; dropping it forgets the key.
#[derive(Debug)]
pub(crate) struct KnownKey {
    keys: Arc<CancelKeys>,
    key: Box<[u8]>,
    backend: Arc<Backend>,
}

impl CancelKeys {
    /// Remembers who issued `key`.
    pub fn remember(self: &Arc<Self>, key: Box<[u8]>, backend: &Arc<Backend>) -> KnownKey {
        self.lock().insert(key.clone(), Arc::clone(backend));
        KnownKey { keys: Arc::clone(self), key, backend: Arc::clone(backend) }
    }

    fn issuer(&self, key: &[u8]) -> Option<Arc<Backend>> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Arc<Backend>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownKey {
    pub fn bytes(&self) -> &[u8] {
        &self.key
    }
}

impl Drop for KnownKey {
    fn drop(&mut self) {
        let mut keys = self.keys.lock();
        // Two members may issue the same short key; the later session's entry is not ours to remove.
        if keys.get(&self.key).is_some_and(|b| Arc::ptr_eq(b, &self.backend)) {
            keys.remove(&self.key);
        }
    }
}

/// Delivers a cancel request to the member that issued the key, or to every member of the port when the
/// key is unknown (its session is encrypted end to end). Returns once all of them have closed, which is
/// when the client may believe that it was taken.
pub(crate) async fn deliver(
    key: &[u8],
    port: Port,
    keys: &CancelKeys,
    routes: &Routes,
    config: &ProxyConfig,
    origin: Origin,
) {
    let targets = match keys.issuer(key) {
        Some(backend) => vec![backend],
        None => members(routes, port, config).cloned().map(Arc::new).collect(),
    };
    let request = cancel_request(key);
    let mut deliveries = tokio::task::JoinSet::new();
    for backend in targets {
        let (request, config) = (request.clone(), config.clone());
        deliveries.spawn(async move {
            let delivery = async {
                let mut server = Server::connect(&backend, false, &config, origin).await?;
                server.write_all(&request).await?;
                server.closed().await;
                std::io::Result::Ok(())
            };
            match tokio::time::timeout(DELIVERY_TIME, delivery).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(member = backend.name, %error, "cancel request not delivered"),
                Err(_) => tracing::debug!(member = backend.name, "cancel request not taken in time"),
            }
        });
    }
    while deliveries.join_next().await.is_some() {}
}

fn members<'a>(routes: &'a Routes, port: Port, config: &ProxyConfig) -> impl Iterator<Item = &'a Backend> {
    let primary = port == Port::ReadWrite || config.read_only_falls_back_to_primary;
    let replicas = port == Port::ReadOnly;
    routes.primary.iter().filter(move |_| primary).chain(routes.replicas.iter().filter(move |_| replicas))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_forgotten_with_its_session_and_never_with_another() {
        let backend = |name: &str| {
            Arc::new(Backend { name: name.into(), tcp: String::new(), unix_socket: None, lag_bytes: None, tls: false })
        };
        let (a, b) = (backend("a"), backend("b"));
        let keys = Arc::new(CancelKeys::default());
        let first = keys.remember([1; 8].into(), &a);
        let second = keys.remember([1; 8].into(), &b);
        drop(first);
        assert_eq!(keys.issuer(&[1; 8]).unwrap().name, "b");
        drop(second);
        assert!(keys.issuer(&[1; 8]).is_none() && keys.lock().is_empty());
    }
}
