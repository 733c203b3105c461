//! The command line of `drill`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use matriarch_api::{Blow, DrillKind};

use crate::window::{Window, time_zone};

/// What to practise.
#[derive(Clone, Debug, Subcommand)]
pub enum DrillVerb {
    /// End the primary as a crash would, and measure what clients notice
    #[command(
        long_about = "Ends the primary as a crash would, measures the pause with a client of its own, and looks for every \
        acknowledged write afterwards. It refuses unless the cluster is well and the primary can be spared.",
        after_long_help = "Examples:\n  matriarch drill failover --dry-run\n  matriarch drill failover --force --max-lag 1MB\n  \
        matriarch drill failover --force --every 7d --between 02:00-04:00 --time-zone Europe/Berlin"
    )]
    Failover(FailoverArgs),
    /// Move the primary as planned, and measure what clients notice
    #[command(
        after_long_help = "Examples:\n  matriarch drill switchover --and-back\n  matriarch drill switchover --force --between \
        02:00-04:00 --at-least-apart 6h"
    )]
    Switchover(SwitchoverArgs),
    /// Drills that were done, and how they ended
    #[command(after_long_help = "Examples:\n  matriarch drill history\n  matriarch drill history -o json")]
    History,
}

/// When a drill of whatever kind may be.
#[derive(Args, Clone, Debug)]
pub struct WhenArgs {
    /// Only within these hours of the day
    #[arg(long, value_name = "HH:MM-HH:MM", help_heading = "Bounds")]
    pub between: Option<Window>,
    /// Time zone of --between; this machine's unless given
    #[arg(long, value_name = "ZONE", value_parser = time_zone, requires = "between", help_heading = "Bounds")]
    pub time_zone: Option<jiff::tz::TimeZone>,
    /// Not so soon after the drill before (30min, 12h, 7d)
    #[arg(long, value_name = "TIME", value_parser = span, help_heading = "Bounds")]
    pub at_least_apart: Option<Duration>,
    /// Again and again, so long after the one before (12h, 7d), until interrupted
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub every: Option<Duration>,
    /// Say what would be done, or why not, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What both kinds that move the primary take.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    #[command(flatten)]
    pub when: WhenArgs,
    /// Not when a member is further behind (also 16kB, 1GB)
    #[arg(long, value_name = "BYTES", default_value = "16MB", value_parser = bytes, help_heading = "Bounds")]
    pub max_lag: u64,
    /// Not with fewer voters beyond those that a commit waits for
    #[arg(long, value_name = "COUNT", default_value_t = 1, help_heading = "Bounds")]
    pub spare_voters: u32,
    /// Do not ask
    #[arg(long)]
    pub force: bool,
    /// How long writes may be away before the drill counts as failed; at most 10min
    #[arg(long, value_name = "TIME", default_value = "2min", value_parser = patience)]
    pub patience: Duration,
    /// Where to write: a connection string (the cluster's read-write port, or all its members, unless given)
    #[arg(long, value_name = "DSN", help_heading = "Client")]
    pub dsn: Option<String>,
    /// Database to write to; the table is in the schema 'matriarch' and is dropped afterwards
    #[arg(long, value_name = "NAME", help_heading = "Client")]
    pub database: Option<String>,
}

/// `drill failover`.
#[derive(Args, Clone, Debug)]
pub struct FailoverArgs {
    /// What is ended
    #[arg(long, value_enum, default_value_t)]
    pub kind: Ended,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `drill switchover`.
#[derive(Args, Clone, Debug)]
pub struct SwitchoverArgs {
    /// Move back afterwards, which is a drill of its own
    #[arg(long)]
    pub and_back: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What a failover drill ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Ended {
    /// The postmaster.
    #[default]
    Postgres,
    /// PostgreSQL and its agent; only where something starts the agent again.
    Instance,
}

/// What to do, whichever the kind.
#[derive(Clone, Debug)]
pub struct Order {
    /// What is practised.
    pub kind: DrillKind,
    /// What is ended.
    pub blow: Blow,
    /// Move back afterwards.
    pub and_back: bool,
    /// The rest.
    pub common: CommonArgs,
}

impl From<FailoverArgs> for Order {
    fn from(args: FailoverArgs) -> Self {
        let blow = match args.kind {
            Ended::Postgres => Blow::Postgres,
            Ended::Instance => Blow::Instance,
        };
        Order { kind: DrillKind::Failover, blow, and_back: false, common: args.common }
    }
}

impl From<SwitchoverArgs> for Order {
    fn from(args: SwitchoverArgs) -> Self {
        Order { kind: DrillKind::Switchover, blow: Blow::default(), and_back: args.and_back, common: args.common }
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size; write a number of bytes, or 64kB, 16MB, 1GB");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1 << 10,
        "mb" => 1 << 20,
        "gb" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time; write a number with s, min, h, d or w, such as 30min or 7d");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "s" => 1,
        "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number.checked_mul(factor).filter(|seconds| (1..=10 * 366 * 86_400).contains(seconds));
    Ok(Duration::from_secs(seconds.ok_or_else(|| format!("'{text}' is not between a second and ten years"))?))
}

fn patience(text: &str) -> Result<Duration, String> {
    let limit = Duration::from_secs(600);
    span(text).and_then(|time| if time <= limit { Ok(time) } else { Err("at most 10min".to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(bytes("16MB"), Ok(16 << 20));
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(span("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(span("30 min"), Ok(Duration::from_secs(1800)));
        for wrong in ["", "7", "d", "0s", "7m", "-1h", "99999999999999999999d", "999999d"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "MB", "1.5MB", "1XB", "99999999999GB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert!(patience("11min").is_err());
    }
}
