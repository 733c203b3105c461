//! One binary: chooses the verb, picks the store's engine, and hands over to the crates.

mod agent;
mod api_tls;
mod backup;
mod chore;
mod cluster;
mod credentials;
mod drill;
mod dump;
mod host;
mod logging;
mod pooler;
mod proxy;
mod router;
mod routes;
mod routing;
mod service;
mod store;
mod up;
mod upgrade;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use matriarch_agent::archive::WalCommand;
use matriarch_agent::guard::GuardOptions;
use matriarch_cli::{ArchiveCheckArgs, ArchiveVerb, OutputArgs, Ui, Verb};

/// Keeps a PostgreSQL cluster available: failover that loses nothing acknowledged, switchover, repair, routing.
#[derive(Debug, Parser)]
#[command(name = "matriarch", version, arg_required_else_help = true, propagate_version = true)]
#[command(
    after_help = "Start here:\n  matriarch up        three PostgreSQL instances on this machine\n  matriarch list      look at them from another terminal"
)]
struct Cli {
    #[command(flatten)]
    which: cluster::Which,
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    verb: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Run a whole cluster on this machine, in the foreground
    Up(up::UpArgs),
    /// Run the agent of one PostgreSQL instance
    Agent(agent::AgentArgs),
    /// Route sessions to the primary and to the replicas
    Proxy(Box<proxy::ProxyArgs>),
    /// Take a base backup, and look after those there are
    #[command(
        long_about = "Takes a backup of a running server on this machine into every repository of the cluster's archive: \
        files, and all WAL that makes them consistent; page checksums are verified on the way. It exists once it is complete: \
        an interrupted one leaves none. It is a full one, or with --incremental one that stores what has changed since the one before it \
        and needs that one and those below it to be restored. With a word after it, looks after the backups that there are.",
        after_long_help = "Examples:\n  matriarch backup --config member.yml\n  matriarch backup --config member.yml --incremental\n  matriarch backup --archive archive.yml --scope \
        main --data-dir /var/lib/postgresql/16/main --dsn 'host=/run/postgresql user=postgres'\n  matriarch backup list\n  \
        matriarch backup verify\n  matriarch backup expire --keep 7"
    )]
    Backup(Box<backup::BackupArgs>),
    /// Dump databases, roles and tablespaces, and look after the dumps there are
    #[command(
        long_about = "Dumps the databases of a running server (pg_dump), and its roles and tablespaces (pg_dumpall), into every \
        repository of the cluster's archive, compressed and encrypted as everything there. A dump can be restored into another \
        version of PostgreSQL, and one database by itself; it is of the moment at which each database's turn came. It exists once it is \
        complete: an interrupted one leaves none. With a word after it, looks after the dumps that there are, and restores them.",
        after_long_help = "Examples:\n  matriarch dump --config member.yml\n  matriarch dump --database shop --format directory \
        --jobs 4\n  matriarch dump list\n  matriarch dump verify\n  matriarch dump restore --database shop=shop_copy"
    )]
    Dump(Box<dump::DumpArgs>),
    /// Restore a cluster's data as it was at any moment that is in the archive
    #[command(
        long_about = "Restores a backup into an empty directory, and sets PostgreSQL up to replay WAL from the archive to the \
        target when it is started; no agent is needed for that. Before anything is written it makes sure that the archive \
        reaches the target, and otherwise says what it does reach. An interrupted restore leaves a directory that PostgreSQL \
        refuses to start. The same command goes on there: what lies in the directory is read and compared with the backup's digests, and \
        only the rest is fetched. A newer backup may have come meanwhile, so name the one that was begun with --backup.\n\nWith --in-place a cluster that runs goes back itself: the leader restores beside its data while \
        everything goes on; then every PostgreSQL stops, the restored data takes the place of the old, and the other members copy \
        it. The old data stays beside it until '--confirm' removes it or '--undo' puts it back. Whatever fails before that leaves \
        the cluster as it was.",
        after_long_help = "Examples:\n  matriarch restore /var/lib/postgresql/restored --dry-run\n  matriarch restore \
        /srv/restored --to '2026-11-22 06:00:00+01:00'\n  matriarch restore /srv/restored --to xid=7421 --at-target pause\n  \
        matriarch restore /srv/restored --archive archive.yml --scope main --identity key.txt\n  matriarch restore --in-place \
        --to '2026-11-22 06:00:00+01:00' --dry-run\n  matriarch restore --undo\n  matriarch restore \
        /srv/restored --from pgbackrest:/var/lib/pgbackrest --stanza main --dry-run"
    )]
    Restore(Box<backup::RestoreArgs>),
    /// What a restored directory fetches its WAL with
    #[command(hide = true)]
    RestoreFetch(backup::FetchArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Practise a failover, a switchover or a restore, and measure it
    #[command(subcommand)]
    Drill(drill::Drill),
    /// Archive a file of WAL: PostgreSQL's archive_command
    #[command(
        long_about = "Asks the agent on this host to bring a file of pg_wal into every repository of the archive, and ends with 0 \
        when each of them has confirmed it. PostgreSQL calls it; the agent sets archive_command.",
        after_long_help = "Example:\n  matriarch wal-push pg_wal/000000010000000000000001"
    )]
    WalPush {
        /// Where the agent listens
        #[arg(long, value_name = "SOCKET")]
        socket: Option<PathBuf>,
        /// The file (%p)
        path: PathBuf,
    },
    /// Fetch a file of WAL from the archive: PostgreSQL's restore_command
    #[command(
        long_about = "Asks the agent on this host for a file of the archive. Ends with 1 only when every repository has proven that \
        it is not there, and with 126 when that is not known, so that PostgreSQL does not take an outage for the end of the WAL.",
        after_long_help = "Example:\n  matriarch wal-fetch 00000002.history /tmp/00000002.history"
    )]
    WalFetch {
        /// Where the agent listens
        #[arg(long, value_name = "SOCKET")]
        socket: Option<PathBuf>,
        /// Name of the file (%f)
        name: String,
        /// Where it is to be (%p)
        to: PathBuf,
    },
    /// Repositories for WAL and backups
    #[command(subcommand)]
    Archive(ArchiveMode),
    #[command(flatten)]
    Cluster(Verb),
}

