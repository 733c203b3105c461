//! The ledger as a program, so that every contender of a benchmark meets the same client.
//!
//! Owns: the command line over [`matriarch_testkit::ledger`]. Must not: measure anything itself.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use matriarch_testkit::ledger::{Book, Ledger, Options, verify};
use tokio::signal::unix::{SignalKind, signal};

/// Writes rows at a steady pace, remembers what was acknowledged, and checks later that it is still there.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Write until the time is up, a line or the end of standard input, SIGINT or SIGTERM; print a summary.
    Run {
        /// libpq connection string or URL; several hosts and target_session_attrs work.
        #[arg(long)]
        dsn: String,
        #[arg(long, default_value_t = 3600.0)]
        seconds: f64,
        #[arg(long, default_value_t = 1)]
        writers: u32,
        /// Milliseconds between two rows of one writer.
        #[arg(long, default_value_t = 10)]
        every: u64,
        /// Milliseconds that a connect or an insert may take.
        #[arg(long, default_value_t = 1000)]
        deadline: u64,
        /// Where to keep the book for `ledger verify`.
        #[arg(long)]
        out: Option<PathBuf>,
        /// Print a JSON line every 100 ms: seconds, acknowledged, seconds since the last acknowledgement.
        #[arg(long)]
        progress: bool,
        /// End at a line (or the end) of standard input.
        #[arg(long)]
        until_input: bool,
        /// Print the summary as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compare a book with the table; exit with 1 when an acknowledged row is missing.
    Verify {
        #[arg(long)]
        dsn: String,
        /// A file that `ledger run --out` wrote.
        #[arg(long)]
        file: PathBuf,
        /// Print the verdict as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Run { dsn, seconds, writers, every, deadline, out, progress, until_input, json } => {
            let options = Options {
                dsn,
                writers,
                every: Duration::from_millis(every.max(1)),
                deadline: Duration::from_millis(deadline),
            };
            run(options, seconds, progress, until_input, out.as_deref(), json).await.map(|()| true)
        }
        Verb::Verify { dsn, file, json } => check(&dsn, &file, json).await,
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ledger: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(
    options: Options,
    seconds: f64,
    progress: bool,
    until_input: bool,
    out: Option<&Path>,
    json: bool,
) -> Result<()> {
    let ledger = Ledger::start(options).await?;
    let mut input = line_of_input(until_input);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let end = tokio::time::sleep(Duration::from_secs_f64(seconds));
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = &mut input, if until_input => break,
            _ = ticks.tick(), if progress => {
                let (acknowledged, silent) = ledger.progress();
                let mut stdout = std::io::stdout().lock();
                writeln!(stdout, "{{\"seconds\":{:.3},\"acknowledged\":{acknowledged},\"silent\":{silent:.3}}}", ledger.now())?;
                stdout.flush()?;
            }
        }
    }
    let book = ledger.stop().await;
    if let Some(path) = out {
        std::fs::write(path, serde_json::to_vec(&book)?).with_context(|| format!("writing {}", path.display()))?;
    }
    let summary = book.summary();
    if json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("acknowledged {} rows in {:.1} s", summary.acknowledged, summary.seconds);
        println!("longest write gap {:.3} s, from {:.3} s on", summary.gap.seconds, summary.gap.from);
        println!(
            "failed connects {}, refused statements {}, statements without an answer {}",
            summary.connect_errors, summary.refused, summary.unknown
        );
        for (error, count) in &summary.errors {
            println!("{count:>6} x {error}");
        }
    }
    Ok(())
}

/// Resolves at the first line, or the end, of standard input; read in a thread that ends with the program.
fn line_of_input(wanted: bool) -> tokio::sync::oneshot::Receiver<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    if wanted {
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_line(&mut String::new());
            let _ = sender.send(());
        });
    }
    receiver
}

async fn check(dsn: &str, file: &Path, json: bool) -> Result<bool> {
    let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let book: Book = serde_json::from_slice(&text).with_context(|| format!("{} is no ledger", file.display()))?;
    let verdict = verify(dsn, &book).await?;
    if json {
        println!("{}", serde_json::to_string(&verdict)?);
    } else {
        println!("{} rows present, {} acknowledged rows lost", verdict.present, verdict.lost.len());
        println!("{} duplicates, {} rows that should not be there", verdict.duplicates.len(), verdict.unexpected.len());
    }
    Ok(verdict.is_clean())
}
