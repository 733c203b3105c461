//! Looking after backups: verify, hold, annotate, delete, expire.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use matriarch_archive::archive::Archive;
use matriarch_archive::base::{self, Hold, Summary};
use matriarch_archive::progress::Progress;
use matriarch_archive::repository::Repository;
use matriarch_archive::retention::{self, Because, Kept, Plan, Policy, Step};
use matriarch_archive::verify::{self, Report};
use matriarch_cli::{Grid, Part, Tone, Ui, consent, units};
use serde::Serialize;

use super::archives::Found;
use super::fail::failed;
use super::list::seconds;
use super::several::Each;
use super::tend;

/// `backup verify`: in every repository.
pub async fn verify(found: &Found, backup: Option<String>, wal: bool, jobs: u16, ui: &mut Ui) -> anyhow::Result<()> {
    let options = verify::Options { workers: jobs.into(), all_wal: wal, progress: Progress::default() };
    let read = async |repository: &Repository| {
        let (archive, summary) = found.one::<Summary>(repository, backup.as_deref()).await?;
        verify::verify(&archive, &summary.backup, &options).await.map_err(failed)
    };
    tend::verify(found, &options.progress, read, ui).await
}

impl tend::Report for Report {
    const WHAT: &'static str = "backup";

    fn name(&self) -> &str {
        &self.backup
    }

    fn good(&self) -> String {
        format!("{} in {} frames and {} WAL segments", units::bytes(self.bytes), self.frames, self.segments)
    }

    fn faults(&self) -> Grid {
        let mut grid = Grid::new(&["Damaged", "Blocks", "Why"]);
        for fault in &self.faults {
            let blocks = fault.blocks.map(|(first, last)| format!("{first} to {last}")).unwrap_or_default();
            grid.row(Tone::Bad, vec![fault.what.clone(), blocks, fault.why.clone()]);
        }
        grid
    }
}

/// `backup hold`: with an end and a reason, or released.
pub async fn hold(
    found: &Found,
    backup: &str,
    hold: Option<(Option<Timestamp>, String)>,
    ui: &mut Ui,
) -> anyhow::Result<()> {
    let held = hold.is_some();
    for archive in found.holders(backup).await? {
        match &hold {
            Some((until, reason)) => {
                let hold = Hold { since: Timestamp::now(), until: *until, reason: reason.clone() };
                base::hold(&archive, backup, &hold).await.map_err(failed)?;
            }
            None => base::release(&archive, backup).await.map_err(failed)?,
        }
    }
    ui.say(Tone::Plain, &format!("Backup {backup} is {}", if held { "held" } else { "no longer held" }))
}

/// `backup annotate`.
pub async fn annotate(found: &Found, backup: &str, notes: Vec<(String, String)>, ui: &mut Ui) -> anyhow::Result<()> {
    let changes = notes.into_iter().collect();
    let mut all = Default::default();
    for archive in found.holders(backup).await? {
        all = base::annotate(&archive, backup, &changes).await.map_err(failed)?;
    }
    ui.show(&all, || all.iter().map(|(key, value)| Part::Line(Tone::Plain, format!("{key}: {value}"))).collect())
}

/// `backup delete`; with `children`, also of those that build upon it.
pub async fn delete(found: &Found, backup: &str, children: bool, force: bool, ui: &mut Ui) -> anyhow::Result<()> {
    let mut plans = Vec::new();
    for archive in found.holders(backup).await? {
        let policy = Policy::new(None, None);
        let plan = retention::plan_without(&archive, backup, children, &policy, Timestamp::now()).await;
        plans.push((archive, plan.map_err(failed)?));
    }
    let bytes: u64 = plans.iter().map(|(_, plan)| plan.bytes()).sum();
    let all: BTreeSet<&str> = plans.iter().flat_map(|(_, plan)| plan.expired()).collect();
    let what = match all.len() {
        0 | 1 => format!("backup {backup}"),
        _ => format!("backups {}", all.into_iter().collect::<Vec<_>>().join(", ")),
    };
    consent(ui.prompt.as_mut(), force, &format!("Remove {what} ({})?", units::bytes(bytes)))?;
    for (archive, plan) in &plans {
        retention::run(archive, plan, |_| {}).await.map_err(failed)?;
    }
    ui.say(Tone::Plain, &format!("Removed: {what}"))
}

