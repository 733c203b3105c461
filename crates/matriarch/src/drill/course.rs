//! The course of one restore drill:
//! ```text
//! backup, WAL, programs, room: anything against it? ──> refused, nothing done
//! restore into a temporary directory, WAL put in place
//! start PostgreSQL there, by itself; wait until it takes connections
//! did it come as far as the archive does? count, ask, check
//! stop it, check what needs it stopped, remove the directory
//! ```
//! An archive that has nothing to restore is a drill that has not passed; a store that does not answer is tried again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use matriarch_api::{DrillKind, DrillRecord, DrillResult, RestoreFigures};
use matriarch_archive::door::Foreign;
use matriarch_archive::progress::Progress;
use matriarch_archive::restore::{AtTarget, Held, Options, Plan};
use matriarch_cli::{Failure, Ui, code, exit_code, units};
use matriarch_core::Lsn;
use matriarch_drill::Interrupt;
use matriarch_postgres::{Binaries, Credentials, Instance, Owner, Sql, scratch, volumes};

use super::place::{self, Place};
use super::reading::{self, Answer};
use super::{RestoreArgs, shown};
use crate::backup::archives::Found;
use crate::backup::fail::failed;
use crate::backup::meter::Meter;
use crate::backup::restore::{choose, door};

/// Beside what is restored: WAL of the end of recovery, logs, what a check leaves.
const SPARE: u64 = 64 << 20;
/// For a clean stop.
const STOP: Duration = Duration::from_secs(60);
/// What does not come from the restored files: it shares this machine with others.
const MODEST: [(&str, &str); 2] = [("shared_buffers", "128MB"), ("huge_pages", "off")];

/// One drill.
pub struct Course<'a> {
    pub args: &'a RestoreArgs,
    pub whence: &'a Whence,
    pub superuser: String,
}

/// What is practised with.
pub enum Whence {
    /// The archive of a cluster.
    Ours(Box<Found>),
    /// Another tool's repository.
    Theirs(Box<Foreign>),
}

/// A drill that was done.
pub struct Drilled {
    pub record: DrillRecord,
    pub answers: Vec<Answer>,
}

/// Why nothing can be restored.
enum Hindrance {
    /// At this moment or here.
    Refused(Vec<String>),
    /// By this archive.
    Failed(String),
}

/// All that a drill needs.
struct Means {
    held: Held,
    plan: Plan,
    binaries: Binaries,
    owner: Option<Owner>,
    within: PathBuf,
    free: u64,
}

impl Means {
    fn wal(&self) -> u64 {
        self.plan.wal(self.held.holder().segment_size())
    }

    fn needed(&self) -> u64 {
        self.plan.summary.size + self.wal() + SPARE
    }

    /// Why it cannot be done in that place.
    fn lacks(&self) -> Option<String> {
        let (needed, free) = (self.needed(), self.free);
        (free < needed).then(|| {
            format!(
                "{} has {} free and {} are needed; --scratch names another place",
                self.within.display(),
                units::bytes(free),
                units::bytes(needed)
            )
        })
    }
}

