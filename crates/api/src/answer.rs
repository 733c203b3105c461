//! Answers that are not a status page: errors with a remedy, and Patroni's one-line texts.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};

use crate::auth::Refusal;
use crate::backend::{CommandDone, CommandError, Outcome};
use crate::types::ErrorBody;

/// An error with what to do next.
pub fn error(status: StatusCode, error: impl Into<String>, remedy: impl Into<String>) -> Response {
    (status, Json(ErrorBody { error: error.into(), remedy: remedy.into() })).into_response()
}

/// Patroni's way to answer a command: one line of text, which its command line tool prints.
pub fn text(status: StatusCode, text: impl Into<String>) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], text.into()).into_response()
}

/// What came of a command.
pub fn outcome(result: Result<CommandDone, CommandError>) -> Response {
    match result {
        Ok(CommandDone { body: Some(body), .. }) => Json(body).into_response(),
        Ok(done) => {
            let status = match done.outcome {
                Outcome::Done => StatusCode::OK,
                Outcome::Scheduled => StatusCode::ACCEPTED,
            };
            text(status, done.message)
        }
        Err(refused) => {
            let status = StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            text(status, refused.to_string())
        }
    }
}

/// 401, for a request without the right credentials; 403, as in Patroni, for one without a certificate.
pub fn unauthorized(refusal: Refusal) -> Response {
    let what = match refusal {
        Refusal::Uncertified => {
            let remedy = "show one that an authority of restapi.cafile has signed: ctl.certfile and ctl.keyfile, or --cert and --key";
            return error(StatusCode::FORBIDDEN, "client certificate required", remedy);
        }
        Refusal::Missing => "this request needs credentials and came without",
        Refusal::Wrong => "the credentials of this request are not the right ones",
    };
    let remedy = "send 'Authorization: Bearer TOKEN' with the agent's restapi.token (of a cluster made by `matriarch up`: \
                  'token' in its cluster.json), or the user name and password of restapi.authentication";
    let mut response = error(StatusCode::UNAUTHORIZED, what, remedy);
    let challenges = [r#"Bearer realm="matriarch""#, r#"Basic realm="matriarch""#];
    for challenge in challenges {
        response.headers_mut().append(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static(challenge));
    }
    response
}

/// 405, after the router has found the path but not the method; keeps its `Allow`.
pub fn method_not_allowed(method: &str, path: &str, mut response: Response) -> Response {
    let allowed = response.headers().get(ALLOW).and_then(|value| value.to_str().ok()).unwrap_or("GET").to_owned();
    let mut answer = error(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not possible on {path}"),
        format!("use one of {allowed}; GET /openapi.json describes every path"),
    );
    if let Some(value) = response.headers_mut().remove(ALLOW) {
        answer.headers_mut().insert(ALLOW, value);
    }
    answer
}
