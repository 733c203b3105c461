//! `dump`: logical dumps in the archive's repositories, what becomes of them, and the way back.

mod care;
mod dry_run;
mod list;
mod restore;
mod scheduled;
mod server;
mod take;

use std::time::Duration;

use clap::{Args, Subcommand};
use matriarch_cli::Ui;

use crate::backup::archives::{self, WhereArgs};
use crate::backup::span;
use crate::cluster::Which;
use restore::RestoreArgs;
use take::TakeArgs;

/// `dump`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct DumpArgs {
    #[command(flatten)]
    place: WhereArgs,
    #[command(flatten)]
    take: TakeArgs,
    #[command(subcommand)]
    verb: Option<DumpVerb>,
}

/// What to do with dumps that there are.
#[derive(Clone, Debug, Subcommand)]
enum DumpVerb {
    /// Dumps, the oldest first
    #[command(after_long_help = "Examples:\n  matriarch dump list\n  matriarch dump list -o json")]
    List,
    /// One dump and its databases
    Show {
        /// Its name; the newest one unless given
        #[arg(value_name = "DUMP")]
        dump: Option<String>,
    },
    /// Read a dump as a restore would, and tell all damage
    #[command(
        long_about = "Reads every part of a dump as a restore would: every digest, every seal. Damage is told with database, file and \
        place; then the exit code is 65. Nothing is written.",
        after_long_help = "Examples:\n  matriarch dump verify\n  matriarch dump verify 20261122T010000Z-3f2a"
    )]
    Verify {
        /// Its name; the newest one unless given
        #[arg(value_name = "DUMP")]
        dump: Option<String>,
    },
    /// Restore databases of a dump into a running server
    #[command(
        long_about = "Restores databases of a dump into the primary of a running cluster, or any server (--dsn), of the dump's \
        version or a newer one. A database that is missing is made as it was; one that is there must be empty. Roles that are \
        missing are made as the dump has them, with their passwords; those that are there stay as they are. Everything is looked at before anything is \
        written. What fails or is interrupted leaves no half-made database; in one that was there it leaves nothing at all, unless \
        several sessions (--jobs) worked on it.",
        after_long_help = "Examples:\n  matriarch dump restore --dry-run\n  matriarch dump restore --database shop=shop_copy\n  matriarch dump restore \
        20261122T010000Z-3f2a --dsn 'host=db2 user=postgres' --jobs 4\n  matriarch dump restore --database shop --clean\n  \
        matriarch dump restore --database shop=test --map-owner shop_owner=tester --no-roles"
    )]
    Restore(Box<RestoreArgs>),
    /// Remove one dump
    #[command(long_about = "Removes one dump, or what one that was cut off has left.")]
    Delete {
        /// Its name
        #[arg(value_name = "DUMP")]
        dump: String,
        /// Do not ask
        #[arg(long)]
        force: bool,
    },
    /// Remove the dumps that are not to be kept
    #[command(
        long_about = "Removes dumps that were taken by the schedule and that neither --keep nor --keep-for asks for, and what dumps \
        that were cut off have left. Without both options, what `archive.dumps` of the configuration asks for; where that says \
        nothing either, no dump is removed. Dumps that people have taken stay and do not count, unless --by-hand is given. Needs no private key. Can be interrupted at any moment.",
        after_long_help = "Examples:\n  matriarch dump expire --dry-run\n  matriarch dump expire --keep 7 --keep-for 4w\n  \
        matriarch dump expire --keep 3 --by-hand"
    )]
    Expire {
        /// So many of the newest dumps stay
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        keep: Option<u32>,
        /// Dumps stay for so long (12h, 14d, 4w)
        #[arg(long, value_name = "TIME", value_parser = span)]
        keep_for: Option<Duration>,
        /// Also dumps that people have taken
        #[arg(long)]
        by_hand: bool,
        /// Say what would be removed, and why the rest stays
        #[arg(long)]
        dry_run: bool,
    },
}

/// Does what `dump …` says.
pub async fn run(args: DumpArgs, which: &Which, ui: &mut Ui) -> anyhow::Result<()> {
    if args.take.scheduled {
        return scheduled::run(which).await;
    }
    let found = archives::find(which, &args.place).await?;
    match args.verb {
        None => take::take(args.take, which, &found, ui).await,
        Some(DumpVerb::List) => list::list(&found, ui).await,
        Some(DumpVerb::Show { dump }) => list::show(&found, dump.as_deref(), ui).await,
        Some(DumpVerb::Verify { dump }) => care::verify(&found, dump.as_deref(), ui).await,
        Some(DumpVerb::Restore(args)) => restore::restore(*args, which, &found, ui).await,
        Some(DumpVerb::Delete { dump, force }) => care::delete(&found, &dump, force, ui).await,
        Some(DumpVerb::Expire { keep, keep_for, by_hand, dry_run }) => {
            care::expire(&found, keep, keep_for, by_hand, dry_run, ui).await
        }
    }
}