impl Course<'_> {
    /// What would be done; reasons against it are added.
    pub async fn rehearse(&self, reasons: &mut Vec<String>, ui: &mut Ui) -> Option<shown::Plan> {
        let means = match self.means(ui).await {
            Ok(means) => means,
            Err(Hindrance::Refused(more)) => {
                reasons.extend(more);
                return None;
            }
            Err(Hindrance::Failed(why)) => {
                reasons.push(why);
                return None;
            }
        };
        reasons.extend(means.lacks());
        let summary = &means.plan.summary;
        Some(shown::Plan {
            backup: summary.backup.clone(),
            repository: means.held.repository().to_owned(),
            incarnation: means.held.part(),
            target: means.plan.target.to_string(),
            size: summary.size,
            wal: means.wal(),
            needed: means.needed(),
            free: means.free,
            scratch: means.within.clone(),
        })
    }

    async fn means(&self, ui: &mut Ui) -> Result<Means, Hindrance> {
        let wanted = self.args.goal.wanted();
        let chosen = match self.whence {
            Whence::Ours(found) => {
                choose(found, &wanted, ui).await.map(|(archive, plan)| (Held::Archive(Box::new(archive)), plan))
            }
            Whence::Theirs(foreign) => {
                door::choose(foreign, &wanted).await.map(|(stock, plan)| (Held::Stock(Box::new(stock)), plan))
            }
        };
        let (held, plan) = chosen.map_err(|error| match exit_code(&error) {
            code::UNAVAILABLE | code::CONFIG | code::PERMISSION => Hindrance::Refused(vec![format!("{error:#}")]),
            _ => Hindrance::Failed(format!("{error:#}")),
        })?;
        let refused = |error: &dyn std::fmt::Display| Hindrance::Refused(vec![error.to_string()]);
        let major = plan.summary.major;
        let binaries = Binaries::find(self.args.bin_dir.as_deref(), Some(major)).map_err(|error| refused(&error))?;
        let owner = Owner::choose(self.args.owner.as_deref()).map_err(|error| refused(&error))?;
        let within = self.args.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let within = std::path::absolute(within).map_err(|error| refused(&error))?;
        let free = volumes::free(&within);
        let free = free.map_err(|error| refused(&format!("--scratch {}: {error}", within.display())))?;
        Ok(Means { held, plan, binaries, owner, within, free })
    }

    /// Does it. The inner error: why nothing was done.
    pub async fn run(&self, ui: &mut Ui, stop: &Interrupt) -> anyhow::Result<Result<Drilled, Vec<String>>> {
        let (begun, at) = (Instant::now(), Timestamp::now());
        let mut work = Work { figures: RestoreFigures::default(), answers: Vec::new() };
        work.figures.target = self.args.goal.wanted().target.to_string();
        let means = match self.means(ui).await {
            Ok(means) => means,
            Err(Hindrance::Refused(reasons)) => return Ok(Err(reasons)),
            Err(Hindrance::Failed(why)) => return Ok(Ok(work.done(at, Err(why)))),
        };
        work.figures.seconds.plan = seconds(begun.elapsed());
        for left in place::sweep(&means.within) {
            ui.note(&format!("{} was left by a drill that was killed, and is removed", left.display()));
        }
        // What they took is free again.
        let means = Means { free: volumes::free(&means.within).unwrap_or(means.free), ..means };
        if let Some(lack) = means.lacks() {
            return Ok(Err(vec![lack]));
        }
        let place = Place::make(&means.within, means.owner.as_ref())?;
        ui.note(&format!("restoring backup {} into {}", means.plan.summary.backup, place.top().display()));
        let outcome = tokio::select! {
            outcome = self.steps(&means, &place, &mut work) => Some(outcome),
            () = stop.times(1) => None,
        };
        let cleared = place.clear().await;
        let Some(outcome) = outcome else {
            cleared?;
            let text = "interrupted: the temporary directory is removed, and nothing is kept";
            return Err(Failure::new(code::TEMPORARY, text).into());
        };
        let outcome = outcome.and(cleared).map_err(|error| format!("{error:#}"));
        Ok(Ok(work.done(at, outcome)))
    }

    async fn steps(&self, means: &Means, place: &Place, work: &mut Work) -> anyhow::Result<()> {
        let Means { held, plan, .. } = means;
        let (figures, summary) = (&mut work.figures, &plan.summary);
        figures.backup = summary.backup.clone();
        figures.repository = held.repository().to_owned();
        (figures.bytes, figures.segments) = (summary.size, (plan.complete.len() + plan.tail.len()) as u64);
        let options = self.options(means, place);
        let meter = Meter::start("restore", &options.progress);
        let took = held.restore(plan, &options).await.map_err(failed)?;
        drop(meter);
        (figures.seconds.files, figures.seconds.wal) = (seconds(took.files), seconds(took.wal));

        let begun = Instant::now();
        let instance = self.instance(means, place)?;
        let server = scratch::start(&instance, &MODEST, &place.log()).await?;
        let sql = server.ready().await?;
        figures.seconds.start = seconds(begun.elapsed());

        let begun = Instant::now();
        reached(&sql, means, figures).await?;
        reading::count(&instance, figures).await?;
        let mut fault = None;
        for query in &self.args.query {
            let (answer, verdict) = reading::ask(&instance, &self.args.database, query).await;
            work.answers.push(answer);
            fault = fault.or(verdict.err());
        }
        figures.seconds.query = seconds(begun.elapsed());

        let begun = Instant::now();
        let relations = self.args.check.relations(&instance, &sql, summary.size).await;
        if note_check(figures, "amcheck", relations, &mut fault) {
            figures.seconds.check = seconds(begun.elapsed());
        }
        drop(sql);
        server.stop(STOP).await?;
        let begun = Instant::now();
        if summary.data_checksums {
            let checksums = self.args.check.checksums(&instance, summary.size).await;
            if note_check(figures, "checksums", checksums, &mut fault) {
                figures.seconds.check += seconds(begun.elapsed());
            }
        }
        fault.map_or(Ok(()), |fault| Err(anyhow::anyhow!(fault)))
    }

    fn options(&self, means: &Means, place: &Place) -> Options {
        let spaces = means.plan.summary.tablespaces.iter();
        Options {
            data: place.data(),
            tablespaces: spaces.map(|space| (space.oid, place.spaces().join(space.oid.to_string()))).collect(),
            restore_command: String::new(),
            // So that the time for it is known, and that PostgreSQL's user needs neither keys nor credentials.
            place_wal: true,
            files: Vec::new(),
            at_target: AtTarget::Promote,
            owner: means.owner.as_ref().map(|owner| (owner.uid, owner.gid)),
            workers: self.args.jobs.into(),
            progress: Progress::default(),
        }
    }

    fn instance(&self, means: &Means, place: &Place) -> anyhow::Result<Instance> {
        let role = Credentials { username: self.superuser.clone(), password: String::new() };
        Ok(Instance {
            binaries: means.binaries.clone(),
            data_dir: place.data(),
            run_dir: place.run(),
            port: 5432,
            listen_addresses: Vec::new(),
            owner: means.owner.clone(),
            passfile: None,
            name: "drill".parse()?,
            superuser: role.clone(),
            replication: role.clone(),
            rewind: role,
            pooler: None,
        })
    }
}

