//! Drills again and again, so long after the one before, whoever did that one.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use matriarch_api::{DrillKind, DrillLog};
use matriarch_cli::Ui;

use crate::course::{self, Attempt};
use crate::interrupt::Interrupt;

/// How soon it is tried again when the cluster is not well, or nobody answers.
const AGAIN: Duration = Duration::from_secs(30);
/// The wall clock may jump, so no single sleep is longer.
const NAP: Duration = Duration::from_secs(60);

/// What is practised again and again.
pub trait Practice {
    /// What kind of drill it is.
    fn kind(&self) -> DrillKind;
    /// The drills before.
    fn log(&mut self) -> impl Future<Output = anyhow::Result<DrillLog>>;
    /// One drill, if nothing is against it.
    fn attempt(&mut self, ui: &mut Ui, stop: &Interrupt) -> impl Future<Output = anyhow::Result<Attempt>>;
}

/// Does drills until interrupted.
pub async fn keep_on(
    practice: &mut impl Practice,
    ui: &mut Ui,
    every: Duration,
    stop: Interrupt,
) -> anyhow::Result<()> {
    let kind = practice.kind();
    let mut told = String::new();
    while !stop.came() {
        let news = match practice.log().await {
            Err(error) => format!("nobody answers: {error:#}"),
            Ok(log) => match due(&log, kind, every).filter(|due| *due > Timestamp::now()) {
                Some(due) => format!("the next {} drill is due at {due}", kind.as_str()),
                None => match practice.attempt(ui, &stop).await {
                    Ok(Attempt::Refused(reasons)) => format!("not now: {}", reasons.join("; ")),
                    Ok(Attempt::Done(drills)) => {
                        let lines = drills.iter().map(course::in_words);
                        lines.collect::<Vec<_>>().join("; ")
                    }
                    Err(error) => format!("no drill: {error:#}"),
                },
            },
        };
        if news != told {
            log_line(ui, &news);
            told = news;
        }
        let left = practice.log().await.ok().and_then(|log| due(&log, kind, every));
        let left = left.map_or(AGAIN, |due| until(due).clamp(Duration::from_millis(100), NAP));
        // A drill that is due and could not be is tried again later.
        let pause = if left <= Duration::from_millis(100) { AGAIN.min(every) } else { left };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.times(1) => {}
        }
    }
    log_line(ui, "interrupted: no more drills");
    Ok(())
}

fn log_line(ui: &mut Ui, text: &str) {
    ui.note(&format!("{}  {text}", Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ")));
}

/// When the next one is; at once when there was none.
fn due(log: &DrillLog, kind: DrillKind, every: Duration) -> Option<Timestamp> {
    let last = log.last(kind)?.at.parse::<Timestamp>().ok()?;
    last.checked_add(SignedDuration::try_from(every).ok()?).ok()
}

fn until(time: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default()
}