/// `archive`: what the agents answer, and what this program does with repositories itself.
#[derive(Debug, Subcommand)]
enum ArchiveMode {
    #[command(flatten)]
    Cluster(ArchiveVerb),
    /// Write a backup and its WAL in another tool's form
    #[command(subcommand)]
    Export(backup::ExportVerb),
}

fn main() -> ExitCode {
    let arguments = || std::env::args_os().skip(1);
    // PostgreSQL starts these once for each file: no parser, no runtime.
    if let Some(command) = WalCommand::from_arguments(arguments()) {
        return ExitCode::from(command.run());
    }
    // And without a runtime: the guard must stay tiny.
    let done = if let Some(options) = GuardOptions::from_arguments(arguments()) {
        matriarch_agent::guard::run(&options)
    } else if let Some((args, config)) = agent::AgentArgs::from_arguments(arguments()) {
        block_on(agent::run(args, &config))
    } else {
        match Cli::try_parse() {
            // Options stand where the short way does not look for them.
            Ok(Cli { verb: Mode::WalPush { socket, path }, .. }) => {
                return ExitCode::from(WalCommand::Push { socket, path }.run());
            }
            Ok(Cli { verb: Mode::WalFetch { socket, name, to }, .. }) => {
                return ExitCode::from(WalCommand::Fetch { socket, name, to }.run());
            }
            Ok(cli) => run(cli),
            Err(error) => return misused(&error),
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("matriarch: {error:#}");
            ExitCode::from(matriarch_cli::exit_code(&error))
        }
    }
}

/// Prints what clap has to say: help and version, which are no errors, or what was wrong with the command line.
fn misused(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the terminal is gone.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { matriarch_cli::code::USAGE } else { 0 })
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.verb {
        Mode::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "matriarch", &mut std::io::stdout());
            Ok(())
        }
        Mode::WalPush { .. } | Mode::WalFetch { .. } => Ok(()),
        Mode::Up(args) => block_on(up::run(args, cli.which)),
        Mode::Agent(args) => match &cli.which.config {
            Some(config) => block_on(agent::run(args, config)),
            None => {
                let text = "the agent needs its configuration: matriarch agent --config FILE";
                Err(matriarch_cli::Failure::new(matriarch_cli::code::USAGE, text).into())
            }
        },
        Mode::Proxy(args) => block_on(proxy::run(*args, cli.which)),
        Mode::Backup(args) => block_on(async move {
            let mut ui = Ui::terminal(cli.output.output);
            backup::run(*args, &cli.which, &mut ui).await
        }),
        Mode::Dump(args) => block_on(async move {
            let mut ui = Ui::terminal(cli.output.output);
            dump::run(*args, &cli.which, &mut ui).await
        }),
        Mode::Restore(args) => block_on(async move {
            let mut ui = Ui::terminal(cli.output.output);
            backup::restore(*args, &cli.which, &mut ui).await
        }),
        Mode::RestoreFetch(args) => block_on(backup::fetch(args)),
        Mode::Drill(drill) => block_on(async move {
            let mut ui = Ui::terminal(cli.output.output);
            drill::run(drill, &cli.which, &mut ui).await
        }),
        Mode::Archive(mode) => block_on(async move {
            let mut ui = Ui::terminal(cli.output.output);
            match mode {
                ArchiveMode::Export(verb) => backup::export(verb, &cli.which, &mut ui).await,
                ArchiveMode::Cluster(ArchiveVerb::Check(ArchiveCheckArgs { identity: Some(identity) })) => {
                    backup::prove_keys(identity, &cli.which, &mut ui).await
                }
                ArchiveMode::Cluster(verb) => ask(Verb::Archive(verb), &cli.which, &mut ui).await,
            }
        }),
        Mode::Cluster(verb) => block_on(async move {
            let mut ui = Ui::terminal(cli.output.output);
            ask(verb, &cli.which, &mut ui).await
        }),
    }
}

/// What the agents of a cluster are asked.
async fn ask(verb: Verb, which: &cluster::Which, ui: &mut Ui) -> anyhow::Result<()> {
    let needs_cluster = !matches!(&verb, Verb::Config(matriarch_cli::ConfigVerb::Check(_)));
    let target = if needs_cluster { cluster::find(which).await?.target() } else { matriarch_cli::Target::default() };
    matriarch_cli::run(verb, &target, ui).await
}

/// One thread is enough for everything here, and keeps an idle agent small.
fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    matriarch_dcs::rhythm::begin();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
