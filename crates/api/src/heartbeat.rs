//! `GET /heartbeat`: another member turns its connection into one for heartbeats. What is said over it is the agents'
//! business; here it is admitted and handed over.

use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use matriarch_tls::Wire;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::answer;
use crate::routes::App;

/// The path.
pub const PATH: &str = "/heartbeat";
/// The protocol that the connection is upgraded to.
pub const PROTOCOL: &str = "matriarch-heartbeat";
/// Header with the name of the cluster.
pub const SCOPE: &str = "matriarch-scope";
/// Header with the name of the member that asks.
pub const MEMBER: &str = "matriarch-member";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Name of its cluster.
    pub scope: String,
    /// Its name.
    pub member: String,
}

/// Why a member is not spoken with, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAdmitted {
    /// What is wrong.
    pub error: String,
    /// What to do.
    pub remedy: String,
}

/// A connection that carries heartbeats from now on.
pub type HeartbeatStream = Box<dyn Duplex>;

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

#[utoipa::path(get, path = "/heartbeat", tag = "member",
    summary = "For other members: turns the connection into one for heartbeats (HTTP upgrade)",
    responses(
        (status = 101, description = "Speak"),
        (status = 400, description = "No name", body = crate::types::ErrorBody),
        (status = 403, description = "No client certificate was shown (verify_client)", body = crate::types::ErrorBody),
        (status = 409, description = "Another cluster, or a name that is not admitted", body = crate::types::ErrorBody),
        (status = 426, description = "No request to upgrade", body = crate::types::ErrorBody),
    ))]
pub async fn heartbeat(State(app): State<App>, request: Request) -> Response {
    let headers = request.headers();
    let wants = headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()));
    if !wants {
        let remedy = format!("members send 'Upgrade: {PROTOCOL}'; for a health check use /liveness or /primary");
        let mut refusal = answer::error(StatusCode::UPGRADE_REQUIRED, "this path is for other members' agents", remedy);
        refusal.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        return refusal;
    }
    let Some(hello) = hello(headers) else {
        let error = format!("a heartbeat needs the headers '{SCOPE}' and '{MEMBER}'");
        return answer::error(StatusCode::BAD_REQUEST, error, "run the same version of matriarch on all members");
    };
    if let Err(refusal) = app.backend.admit(&hello) {
        return answer::error(StatusCode::CONFLICT, refusal.error, refusal.remedy);
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let Some(stream) = bare(upgraded) else { return };
                app.backend.heartbeat(hello, stream).await;
            }
            Err(failure) => tracing::debug!(%failure, "a heartbeat connection was not upgraded"),
        }
    });
    let headers = [(CONNECTION, HeaderValue::from_static("upgrade")), (UPGRADE, HeaderValue::from_static(PROTOCOL))];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Without the layers that HTTP needed: they cost at every beat (TLS stays where there is any). None when the member spoke before it was admitted.
fn bare(upgraded: Upgraded) -> Option<HeartbeatStream> {
    match upgraded.downcast::<TokioIo<Wire>>() {
        Ok(parts) => parts.read_buf.is_empty().then(|| match parts.io.into_inner() {
            Wire::Plain(stream) => Box::new(stream) as HeartbeatStream,
            secured => Box::new(secured),
        }),
        Err(upgraded) => Some(Box::new(TokioIo::new(upgraded))),
    }
}

fn hello(headers: &HeaderMap) -> Option<Hello> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.to_owned());
    Some(Hello { scope: text(SCOPE)?, member: text(MEMBER)? })
}
