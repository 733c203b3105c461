//! Which backups a policy keeps. By the time they ended and by what they serve, never by their names.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::base::GRACE;
use crate::format::Outline;
use crate::restore::History;

/// What is to be kept. What either part asks for is kept; without both, everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// So many of the newest backups.
    pub count: Option<u32>,
    /// Every moment of so long ago until now can be restored.
    pub window: Option<Duration>,
    /// What a backup left behind that was silent for so long is cleared away.
    pub grace: Duration,
}

impl Policy {
    /// By count and by window.
    pub fn new(count: Option<u32>, window: Option<Duration>) -> Policy {
        Policy { count, window, grace: GRACE }
    }
}

/// Why a backup is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// There is no policy.
    NoPolicy,
    /// It is among the newest.
    Count,
    /// It ended in the window.
    Window,
    /// The window begins with it.
    BeginsWindow,
    /// Somebody holds it.
    Held,
    /// A later backup that is kept lies partly in its packs.
    Needed,
}

/// A backup, as far as the decision goes.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub outline: Outline,
    pub held: bool,
}

/// For each of the backups, which must be in the order of their ends, why it is kept; `None`: it is not. A backup that does
/// not lead to the present, on a timeline that was left before it ended, counts for nothing.
pub fn decide(
    backups: &[Candidate],
    present: Option<&History>,
    policy: &Policy,
    now: Timestamp,
) -> Vec<Option<Because>> {
    let newest = backups.iter().map(|backup| backup.outline.timeline).max().unwrap_or(1);
    let leads = |outline: &Outline| match present.map(|history| history.end_of(outline.timeline)) {
        Some(Some(end)) => end.is_none_or(|end| outline.stop_lsn <= end),
        Some(None) => false,
        // Without a key for the history only the newest timeline is certain.
        None => outline.timeline == newest,
    };
    let begins = policy.window.map(|window| now.checked_sub(window).unwrap_or(Timestamp::MIN));
    let (mut counted, mut begun) = (0, false);
    let mut kept: Vec<Option<Because>> = backups
        .iter()
        .rev()
        .map(|backup| {
            let (by_count, by_window) = (policy.count.is_some_and(|count| counted < count), begins.filter(|_| !begun));
            if leads(&backup.outline) {
                counted += 1;
                begun |= begins.is_some_and(|begins| backup.outline.stop_time <= begins);
            }
            match by_window {
                _ if policy.count.is_none() && policy.window.is_none() => Some(Because::NoPolicy),
                _ if by_count => Some(Because::Count),
                Some(begins) if backup.outline.stop_time > begins => Some(Because::Window),
                Some(_) => Some(Because::BeginsWindow),
                None => backup.held.then_some(Because::Held),
            }
        })
        .collect();
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use matriarch_core::Lsn;

    /// Ended on this day, on this timeline.
    fn backup(day: i64, timeline: u32, held: bool) -> Candidate {
        let time = Timestamp::from_second(day * 86_400).unwrap();
        let outline = Outline {
            timeline,
            start_lsn: Lsn(day as u64 * 100),
            stop_lsn: Lsn(day as u64 * 100 + 10),
            start_time: time,
            stop_time: time,
            needs: Vec::new(),
        };
        Candidate { outline, held }
    }

    fn kept(backups: &[Candidate], count: Option<u32>, days: Option<u64>) -> Vec<Option<Because>> {
        let policy = Policy::new(count, days.map(|days| Duration::from_secs(days * 86_400)));
        let history = History::parse(2, "1\t0/1F4\tx").unwrap();
        decide(backups, Some(&history), &policy, Timestamp::from_second(10 * 86_400).unwrap())
    }

    #[test]
    fn newest_by_time_and_the_one_that_the_window_begins_with() {
        use Because::{BeginsWindow, Count, Held, NoPolicy, Window};
        let all =
            [backup(1, 1, true), backup(2, 1, false), backup(4, 1, false), backup(6, 2, false), backup(9, 2, false)];
        assert_eq!(kept(&all, None, None), [Some(NoPolicy); 5]);
        assert_eq!(kept(&all, Some(2), None), [Some(Held), None, None, Some(Count), Some(Count)]);
        let window = [Some(Held), None, Some(BeginsWindow), Some(Window), Some(Window)];
        assert_eq!(kept(&all, None, Some(5)), window, "every moment since day 5 needs the backup of day 4");
        assert_eq!(kept(&all, Some(1), Some(5)), [Some(Held), None, Some(BeginsWindow), Some(Window), Some(Count)]);
        assert_eq!(kept(&all, None, Some(90))[1], Some(Window), "the window is longer than there are backups");
        assert_eq!(kept(&all[..1], None, Some(5)), [Some(BeginsWindow)], "the last one stays, however old");
        assert_eq!(kept(&[], Some(1), None), []);
    }

    #[test]
    fn a_backup_of_a_left_timeline_stands_for_nothing() {
        use Because::{BeginsWindow, Count};
        // Timeline 1 was left at 500; what a deposed primary backed up on day 7 leads nowhere.
        let all = [backup(3, 1, false), backup(4, 1, false), backup(7, 1, false)];
        assert_eq!(kept(&all, Some(1), None), [None, Some(Count), Some(Count)]);
        assert_eq!(kept(&all, None, Some(1)), [None, Some(BeginsWindow), Some(BeginsWindow)]);
        // Nor does one without a history that says so.
        let policy = Policy::new(Some(1), None);
        let newer = [backup(3, 1, false), backup(6, 2, false), backup(7, 1, false)];
        assert_eq!(decide(&newer, None, &policy, Timestamp::UNIX_EPOCH), [None, Some(Count), Some(Count)]);
    }
}
