//! Paths, and what reading them answers.
//!
//! An unknown path is 404 with the nearest known one. Patroni answers 503 there (its health check is the fallback); a
//! load balancer takes either as "down", since it accepts only 2xx and 3xx, so a mistyped check fails in both, and
//! here it also says what is wrong.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json};

use crate::auth::{Auth, Certified};
use crate::backend::Backend;
use crate::health::{CHECKS, Check, judge};
use crate::nearest::nearest;
use crate::server::Limits;
use crate::types::{ArchiveStatus, ClusterStatus, DrillLog, ErrorBody, HistoryLine, MemberStatus, StatusPage};
use crate::{answer, commands, heartbeat, metrics, openapi};

/// What every handler needs.
#[derive(Clone)]
pub struct App {
    pub backend: Arc<dyn Backend>,
    pub limits: Limits,
}

/// The interface of one member.
pub fn router(backend: Arc<dyn Backend>, auth: Auth) -> Router {
    router_with(backend, auth, Limits::default())
}

/// [`router`] with other limits.
pub fn router_with(backend: Arc<dyn Backend>, auth: Auth, limits: Limits) -> Router {
    let mut router = Router::new();
    for (path, check, _) in CHECKS {
        router = router.route(path, get(health).options(health).layer(Extension(*check)));
    }
    let inner = router
        .route("/patroni", get(member))
        .route("/cluster", get(cluster))
        .route("/history", get(history))
        .route("/drills", get(drills).post(commands::keep_drill))
        .route("/drill", post(commands::drill))
        .route("/status", get(status))
        .route("/metrics", get(metrics_text))
        .route("/openapi.json", get(openapi_json))
        .route("/config", get(config).patch(commands::patch_config).put(commands::put_config))
        .route("/failsafe", get(failsafe).post(commands::failsafe))
        .route("/reload", post(commands::reload))
        .route("/restart", post(commands::restart).delete(commands::cancel_restart))
        .route("/reinitialize", post(commands::reinitialize))
        .route("/switchover", post(commands::switchover).delete(commands::cancel_switchover))
        .route("/failover", post(commands::failover))
        .route("/archive", get(archive))
        .route("/archive/check", post(commands::check_archive))
        .route("/archive/init", post(commands::init_archive))
        .route("/members/{name}", delete(commands::forget))
        .route("/sigterm", post(commands::stop))
        .route(heartbeat::PATH, get(heartbeat::heartbeat))
        .fallback(unknown_path)
        .with_state(App { backend, limits });
    // A layer of the inner router would run before the router adds `Allow`.
    Router::new()
        .fallback_service(inner)
        .layer(middleware::from_fn(explain_method))
        .layer(middleware::from_fn_with_state(auth, authenticate))
}

/// Every path, for the nearest one and for the test that OpenAPI names them all.
pub const OTHER_PATHS: &[&str] = &[
    "/patroni",
    "/cluster",
    "/history",
    "/drills",
    "/drill",
    "/status",
    "/metrics",
    "/openapi.json",
    "/config",
    "/failsafe",
    "/reload",
    "/restart",
    "/reinitialize",
    "/switchover",
    "/failover",
    "/archive",
    "/archive/check",
    "/archive/init",
    "/members/{name}",
    "/sigterm",
    heartbeat::PATH,
];

async fn authenticate(State(auth): State<Auth>, request: Request, next: Next) -> Response {
    let read = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let certified = request.extensions().get::<Certified>().copied();
    let judged = match request.uri().path() {
        heartbeat::PATH => auth.check_member(request.headers(), certified),
        _ => auth.check(request.headers(), certified, !read),
    };
    match judged {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let path: String = request.uri().path().chars().take(80).collect();
            tracing::warn!(method = %request.method(), path, ?refusal, "request refused");
            answer::unauthorized(refusal)
        }
    }
}

async fn explain_method(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    if response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    answer::method_not_allowed(method.as_str(), &path, response)
}

async fn unknown_path(app: State<App>, method: Method, uri: Uri) -> Response {
    // Patroni looks at the first words of a path only, so checks with a slash at the end exist.
    if let Some(check) = Check::of_path(uri.path())
        && matches!(method, Method::GET | Method::HEAD | Method::OPTIONS)
    {
        return health(app, Extension(check), method, uri).await;
    }
    let known = CHECKS.iter().map(|(path, ..)| *path).filter(|path| *path != "/").chain(OTHER_PATHS.iter().copied());
    let remedy = match nearest(uri.path(), known) {
        Some(path) => format!("did you mean {path}? GET /openapi.json lists every path"),
        None => "GET /openapi.json lists every path".to_owned(),
    };
    let shown: String = uri.path().chars().take(80).collect();
    answer::error(StatusCode::NOT_FOUND, format!("there is no path {shown}"), remedy)
}

