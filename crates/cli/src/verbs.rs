//! The command line of every verb.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What to do with a running cluster.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Members with role, state, timeline and lag
    #[command(
        long_about = "Shows every member: host, role, state, timeline, lag, and whether a restart is pending.\n\n\
        A member whose agent does not answer, or whose record in the store has expired, is marked.",
        after_long_help = "Examples:\n  matriarch list\n  matriarch list --watch\n  matriarch list -o json | jq '.[] | select(.role == \"leader\")'"
    )]
    List(ListArgs),
    /// Members as a tree: who streams from whom
    #[command(after_long_help = "Example:\n  matriarch topology")]
    Topology,
    /// One page: cluster, rule, members, replication, slots, certificates, pending restarts
    #[command(after_long_help = "Examples:\n  matriarch status\n  matriarch status -o yaml")]
    Status,
    /// Move the primary to another member, losing nothing
    #[command(
        long_about = "Moves the primary. New work is held at the proxy, the old primary is stopped cleanly, the new \
        one is promoted once it has everything, and the held work goes on.\n\nWithout --candidate it asks for one; without \
        --force it asks for a confirmation.",
        after_long_help = "Examples:\n  matriarch switchover\n  matriarch switchover --candidate b --force\n  \
        matriarch switchover --candidate b --scheduled 2026-12-24T03:00:00+01:00\n  matriarch switchover --cancel"
    )]
    Switchover(SwitchoverArgs),
    /// Move the primary to a named member, also when nobody leads
    #[command(
        long_about = "Makes the named member primary, whoever leads. A living leader hands over as in a switchover. When \
        nobody leads, or the cluster is paused, the named member takes over as soon as enough members are there to be \
        sure that nothing acknowledged is lost; if that does not come true, the request is withdrawn and it says why.",
        after_long_help = "Examples:\n  matriarch failover --candidate b\n  matriarch failover --candidate c --accept-data-loss"
    )]
    Failover(FailoverArgs),
    /// Restart PostgreSQL of members, one after the other
    #[command(
        long_about = "Restarts PostgreSQL of the named members, or of all, one after the other, each once the one before is \
        back; the primary last, or first when a limit such as max_connections was lowered.",
        after_long_help = "Examples:\n  matriarch restart b\n  matriarch restart --pending --force\n  matriarch restart \
        --role replica --scheduled 2026-12-24T03:00:00+01:00\n  matriarch restart b --cancel"
    )]
    Restart(RestartArgs),
    /// Read configuration again, without a restart
    #[command(after_long_help = "Examples:\n  matriarch reload\n  matriarch reload b c")]
    Reload(MembersArgs),
    /// Throw the data of a replica away and copy it anew
    #[command(after_long_help = "Examples:\n  matriarch reinit b\n  matriarch reinit b --force --wait")]
    Reinit(ReinitArgs),
    /// Forget a member that will not come back
    #[command(
        long_about = "Takes a member whose agent is gone out of the cluster, so that it is no longer listed and no longer \
        counted. Its data is not touched, and it is welcome again as soon as its agent starts.",
        after_long_help = "Example:\n  matriarch forget c"
    )]
    Forget(ForgetArgs),
    /// Stop doing anything automatically
    #[command(
        long_about = "Pauses the cluster: no failover, no restart, nothing automatic, until 'resume'. PostgreSQL goes on.",
        after_long_help = "Example:\n  matriarch pause --wait"
    )]
    Pause(PauseArgs),
    /// Go on after a pause
    #[command(after_long_help = "Example:\n  matriarch resume --wait")]
    Resume(PauseArgs),
    /// Past timelines: when the primary moved, and where
    #[command(after_long_help = "Example:\n  matriarch history")]
    History,
    /// Dynamic configuration of the cluster
    #[command(subcommand)]
    Config(ConfigVerb),
    /// `archive`; whoever knows repositories as well adds what needs them, and the words to it.
    #[command(skip)]
    Archive(ArchiveVerb),
    /// Open psql on the primary
    #[command(
        long_about = "Opens psql on the primary, as the superuser, with the cluster's password file. Arguments go to psql.",
        after_long_help = "Examples:\n  matriarch psql\n  matriarch psql -- -c 'SELECT pg_is_in_recovery()'"
    )]
    Psql(PsqlArgs),
    /// Connection string
    #[command(
        after_long_help = "Examples:\n  matriarch dsn\n  matriarch dsn --role replica\n  psql \"$(matriarch dsn)\""
    )]
    Dsn(DsnArgs),
    /// Versions of this program, of the agents and of PostgreSQL
    Version,
}

