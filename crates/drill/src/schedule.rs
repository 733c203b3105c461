//! Drills again and again, so long after the one before, whoever did that one.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use matriarch_api::{DrillKind, DrillLog};
use matriarch_cli::{Target, Ui};

use crate::args::Order;
use crate::course::{self, Attempt};
use crate::interrupt::Interrupt;

/// How soon it is tried again when the cluster is not well, or nobody answers.
const AGAIN: Duration = Duration::from_secs(30);
/// The wall clock may jump, so no single sleep is longer.
const NAP: Duration = Duration::from_secs(60);

/// Does drills until interrupted.
pub async fn keep_on(
    target: &Target,
    ui: &mut Ui,
    order: &Order,
    every: Duration,
    stop: Interrupt,
) -> anyhow::Result<()> {
    let mut told = String::new();
    while !stop.came() {
        let news = match course::look(target).await {
            Err(error) => format!("nobody answers: {error:#}"),
            Ok((_, log)) => match due(&log, order.kind, every).filter(|due| *due > Timestamp::now()) {
                Some(due) => format!("the next {} drill is due at {due}", order.kind.as_str()),
                None => match course::attempt(target, ui, order, &stop).await {
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
        let left = course::look(target).await.ok().and_then(|(_, log)| due(&log, order.kind, every));
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
