//! Random schedules over every profile on every core: `campaign --seeds N [--from S]` (`make sim SEEDS=N`). Shows how far it
//! is, tells at the end how many ran, how fast, and which failed; the exit status is 1 when any did.
//!
//! Schedule number `n` is the seed `n / profiles` of profile `n % profiles`, so `--from` goes on where an earlier campaign ended.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use matriarch_sim::schedule::{PROFILES, run};

const USAGE: &str = "usage: campaign [--seeds N] [--from S] [--workers W]";
/// Schedules that failed, after which there is enough to look at.
const ENOUGH: usize = 100;

struct Options {
    seeds: u64,
    from: u64,
    workers: u64,
}

fn options(args: &[String]) -> Result<Options, String> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let mut options = Options { seeds: 100_000, from: 0, workers: cores };
    for pair in args.chunks(2) {
        let [name, value] = pair else { return Err(format!("{} needs a number; {USAGE}", pair[0])) };
        let number = value.parse().map_err(|_| format!("{name} needs a number, not '{value}'; {USAGE}"))?;
        match name.as_str() {
            "--seeds" => options.seeds = number,
            "--from" => options.from = number,
            "--workers" => options.workers = number,
            _ => return Err(format!("unknown option '{name}'; {USAGE}")),
        }
    }
    if options.seeds == 0 || options.workers == 0 {
        return Err(format!("--seeds and --workers are at least 1; {USAGE}"));
    }
    Ok(options)
}

#[derive(Default)]
struct Tally {
    ran: [AtomicU64; PROFILES.len()],
    failed: [AtomicU64; PROFILES.len()],
    virtual_ms: AtomicU64,
    commits: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn total(counts: &[AtomicU64]) -> u64 {
        counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn play(&self, number: u64) {
        let place = (number % PROFILES.len() as u64) as usize;
        let (profile, seed) = (PROFILES[place], number / PROFILES.len() as u64);
        let violation = match catch_unwind(AssertUnwindSafe(|| run(seed, profile, None, false))) {
            Ok(outcome) => {
                self.virtual_ms.fetch_add(outcome.time, Ordering::Relaxed);
                self.commits.fetch_add(outcome.acknowledged, Ordering::Relaxed);
                outcome.violation
            }
            Err(_) => Some("panicked".to_owned()),
        };
        self.ran[place].fetch_add(1, Ordering::Relaxed);
        if let Some(violation) = violation {
            self.failed[place].fetch_add(1, Ordering::Relaxed);
            println!("\nFAILED {profile} {seed}: {violation}");
            self.failures().push(format!("{profile} {seed}: {violation}"));
        }
    }

    fn progress(&self, options: &Options, since: Instant) {
        let (ran, failed) = (Self::total(&self.ran), Self::total(&self.failed));
        let rate = ran as f64 / since.elapsed().as_secs_f64();
        let left = options.seeds.saturating_sub(ran) as f64 / rate.max(1e-9);
        print!(
            "\r{ran} of {} schedules, {failed} failed, {:.0} an hour, {:.0} min to go   ",
            options.seeds,
            rate * 3600.0,
            left / 60.0
        );
        let _ = std::io::stdout().flush();
    }

    fn summary(&self, options: &Options, since: Instant) {
        let (ran, failed, time) = (Self::total(&self.ran), Self::total(&self.failed), since.elapsed().as_secs_f64());
        println!("\n\n{:<14}{:>12}{:>8}", "profile", "schedules", "failed");
        for (place, profile) in PROFILES.iter().enumerate() {
            let count = |counts: &[AtomicU64]| counts[place].load(Ordering::Relaxed);
            println!("{:<14}{:>12}{:>8}", profile.to_string(), count(&self.ran), count(&self.failed));
        }
        println!("{:<14}{ran:>12}{failed:>8}", "all");
        println!(
            "\n{:.0} s on {} threads, {:.0} schedules an hour; {} h of virtual time, {} commits acknowledged; \
             the next campaign: --from {}",
            time,
            options.workers,
            ran as f64 / time * 3600.0,
            self.virtual_ms.load(Ordering::Relaxed) / 3_600_000,
            self.commits.load(Ordering::Relaxed),
            options.from + ran
        );
        for failure in self.failures().iter() {
            println!("FAILED {failure}");
        }
        if failed > 0 {
            println!("the story of one: cargo run -p matriarch-sim --example sim -- --profile PROFILE --trace SEED");
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let options = match options(&args) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(64);
        }
    };
    let (tally, next, since) = (Tally::default(), AtomicU64::new(options.from), Instant::now());
    let (end, done) = (options.from + options.seeds, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.workers)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= end || tally.failures().len() >= ENOUGH {
                            return;
                        }
                        tally.play(number);
                    }
                })
            })
            .collect();
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_secs(10));
                tally.progress(&options, since);
            }
        });
        workers.into_iter().for_each(|worker| drop(worker.join()));
        done.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
    });
    tally.summary(&options, since);
    if Tally::total(&tally.failed) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
