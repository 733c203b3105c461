//! A pooler for as long as it is wanted: started, started again when it ends, and ended with us.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::control::{Pooler, Report};
use crate::process::Own;

const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Looks after a pooler until `stop`. One of our own is started, started again when it ends, and ended with us;
/// its open transactions get `drain`.
pub async fn attend(mut pooler: Pooler, stop: CancellationToken, drain: Duration) {
    let Some(own) = pooler.own.clone() else {
        tokio::select! {
            () = pooler.look_after(None) => {}
            () = stop.cancelled() => {}
        }
        return;
    };
    let mut back_off = BACK_OFF.0;
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let Some(problem) = one_life(&mut pooler, &own, &stop, drain).await else { return };
        tracing::error!("{problem}; it is started again");
        pooler.tell(|report| *report = Report { holds: None, problem: Some(problem) });
        back_off = if begun.elapsed() > BACK_OFF.1 * 2 { BACK_OFF.0 } else { (back_off * 2).min(BACK_OFF.1) };
        tokio::select! {
            () = sleep(back_off) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// From the start of PgBouncer to its end: what went wrong, or nothing when it was stopped.
async fn one_life(pooler: &mut Pooler, own: &Arc<Own>, stop: &CancellationToken, drain: Duration) -> Option<String> {
    let process = match own.run().await {
        Ok(process) => process,
        Err(error) => return Some(error.to_string()),
    };
    // Which server the new process is pointed at is in its file only.
    pooler.pointed = None;
    let outlook = pooler.outlook.clone();
    let ended = tokio::select! {
        () = own.keep_users(outlook) => None,
        () = pooler.look_after(Some(&process)) => None,
        how = process.exited() => Some(how),
        () = stop.cancelled() => None,
    };
    let Some(how) = ended else {
        process.end(drain).await;
        return None;
    };
    Some(format!("PgBouncer has ended ({how}); it said: {}", own.last_words()))
}
