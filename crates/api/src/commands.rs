//! Requests that change something: checked here as far as the snapshot allows, carried out by the agent.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use crate::answer::{self, text};
use crate::backend::{Command, CommandError};
use crate::body::{Presence, json, object};
use crate::routes::App;
use crate::schedule::{parse_schedule, parse_span, parse_version};
use crate::types::{
    ArchiveCheckRow, BlowBody, ClusterStatus, DrillRecord, ErrorBody, FailoverBody, MemberRow, ReinitializeBody,
    RestartBody, RestartRequest, RestoreFigures, SwitchoverBody,
};

async fn carry_out(app: &App, command: Command) -> Response {
    let what = name(&command);
    match &command {
        // Its values may be secrets.
        Command::PatchConfig(_) | Command::PutConfig(_) => tracing::info!("asked to change the configuration"),
        command => tracing::info!("asked for {command:?}"),
    }
    match tokio::time::timeout(app.limits.command, app.backend.command(command)).await {
        Ok(result) => answer::outcome(result),
        Err(_) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "{what} status unknown: not finished after {} s and still going on; look at GET /cluster",
                app.limits.command.as_secs()
            ),
        ),
    }
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::PatchConfig(_) | Command::PutConfig(_) => "Configuration",
        Command::Reload => "Reload",
        Command::Restart(_) | Command::CancelRestart => "Restart",
        Command::Reinitialize { .. } => "Reinitialize",
        Command::Switchover { .. } | Command::CancelSwitchover => "Switchover",
        Command::Failover { .. } => "Failover",
        Command::Forget { .. } => "Forgetting",
        Command::Blow(_) | Command::KeepDrill(_) => "Drill",
        Command::CheckArchive | Command::InitArchive => "Archive",
        Command::Stop => "Shutdown",
    }
}

#[utoipa::path(patch, path = "/config", tag = "configuration", summary = "Merge into the dynamic configuration; null removes a key",
    request_body = Object, security(("token" = []), ("basic" = [])),
    responses((status = 200, body = Object), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 409, body = String), (status = 422, body = String), (status = 503, body = String)))]
pub async fn patch_config(State(app): State<App>, body: Body) -> Response {
    match object(body).await {
        Ok(patch) => carry_out(&app, Command::PatchConfig(patch)).await,
        Err(response) => response,
    }
}

#[utoipa::path(put, path = "/config", tag = "configuration", summary = "Replace the dynamic configuration",
    request_body = Object, security(("token" = []), ("basic" = [])),
    responses((status = 200, body = Object), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 422, body = String), (status = 503, body = String)))]
pub async fn put_config(State(app): State<App>, body: Body) -> Response {
    match object(body).await {
        Ok(config) => carry_out(&app, Command::PutConfig(config)).await,
        Err(response) => response,
    }
}

#[utoipa::path(post, path = "/reload", tag = "member", summary = "Read the configuration again and reload PostgreSQL",
    security(("token" = []), ("basic" = [])),
    responses((status = 202, body = String), (status = 401, body = ErrorBody), (status = 503, body = String)))]
pub async fn reload(State(app): State<App>) -> Response {
    accepted(carry_out(&app, Command::Reload).await)
}

/// Patroni answers 202 to reload and sigterm even though the work is as good as done.
fn accepted(mut response: Response) -> Response {
    if response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    response
}

#[utoipa::path(post, path = "/restart", tag = "member", summary = "Restart PostgreSQL, now or later",
    request_body = RestartBody, security(("token" = []), ("basic" = [])),
    responses((status = 200, body = String), (status = 202, body = String), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 409, body = String), (status = 422, body = String),
        (status = 500, body = String), (status = 503, body = String)))]
pub async fn restart(State(app): State<App>, body: Body) -> Response {
    let body: RestartBody = match json(body, Presence::Optional).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    if body.schedule.is_some() && app.backend.cluster().pause {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "Can't schedule restart in the paused state; resume first");
    }
    match check_restart(body, jiff::Timestamp::now()) {
        Ok(request) => carry_out(&app, Command::Restart(request)).await,
        Err(refused) => answer::outcome(Err(refused)),
    }
}

