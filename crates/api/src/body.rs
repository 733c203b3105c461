//! Bodies of requests: bounded in size and time, and told apart with the place of the mistake.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::answer::error;

/// A dynamic configuration is a few kilobytes; etcd refuses values above 1.5 MiB.
const LIMIT: usize = 1 << 20;
/// A client that takes longer to send that is stuck or hostile.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether a request may come without a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// 400 without one.
    Required,
    /// No body is `{}`.
    Optional,
}

/// Reads a body as JSON.
pub async fn json<T: DeserializeOwned>(body: Body, presence: Presence) -> Result<T, Response> {
    let bytes = match tokio::time::timeout(PATIENCE, Limited::new(body, LIMIT).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(failure)) if failure.is::<LengthLimitError>() => {
            return Err(error(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {LIMIT} bytes"),
                "send only what should change",
            ));
        }
        Ok(Err(failure)) => {
            let remedy = "send the whole body; Content-Length must be its size in bytes";
            return Err(error(StatusCode::BAD_REQUEST, format!("the body broke off: {failure}"), remedy));
        }
        Err(_) => {
            let what = format!("the body did not arrive within {} s", PATIENCE.as_secs());
            return Err(error(StatusCode::REQUEST_TIMEOUT, what, "send it at once"));
        }
    };
    let text: &[u8] = match (bytes.trim_ascii(), presence) {
        ([], Presence::Optional) => b"{}",
        ([], Presence::Required) => {
            return Err(error(
                StatusCode::BAD_REQUEST,
                "the body is empty; expected a JSON object",
                "GET /openapi.json describes the body of every request",
            ));
        }
        (text, _) => text,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|failure| (failure.path().to_string(), failure.into_inner()))
        .and_then(|value| deserializer.end().map(|()| value).map_err(|failure| (".".to_owned(), failure)))
        .map_err(|(path, failure)| {
            let place = if path == "." { "the body".to_owned() } else { format!("the body at '{path}'") };
            error(
                StatusCode::BAD_REQUEST,
                format!("{place} is not as expected: {failure}"),
                "GET /openapi.json describes the body of every request",
            )
        })
}

/// Reads a configuration: an object that is not empty, since `null` or a list would wipe out what is stored.
pub async fn object(body: Body) -> Result<Value, Response> {
    let value: Value = json(body, Presence::Required).await?;
    if value.as_object().is_some_and(|map| !map.is_empty()) {
        return Ok(value);
    }
    Err(error(
        StatusCode::BAD_REQUEST,
        "the body is not as expected: a configuration is a JSON object with at least one key",
        "send for example {\"postgresql\": {\"parameters\": {\"work_mem\": \"8MB\"}}}",
    ))
}