/// What `backup expire` does in one incarnation of one repository.
#[derive(Clone, Debug, Serialize)]
pub struct Expired {
    repository: String,
    incarnation: String,
    kept: Vec<Kept>,
    under_way: Vec<String>,
    /// Backups that are removed.
    pub expired: Vec<String>,
    /// What was left by backups that were cut off.
    cleared: Vec<String>,
    /// WAL files and chunks of the tail that are removed.
    wal: usize,
    /// Bytes of all that is removed.
    bytes: u64,
    dry_run: bool,
}

/// `backup expire`; what is kept says the configuration unless `keep` or `window` do.
pub async fn expire(
    found: &Found,
    keep: Option<u32>,
    window: Option<Duration>,
    dry_run: bool,
    ui: &mut Ui,
) -> anyhow::Result<()> {
    let policy = match (keep, window) {
        (None, None) => configured_policy(found),
        (keep, window) => Policy::new(keep, window),
    };
    tend::expire(expire_all(found, &policy, dry_run), parts, ui).await
}

/// What the configuration keeps.
pub fn configured_policy(found: &Found) -> Policy {
    let retention = found.section.retention;
    Policy::new(retention.keep, retention.window)
}

/// Removes what a policy does not keep, in every repository and incarnation that is meant. May be dropped at any time.
pub async fn expire_all(found: &Found, policy: &Policy, dry_run: bool) -> anyhow::Result<Each<Vec<Expired>>> {
    let work = async |repository: Repository| {
        let mut all = Vec::new();
        for archive in found.incarnations(&repository).await? {
            let plan = retention::plan(&archive, policy, None, Timestamp::now()).await.map_err(failed)?;
            all.push(Expired::of(&archive, &plan, dry_run));
            if !dry_run {
                retention::run(&archive, &plan, |step| tracing::debug!(?step, "removing")).await.map_err(failed)?;
            }
        }
        Ok(all)
    };
    found.each(work).await
}

impl Expired {
    fn of(archive: &Archive, plan: &Plan, dry_run: bool) -> Expired {
        let cleared = |step: &Step| match step {
            Step::Abandon { backup } => Some(backup.clone()),
            _ => None,
        };
        Expired {
            repository: archive.repository().name().to_owned(),
            incarnation: archive.place().incarnation().to_owned(),
            kept: plan.kept.clone(),
            under_way: plan.under_way.clone(),
            expired: plan.expired().into_iter().map(str::to_owned).collect(),
            cleared: plan.steps.iter().filter_map(cleared).collect(),
            wal: plan.steps.iter().filter(|step| matches!(step, Step::Wal { .. })).count(),
            bytes: plan.bytes(),
            dry_run,
        }
    }
}

fn parts(one: &Expired) -> Vec<Part> {
    let mut grid = Grid::new(&["Backup", "Ended", "Outcome"]);
    for kept in &one.kept {
        let because = match kept.because {
            Because::NoPolicy => "kept: there is no retention (--keep, --window, archive.retention)",
            Because::Count => "kept: among the newest",
            Because::Window => "kept: within the window",
            Because::BeginsWindow => "kept: the window begins with it",
            Because::Held => "kept: held",
            Because::Needed => "kept: a later backup builds upon it",
        };
        grid.row(Tone::Plain, vec![kept.backup.clone(), seconds(kept.stop_time), because.to_owned()]);
    }
    for name in &one.under_way {
        grid.row(
            Tone::Plain,
            vec![name.clone(), String::new(), "under way, or cut off within the last hour".to_owned()],
        );
    }
    let removed = if one.dry_run { "would be removed" } else { "removed" };
    for name in &one.expired {
        grid.row(Tone::Warn, vec![name.clone(), String::new(), removed.to_owned()]);
    }
    for name in &one.cleared {
        grid.row(Tone::Warn, vec![name.clone(), String::new(), format!("{removed}: it was cut off")]);
    }
    let bytes = units::bytes(one.bytes);
    vec![
        Part::Line(Tone::Strong, format!("{}, incarnation {}", one.repository, one.incarnation)),
        Part::Grid(grid),
        Part::Line(Tone::Plain, format!("{bytes} {removed}, {} WAL files among it", one.wal)),
    ]
}