fn check_restart(body: RestartBody, now: jiff::Timestamp) -> Result<RestartRequest, CommandError> {
    let invalid = |text: String| CommandError::Invalid(text);
    let schedule = body.schedule.map(|text| parse_schedule(&text, "restart", now)).transpose()?;
    if let Some(role) = &body.role
        && !["primary", "standby_leader", "replica"].contains(&role.as_str())
    {
        return Err(invalid(format!(
            "PostgreSQL role should be either primary, standby_leader, or replica, not '{role}'"
        )));
    }
    let older_than = match &body.postgres_version {
        None => None,
        Some(text) => Some(
            parse_version(text)
                .ok_or_else(|| invalid(format!("PostgreSQL version should be in the form 15.2 or 15, not '{text}'")))?,
        ),
    };
    let timeout = match &body.timeout {
        None => None,
        Some(value) => Some(parse_span(value).ok_or_else(|| {
            invalid(format!("Timeout should be a positive number of seconds, or text such as \"2min\", not {value}"))
        })?),
    };
    let only_pending = body.restart_pending.unwrap_or(false);
    Ok(RestartRequest { schedule, role: body.role, older_than, timeout, only_pending })
}

#[utoipa::path(delete, path = "/restart", tag = "member", summary = "Forget a scheduled restart",
    security(("token" = []), ("basic" = [])),
    responses((status = 200, body = String), (status = 401, body = ErrorBody), (status = 404, body = String)))]
pub async fn cancel_restart(State(app): State<App>) -> Response {
    carry_out(&app, Command::CancelRestart).await
}

#[utoipa::path(post, path = "/reinitialize", tag = "member", summary = "Throw the data of this replica away and copy it anew",
    request_body = ReinitializeBody, security(("token" = []), ("basic" = [])),
    responses((status = 200, body = String), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 503, body = String)))]
pub async fn reinitialize(State(app): State<App>, body: Body) -> Response {
    match json::<ReinitializeBody>(body, Presence::Optional).await {
        Ok(ReinitializeBody { force, from_leader }) => {
            carry_out(&app, Command::Reinitialize { force, from_leader }).await
        }
        Err(response) => response,
    }
}

#[utoipa::path(post, path = "/switchover", tag = "cluster", summary = "Move the primary; answers when it is done",
    request_body = SwitchoverBody, security(("token" = []), ("basic" = [])),
    responses((status = 200, body = String), (status = 202, body = String), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 412, body = String), (status = 422, body = String),
        (status = 503, body = String)))]
pub async fn switchover(State(app): State<App>, body: Body) -> Response {
    let body = match json::<SwitchoverBody>(body, Presence::Required).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    match check_switchover(body, &app.backend.cluster(), jiff::Timestamp::now()) {
        Ok(command) => carry_out(&app, command).await,
        Err(refused) => answer::outcome(Err(refused)),
    }
}

fn check_switchover(
    body: SwitchoverBody,
    cluster: &ClusterStatus,
    now: jiff::Timestamp,
) -> Result<Command, CommandError> {
    let invalid = |text: &str| Err(CommandError::Invalid(text.to_owned()));
    let Some(leader) = body.leader.filter(|leader| !leader.is_empty()) else {
        return invalid("Switchover could be performed only from a specific leader; name it in 'leader'");
    };
    let candidate = body.candidate.filter(|candidate| !candidate.is_empty());
    if body.scheduled_at.is_some() && cluster.pause {
        return invalid("Can't schedule switchover in the paused state; resume first");
    }
    let scheduled_at = body.scheduled_at.map(|text| parse_schedule(&text, "switchover", now)).transpose()?;
    if cluster.pause && candidate.is_none() {
        return invalid(
            "Switchover is possible only to a specific candidate in a paused state; name it in 'candidate'",
        );
    }
    if candidate.as_ref() == Some(&leader) {
        return invalid("Switchover target and source are the same");
    }
    if scheduled_at.is_none() {
        match &cluster.matriarch.leader {
            Some(now) if *now == leader => {}
            Some(now) => {
                let text = format!("leader name does not match: '{now}' leads, not '{leader}'");
                return Err(CommandError::Impossible(text));
            }
            None => {
                let text = "leader name does not match: nobody leads; use failover with a candidate";
                return Err(CommandError::Impossible(text.to_owned()));
            }
        }
        known_candidate(candidate.as_deref(), cluster, "switchover")?;
    }
    Ok(Command::Switchover { leader, candidate, scheduled_at })
}

fn known_candidate(candidate: Option<&str>, cluster: &ClusterStatus, action: &str) -> Result<(), CommandError> {
    let others = || cluster.members.iter().filter(|row| cluster.matriarch.leader.as_ref() != Some(&row.name));
    let eligible = |row: &&MemberRow| unfit(row).is_none();
    let others_named = || others().map(|row| row.name.as_str()).collect::<Vec<_>>().join(", ");
    match candidate {
        Some(name) if !cluster.members.iter().any(|row| row.name == name) => Err(CommandError::Impossible(format!(
            "candidate does not exist: there is no member '{name}'; choose one of: {}",
            others_named()
        ))),
        Some(name) => {
            let row = cluster.members.iter().find(|row| row.name == name);
            match row.and_then(unfit) {
                Some(reason) => Err(CommandError::Impossible(format!("{action} is not possible: '{name}' {reason}"))),
                None => Ok(()),
            }
        }
        None if others().next().is_none() => Err(CommandError::Impossible(format!(
            "{action} is not possible: cluster does not have members except leader; start another member first"
        ))),
        None if others().find(eligible).is_none() => {
            let reasons = others().filter_map(|row| Some(format!("'{}' {}", row.name, unfit(row)?)));
            let reasons = reasons.collect::<Vec<_>>().join("; ");
            Err(CommandError::Impossible(format!(
                "{action} is not possible: no good candidates have been found: {reasons}"
            )))
        }
        None => Ok(()),
    }
}

