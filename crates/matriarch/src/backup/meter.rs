//! How far it is, on the standard error stream, and Ctrl-C.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use matriarch_archive::progress::Progress;
use matriarch_cli::units;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// Tells progress until it is dropped: on a terminal in one line that changes, else a line now and then.
pub struct Meter {
    task: JoinHandle<()>,
    on_terminal: bool,
}

impl Meter {
    /// Begins.
    pub fn start(what: &'static str, progress: &Progress) -> Meter {
        let on_terminal = std::io::stderr().is_terminal();
        let (progress, began) = (progress.clone(), Instant::now());
        let pause = if on_terminal { Duration::from_millis(500) } else { Duration::from_secs(10) };
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let line = line(what, (progress.done(), progress.there()), progress.total(), began.elapsed());
                let line = if on_terminal { format!("\r\x1b[K{line}") } else { format!("{line}\n") };
                // Whoever cannot be told does not need to know.
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
        });
        Meter { task, on_terminal }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.task.abort();
        if self.on_terminal {
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// `there`: those of the bytes that are done which an earlier try has done; they took no time now.
fn line(what: &str, (done, there): (u64, u64), total: u64, elapsed: Duration) -> String {
    let rate = done.saturating_sub(there) as f64 / elapsed.as_secs_f64().max(0.001);
    let mut line = format!("{what}: {}", units::bytes(done));
    if total > 0 {
        let percent = (done as f64 / total as f64 * 100.0).min(100.0);
        line.push_str(&format!(" of {} ({percent:.0} %)", units::bytes(total)));
    }
    if there > 0 {
        line.push_str(&format!(", {} were there already", units::bytes(there)));
    }
    line.push_str(&format!(", {}/s", units::bytes(rate as u64)));
    if total > done && rate >= 1.0 {
        let left = ((total - done) as f64 / rate).ceil() as u64;
        line.push_str(&match left {
            0..=99 => format!(", {left} s left"),
            100..=5999 => format!(", {} min left", left.div_ceil(60)),
            _ => format!(", {} h left", left.div_ceil(3600)),
        });
    }
    line
}

/// Ends when somebody wants us to end. From now on the signals do not end the process by themselves.
pub fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_much_how_fast_and_how_long() {
        let second = Duration::from_secs(1);
        assert_eq!(line("backup", (1 << 20, 0), 4 << 20, second), "backup: 1 MB of 4 MB (25 %), 1 MB/s, 3 s left");
        assert_eq!(line("backup", (1 << 20, 0), 1 << 30, second), "backup: 1 MB of 1 GB (0 %), 1 MB/s, 18 min left");
        assert_eq!(line("backup", (0, 0), 0, second), "backup: 0, 0/s");
        let goes_on = line("restore", (3 << 20, 2 << 20), 5 << 20, second);
        assert_eq!(goes_on, "restore: 3 MB of 5 MB (60 %), 2 MB were there already, 1 MB/s, 2 s left");
    }
}
