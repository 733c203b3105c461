//! The host's watchdog (`/dev/watchdog`): it resets the host when even the guard cannot act any more.
//!
//! ```text
//! closed --a deadline far enough away--> open, counting --kick--> counting anew
//!   ^                                      |        \--no kick for its timeout--> the host is reset
//!   \--no deadline: magic close ('V')------/
//! ```
//!
//! It is kicked only while a reset that followed would still come before the deadline, less a margin. Half of its timeout
//! after the last kick the guard ends PostgreSQL itself: a host is reset only when that does not work.
//!
//! Writing and closing need no `ioctl`. The timeout is set by `wdctl` (util-linux) and read from `/sys`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use matriarch_core::decide::Millis;
use rustix::fs::{Access, access};

const SYSFS: &str = "/sys/class/watchdog";
/// A device that is not needed now and does not work is looked at again after this time.
const RECHECK: Millis = 5_000;
/// One that is needed is tried again after this one: a guard that was killed may have left it counting.
const RETRY: Millis = 200;

/// Which watchdog, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Its device, without blanks in its path.
    pub device: PathBuf,
    /// Seconds without a kick after which it resets the host.
    pub timeout: u64,
    /// How long before the deadline a reset must come.
    pub margin: Millis,
}

impl Settings {
    /// What follows the word `watchdog` in an order.
    pub fn parse<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Settings> {
        let timeout = words.next()?.parse().ok().filter(|seconds| *seconds > 0)?;
        let margin = words.next()?.parse().ok()?;
        let device = PathBuf::from(words.next()?);
        words.next().is_none().then_some(Settings { device, timeout, margin })
    }

    /// [`Settings::parse`] reads it.
    pub fn words(&self) -> String {
        format!("{} {} {}", self.timeout, self.margin, self.device.display())
    }
}

/// The guard's hand on it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    settings: Settings,
    sysfs: PathBuf,
    counting: Option<Counting>,
    failure: Option<String>,
    recheck: Millis,
    retry: Millis,
}

#[derive(Debug)]
struct Counting {
    device: File,
    timeout: Millis,
    kicked: Millis,
}

impl Watchdog {
    /// Looks whether it can be used; it stays closed.
    pub fn new(settings: Settings, now: Millis) -> Watchdog {
        Watchdog::below(Path::new(SYSFS), settings, now)
    }

    fn below(sysfs: &Path, settings: Settings, now: Millis) -> Watchdog {
        let device = std::fs::canonicalize(&settings.device).unwrap_or_else(|_| settings.device.clone());
        let name = device.file_name().unwrap_or_default();
        // The old name means the first one.
        let sysfs = sysfs.join(if name == "watchdog" { "watchdog0".as_ref() } else { name });
        let mut watchdog = Watchdog { settings, sysfs, counting: None, failure: None, recheck: 0, retry: 0 };
        watchdog.look(now);
        watchdog
    }

    /// Why it does not protect this host, in words.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether these are the settings it has.
    pub fn has(&self, settings: &Settings) -> bool {
        self.settings == *settings
    }

    /// Opens, kicks or closes it, as the deadline asks for.
    pub fn keep(&mut self, now: Millis, deadline: Option<Millis>) {
        let Some(deadline) = deadline else {
            self.close();
            if self.failure.is_some() && now >= self.recheck {
                self.look(now);
            }
            return;
        };
        if self.counting.is_none() && now >= self.retry {
            match self.open(now, deadline) {
                Ok(counting) => {
                    self.failure = None;
                    self.counting = counting;
                }
                Err(failure) => {
                    self.failure = Some(failure);
                    self.retry = now + RETRY;
                }
            }
        }
        let latest = deadline.saturating_sub(self.settings.margin);
        let Some(counting) = &mut self.counting else { return };
        if now + counting.timeout <= latest && now >= counting.kicked + counting.timeout / 4 {
            match counting.device.write_all(b"\0") {
                Ok(()) => counting.kicked = now,
                Err(error) => self.failure = Some(format!("it cannot be kicked: {error}")),
            }
        }
    }