/// Why a member cannot become primary, as far as its row tells; the leader looks again before it gives way.
fn unfit(row: &MemberRow) -> Option<&'static str> {
    let forbidden = match row.tags.get("nofailover") {
        Some(Value::Bool(set)) => *set,
        Some(Value::String(text)) => matches!(text.as_str(), "true" | "on" | "yes"),
        _ => row.tags.get("failover_priority").and_then(Value::as_i64) == Some(0),
    };
    match () {
        () if row.expired => Some("is not reachable"),
        () if forbidden => Some("is tagged as never to become primary (nofailover, or failover_priority 0)"),
        () if !row.runs() => Some("does not run; see 'matriarch list'"),
        () => None,
    }
}

#[utoipa::path(delete, path = "/switchover", tag = "cluster", summary = "Forget a scheduled switchover",
    security(("token" = []), ("basic" = [])),
    responses((status = 200, body = String), (status = 401, body = ErrorBody), (status = 404, body = String),
        (status = 409, body = String)))]
pub async fn cancel_switchover(State(app): State<App>) -> Response {
    carry_out(&app, Command::CancelSwitchover).await
}

#[utoipa::path(post, path = "/failover", tag = "cluster",
    summary = "Make a member primary although the leader may be gone; answers when it is done",
    request_body = FailoverBody, security(("token" = []), ("basic" = [])),
    responses((status = 200, body = String), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 412, body = String), (status = 422, body = String), (status = 503, body = String)))]
pub async fn failover(State(app): State<App>, body: Body) -> Response {
    let body = match json::<FailoverBody>(body, Presence::Required).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    match check_failover(body, &app.backend.cluster(), jiff::Timestamp::now()) {
        Ok(command) => carry_out(&app, command).await,
        Err(refused) => answer::outcome(Err(refused)),
    }
}

fn check_failover(body: FailoverBody, cluster: &ClusterStatus, now: jiff::Timestamp) -> Result<Command, CommandError> {
    let Some(candidate) = body.candidate.filter(|candidate| !candidate.is_empty()) else {
        let text = "Failover could be performed only to a specific candidate; name it in 'candidate'";
        return Err(CommandError::Invalid(text.to_owned()));
    };
    if body.scheduled_at.is_some() {
        return Err(CommandError::Invalid("Failover can't be scheduled; schedule a switchover".to_owned()));
    }
    let accept_data_loss = body.accept_data_loss;
    if accept_data_loss && let Some(leader) = body.leader.as_ref().or(cluster.matriarch.leader.as_ref()) {
        return Err(CommandError::Impossible(format!(
            "no loss is accepted while '{leader}' leads or is to be moved away from: a failover without it, or a switchover, \
             loses nothing"
        )));
    }
    if let Some(leader) = body.leader.filter(|leader| !leader.is_empty()) {
        let body = SwitchoverBody { leader: Some(leader), candidate: Some(candidate), scheduled_at: None };
        return check_switchover(body, cluster, now);
    }
    known_candidate(Some(&candidate), cluster, "failover")?;
    if cluster.matriarch.leader.as_ref() == Some(&candidate) {
        return Err(CommandError::Impossible(format!("failover is not possible: '{candidate}' leads already")));
    }
    Ok(Command::Failover { candidate, accept_data_loss })
}

#[utoipa::path(delete, path = "/members/{name}", tag = "cluster", summary = "Forget a member that is away for good",
    params(("name" = String, Path, description = "Name of the member")), security(("token" = []), ("basic" = [])),
    responses((status = 200, body = String), (status = 401, body = ErrorBody), (status = 404, body = String),
        (status = 409, body = String), (status = 412, body = String), (status = 503, body = String)))]
pub async fn forget(State(app): State<App>, Path(member): Path<String>) -> Response {
    match check_forget(member, &app.backend.cluster()) {
        Ok(command) => carry_out(&app, command).await,
        Err(refused) => answer::outcome(Err(refused)),
    }
}

