//! From a verb to its work.

use std::time::Duration;

use crate::fail::reader_has_gone;
use crate::movement::in_turn;
use crate::target::Target;
use crate::ui::{Format, Ui};
use crate::verbs::{ListArgs, Verb};
use crate::{archive, configuration, connect, history, list, maintenance, movement, restart, status, topology, view};

/// Does what a verb says. [`crate::exit_code`] turns an error into the exit code.
pub async fn run(verb: Verb, target: &Target, ui: &mut Ui) -> anyhow::Result<()> {
    match dispatch(verb, target, ui).await {
        Err(error) if reader_has_gone(&error) => Ok(()),
        result => result,
    }
}

async fn dispatch(verb: Verb, target: &Target, ui: &mut Ui) -> anyhow::Result<()> {
    match verb {
        Verb::List(args) => members(target, ui, args).await,
        Verb::Topology => {
            let view = view::read(target).await?;
            ui.show(&topology::tree(&view), || topology::parts(&view))
        }
        Verb::Status => {
            let view = view::read(target).await?;
            ui.show(&status::page(&view), || status::parts(&view))
        }
        Verb::Switchover(args) => movement::switchover(target, ui, args).await,
        Verb::Failover(args) => movement::failover(target, ui, args).await,
        Verb::Restart(args) => restart::restart(target, ui, args).await,
        Verb::Reload(args) => maintenance::reload(target, ui, args).await,
        Verb::Reinit(args) => maintenance::reinit(target, ui, args).await,
        Verb::Forget(args) => maintenance::forget(target, ui, args).await,
        Verb::Pause(args) => maintenance::pause(target, ui, args, true).await,
        Verb::Resume(args) => maintenance::pause(target, ui, args, false).await,
        Verb::History => {
            let view = view::read(target).await?;
            let endpoints = view.in_order(view.leader());
            let lines = in_turn(target, &endpoints, |client| async move { client.history().await }).await?;
            ui.show(&history::lines(&lines), || history::parts(&lines))
        }
        Verb::Config(verb) => configuration::run(target, ui, verb).await,
        Verb::Archive(verb) => archive::run(target, ui, verb).await,
        Verb::Psql(args) => connect::psql(target, ui, args).await,
        Verb::Dsn(args) => connect::dsn(target, ui, args).await,
        Verb::Version => connect::version(target, ui).await,
    }
}

async fn members(target: &Target, ui: &mut Ui, args: ListArgs) -> anyhow::Result<()> {
    let Some(seconds) = args.watch else {
        let view = view::read(target).await?;
        return ui.show(&list::lines(&view), || list::parts(&view));
    };
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(seconds));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A cluster that is down for a moment is what a person watches for, so that ends nothing.
        let text = match view::read(target).await {
            Ok(view) => ui.rendered(&list::lines(&view), || list::parts(&view))?,
            Err(error) => format!("{error}\n"),
        };
        let now = jiff::Zoned::now().strftime("%H:%M:%S");
        let frame = match ui.format {
            // Home, then erase what is below: clearing first would flicker.
            Format::Table if ui.colour => format!("\x1b[H\x1b[J{now}\n{text}"),
            Format::Table => format!("{now}\n{text}\n"),
            Format::Json | Format::Yaml | Format::Tsv => text,
        };
        ui.print(&frame)?;
    }
}
