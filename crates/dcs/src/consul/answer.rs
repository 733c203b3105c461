//! What Consul answers, and which of its words tell that nothing happened. Pure.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::http::{Answer, NoAnswer};
use crate::store::Revision;

/// One key of a listing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Pair {
    pub key: String,
    /// Base64; null for an empty value.
    #[serde(default)]
    value: Option<String>,
    pub modify_index: Revision,
    #[serde(default)]
    pub session: Option<String>,
}

impl Pair {
    /// The value as text; what others stored that is no text is shown as well as it can be.
    pub fn text(&self) -> Result<String, base64::DecodeError> {
        let bytes = BASE64_STANDARD.decode(self.value.as_deref().unwrap_or_default())?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

/// The answer to a transaction.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TxnAnswer {
    #[serde(default)]
    pub results: Option<Vec<TxnResult>>,
    #[serde(default)]
    pub errors: Option<Vec<TxnFault>>,
}

/// What one operation gave.
#[derive(Debug, Deserialize)]
pub(super) struct TxnResult {
    #[serde(rename = "KV", default)]
    pub kv: Option<TxnKey>,
}

/// A key that was written or checked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TxnKey {
    pub modify_index: Revision,
}

/// Why one operation failed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TxnFault {
    #[serde(default)]
    pub op_index: usize,
    #[serde(default)]
    pub what: String,
}

impl TxnFault {
    pub fn is_denied(&self) -> bool {
        is_denied(&self.what)
    }

    /// A `check-index`, `check-not-exists` or `cas` that did not hold.
    pub fn is_comparison(&self) -> bool {
        ["failed index check", "failed to check index", "failed to set key", "key \""]
            .iter()
            .any(|start| self.what.starts_with(start))
    }

    /// A `lock` with a session that is gone.
    pub fn is_lost_session(&self) -> bool {
        self.what.starts_with("invalid session")
    }
}

/// A session of a listing, or the one just made.
#[derive(Debug, Deserialize)]
pub(super) struct Session {
    #[serde(rename = "ID")]
    pub id: String,
}

/// Consul's words for a token that is unknown or may not do this.
pub(super) fn is_denied(words: &str) -> bool {
    words.contains("Permission denied") || words.contains("ACL not found")
}

/// The shortest session that a server takes, in milliseconds, from its refusal: `… must be between [10s=24h0m0s]`.
pub(super) fn shortest_session(words: &str) -> Option<u64> {
    let (_, range) = words.split_once("must be between [")?;
    go_duration_ms(range.split_once('=')?.0)
}

/// Go's notation of a duration, such as `1m30s` or `500ms`, in milliseconds.
fn go_duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let factor = match unit {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1000.0,
            "ms" => 1.0,
            _ => return None,
        };
        total += value.parse::<f64>().ok()? * factor;
        rest = after;
    }
    Some(total.ceil() as u64)
}

/// How a request failed, as far as its effect is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It certainly had no effect.
    Nothing(String),
    /// It may have had its effect.
    Maybe(String),
}

impl Failure {
    /// Of a request without an answer.
    pub fn of(no_answer: NoAnswer) -> Self {
        match no_answer {
            NoAnswer::NotSent(reason) => Self::Nothing(reason),
            NoAnswer::Lost(reason) => Self::Maybe(reason),
        }
    }

    /// Of an answer that is not the one hoped for.
    pub fn told(answer: &Answer) -> Self {
        let words = answer.text();
        let said = format!("Consul answered {}: {words}", answer.status);
        match answer.status.as_u16() {
            403 => Self::Nothing(format!(
                "Consul answered 403: {words}; the token needs key:write on the cluster's prefix and session:write"
            )),
            // Refused before anything was tried: wrong, too large, or more than the limits allow. (408 is what a proxy
            // in between says that waited in vain.)
            400..=407 | 409..=499 => Self::Nothing(said),
            _ if never_started(&words) => Self::Nothing(said),
            _ => Self::Maybe(said),
        }
    }

    /// In words.
    pub fn reason(self) -> String {
        match self {
            Self::Nothing(reason) | Self::Maybe(reason) => reason,
        }
    }
}

/// Errors that Consul gives before a change has entered its log.
fn never_started(words: &str) -> bool {
    let before_the_log = [
        "No cluster leader",
        "No known Consul servers",
        "node is not the leader",
        "timed out enqueuing operation",
        "leadership transfer in progress",
        "rate limit exceeded",
        "Invalid Session TTL",
    ];
    is_denied(words) || before_the_log.iter().any(|start| words.contains(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_sessions_are_read_from_the_refusal() {
        let words = "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]";
        assert_eq!(shortest_session(words), Some(10_000));
        assert_eq!(shortest_session("must be between [1m30s=24h0m0s]"), Some(90_000));
        assert_eq!(shortest_session("must be between [500ms=24h0m0s]"), Some(500));
        assert_eq!(shortest_session("must be between [1.5s=24h0m0s]"), Some(1_500));
        assert_eq!(shortest_session("something else"), None);
    }

    #[test]
    fn a_leadership_lost_while_committing_may_have_committed() {
        let answer = |status: u16, words: &str| Answer {
            status: hyper::StatusCode::from_u16(status).unwrap(),
            headers: hyper::HeaderMap::new(),
            body: bytes::Bytes::copy_from_slice(words.as_bytes()),
        };
        let told = |status, words| Failure::told(&answer(status, words));
        assert!(matches!(
            told(500, "rpc error making call: raft apply failed: leadership lost while committing log"),
            Failure::Maybe(_)
        ));
        assert!(matches!(told(500, "rpc error making call: EOF"), Failure::Maybe(_)));
        assert!(matches!(told(500, "No cluster leader"), Failure::Nothing(_)));
        assert!(matches!(told(500, "raft apply failed: node is not the leader"), Failure::Nothing(_)));
        assert!(matches!(told(503, "rate limit exceeded, try again later"), Failure::Nothing(_)));
        assert!(matches!(told(429, "rate limit exceeded"), Failure::Nothing(_)));
        assert!(matches!(told(403, "Permission denied"), Failure::Nothing(_)));
        // A proxy in between that gave up waiting knows nothing.
        assert!(matches!(told(503, "Service Unavailable"), Failure::Maybe(_)));
        assert!(matches!(told(504, "Gateway Timeout"), Failure::Maybe(_)));
        assert!(matches!(told(502, "Bad Gateway"), Failure::Maybe(_)));
    }
}