    /// When PostgreSQL has to end, given the deadline: early enough for a reset not to be needed.
    pub fn end(&self, deadline: Millis) -> Millis {
        self.counting.as_ref().map_or(deadline, |counting| deadline.min(counting.kicked + counting.timeout / 2))
    }

    /// When [`Watchdog::keep`] has something to do again.
    pub fn wake(&self, deadline: Option<Millis>) -> Option<Millis> {
        match (&self.counting, deadline) {
            (Some(counting), Some(deadline)) => {
                let next = counting.kicked + counting.timeout / 4;
                let kicks = self.failure.is_none() && next + counting.timeout + self.settings.margin <= deadline;
                kicks.then_some(next)
            }
            (None, Some(_)) => self.failure.is_some().then_some(self.retry),
            (_, None) => self.failure.is_some().then_some(self.recheck),
        }
    }

    /// Closes it without the magic word, if it counts: PostgreSQL could not be ended, and the host is to be reset.
    pub fn abandon(&mut self) {
        self.counting = None;
    }

    fn close(&mut self) {
        if let Some(mut counting) = self.counting.take()
            && let Err(error) = counting.device.write_all(b"V")
        {
            eprintln!("guard: {} cannot be closed and will reset this host: {error}", self.settings.device.display());
        }
    }

    /// Nothing when the deadline is so near that counting must not begin.
    fn open(&self, now: Millis, deadline: Millis) -> Result<Option<Counting>, String> {
        let timeout = self.set_timeout()?;
        if now + timeout + self.settings.margin > deadline {
            return Ok(None);
        }
        let device = File::options().write(true).open(&self.settings.device);
        let device = device.map_err(|error| format!("it cannot be opened: {error}; {}", self.remedy()))?;
        Ok(Some(Counting { device, timeout, kicked: now }))
    }

