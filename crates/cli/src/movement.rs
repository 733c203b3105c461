//! `switchover` and `failover`: moving the primary.

use std::future::Future;
use std::time::{Duration, Instant};

use matriarch_api::{Client, ClientError, FailoverBody, Reply, SwitchoverBody};

use crate::fail::{Failure, code};
use crate::grid::{Part, Tone};
use crate::list;
use crate::loss;
use crate::phases::Phases;
use crate::prompt::consent;
use crate::target::{Endpoint, Target};
use crate::ui::{Format, Ui};
use crate::verbs::{FailoverArgs, SwitchoverArgs};
use crate::view::{self, Answer, View};

/// How often progress is looked at while the answer is awaited.
const LOOK: Duration = Duration::from_millis(100);
/// How long the outcome is looked for after the agent that was asked has gone away.
const AFTERMATH: Duration = Duration::from_secs(15);

/// Moves the primary, losing nothing.
pub async fn switchover(target: &Target, ui: &mut Ui, args: SwitchoverArgs) -> anyhow::Result<()> {
    let view = view::read(target).await?;
    if args.cancel {
        let endpoints = view.in_order(view.leader());
        let reply = in_turn(target, &endpoints, |client| async move { client.cancel_switchover().await }).await?;
        return ui.say(Tone::Plain, &reply.text);
    }
    let Some(leader) = args.leader.clone().or_else(|| view.leader().map(str::to_owned)) else {
        let text = "nobody leads, so there is nothing to switch over from; use 'matriarch failover --candidate MEMBER'";
        return Err(Failure::new(code::TEMPORARY, text).into());
    };
    if let Some(candidate) = &args.candidate {
        known(&view, candidate, Some(&leader))?;
    }
    show_members(ui, &view, args.force)?;
    let candidate = match args.candidate {
        Some(candidate) => Some(candidate),
        None if args.force || !ui.prompt.interactive() => None,
        None => choose(ui, &view, &leader)?,
    };
    let to = candidate.clone().unwrap_or_else(|| "the best replica".to_owned());
    let when = args.scheduled.as_ref().map(|when| format!(" at {when}")).unwrap_or_default();
    let question = format!("Move the primary of {} from {leader} to {to}{when}?", view.cluster.scope);
    consent(ui.prompt.as_mut(), args.force, &question)?;

    let body = SwitchoverBody { leader: Some(leader.clone()), candidate, scheduled_at: args.scheduled };
    let first = view.leader().unwrap_or(&leader).to_owned();
    let endpoints = view.in_order(Some(&first));
    let request = in_turn(target, &endpoints, |client| {
        let body = body.clone();
        async move { client.switchover(&body).await }
    });
    finish(target, ui, &view, request).await
}

/// Makes a member primary although the leader may be gone.
pub async fn failover(target: &Target, ui: &mut Ui, args: FailoverArgs) -> anyhow::Result<()> {
    let view = view::read(target).await?;
    let leader = view.leader().unwrap_or_default().to_owned();
    if let Some(candidate) = &args.candidate {
        known(&view, candidate, view.leader())?;
    }
    show_members(ui, &view, args.force)?;
    let candidate = match args.candidate {
        Some(candidate) => candidate,
        None if args.force || !ui.prompt.interactive() => {
            let text = format!(
                "failover needs a candidate: add --candidate with one of: {}",
                candidates(&view, &leader).join(", ")
            );
            return Err(Failure::new(code::USAGE, text).into());
        }
        None => pick(ui, &candidates(&view, &leader), "Candidate")?,
    };
    if args.accept_data_loss {
        return accept_loss(target, ui, &view, candidate, args.force).await;
    }
    let well = view.leader().is_some_and(|leader| view.answered(leader) == Some(true));
    let warning =
        if well { format!("{leader} leads and answers; 'switchover' would lose nothing. ") } else { String::new() };
    let question = format!("{warning}Make {candidate} the primary of {}?", view.cluster.scope);
    consent(ui.prompt.as_mut(), args.force, &question)?;

    let body = FailoverBody { candidate: Some(candidate.clone()), ..FailoverBody::default() };
    let endpoints = view.in_order(Some(&candidate));
    let request = in_turn(target, &endpoints, |client| {
        let body = body.clone();
        async move { client.failover(&body).await }
    });
    finish(target, ui, &view, request).await
}

/// Makes a member primary though that may lose acknowledged commits; a person says so after having heard what is known.
async fn accept_loss(target: &Target, ui: &mut Ui, view: &View, candidate: String, force: bool) -> anyhow::Result<()> {
    if let Some(leader) = view.leader() {
        let text = format!("{leader} leads, so nothing needs to be lost; leave --accept-data-loss out");
        return Err(Failure::new(code::TEMPORARY, text).into());
    }
    loss::tell(ui, view, &candidate)?;
    loss::consent(ui, view, &candidate, force)?;
    let body = FailoverBody { candidate: Some(candidate.clone()), accept_data_loss: true, ..FailoverBody::default() };
    let endpoints = view.in_order(Some(&candidate));
    let request = in_turn(target, &endpoints, |client| {
        let body = body.clone();
        async move { client.failover(&body).await }
    });
    finish(target, ui, view, request).await
}

fn show_members(ui: &mut Ui, view: &View, force: bool) -> anyhow::Result<()> {
    if !force && ui.format == Format::Table {
        let text = ui.rendered(&(), || list::parts(view))?;
        ui.note(text.trim_end());
    }
    Ok(())
}

