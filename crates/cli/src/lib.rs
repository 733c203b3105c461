//! The verbs a person types: what they ask of the agents, and how the answers look.
//!
//! Owns: the command line of every verb ([`Verb`]), reading a whole cluster through its agents ([`view`]), tables and
//! machine-readable output ([`Ui`]), questions ([`Prompt`]), and exit codes ([`exit_code`]).
//! Must not: open the store or PostgreSQL, or know how a cluster is found: the caller hands over a [`Target`].
//! Start reading at [`run`].

mod archive;
mod configuration;
mod connect;
mod diff;
mod fail;
mod grid;
mod history;
mod list;
mod loss;
mod maintenance;
mod movement;
mod phases;
mod prompt;
mod restart;
mod run;
mod status;
mod target;
mod topology;
mod ui;
pub mod units;
mod verbs;
pub mod view;

pub use archive::{checks, endings, round_trips};
pub use fail::{Failure, code, exit_code};
pub use grid::{Grid, Part, Tone};
pub use movement::in_turn;
pub use prompt::{Prompt, Terminal, consent};
pub use run::run;
pub use target::{Connection, Endpoint, Target};
pub use ui::{Format, OutputArgs, Ui};
pub use verbs::{
    ArchiveCheckArgs, ArchiveVerb, ConfigCheckArgs, ConfigSetArgs, ConfigVerb, DsnArgs, DsnRole, FailoverArgs,
    ListArgs, MembersArgs, PauseArgs, PsqlArgs, ReinitArgs, RestartArgs, RoleFilter, SwitchoverArgs, Verb,
};