    fn remedy(&self) -> &'static str {
        "another member, systemd (RuntimeWatchdogSec) or a watchdog daemon may have it; one process can"
    }

    /// Milliseconds that it counts. It must not be open.
    fn set_timeout(&self) -> Result<Millis, String> {
        let wanted = self.settings.timeout;
        if self.timeout()? != wanted {
            let mut wdctl = Command::new("wdctl");
            wdctl.arg("--settimeout").arg(wanted.to_string()).arg(&self.settings.device);
            // What it could not do is seen below.
            let _ = wdctl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        match self.timeout()? {
            shorter if (1..=wanted).contains(&shorter) => Ok(shorter * 1000),
            longer => Err(format!(
                "it resets the host after {longer} s, and `wdctl --settimeout {wanted}` (util-linux) does not change \
                 that: give its kernel module another timeout, or raise ttl"
            )),
        }
    }

    fn timeout(&self) -> Result<u64, String> {
        let path = self.sysfs.join("timeout");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        text.trim().parse().map_err(|_| format!("{} holds no number", path.display()))
    }

    /// Looks from outside, since opening it would begin to count.
    fn look(&mut self, now: Millis) {
        let taken = || std::fs::read_to_string(self.sysfs.join("state")).is_ok_and(|state| state.trim() == "active");
        let seen = access(&self.settings.device, Access::WRITE_OK)
            .map_err(|error| format!("it cannot be written to: {error}"))
            .and_then(|()| self.timeout().map(drop))
            .and_then(|()| if taken() { Err(format!("it is in use: {}", self.remedy())) } else { Ok(()) });
        self.failure = seen.err();
        self.recheck = now + RECHECK;
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a device and its place below /sys.
    fn device(timeout: &str) -> (tempfile::TempDir, Watchdog) {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("watchdog7");
        std::fs::write(&device, "").unwrap();
        std::fs::create_dir(dir.path().join("class")).unwrap();
        std::fs::create_dir(dir.path().join("class/watchdog7")).unwrap();
        std::fs::write(dir.path().join("class/watchdog7/timeout"), timeout).unwrap();
        let settings = Settings { device, timeout: 2, margin: 1_000 };
        let watchdog = Watchdog::below(&dir.path().join("class"), settings, 0);
        (dir, watchdog)
    }

    fn written(dir: &tempfile::TempDir) -> Vec<u8> {
        std::fs::read(dir.path().join("watchdog7")).unwrap()
    }

    #[test]
    fn it_is_kicked_while_a_reset_would_come_in_time_and_closed_with_the_deadline() {
        let (dir, mut watchdog) = device("2\n");
        assert_eq!((watchdog.failure(), watchdog.end(9_000)), (None, 9_000));
        // Too near: it would count beyond it.
        watchdog.keep(1_000, Some(3_900));
        assert_eq!((watchdog.end(3_900), watchdog.failure()), (3_900, None));

        watchdog.keep(1_000, Some(6_000));
        assert_eq!((watchdog.end(6_000), watchdog.wake(Some(6_000))), (2_000, Some(1_500)));
        watchdog.keep(1_200, Some(6_000));
        assert_eq!(written(&dir), b"", "opening it counts as a kick");
        for now in [1_500, 2_000, 2_500, 3_000] {
            watchdog.keep(now, Some(6_000));
        }
        assert_eq!((written(&dir).len(), watchdog.end(6_000), watchdog.wake(Some(6_000))), (4, 4_000, None));
        // A reset after this kick would come too late.
        watchdog.keep(3_500, Some(6_000));
        assert_eq!((written(&dir).len(), watchdog.end(6_000)), (4, 4_000));
        watchdog.keep(3_600, Some(8_000));
        assert_eq!((written(&dir).len(), watchdog.end(8_000)), (5, 4_600));

        watchdog.keep(3_700, None);
        assert_eq!(written(&dir).last(), Some(&b'V'));
        assert_eq!((watchdog.end(8_000), watchdog.wake(None)), (8_000, None));
    }

    #[test]
    fn without_the_magic_word_it_goes_on_counting() {
        let (dir, mut watchdog) = device("2");
        watchdog.keep(0, Some(5_000));
        watchdog.abandon();
        drop(watchdog);
        assert_eq!(written(&dir), b"");
        let (dir, mut watchdog) = device("2");
        watchdog.keep(0, Some(5_000));
        drop(watchdog);
        assert_eq!(written(&dir), b"V");
    }

    #[test]
    fn a_device_that_cannot_be_used_says_why() {
        let (dir, mut watchdog) = device("60");
        watchdog.keep(0, Some(5_000));
        assert!(watchdog.failure().unwrap().contains("after 60 s"), "{watchdog:?}");
        assert_eq!(watchdog.end(5_000), 5_000);
        std::fs::write(dir.path().join("class/watchdog7/timeout"), "1").unwrap();
        watchdog.keep(RETRY - 1, Some(6_000));
        assert!(watchdog.failure().is_some(), "it is not tried again at once");
        assert_eq!(watchdog.wake(Some(6_000)), Some(RETRY));
        watchdog.keep(RETRY, Some(6_000));
        assert_eq!((watchdog.failure(), watchdog.end(6_000)), (None, RETRY + 500));

        let missing = Settings { device: dir.path().join("none"), timeout: 2, margin: 0 };
        let missing = Watchdog::new(missing, 0);
        assert!(missing.failure().unwrap().contains("cannot be written to"), "{missing:?}");
        assert_eq!(missing.wake(None), Some(RECHECK));
        std::fs::write(dir.path().join("class/watchdog7/state"), "active\n").unwrap();
        watchdog.keep(RECHECK, None);
        watchdog.look(RECHECK);
        assert!(watchdog.failure().unwrap().contains("RuntimeWatchdogSec"), "{watchdog:?}");
    }
}
