//! `restart`: one member after the other, in the order that the waiting parameters demand.

use std::time::Duration;

use matriarch_api::RestartBody;
use matriarch_config::RestartOrder;

use crate::grid::Tone;
use crate::maintenance::{Done, conclude, select, wait_for};
use crate::prompt::consent;
use crate::target::Target;
use crate::ui::Ui;
use crate::verbs::{RestartArgs, RoleFilter};
use crate::view::{self, View};

/// How long a restarted member may take to stream again before the next one would be restarted.
const RETURN: Duration = Duration::from_secs(300);

/// A member tells within this time that a changed parameter waits for its restart.
const TOLD: Duration = Duration::from_millis(1500);

/// As the parameters that wait for the leader's restart demand.
fn restart_order(view: &View) -> RestartOrder {
    let leader = view.leader().and_then(|leader| view.row(leader));
    let changes = leader.into_iter().flat_map(|row| &row.pending_restart_reason);
    matriarch_config::restart_order(
        changes.map(|(name, change)| (name.as_str(), change.old_value.as_str(), change.new_value.as_str())),
    )
}

/// Restarts PostgreSQL of members, one after the other.
pub async fn restart(target: &Target, ui: &mut Ui, args: RestartArgs) -> anyhow::Result<()> {
    let mut view = view::read(target).await?;
    if args.pending && !args.cancel {
        tokio::time::sleep(TOLD).await;
        view = view::read(target).await?;
    }
    let mut names = select(&view, &args.members, args.role, args.pending)?;
    let primary_first = restart_order(&view) == RestartOrder::PrimaryFirst;
    names.sort_by_key(|name| (view.leader() == Some(name.as_str())) != primary_first);
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
    let now = !args.cancel && body.schedule.is_none();
    let mut before = Vec::new();
    for name in names {
        let Some(endpoint) = view.endpoint(&name) else { continue };
        let client = target.client(&endpoint.api_url)?;
        if now {
            // One after the other: a rule that needs a voter must find one while the other is away.
            wait_for(target, ui, RETURN, "the members restarted before", |view| away(view, &before)).await?;
            ui.note(&format!("{name}: restarting"));
            // Replicas that did not stream before need not do so now; a restarted leader has lost them all.
            let leads = view.leader() == Some(name.as_str());
            let replicas = view.cluster.members.iter().filter(|row| row.follows() && (leads || row.name == name));
            before.extend(replicas.map(|row| row.name.clone()));
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

/// Those of `names` that do not stream.
fn away(view: &View, names: &[String]) -> Vec<String> {
    let leads = |name: &str| view.leader() == Some(name);
    let well = |name: &str| leads(name) || view.row(name).is_some_and(|row| !row.expired && row.follows());
    let waiting = names.iter().filter(|name| !well(name));
    waiting.map(|name| format!("{name} is {}", view.row(name).map_or("unknown", |row| row.state.as_str()))).collect()
}
