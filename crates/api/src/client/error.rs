//! What a client says of a request that failed.

use std::io;
use std::time::Duration;

/// Why a request failed; each names the address and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be used.
    #[error("'{url}' is no address of an agent: {why}; expected http://HOST:PORT or https://HOST:PORT")]
    BadAddress {
        /// As given.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// No connection, or it broke.
    #[error("{url} does not answer: {source}; check that the agent runs there ('matriarch list' shows who does)")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What happened.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{url} did not answer within {} ms; its agent hangs or the network loses packets: look at its log", after.as_millis())]
    Timeout {
        /// What was asked.
        url: String,
        /// How long it took.
        after: Duration,
    },
    /// Somebody is there, and no TLS came about with them.
    #[error("{url} cannot be asked: {why}")]
    Tls {
        /// What was asked.
        url: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// 401.
    #[error("{url} refuses the request: {}; {remedy}", error)]
    Unauthorized {
        /// What was asked.
        url: String,
        /// The agent's words.
        error: String,
        /// The agent's advice.
        remedy: String,
    },
    /// Any other refusal.
    #[error("{url} answered {status}: {text}")]
    Refused {
        /// What was asked.
        url: String,
        /// HTTP status code.
        status: u16,
        /// The agent's words.
        text: String,
    },
    /// The answer is not what this version understands.
    #[error("{url} answered something else than expected ({why}); is it an agent, and of this version?")]
    BadAnswer {
        /// What was asked.
        url: String,
        /// What is wrong.
        why: String,
    },
}

impl ClientError {
    /// The member could not be asked at all, so asking another one makes sense.
    pub fn is_away(&self) -> bool {
        matches!(self, ClientError::Unreachable { .. } | ClientError::Timeout { .. })
    }
}
