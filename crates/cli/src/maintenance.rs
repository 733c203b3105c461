//! `restart`, `reload`, `reinit`, `pause` and `resume`.

use std::time::{Duration, Instant};

use matriarch_api::{ClientError, ReinitializeBody, Reply, RestartBody};
use serde::Serialize;
use serde_json::json;

use crate::fail::{Failure, code};
use crate::grid::{Grid, Part, Tone};
use crate::movement::in_turn;
use crate::prompt::consent;
use crate::target::Target;
use crate::ui::Ui;
use crate::verbs::{MembersArgs, PauseArgs, ReinitArgs, RestartArgs, RoleFilter};
use crate::view::{self, View};

/// How often it is looked whether what is waited for has come.
const LOOK: Duration = Duration::from_millis(300);
/// How long members get to notice a pause.
const NOTICE: Duration = Duration::from_secs(60);
/// How long a copy may take before the command, not the copy, gives up.
const COPY: Duration = Duration::from_secs(24 * 3600);

/// What came of a request to one member.
#[derive(Clone, Debug, Serialize)]
struct Done {
    member: String,
    ok: bool,
    message: String,
    #[serde(skip)]
    code: u8,
}

impl Done {
    fn new(member: &str, result: Result<Reply, ClientError>) -> Self {
        let member = member.to_owned();
        match result {
            Ok(reply) => Done { member, ok: true, message: reply.text, code: 0 },
            Err(failure) => {
                let message = failure.to_string();
                Done { member, ok: false, message, code: crate::exit_code(&failure.into()) }
            }
        }
    }
}

fn conclude(ui: &mut Ui, done: Vec<Done>) -> anyhow::Result<()> {
    ui.show(&done, || {
        let mut grid = Grid::new(&["Member", "Result"]);
        for one in &done {
            let tone = if one.ok { Tone::Plain } else { Tone::Bad };
            grid.row(tone, vec![one.member.clone(), one.message.clone()]);
        }
        vec![Part::Grid(grid)]
    })?;
    match done.iter().find(|one| !one.ok) {
        Some(failed) => Err(Failure::new(failed.code, format!("it failed on {}; see above", failed.member)).into()),
        None => Ok(()),
    }
}

/// The named members or all, replicas first: a restarted primary is then taken over by the least work.
fn select(view: &View, names: &[String], role: RoleFilter, pending: bool) -> anyhow::Result<Vec<String>> {
    for name in names {
        if view.row(name).is_none() {
            let known: Vec<&str> = view.cluster.members.iter().map(|row| row.name.as_str()).collect();
            let text = format!(
                "there is no member '{name}' in cluster '{}'; there are: {}",
                view.cluster.scope,
                known.join(", ")
            );
            return Err(Failure::new(code::DATA, text).into());
        }
    }
    let leads = |name: &str| view.leader() == Some(name);
    let mut rows: Vec<_> = view
        .cluster
        .members
        .iter()
        .filter(|row| names.is_empty() || names.contains(&row.name))
        .filter(|row| match role {
            RoleFilter::Any => true,
            RoleFilter::Primary => leads(&row.name),
            RoleFilter::Replica => !leads(&row.name),
        })
        .filter(|row| !pending || row.pending_restart)
        .collect();
    rows.sort_by_key(|row| leads(&row.name));
    Ok(rows.into_iter().map(|row| row.name.clone()).collect())
}

/// Restarts PostgreSQL of members, one after the other.
pub async fn restart(target: &Target, ui: &mut Ui, args: RestartArgs) -> anyhow::Result<()> {
    let view = view::read(target).await?;
    let names = select(&view, &args.members, args.role, args.pending)?;
    if names.is_empty() {
        return ui.say(Tone::Plain, "nothing to do: no member fits");
    }
    if !args.cancel {
        let when = args.scheduled.as_ref().map(|when| format!(" at {when}")).unwrap_or_default();
        consent(ui.prompt.as_mut(), args.force, &format!("Restart PostgreSQL of {}{when}?", names.join(", ")))?;
    }
    let role = match args.role {
        RoleFilter::Any => None,
        RoleFilter::Primary => Some("primary".to_owned()),
        RoleFilter::Replica => Some("replica".to_owned()),
    };
    let body = RestartBody {
        schedule: args.scheduled,
        role,
        timeout: args.timeout.map(serde_json::Value::from),
        restart_pending: args.pending.then_some(true),
        ..RestartBody::default()
    };
    let mut done = Vec::new();
    for name in names {
        let Some(endpoint) = view.endpoint(&name) else { continue };
        let client = target.client(&endpoint.api_url)?;
        if !args.cancel {
            ui.note(&format!("{name}: restarting"));
        }
        let result = if args.cancel { client.cancel_restart().await } else { client.restart(&body).await };
        let failed = result.is_err();
        done.push(Done::new(&name, result));
        if failed && !args.cancel {
            // A restart that fails must not be tried on the next one: the last to be left would be the primary.
            ui.note("stopped here; the members that follow were not restarted");
            break;
        }
    }
    conclude(ui, done)
}

