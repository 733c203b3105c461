//! `reload`, `reinit`, `forget`, `pause` and `resume`, and what they share with `restart`.

use std::time::{Duration, Instant};

use matriarch_api::{ClientError, ReinitializeBody, Reply};
use serde::Serialize;
use serde_json::json;

use crate::fail::{Failure, code};
use crate::grid::{Grid, Part, Tone};
use crate::movement::in_turn;
use crate::prompt::consent;
use crate::target::Target;
use crate::ui::Ui;
use crate::verbs::{ForgetArgs, MembersArgs, PauseArgs, ReinitArgs, RoleFilter};
use crate::view::{self, View};

/// How often it is looked whether what is waited for has come.
const LOOK: Duration = Duration::from_millis(300);
/// How long members get to notice a pause.
const NOTICE: Duration = Duration::from_secs(60);
/// How long a copy may take before the command, not the copy, gives up.
const COPY: Duration = Duration::from_secs(24 * 3600);

/// What came of a request to one member.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Done {
    member: String,
    ok: bool,
    message: String,
    #[serde(skip)]
    code: u8,
}

impl Done {
    pub(crate) fn new(member: &str, result: Result<Reply, ClientError>) -> Self {
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

pub(crate) fn conclude(ui: &mut Ui, done: Vec<Done>) -> anyhow::Result<()> {
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

/// The named members or all.
pub(crate) fn select(view: &View, names: &[String], role: RoleFilter, pending: bool) -> anyhow::Result<Vec<String>> {
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
    let rows: Vec<_> = view
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
    Ok(rows.into_iter().map(|row| row.name.clone()).collect())
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
    let before: Vec<(String, Option<String>)> =
        names.iter().map(|name| (name.clone(), incarnation(&view, name))).collect();
    let body = ReinitializeBody { force: args.force, from_leader: args.from_leader };
    let mut done = Vec::new();
    for name in &names {
        let Some(endpoint) = view.endpoint(name) else { continue };
        done.push(Done::new(name, target.client(&endpoint.api_url)?.reinitialize(&body).await));
    }
    let ok = |name: &String| done.iter().any(|one| one.ok && one.member == *name);
    let begun: Vec<_> = before.into_iter().filter(|(name, _)| ok(name)).collect();
    conclude(ui, done)?;
    if args.wait {
        wait_for(target, ui, COPY, "the copy", |view| not_copied(view, &begun)).await?;
        let names: Vec<String> = begun.into_iter().map(|(name, _)| name).collect();
        ui.note(&format!("{}: streaming", names.join(", ")));
    }
    Ok(())
}

/// The identity of a member's data: a copy gets a new one.
fn incarnation(view: &View, name: &str) -> Option<String> {
    view.page(name)?.member.matriarch.incarnation.clone()
}

/// The members that do not stream yet, or still stream what they had before.
fn not_copied(view: &View, before: &[(String, Option<String>)]) -> Vec<String> {
    let streams = |name: &str| view.row(name).is_some_and(|row| !row.expired && row.follows());
    let is_new = |name: &str, old: &Option<String>| {
        old.is_none() || incarnation(view, name).is_some_and(|new| Some(new) != *old)
    };
    let waiting = before.iter().filter(|(name, old)| !streams(name) || !is_new(name, old));
    waiting
        .map(|(name, _)| match view.row(name) {
            Some(row) if row.follows() => format!("{name} has not begun"),
            Some(row) => format!("{name} is {}", row.state),
            None => format!("{name} is unknown"),
        })
        .collect()
}

/// Takes a member that is away for good out of the cluster.
pub async fn forget(target: &Target, ui: &mut Ui, args: ForgetArgs) -> anyhow::Result<()> {
    let view = view::read(target).await?;
    select(&view, std::slice::from_ref(&args.member), RoleFilter::Any, false)?;
    let left = view.cluster.members.len() - 1;
    let question = format!("Forget {}? Then {left} members are left.", args.member);
    consent(ui.prompt.as_mut(), args.force, &question)?;
    let endpoints = view.in_order(view.leader());
    let reply = in_turn(target, &endpoints, |client| {
        let member = args.member.clone();
        async move { client.forget(&member).await }
    })
    .await?;
    ui.say(Tone::Plain, &reply.text)
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
pub(crate) async fn wait_for(
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
