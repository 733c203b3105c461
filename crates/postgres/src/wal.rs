//! Where the local WAL really ends, read from the files of a stopped instance.

use std::path::PathBuf;
use std::process::Stdio;

use matriarch_core::{Lsn, Timeline};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::control::ControlData;
use crate::instance::Instance;
use crate::tool;

/// The end of the WAL could not be found.
#[derive(Debug, thiserror::Error)]
#[error("pg_waldump could not find the end of the WAL in {dir} from {from} on timeline {timeline}: {said}", dir = dir.display())]
pub struct WalEndError {
    dir: PathBuf,
    from: Lsn,
    timeline: Timeline,
    said: String,
}

/// The position after the last complete record of the stopped instance's WAL on the timeline of its latest checkpoint
/// (or of its minimum recovery point, when that is newer). Reads all WAL since the latest checkpoint. When the message of
/// pg_waldump has no position, the result is one byte into the last record: a lower bound.
pub async fn local_end(instance: &Instance, control: &ControlData) -> Result<(Timeline, Lsn), WalEndError> {
    let dir = instance.data("pg_wal");
    let (timeline, from) = if control.min_recovery_timeline > control.timeline {
        // A record need not start there, but one ends there, so the next begins there (or after padding).
        (control.min_recovery_timeline, control.min_recovery_lsn)
    } else {
        (control.timeline, control.redo_lsn)
    };
    let fail = |said: String| WalEndError { dir: dir.clone(), from, timeline, said };
    let mut command = tool::command(instance, "pg_waldump", &instance.data_dir);
    command.arg("-p").arg(&dir).arg("-t").arg(timeline.to_string()).arg("-s").arg(from.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| fail(error.to_string()))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(fail("it has no output".into()));
    };
    let mut said = String::new();
    let mut stderr = stderr.take(16 * 1024);
    let mut stdout = BufReader::new(stdout);
    let (last, read) = tokio::join!(last_record(&mut stdout), stderr.read_to_string(&mut said));
    let (last, _) = (last.map_err(|error| fail(error.to_string()))?, read.map_err(|error| fail(error.to_string()))?);
    // It always "fails" at the end of WAL, and the message has the position.
    child.wait().await.map_err(|error| fail(error.to_string()))?;
    let nothing_more = said.contains("could not find a valid record after").then_some(from);
    let inside_last = last.map(|start| Lsn(start.0 + 1));
    let end = end_in_message(&said).or(inside_last).or(nothing_more);
    end.map(|end| (timeline, end)).ok_or_else(|| fail(said.trim().to_owned()))
}

/// Start of the last record printed (`… lsn: 0/30001C8, prev …`).
async fn last_record(from: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Option<Lsn>> {
    let (mut line, mut last) = (Vec::new(), None);
    while from.read_until(b'\n', &mut line).await? > 0 {
        if let Some(lsn) = record_start(&String::from_utf8_lossy(&line)) {
            last = Some(lsn);
        }
        line.clear();
    }
    Ok(last)
}

fn record_start(line: &str) -> Option<Lsn> {
    line.split_once(" lsn: ")?.1.split(',').next()?.trim().parse().ok()
}

/// Position in `error in WAL record at 0/30001C8: invalid record length at 0/3000200: wanted 24, got 0`.
fn end_in_message(said: &str) -> Option<Lsn> {
    let line = said.lines().rev().find(|line| line.contains("error in WAL record at"))?;
    let (_, reason) = line.split_once("error in WAL record at")?;
    reason.split(" at ").skip(1).find_map(|rest| rest.split([':', ',', ' ']).next()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_last_message() {
        let said =
            "pg_waldump: error: error in WAL record at 0/30001C8: invalid record length at 0/3000200: wanted 24, got 0";
        assert_eq!(end_in_message(said), Some(Lsn(0x300_0200)));
        let said = "pg_waldump: error: error in WAL record at 0/30001C8: invalid record length at 0/3000200: expected at least 24, got 0";
        assert_eq!(end_in_message(said), Some(Lsn(0x300_0200)));
        let said = "pg_waldump: error: error in WAL record at 0/30001C8: record with incorrect prev-link 0/2000028 at 0/3000200";
        assert_eq!(end_in_message(said), Some(Lsn(0x300_0200)));
        assert_eq!(end_in_message("pg_waldump: error: could not find file"), None);
        let line =
            "rmgr: XLOG len (rec/tot): 114/ 114, tx: 0, lsn: 0/03000110, prev 0/030000D8, desc: CHECKPOINT_ONLINE";
        assert_eq!(record_start(line), Some(Lsn(0x300_0110)));
    }
}