fn candidates(view: &View, leader: &str) -> Vec<String> {
    view.cluster.members.iter().filter(|row| row.name != leader).map(|row| row.name.clone()).collect()
}

fn known(view: &View, candidate: &str, leader: Option<&str>) -> anyhow::Result<()> {
    if view.row(candidate).is_some() {
        return Ok(());
    }
    let names = candidates(view, leader.unwrap_or_default()).join(", ");
    let text = format!("there is no member '{candidate}' in cluster '{}'; choose one of: {names}", view.cluster.scope);
    Err(Failure::new(code::DATA, text).into())
}

fn choose(ui: &mut Ui, view: &View, leader: &str) -> anyhow::Result<Option<String>> {
    let names = candidates(view, leader);
    if names.is_empty() {
        let text = format!("there is no member beside {leader} to switch over to; start another one first");
        return Err(Failure::new(code::TEMPORARY, text).into());
    }
    let mut options = vec!["the best replica".to_owned()];
    options.extend(names.iter().map(|name| describe(view, name)));
    let chosen = ui.prompt.choose("Candidate", &options)?;
    Ok(chosen.checked_sub(1).and_then(|at| names.get(at)).cloned())
}

fn describe(view: &View, name: &str) -> String {
    let Some(row) = view.row(name) else { return name.to_owned() };
    let silent = if view.answered(name) == Some(false) { ", agent does not answer" } else { "" };
    format!("{name} ({}, {}{silent})", list::role(&row.role), row.state)
}

fn pick(ui: &mut Ui, names: &[String], question: &str) -> anyhow::Result<String> {
    if names.is_empty() {
        return Err(Failure::new(code::TEMPORARY, "there is no member to promote; start one first").into());
    }
    let chosen = ui.prompt.choose(question, names)?;
    names.get(chosen).cloned().ok_or_else(|| Failure::new(code::USAGE, "nothing was chosen").into())
}

/// Asks one agent after the other until one can be reached.
pub async fn in_turn<T, F: Future<Output = Result<T, ClientError>>>(
    target: &Target,
    endpoints: &[Endpoint],
    ask: impl Fn(Client) -> F,
) -> Result<T, ClientError> {
    let mut last = None;
    for endpoint in endpoints {
        match ask(target.asking_client(&endpoint.api_url)?).await {
            Err(away @ (ClientError::Unreachable { .. } | ClientError::Tls { .. })) => last = Some(away),
            Err(away @ ClientError::Timeout { after, .. }) if after < Duration::from_secs(1) => last = Some(away),
            other => return other,
        }
    }
    Err(last.unwrap_or_else(|| ClientError::BadAddress { url: String::new(), why: "no agent is known".to_owned() }))
}

async fn finish(
    target: &Target,
    ui: &mut Ui,
    view: &View,
    request: impl Future<Output = Result<Reply, ClientError>>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut phases = Phases::new(&view.cluster);
    let reply = {
        let mut request = std::pin::pin!(request);
        let mut asked = 0;
        loop {
            let look = look(target, view, asked);
            tokio::select! {
                reply = &mut request => break reply,
                seen = look => {
                    asked += 1;
                    tell(ui, begun, seen.map(|cluster| phases.see(&cluster)).unwrap_or_default());
                }
            }
        }
    };
    let reply = match reply {
        // The agent that was asked has gone away; whether the primary moves is still to be seen.
        Err(away) if away.is_away() => aftermath(target, ui, view, &mut phases, begun).await.ok_or(away)?,
        reply => reply?,
    };
    let took = begun.elapsed().as_secs_f64();
    let after = view::read(target).await.ok();
    if reply.status != 202 {
        tell(ui, begun, after.as_ref().map(|view| phases.see(&view.cluster)).unwrap_or_default());
    }
    report(ui, &reply, took, after.as_ref())
}

fn tell(ui: &mut Ui, begun: Instant, lines: Vec<String>) {
    for line in lines {
        ui.note(&format!("{:5.2} s  {line}", begun.elapsed().as_secs_f64()));
    }
}

async fn look(target: &Target, view: &View, turn: usize) -> Option<matriarch_api::ClusterStatus> {
    tokio::time::sleep(LOOK).await;
    // A member that was silent before would only delay the news.
    let awake: Vec<&Answer> = view.answers.iter().filter(|answer| answer.page.is_ok()).collect();
    let answer = awake.get(turn.checked_rem(awake.len())?)?;
    target.client(&answer.endpoint.api_url).ok()?.cluster().await.ok()
}

async fn aftermath(target: &Target, ui: &mut Ui, view: &View, phases: &mut Phases, begun: Instant) -> Option<Reply> {
    let until = Instant::now() + AFTERMATH;
    for turn in 0.. {
        if phases.moved() {
            break;
        }
        if Instant::now() > until {
            return None;
        }
        if let Some(cluster) = look(target, view, turn).await {
            tell(ui, begun, phases.see(&cluster));
        }
    }
    Some(Reply { status: 200, text: "The primary has moved, though the agent that was asked went away".to_owned() })
}

fn report(ui: &mut Ui, reply: &Reply, took: f64, after: Option<&View>) -> anyhow::Result<()> {
    let text = if reply.status == 202 { reply.text.clone() } else { format!("{} ({took:.2} s)", reply.text) };
    let data = serde_json::json!({
        "message": reply.text,
        "scheduled": reply.status == 202,
        "seconds": took,
        "leader": after.and_then(View::leader),
    });
    ui.show(&data, || {
        let mut parts = vec![Part::Line(Tone::Strong, text)];
        parts.extend(after.into_iter().flat_map(list::parts));
        parts
    })
}