fn check_forget(member: String, cluster: &ClusterStatus) -> Result<Command, CommandError> {
    let Some(row) = cluster.members.iter().find(|row| row.name == member) else {
        let known = cluster.members.iter().map(|row| row.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(CommandError::Absent(format!("there is no member '{member}'; there are: {known}")));
    };
    if !row.expired {
        let text = format!("'{member}' is alive and would be known again at once; stop its agent first");
        return Err(CommandError::Impossible(text));
    }
    Ok(Command::Forget { member })
}

#[utoipa::path(post, path = "/drill", tag = "member",
    summary = "End this primary as a crash would, to practise a failover",
    request_body = BlowBody, security(("token" = []), ("basic" = [])),
    responses((status = 200, body = String), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 412, body = String)))]
pub async fn drill(State(app): State<App>, body: Body) -> Response {
    match json::<BlowBody>(body, Presence::Required).await {
        Ok(body) => carry_out(&app, Command::Blow(body)).await,
        Err(response) => response,
    }
}

#[utoipa::path(post, path = "/drills", tag = "cluster", summary = "Keep the result of a drill",
    request_body = DrillRecord, security(("token" = []), ("basic" = [])),
    responses((status = 200, body = String), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 422, body = String), (status = 503, body = String)))]
pub async fn keep_drill(State(app): State<App>, body: Body) -> Response {
    let record = match json::<DrillRecord>(body, Presence::Required).await {
        Ok(record) => record,
        Err(response) => return response,
    };
    let wrong = if record.at.parse::<jiff::Timestamp>().is_err() {
        "'at' must be a time in RFC 3339"
    } else if !record.gap_seconds.is_finite() || record.gap_seconds < 0.0 {
        "'gap_seconds' must not be negative"
    } else if record.note.len() > 2000 || record.from.len() > 200 || record.to.len() > 200 {
        "'note' may have 2000 bytes, names 200"
    } else if record.restore.as_ref().is_some_and(|restore| !is_sound(restore)) {
        "'restore': a text may have 500 bytes, there may be 10 'checks', and no time is negative"
    } else {
        return carry_out(&app, Command::KeepDrill(Box::new(record))).await;
    };
    answer::outcome(Err(CommandError::Unacceptable(wrong.to_owned())))
}

/// All members keep it, and its times become metrics.
fn is_sound(restore: &RestoreFigures) -> bool {
    let texts = [&restore.backup, &restore.repository, &restore.target, &restore.reached].into_iter();
    let texts = texts.chain(&restore.reached_at).chain(&restore.checks);
    let mut times = restore.seconds.steps().into_iter().map(|(_, seconds)| seconds);
    restore.checks.len() <= 10 && texts.map(String::len).all(|length| length <= 500) && times.all(|time| time >= 0.0)
}

#[utoipa::path(post, path = "/failsafe", tag = "cluster", summary = "Ask for consent to go on without the store",
    request_body = Object, security(("token" = []), ("basic" = [])),
    responses((status = 401, body = ErrorBody), (status = 502, description = "Failsafe mode is off", body = ErrorBody)))]
pub async fn failsafe() -> Response {
    failsafe_is_off()
}

/// Consent is given between agents under the durability rule, never over this path, so it always refuses.
pub fn failsafe_is_off() -> Response {
    answer::error(
        StatusCode::BAD_GATEWAY,
        "failsafe mode is off",
        "nothing to do: under a durability rule the primary goes on without the store as long as enough voters answer",
    )
}

#[utoipa::path(post, path = "/sigterm", tag = "member", summary = "Stop PostgreSQL and the agent",
    security(("token" = []), ("basic" = [])),
    responses((status = 202, body = String), (status = 401, body = ErrorBody)))]
pub async fn stop(State(app): State<App>) -> Response {
    accepted(carry_out(&app, Command::Stop).await)
}

#[utoipa::path(post, path = "/archive/check", tag = "cluster", summary = "A round trip with every repository of the archive",
    security(("token" = []), ("basic" = [])),
    responses((status = 200, body = Vec<ArchiveCheckRow>), (status = 401, body = ErrorBody), (status = 412, body = String),
        (status = 503, body = String)))]
pub async fn check_archive(State(app): State<App>) -> Response {
    carry_out(&app, Command::CheckArchive).await
}

#[utoipa::path(post, path = "/archive/init", tag = "cluster", summary = "Make repositories of the archive's places",
    security(("token" = []), ("basic" = [])),
    responses((status = 200, body = Vec<ArchiveCheckRow>), (status = 401, body = ErrorBody), (status = 412, body = String),
        (status = 503, body = String)))]
pub async fn init_archive(State(app): State<App>) -> Response {
    carry_out(&app, Command::InitArchive).await
}