/// Makes members read their configuration again.
pub async fn reload(target: &Target, ui: &mut Ui, args: MembersArgs) -> anyhow::Result<()> {
    let view = view::read(target).await?;
    let mut done = Vec::new();
    for name in select(&view, &args.members, RoleFilter::Any, false)? {
        let Some(endpoint) = view.endpoint(&name) else { continue };
        done.push(Done::new(&name, target.client(&endpoint.api_url)?.reload().await));
    }
    conclude(ui, done)
}

/// Throws the data of replicas away and has it copied anew.
pub async fn reinit(target: &Target, ui: &mut Ui, args: ReinitArgs) -> anyhow::Result<()> {
    let view = view::read(target).await?;
    let names = select(&view, &args.members, RoleFilter::Any, false)?;
    if let Some(leader) = names.iter().find(|name| view.leader() == Some(name.as_str())) {
        let text = format!("{leader} is the leader: its data is the original; switch over first");
        return Err(Failure::new(code::DATA, text).into());
    }
    consent(ui.prompt.as_mut(), args.force, &format!("Throw the data of {} away and copy it anew?", names.join(", ")))?;
    let body = ReinitializeBody { force: args.force, from_leader: args.from_leader };
    let mut done = Vec::new();
    for name in &names {
        let Some(endpoint) = view.endpoint(name) else { continue };
        done.push(Done::new(name, target.client(&endpoint.api_url)?.reinitialize(&body).await));
    }
    let begun: Vec<String> = done.iter().filter(|one| one.ok).map(|one| one.member.clone()).collect();
    conclude(ui, done)?;
    if args.wait {
        wait_for(target, ui, COPY, "the copy", |view| streaming(view, &begun)).await?;
        ui.note(&format!("{}: streaming", begun.join(", ")));
    }
    Ok(())
}

fn streaming(view: &View, names: &[String]) -> Vec<String> {
    let well = |name: &&String| view.row(name).is_some_and(|row| !row.expired && row.state == "streaming");
    let waiting = names.iter().filter(|name| !well(name));
    waiting.map(|name| format!("{name} is {}", view.row(name).map_or("unknown", |row| row.state.as_str()))).collect()
}

/// Stops or resumes everything automatic.
pub async fn pause(target: &Target, ui: &mut Ui, args: PauseArgs, pause: bool) -> anyhow::Result<()> {
    let view = view::read(target).await?;
    let word = if pause { "paused" } else { "resumed" };
    if view.cluster.pause == pause {
        return ui.say(Tone::Plain, &format!("cluster '{}' is {word} already", view.cluster.scope));
    }
    let patch = if pause { json!({"pause": true}) } else { json!({"pause": null}) };
    let endpoints = view.in_order(view.leader());
    in_turn(target, &endpoints, |client| {
        let patch = patch.clone();
        async move { client.patch_config(&patch).await }
    })
    .await?;
    if args.wait {
        wait_for(target, ui, NOTICE, "the members", |view| unnoticed(view, pause)).await?;
    }
    ui.say(Tone::Plain, &format!("cluster '{}' is {word}", view.cluster.scope))
}

fn unnoticed(view: &View, pause: bool) -> Vec<String> {
    let pages = view.answers.iter().filter_map(|answer| Some((&answer.endpoint.name, answer.page.as_ref().ok()?)));
    pages.filter(|(_, page)| page.member.pause != pause).map(|(name, _)| format!("{name} has not noticed")).collect()
}

/// Looks again until nobody is waited for; tells each change of who is.
async fn wait_for(
    target: &Target,
    ui: &mut Ui,
    patience: Duration,
    what: &str,
    waiting: impl Fn(&View) -> Vec<String>,
) -> anyhow::Result<()> {
    let until = Instant::now() + patience;
    let mut told = String::new();
    loop {
        let left = waiting(&view::read(target).await?).join(", ");
        if left.is_empty() {
            return Ok(());
        }
        if left != told {
            ui.note(&left);
            told = left;
        } else if Instant::now() > until {
            let text =
                format!("gave up waiting for {what} after {} s: {told}; look at 'matriarch list'", patience.as_secs());
            return Err(Failure::new(code::TEMPORARY, text).into());
        }
        tokio::time::sleep(LOOK).await;
    }
}