async fn health(State(app): State<App>, Extension(check): Extension<Check>, method: Method, uri: Uri) -> Response {
    let query = Query::<HashMap<String, String>>::try_from_uri(&uri).map(|query| query.0).unwrap_or_default();
    let member = app.backend.status();
    let verdict = judge(check, &member, app.backend.live(), &query);
    let status = if verdict.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if method != Method::GET {
        return status.into_response();
    }
    if check.is_probe() {
        return answer::text(status, verdict.err().unwrap_or_default());
    }
    (status, Json(&*member)).into_response()
}

#[utoipa::path(get, path = "/patroni", tag = "read", summary = "This member, whatever its health",
    responses((status = 200, body = MemberStatus)))]
pub async fn member(State(app): State<App>) -> Response {
    Json(&*app.backend.status()).into_response()
}

#[utoipa::path(get, path = "/cluster", tag = "read", summary = "The cluster as this member last read it",
    responses((status = 200, body = ClusterStatus)))]
pub async fn cluster(State(app): State<App>) -> Response {
    Json(&*app.backend.cluster()).into_response()
}

#[utoipa::path(get, path = "/history", tag = "read", summary = "Past timelines, oldest first",
    responses((status = 200, body = Vec<HistoryLine>)))]
pub async fn history(State(app): State<App>) -> Response {
    Json(app.backend.history()).into_response()
}

#[utoipa::path(get, path = "/drills", tag = "read", summary = "Drills that were done, oldest first",
    responses((status = 200, body = DrillLog)))]
pub async fn drills(State(app): State<App>) -> Response {
    Json(&*app.backend.drills()).into_response()
}

#[utoipa::path(get, path = "/archive", tag = "read", summary = "How this member stands to the archive",
    responses((status = 200, body = ArchiveStatus)))]
pub async fn archive(State(app): State<App>) -> Response {
    Json(&*app.backend.archive()).into_response()
}

#[utoipa::path(get, path = "/status", tag = "read",
    summary = "One page: cluster, rule, store, replication, slots, certificates, pending restarts",
    responses((status = 200, body = StatusPage)))]
pub async fn status(State(app): State<App>) -> Response {
    let left = app.backend.live().lease_remaining.map(|left| left.as_millis() as u64);
    let page = StatusPage::new((*app.backend.cluster()).clone(), (*app.backend.status()).clone(), left);
    Json(page).into_response()
}

#[utoipa::path(get, path = "/metrics", tag = "read", summary = "Metrics as OpenMetrics text",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub async fn metrics_text(State(app): State<App>) -> Response {
    let backend = &app.backend;
    let (member, cluster, drills) = (backend.status(), backend.cluster(), backend.drills());
    let archive = backend.archive();
    let text = metrics::render(&member, &cluster, &drills, &archive, backend.live(), backend.failsafe().as_ref());
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

#[utoipa::path(get, path = "/openapi.json", tag = "read", summary = "This description",
    responses((status = 200, body = Object)))]
pub async fn openapi_json() -> Response {
    ([(CONTENT_TYPE, "application/json")], openapi::document()).into_response()
}

#[utoipa::path(get, path = "/config", tag = "configuration", summary = "Dynamic configuration",
    responses((status = 200, body = Object), (status = 502, description = "Not known yet", body = ErrorBody)))]
pub async fn config(State(app): State<App>) -> Response {
    match app.backend.config() {
        Some(config) => Json(config).into_response(),
        None => answer::error(
            StatusCode::BAD_GATEWAY,
            "the dynamic configuration is not known: the cluster is not bootstrapped, or the store was never read",
            "look at 'store' and 'problem' in GET /status",
        ),
    }
}

#[utoipa::path(get, path = "/failsafe", tag = "configuration", summary = "Members that failsafe mode asks",
    responses((status = 200, body = Object), (status = 502, description = "Failsafe mode is off", body = ErrorBody)))]
pub async fn failsafe(State(app): State<App>) -> Response {
    match app.backend.failsafe() {
        Some(members) => Json(members).into_response(),
        None => commands::failsafe_is_off(),
    }
}