/// `archive`.
#[derive(Clone, Debug, Subcommand)]
pub enum ArchiveVerb {
    /// What is archived and what waits, by repository and by member
    #[command(
        after_long_help = "Examples:\n  matriarch archive status\n  matriarch archive status -o json | jq .waiting"
    )]
    Status,
    /// A round trip with every repository, by the leader's agent; with --identity, whether that key opens the backups
    #[command(
        long_about = "Creates an object in every repository, has a second one of its name refused, reads the first, lists it and \
        removes it. The leader's agent does it, with its credentials. Ends with 75 when a repository does not do all of that.\n\n\
        With --identity this machine then opens the newest backup of each repository with the keys of that file alone: what a \
        restore would need on the day when nothing else is left. It must reach the repositories itself. Ends with 77 when a \
        backup cannot be opened: as long as the cluster lives, another recipient can be named and a new backup taken.",
        after_long_help = "Examples:\n  matriarch archive check\n  matriarch archive check --identity /media/safe/key.txt"
    )]
    Check(ArchiveCheckArgs),
    /// Make repositories of the places that the configuration names
    #[command(
        long_about = "Leaves the mark that makes a place a repository, where none is, and then does what 'archive check' does. \
        For a cluster that is less than an hour old the agent does it unasked. Later it does not: an empty directory may be \
        one whose file system is not mounted.",
        after_long_help = "Example:\n  matriarch archive init"
    )]
    Init,
}

/// `archive check`.
#[derive(Args, Clone, Debug, Default)]
pub struct ArchiveCheckArgs {
    /// File of private keys (age) that must open the newest backup of each repository
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// `list`.
#[derive(Args, Clone, Debug, Default)]
pub struct ListArgs {
    /// Show again every so many seconds, until interrupted
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = interval)]
    pub watch: Option<f64>,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds between 0.1 and 86400".to_owned()),
    }
}

/// `switchover`.
#[derive(Args, Clone, Debug, Default)]
pub struct SwitchoverArgs {
    /// The leader to move away from; the present one unless given
    #[arg(long, value_name = "MEMBER")]
    pub leader: Option<String>,
    /// The member to move to; the best one with --force, else it is asked for
    #[arg(long, value_name = "MEMBER")]
    pub candidate: Option<String>,
    /// When to do it (RFC 3339, with time zone), not now
    #[arg(long, value_name = "TIME")]
    pub scheduled: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub force: bool,
    /// Forget a scheduled switchover
    #[arg(long, conflicts_with_all = ["leader", "candidate", "scheduled"])]
    pub cancel: bool,
}

/// `failover`.
#[derive(Args, Clone, Debug, Default)]
pub struct FailoverArgs {
    /// The member to promote
    #[arg(long, value_name = "MEMBER")]
    pub candidate: Option<String>,
    /// Give up what members that are gone for good alone had acknowledged: for the day everything is broken
    ///
    /// Only while nobody leads and no takeover is possible that certainly loses nothing. It tells what is known about the
    /// loss, and asks for the name of the cluster.
    #[arg(long)]
    pub accept_data_loss: bool,
    /// Do not ask
    #[arg(long)]
    pub force: bool,
}

/// Which roles a restart is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RoleFilter {
    /// Every member.
    #[default]
    Any,
    /// The primary.
    Primary,
    /// Replicas.
    Replica,
}

