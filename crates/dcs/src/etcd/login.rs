//! Logging in: once for all calls over one connection.
//!
//! A token names the moment of the log it was given at, and a server that was put back to an older copy keeps whoever shows one
//! of a moment that it has not reached waiting, until they give up. So a token is good for the connection it came over.

use std::sync::{Arc, Weak};
use std::time::Duration;

use prost::Message;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use super::client::Client;
use super::grpc::{Connection, Fault, Metadata, Status, decode};
use super::options::User;
use super::proto::{AuthenticateRequest, AuthenticateResponse};

const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
/// A server that has not answered a login by then is not going to.
const PATIENCE: Duration = Duration::from_secs(8);

/// What the server knows of this handle's user.
#[derive(Default)]
pub(super) struct Session {
    token: Option<String>,
    /// What the token came over.
    connection: Weak<Connection>,
    /// So many logins in a row had no answer in time.
    unanswered: u32,
}

impl Client {
    /// What goes with a call: the session's token, for which this logs in if there is none.
    ///
    /// # Errors
    /// None of them has sent what was to be asked. A login that is not over by the deadline goes on, for the next call: etcd
    /// computes a hash of the password, which a busy machine may not finish within the time of any one call.
    pub async fn metadata(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        deadline: Instant,
    ) -> Result<Metadata, Fault> {
        let Some(user) = &self.options.user else { return Ok(Metadata::default()) };
        let late = |_| Err(Fault::NotSent(format!("{}: logging in has not ended yet", connection.endpoint)));
        let token = timeout_at(deadline, self.token(user, connection)).await.unwrap_or_else(late)?;
        Ok(Metadata { token })
    }

    /// The token is refused: the next call logs in. Whoever logs in just now gets another anyway.
    pub async fn forget_token(&self, deadline: Instant) {
        if let Ok(mut session) = timeout_at(deadline, self.session.lock()).await {
            session.token = None;
        }
    }

    async fn token(self: &Arc<Self>, user: &User, connection: &Arc<Connection>) -> Result<Option<String>, Fault> {
        let session = Arc::clone(&self.session).lock_owned().await;
        if session.token.is_some() && Weak::ptr_eq(&session.connection, &Arc::downgrade(connection)) {
            return Ok(session.token.clone());
        }
        let password = user.password.read().map_err(Fault::NotSent)?;
        let question = AuthenticateRequest { name: user.name.clone(), password }.encode_to_vec();
        let (client, connection) = (Arc::clone(self), Arc::clone(connection));
        let login = tokio::spawn(async move { client.log_in(session, &question, &connection).await });
        login.await.unwrap_or_else(|error| Err(Fault::NotSent(format!("logging in: {error}"))))
    }

    /// Holds the session until it is over, so that nobody logs in beside it. May wait for whoever connects; so who connects must not
    /// wait for a session.
    async fn log_in(
        &self,
        mut session: OwnedMutexGuard<Session>,
        question: &[u8],
        connection: &Arc<Connection>,
    ) -> Result<Option<String>, Fault> {
        session.token = None;
        let limit = limit(self.options.attempt_timeout, session.unanswered);
        match connection.unary(AUTHENTICATE, question, &Metadata::default(), limit).await {
            Ok(answer) => {
                let token = Some(decode::<AuthenticateResponse>(answer)?.token);
                *session = Session { token, connection: Arc::downgrade(connection), unanswered: 0 };
            }
            // A cluster whose authentication is switched off takes everybody.
            Err(Fault::Status(Status { message, .. })) if message.contains("authentication is not enabled") => {}
            Err(Fault::Status(status)) => return Err(Fault::Status(status)),
            Err(Fault::NotSent(reason) | Fault::NoAnswer(reason)) => {
                session.unanswered += 1;
                self.leave(connection, &reason).await;
                // What was to be asked has not been sent yet.
                return Err(Fault::NotSent(format!("{}: logging in: {reason}", connection.endpoint)));
            }
        }
        Ok(session.token.clone())
    }
}

/// Longer each time: a server that stands still is left soon, a busy one is waited for in the end.
fn limit(first: Duration, unanswered: u32) -> Duration {
    first.saturating_mul(1_u32.checked_shl(unanswered).unwrap_or(u32::MAX)).min(first.max(PATIENCE))
}

/// For the client.
pub(super) type Shared = Arc<Mutex<Session>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_grows_and_ends() {
        let limits =
            [0, 1, 2, 3, 4, 31, 32, 1000].map(|unanswered| limit(Duration::from_secs(1), unanswered).as_secs());
        assert_eq!(limits, [1, 2, 4, 8, 8, 8, 8, 8]);
        assert_eq!(limit(Duration::from_secs(20), 5).as_secs(), 20, "what was asked for is not shortened");
    }
}
