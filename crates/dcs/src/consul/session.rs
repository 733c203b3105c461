//! Leases as Consul's sessions.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::answer::{Failure, Session, shortest_session};
use super::http::Ask;
use super::{Shared, parse};
use crate::error::StoreError;
use crate::store::{LeaseId, ttl_ms};

/// Consul keeps no session longer.
const LONGEST_MS: u64 = 24 * 3600 * 1000;
/// Sessions whose names are remembered: those of this process and those seen on keys.
const REMEMBERED: usize = 256;

/// A lease's number is the first half of its session's id, which Consul draws at random.
pub(super) fn lease_of(session: &str) -> LeaseId {
    let digits: String = session.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    LeaseId(u64::from_str_radix(&digits, 16).unwrap_or(0))
}

/// The sessions that this handle knows by name.
#[derive(Default)]
pub(super) struct Sessions {
    known: Mutex<BTreeMap<LeaseId, String>>,
    /// The shortest session that the servers take, as far as they have said.
    shortest_ms: AtomicU64,
}

impl Sessions {
    pub fn learn(&self, lease: LeaseId, id: String) {
        let mut known = self.known.lock().expect("nobody panics while holding this lock");
        if known.len() >= REMEMBERED && !known.contains_key(&lease) {
            // Any of them can be asked for again.
            known.clear();
        }
        known.insert(lease, id);
    }

    pub fn forget(&self, lease: LeaseId) {
        self.known.lock().expect("nobody panics while holding this lock").remove(&lease);
    }

    fn get(&self, lease: LeaseId) -> Option<String> {
        self.known.lock().expect("nobody panics while holding this lock").get(&lease).cloned()
    }
}

impl Shared {
    /// A new session that lives for at least `ttl`.
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let asked = ttl_ms(ttl);
        let ms = asked.max(self.sessions.shortest_ms.load(Ordering::Relaxed));
        match self.create_session(ms).await {
            Err(Failure::Nothing(words)) if shortest_session(&words).is_some_and(|shortest| shortest > ms) => {
                let shortest = shortest_session(&words).unwrap_or(ms);
                self.sessions.shortest_ms.store(shortest, Ordering::Relaxed);
                tracing::info!(
                    store = %self.place,
                    "Consul keeps no session shorter than {shortest} ms (session_ttl_min of its servers), and a lease of \
                     {asked} ms was asked for: a lease that is not renewed ends up to {} ms later",
                    2 * shortest - asked
                );
                self.create_session(shortest).await
            }
            other => other,
        }
        .map_err(|failure| self.failed_write(failure))
    }

    async fn create_session(&self, ms: u64) -> Result<LeaseId, Failure> {
        if ms > LONGEST_MS {
            return Err(Failure::Nothing(format!("Consul keeps no session for {ms} ms; at most a day")));
        }
        let name = format!("matriarch {}", self.prefix.trim_end_matches('/'));
        // The lock-delay would keep the next leader from the key for as long after each session that ends.
        let body = json!({
            "Name": name, "TTL": format!("{ms}ms"), "Behavior": "delete", "LockDelay": "0s",
            "Checks": self.client.options.checks,
        });
        let answer = self.ask(&Ask::put(self.query.session("create"), body.to_string().into())).await?;
        if answer.status != 200 {
            return Err(Failure::told(&answer));
        }
        let session: Session = parse(&answer.body).map_err(Failure::Maybe)?;
        let lease = lease_of(&session.id);
        self.sessions.learn(lease, session.id);
        Ok(lease)
    }

    pub async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let Some(id) = self.session_of(lease).await? else { return Err(self.lease_gone(lease)) };
        let ask = Ask::put(self.query.session(&format!("renew/{id}")), Bytes::new());
        let answer = self.ask(&ask).await.map_err(|failure| self.failed_write(failure))?;
        match answer.status.as_u16() {
            200 => Ok(()),
            404 => {
                self.sessions.forget(lease);
                Err(self.lease_gone(lease))
            }
            _ => Err(self.failed_write(Failure::told(&answer))),
        }
    }

    pub async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let Some(id) = self.session_of(lease).await? else { return Ok(()) };
        let ask = Ask::put(self.query.session(&format!("destroy/{id}")), Bytes::new());
        let answer = self.ask(&ask).await.map_err(|failure| self.failed_write(failure))?;
        if answer.status != 200 {
            return Err(self.failed_write(Failure::told(&answer)));
        }
        self.sessions.forget(lease);
        Ok(())
    }

    /// The session of a lease; asks for the list of sessions if another handle granted it.
    pub async fn session_of(&self, lease: LeaseId) -> Result<Option<String>, StoreError> {
        if let Some(id) = self.sessions.get(lease) {
            return Ok(Some(id));
        }
        let answer = self.ask_read(self.query.sessions()).await?;
        let sessions: Vec<Session> = parse(&answer.body).map_err(|reason| self.unavailable(reason))?;
        let found = sessions.into_iter().map(|session| session.id).find(|id| lease_of(id) == lease);
        if let Some(id) = &found {
            self.sessions.learn(lease, id.clone());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_the_first_half_of_the_session() {
        assert_eq!(lease_of("adf4238a-882b-9ddc-4a9d-5b6758e4159e"), LeaseId(0xadf4_238a_882b_9ddc));
    }
}