/// Takes a check into account; whether it was done.
fn note_check(
    figures: &mut RestoreFigures,
    name: &str,
    done: Result<bool, String>,
    fault: &mut Option<String>,
) -> bool {
    match done {
        Ok(false) => return false,
        Ok(true) => figures.checks.push(name.to_owned()),
        Err(why) => {
            fault.get_or_insert(why);
        }
    }
    true
}

/// PostgreSQL ends recovery at the first record that it cannot read and says nothing about it.
async fn reached(sql: &Sql, means: &Means, figures: &mut RestoreFigures) -> anyhow::Result<()> {
    let query = "select pg_last_wal_replay_lsn()::text, \
        to_char(pg_last_xact_replay_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let rows = sql.query("say where recovery ended", query, Duration::from_secs(30)).await?;
    let mut row = rows.into_iter().next().unwrap_or_default().into_iter();
    figures.reached = row.next().flatten().unwrap_or_default();
    figures.reached_at = row.next().flatten();
    let reached: Lsn =
        figures.reached.parse().map_err(|_| anyhow::anyhow!("PostgreSQL does not say where recovery ended"))?;
    match means.plan.falls_short(reached, means.held.holder().segment_size()) {
        true => Err(anyhow::anyhow!(
            "recovery ended at {reached} although the archive goes on to {}: the WAL there is damaged ('matriarch backup verify \
             --wal' reads all of it)",
            means.plan.until
        )),
        false => Ok(()),
    }
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// What is known so far.
struct Work {
    figures: RestoreFigures,
    answers: Vec<Answer>,
}

impl Work {
    fn done(self, at: Timestamp, outcome: Result<(), String>) -> Drilled {
        let record = DrillRecord {
            kind: DrillKind::Restore,
            result: if outcome.is_ok() { DrillResult::Passed } else { DrillResult::Failed },
            at: at.to_string(),
            restore: Some(self.figures),
            note: outcome.err().unwrap_or_default().chars().take(500).collect(),
            ..DrillRecord::default()
        };
        Drilled { record, answers: self.answers }
    }
}
