//! What looking after backups and looking after dumps have in common: reading all of one, and removing what is not kept.

use matriarch_archive::progress::Progress;
use matriarch_archive::repository::Repository;
use matriarch_cli::{Failure, Grid, Part, Tone, Ui, code};
use serde::Serialize;

use super::archives::Found;
use super::meter::{Meter, interrupted};
use super::several::Each;

/// What was read in one repository.
#[derive(Clone, Debug, Serialize)]
struct Checked<R> {
    repository: String,
    #[serde(flatten)]
    report: R,
}

/// What was found by reading all of a backup or a dump.
pub trait Report: Serialize {
    /// `backup` or `dump`.
    const WHAT: &'static str;
    /// Its name.
    fn name(&self) -> &str;
    /// How much of it is good.
    fn good(&self) -> String;
    /// What is damaged; empty: nothing.
    fn faults(&self) -> Grid;
}

/// Reads in every repository, and shows what was found. Damage is an error, and so is what could not be read.
pub async fn verify<R: Report>(
    found: &Found,
    progress: &Progress,
    mut read: impl AsyncFnMut(&Repository) -> anyhow::Result<R>,
    ui: &mut Ui,
) -> anyhow::Result<()> {
    let meter = Meter::start("verify", progress);
    let work = found.each(async |repository| {
        let report = read(&repository).await?;
        Ok(Checked { repository: repository.name().to_owned(), report })
    });
    let each = tokio::select! {
        each = work => each?,
        () = interrupted()? => return Err(Failure::new(code::TEMPORARY, "interrupted; nothing was changed").into()),
    };
    drop(meter);
    ui.show(&each.done, || each.done.iter().flat_map(parts).collect())?;
    if let Some(Checked { repository, report }) = each.done.iter().find(|one| !one.report.faults().is_empty()) {
        let (what, name) = (R::WHAT, report.name());
        let text = format!("{what} {name} is damaged: take another one, and look at {repository}");
        return Err(Failure::new(code::DATA, text).into());
    }
    each.everywhere("not every repository could be read")
}

fn parts<R: Report>(one: &Checked<R>) -> Vec<Part> {
    let Checked { repository, report } = one;
    let text = format!("The {} {} in {repository}: {} are good", R::WHAT, report.name(), report.good());
    let faults = report.faults();
    match faults.is_empty() {
        true => vec![Part::Line(Tone::Strong, text)],
        false => vec![Part::Line(Tone::Plain, text), Part::Grid(faults)],
    }
}

/// Removes what is not kept, and shows what became of all.
pub async fn expire<E: Serialize>(
    work: impl Future<Output = anyhow::Result<Each<Vec<E>>>>,
    parts: impl Fn(&E) -> Vec<Part>,
    ui: &mut Ui,
) -> anyhow::Result<()> {
    let each = tokio::select! {
        each = work => each?,
        () = interrupted()? => {
            let text = "interrupted; what is left over is removed the next time, and nothing that is kept is harmed";
            return Err(Failure::new(code::TEMPORARY, text).into());
        }
    };
    let all: Vec<&E> = each.done.iter().flatten().collect();
    ui.show(&all, || each.done.iter().flatten().flat_map(&parts).collect())?;
    each.everywhere("not every repository was looked through")
}

/// Removes what is not kept after something was taken by a schedule: how many are gone, and what went wrong.
pub async fn expire_after<E>(
    what: &str,
    work: impl Future<Output = anyhow::Result<Each<Vec<E>>>>,
    gone: impl Fn(&E) -> usize,
    stop: impl Future<Output = ()>,
) -> (u64, Option<String>) {
    let failed = |why: String| format!("the {what} was taken, and older ones could not be removed everywhere: {why}");
    tokio::select! {
        removed = work => match removed {
            Ok(each) => (each.done.iter().flatten().map(|one| gone(one) as u64).sum(), each.trouble().map(failed)),
            Err(error) => (0, Some(failed(format!("{error:#}")))),
        },
        // What is left over is removed the next time.
        () = stop => (0, None),
    }
}
