//! `backup` and `restore`: base backups of a running server, what becomes of them, and the way back.

pub mod archives;
mod care;
mod export;
pub mod fail;
mod fetch;
mod in_place;
mod keys;
pub mod list;
pub mod meter;
pub mod restore;
mod scheduled;
pub mod server;
pub mod several;
pub mod take;
pub mod tend;

use std::time::Duration;

use clap::{Args, Subcommand};
use matriarch_archive::restore::moment;
use matriarch_cli::Ui;

pub use archives::WhereArgs;
pub use export::{ExportVerb, export};
pub use fetch::{FetchArgs, fetch};
pub use keys::prove_keys;
pub use restore::door::FromArgs;
pub use restore::{GoalArgs, RestoreArgs, restore};

use crate::cluster::Which;
use take::TakeArgs;

/// `backup`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BackupArgs {
    #[command(flatten)]
    pub place: WhereArgs,
    #[command(flatten)]
    take: TakeArgs,
    #[command(subcommand)]
    verb: Option<BackupVerb>,
}

/// What to do with backups that there are.
#[derive(Clone, Debug, Subcommand)]
enum BackupVerb {
    /// Backups, the oldest first
    #[command(after_long_help = "Examples:\n  matriarch backup list\n  matriarch backup list -o json")]
    List,
    /// Everything that is known of one backup, and what can be restored from it
    Show {
        /// Its name
        #[arg(value_name = "BACKUP")]
        backup: String,
    },
    /// Read a backup and its WAL as a restore would, and tell all damage
    #[command(
        long_about = "Reads every part of a backup, and the WAL without which it is not consistent, as a restore would: every \
        digest, every seal. Damage is told with file and blocks; then the exit code is 65. Nothing is written.",
        after_long_help = "Examples:\n  matriarch backup verify\n  matriarch backup verify 20261122T010000Z-3f2a --wal"
    )]
    Verify {
        /// Its name; the newest one unless given
        #[arg(value_name = "BACKUP")]
        backup: Option<String>,
        /// Read all WAL that follows it, not only what makes it consistent
        #[arg(long)]
        wal: bool,
        /// Packs that are read at a time
        #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
        jobs: u16,
    },
    /// Keep a backup whatever the retention says
    #[command(
        long_about = "Keeps a backup until it is released, or until a time. Beyond the retention it keeps the WAL that makes it \
        consistent, so it can be restored to its own end ('--to immediate').",
        after_long_help = "Examples:\n  matriarch backup hold 20261122T010000Z-3f2a --reason 'books of 2026' --until \
        2037-01-01T00:00:00Z\n  matriarch backup hold 20261122T010000Z-3f2a --release"
    )]
    Hold {
        /// Its name
        #[arg(value_name = "BACKUP")]
        backup: String,
        /// Until when (RFC 3339, with time zone)
        #[arg(long, value_name = "TIME", value_parser = moment)]
        until: Option<jiff::Timestamp>,
        /// Why; shown in lists, not encrypted
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        /// Hold it no longer
        #[arg(long, conflicts_with_all = ["until", "reason"])]
        release: bool,
    },
    /// Write notes beside a backup
    #[command(
        after_long_help = "Notes are not encrypted. A note without a value is removed.\n\nExample:\n  matriarch backup annotate \
        20261122T010000Z-3f2a why='before the upgrade' ticket="
    )]
    Annotate {
        /// Its name
        #[arg(value_name = "BACKUP")]
        backup: String,
        /// Notes
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = note)]
        notes: Vec<(String, String)>,
    },
    /// Remove one backup
    #[command(
        long_about = "Removes one backup, or what one that was cut off has left. One that incremental backups build upon is \
        refused, unless they are to go as well. WAL stays; 'backup expire' removes what nobody needs any more."
    )]
    Delete {
        /// Its name
        #[arg(value_name = "BACKUP")]
        backup: String,
        /// Also remove the incremental backups that build upon it
        #[arg(long)]
        with_children: bool,
        /// Do not ask
        #[arg(long)]
        force: bool,
    },
    /// Remove the backups that are not to be kept, and WAL that no backup needs
    #[command(
        long_about = "Removes backups, then the WAL that none of those left needs. What an incremental backup builds upon \
        stays as long as it does. What either --keep or --window asks for is \
        kept; without both, what `archive.retention` of the configuration asks for. Where that says nothing either, no backup is \
        removed, only what cut-off backups have left and WAL before the oldest backup. Needs no private key. Can be interrupted at any moment.",
        after_long_help = "Examples:\n  matriarch backup expire --dry-run\n  matriarch backup expire --keep 7 --dry-run\n  matriarch backup expire --window 14d\n  \
        matriarch backup expire --keep 2 --window 4w"
    )]
    Expire {
        /// So many of the newest backups stay
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        keep: Option<u32>,
        /// Every moment of so long ago until now stays within reach (12h, 14d, 4w)
        #[arg(long, value_name = "TIME", value_parser = span)]
        window: Option<Duration>,
        /// Say what would be removed, and why the rest stays
        #[arg(long)]
        dry_run: bool,
    },
}

/// Does what `backup …` says.
pub async fn run(args: BackupArgs, which: &Which, ui: &mut Ui) -> anyhow::Result<()> {
    if args.take.scheduled {
        return scheduled::run(&args.take, which).await;
    }
    let found = archives::find(which, &args.place).await?;
    match args.verb {
        None => take::take(args.take, which, &found, ui).await,
        Some(BackupVerb::List) => list::list(&found, ui).await,
        Some(BackupVerb::Show { backup }) => list::show(&found, &backup, ui).await,
        Some(BackupVerb::Verify { backup, wal, jobs }) => care::verify(&found, backup, wal, jobs, ui).await,
        Some(BackupVerb::Hold { backup, until, reason, release }) => {
            care::hold(&found, &backup, (!release).then_some((until, reason)), ui).await
        }
        Some(BackupVerb::Annotate { backup, notes }) => care::annotate(&found, &backup, notes, ui).await,
        Some(BackupVerb::Delete { backup, with_children, force }) => {
            care::delete(&found, &backup, with_children, force, ui).await
        }
        Some(BackupVerb::Expire { keep, window, dry_run }) => care::expire(&found, keep, window, dry_run, ui).await,
    }
}

fn note(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

pub fn span(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => 1,
        "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => 0,
    };
    let whole = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    match whole.filter(|seconds| (1..=100 * 366 * 86_400).contains(seconds)) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err("expected a number and s, min, h, d or w, such as 14d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        assert_eq!(span("14d"), Ok(Duration::from_secs(14 * 86_400)));
        assert_eq!(span("90min"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "14", "d", "0d", "-1d", "1y", "99999999999999999999d", "9999999w"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
