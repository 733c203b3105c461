//! Drills: a failover or a switchover done on purpose on a live cluster, within bounds, and measured.
//!
//! Owns: the verb `drill` ([`DrillVerb`]), what must hold before anything is struck ([`bounds`]), the client that writes
//! and keeps a ledger meanwhile ([`ledger`]), the course of one drill ([`course`]) and of many ([`schedule`]).
//! Must not: open the store, or end anything itself: agents are asked, and they refuse when they cannot be spared.
//! Start reading at [`run`], then [`course`].

mod address;
mod args;
mod book;
mod bounds;
mod course;
mod history;
mod interrupt;
mod ledger;
mod passfile;
mod reckoning;
mod schedule;
mod window;

pub use args::{CommonArgs, DrillVerb, FailoverArgs, SwitchoverArgs, WhenArgs};
pub use bounds::untimely;
pub use course::{Attempt, keep, look, refusal};
pub use history::parts;
pub use interrupt::Interrupt;
pub use schedule::{Practice, keep_on};

use matriarch_cli::{Target, Ui};

/// Does what the verb says. [`matriarch_cli::exit_code`] turns an error into the exit code.
pub async fn run(verb: DrillVerb, target: &Target, ui: &mut Ui) -> anyhow::Result<()> {
    match verb {
        DrillVerb::History => history::show(target, ui).await,
        DrillVerb::Failover(args) => course::drill(target, ui, args.into()).await,
        DrillVerb::Switchover(args) => course::drill(target, ui, args.into()).await,
    }
}
