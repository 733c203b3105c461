//! Where a timeline came from: what its history file tells.

use matriarch_core::{Lsn, Timeline};

/// A timeline was left for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// Where.
    pub lsn: Lsn,
}

/// A timeline and its ancestors, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The timeline.
    pub timeline: Timeline,
    /// Its ancestors.
    pub switches: Vec<Switch>,
}

/// A history file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the history of timeline {timeline} is damaged: its line {line} is '{text}'")]
pub struct BadHistory {
    timeline: Timeline,
    line: usize,
    text: String,
}

impl History {
    /// The first timeline of a cluster.
    pub fn root(timeline: Timeline) -> History {
        History { timeline, switches: Vec::new() }
    }

    /// Reads a history file.
    pub fn parse(timeline: Timeline, text: &str) -> Result<History, BadHistory> {
        let mut history = History::root(timeline);
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let parsed =
                words.next().and_then(|word| word.parse().ok()).zip(words.next().and_then(|word| word.parse().ok()));
            let above = history.switches.last().map_or(0, |switch| switch.timeline);
            match parsed {
                Some((left, lsn)) if left > above && left < timeline => {
                    history.switches.push(Switch { timeline: left, lsn })
                }
                _ => return Err(BadHistory { timeline, line: number + 1, text: line.to_owned() }),
            }
        }
        Ok(history)
    }

    /// Where this history leaves a timeline: `None` if it never was on it, `Some(None)` if it is on it now.
    pub fn end_of(&self, timeline: Timeline) -> Option<Option<Lsn>> {
        if timeline == self.timeline {
            return Some(None);
        }
        self.switches.iter().find(|switch| switch.timeline == timeline).map(|switch| Some(switch.lsn))
    }

    /// Whether what ended at `lsn` on a timeline lies on the way here.
    pub fn passes(&self, timeline: Timeline, lsn: Lsn) -> bool {
        self.end_of(timeline).is_some_and(|end| end.is_none_or(|end| lsn <= end))
    }

    /// The timeline on which the byte at `lsn` was written.
    pub fn timeline_at(&self, lsn: Lsn) -> Timeline {
        self.switches.iter().find(|switch| lsn < switch.lsn).map_or(self.timeline, |switch| switch.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_who_wrote_what() {
        let history = History::parse(4, "1\t0/3000000\tx\n\n# note\n3\t0/5000000\ty\n").unwrap();
        assert_eq!(history.timeline_at(Lsn(0x2FF_FFFF)), 1);
        assert_eq!(history.timeline_at(Lsn(0x300_0000)), 3);
        assert_eq!(history.timeline_at(Lsn(0x500_0000)), 4);
        assert_eq!(history.end_of(3), Some(Some(Lsn(0x500_0000))));
        assert_eq!(history.end_of(4), Some(None));
        assert_eq!(history.end_of(2), None);
        let passes = |timeline, lsn| history.passes(timeline, Lsn(lsn));
        assert_eq!(
            [passes(3, 0x500_0000), passes(3, 0x500_0001), passes(2, 1), passes(4, 1)],
            [true, false, false, true]
        );
        assert!(History::parse(3, "3\t0/1\tx").is_err());
        assert!(History::parse(3, "nonsense").is_err());
    }
}