/// `restart`.
#[derive(Args, Clone, Debug, Default)]
pub struct RestartArgs {
    /// Members; all when none is named
    #[arg(value_name = "MEMBER")]
    pub members: Vec<String>,
    /// Only members with this role
    #[arg(short, long, value_enum, default_value_t)]
    pub role: RoleFilter,
    /// Only members where a parameter waits for a restart
    #[arg(long)]
    pub pending: bool,
    /// When to do it (RFC 3339, with time zone), not now
    #[arg(long, value_name = "TIME")]
    pub scheduled: Option<String>,
    /// Seconds that a restart may take (also 30s, 2min)
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub force: bool,
    /// Forget scheduled restarts
    #[arg(long, conflicts_with_all = ["pending", "scheduled", "timeout"])]
    pub cancel: bool,
}

/// `reload`.
#[derive(Args, Clone, Debug, Default)]
pub struct MembersArgs {
    /// Members; all when none is named
    #[arg(value_name = "MEMBER")]
    pub members: Vec<String>,
}

/// `reinit`.
#[derive(Args, Clone, Debug, Default)]
pub struct ReinitArgs {
    /// Members whose data is thrown away and copied anew
    #[arg(value_name = "MEMBER", required = true)]
    pub members: Vec<String>,
    /// Do not ask, and cancel what the member is doing now
    #[arg(long)]
    pub force: bool,
    /// Copy from the leader, even if another member is preferred for that
    #[arg(long)]
    pub from_leader: bool,
    /// Wait until the members stream again
    #[arg(long)]
    pub wait: bool,
}

/// `forget`.
#[derive(Args, Clone, Debug)]
pub struct ForgetArgs {
    /// The member
    #[arg(value_name = "MEMBER")]
    pub member: String,
    /// Do not ask
    #[arg(long)]
    pub force: bool,
}

/// `pause` and `resume`.
#[derive(Args, Clone, Debug, Default)]
pub struct PauseArgs {
    /// Wait until every member has seen it
    #[arg(long)]
    pub wait: bool,
}

/// `config`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigVerb {
    /// Show the dynamic configuration as YAML
    Show,
    /// Edit the dynamic configuration in $EDITOR
    #[command(
        long_about = "Opens the dynamic configuration in $VISUAL or $EDITOR, checks what was written, shows the \
        difference and asks before it is sent. Only what was changed is sent."
    )]
    Edit {
        /// Do not ask
        #[arg(long)]
        force: bool,
    },
    /// Set single keys; null removes one
    #[command(
        after_long_help = "Examples:\n  matriarch config set postgresql.parameters.work_mem=8MB\n  matriarch config \
        set synchronous_mode=quorum maximum_lag_on_failover=1048576\n  matriarch config set \
        postgresql.parameters.work_mem=null"
    )]
    Set(ConfigSetArgs),
    /// Check a configuration file without a cluster
    #[command(
        after_long_help = "Examples:\n  matriarch config check member.yml\n  matriarch config show | matriarch config \
        check -"
    )]
    Check(ConfigCheckArgs),
}

/// `config set`.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigSetArgs {
    /// Keys with new values, written as in YAML
    #[arg(value_name = "KEY=VALUE", required = true)]
    pub changes: Vec<String>,
}

/// `config check`.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigCheckArgs {
    /// The file; - is the standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `psql`.
#[derive(Args, Clone, Debug, Default)]
pub struct PsqlArgs {
    /// Arguments for psql
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

/// `dsn`.
#[derive(Args, Clone, Debug, Default)]
pub struct DsnArgs {
    /// Who to connect to
    #[arg(short, long, value_enum, default_value_t)]
    pub role: DsnRole,
}

/// Who a connection string leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DsnRole {
    /// The primary, wherever it is.
    #[default]
    Primary,
    /// A replica.
    Replica,
    /// Any member.
    Any,
}
