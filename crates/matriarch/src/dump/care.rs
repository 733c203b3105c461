//! Looking after dumps: verify, delete, expire.

use std::time::Duration;

use jiff::Timestamp;
use matriarch_archive::archive::Archive;
use matriarch_archive::dump::{self, Because, DumpError, Kept, Plan, Policy, Summary};
use matriarch_archive::progress::Progress;
use matriarch_archive::repository::Repository;
use matriarch_cli::{Grid, Part, Tone, Ui, consent, units};
use serde::Serialize;

use super::scheduled::configured_policy;
use crate::backup::archives::Found;
use crate::backup::fail::failed;
use crate::backup::list::seconds;
use crate::backup::several::Each;
use crate::backup::tend;

/// `dump verify`: in every repository.
pub async fn verify(found: &Found, name: Option<&str>, ui: &mut Ui) -> anyhow::Result<()> {
    let progress = Progress::default();
    let read = async |repository: &Repository| {
        let (archive, summary) = found.one::<Summary>(repository, name).await?;
        let manifest = dump::manifest(&archive, &summary.dump).await.map_err(failed)?;
        dump::verify(&archive, &manifest, &progress).await.map_err(failed)
    };
    tend::verify(found, &progress, read, ui).await
}

impl tend::Report for dump::Report {
    const WHAT: &'static str = "dump";

    fn name(&self) -> &str {
        &self.dump
    }

    fn good(&self) -> String {
        format!("{} in {} frames", units::bytes(self.bytes), self.frames)
    }

    fn faults(&self) -> Grid {
        let mut grid = Grid::new(&["Database", "File", "Bytes", "Why"]);
        for fault in &self.faults {
            let bytes = format!("{} to {}", fault.from, fault.to);
            grid.row(Tone::Bad, vec![fault.database.clone(), fault.path.clone(), bytes, fault.why.clone()]);
        }
        grid
    }
}

/// `dump delete`.
pub async fn delete(found: &Found, name: &str, force: bool, ui: &mut Ui) -> anyhow::Result<()> {
    let mut plans: Vec<(Archive, Plan)> = Vec::new();
    for repository in found.repositories().await? {
        for archive in found.incarnations(&repository).await? {
            match dump::plan(&archive, &Policy::new(None, None), Some(name), Timestamp::now()).await {
                Ok(plan) => plans.push((archive, plan)),
                Err(DumpError::NoDump(_)) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
    if plans.is_empty() {
        return Err(failed(DumpError::NoDump(name.to_owned())));
    }
    let bytes: u64 = plans.iter().map(|(_, plan)| plan.bytes()).sum();
    consent(ui.prompt.as_mut(), force, &format!("Remove dump {name} ({})?", units::bytes(bytes)))?;
    for (archive, plan) in &plans {
        dump::run(archive, plan).await.map_err(failed)?;
    }
    ui.say(Tone::Plain, &format!("Dump {name} is removed"))
}

/// What `dump expire` does in one incarnation of one repository.
#[derive(Clone, Debug, Serialize)]
pub struct Expired {
    repository: String,
    incarnation: String,
    kept: Vec<Kept>,
    under_way: Vec<String>,
    /// Dumps that are removed.
    pub expired: Vec<String>,
    /// What was left by dumps that were cut off.
    cleared: Vec<String>,
    /// Bytes of all that is removed.
    bytes: u64,
    dry_run: bool,
}

/// `dump expire`; what is kept says the configuration unless `keep` or `keep_for` do.
pub async fn expire(
    found: &Found,
    keep: Option<u32>,
    keep_for: Option<Duration>,
    by_hand: bool,
    dry_run: bool,
    ui: &mut Ui,
) -> anyhow::Result<()> {
    let policy = match (keep, keep_for, &found.section.dumps) {
        (None, None, Some(dumps)) => configured_policy(dumps),
        (keep, keep_for, _) => Policy::new(keep, keep_for),
    };
    let policy = Policy { by_hand, ..policy };
    tend::expire(expire_all(found, &policy, dry_run), parts, ui).await
}

/// Removes what a policy does not keep, in every repository and incarnation that is meant. May be dropped at any time.
pub async fn expire_all(found: &Found, policy: &Policy, dry_run: bool) -> anyhow::Result<Each<Vec<Expired>>> {
    let work = async |repository: Repository| {
        let mut all = Vec::new();
        for archive in found.incarnations(&repository).await? {
            let plan = dump::plan(&archive, policy, None, Timestamp::now()).await.map_err(failed)?;
            all.push(Expired {
                repository: repository.name().to_owned(),
                incarnation: archive.place().incarnation().to_owned(),
                kept: plan.kept.clone(),
                under_way: plan.under_way.clone(),
                expired: plan.expired(),
                cleared: plan.cleared(),
                bytes: plan.bytes(),
                dry_run,
            });
            if !dry_run {
                dump::run(&archive, &plan).await.map_err(failed)?;
            }
        }
        Ok(all)
    };
    found.each(work).await
}

fn parts(one: &Expired) -> Vec<Part> {
    let mut grid = Grid::new(&["Dump", "Ended", "Outcome"]);
    for kept in &one.kept {
        let because = match kept.because {
            Because::NoPolicy => "kept: there is no retention (--keep, --keep-for, archive.dumps)",
            Because::Count => "kept: among the newest",
            Because::Age => "kept: young enough",
            Because::ByHand => "kept: taken by hand (--by-hand)",
        };
        grid.row(Tone::Plain, vec![kept.dump.clone(), seconds(kept.ended), because.to_owned()]);
    }
    let removed = if one.dry_run { "would be removed" } else { "removed" };
    let others = [
        (&one.under_way, "under way, or cut off within the last hour".to_owned(), Tone::Plain),
        (&one.expired, removed.to_owned(), Tone::Warn),
        (&one.cleared, format!("{removed}: it was cut off"), Tone::Warn),
    ];
    for (names, outcome, tone) in others {
        for name in names {
            grid.row(tone, vec![name.clone(), String::new(), outcome.clone()]);
        }
    }
    vec![
        Part::Line(Tone::Strong, format!("{}, incarnation {}", one.repository, one.incarnation)),
        Part::Grid(grid),
        Part::Line(Tone::Plain, format!("{} {removed}", units::bytes(one.bytes))),
    ]
}
