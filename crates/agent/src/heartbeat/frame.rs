//! What two agents say to each other: one short line of words each way, three times a second.
//!
//! ```text
//! follower: beat <stance> <incarnation> <echo> <promise>     beat follows:7 00c0ffee00c0ffee 81234 -
//! leader:   live <clock> <leads> <serial> <round age> <asks>  live 81250 7 12 340 no
//! ```
//!
//! `-` stands for nothing. A clock means nothing to the other side but "as I was told". Words that a later version adds come
//! at the end and are skipped.

use matriarch_core::Incarnation;
use matriarch_core::decide::{Millis, Stance};

/// Longest line, in bytes; a longer one ends the connection.
pub const LONGEST: usize = 256;

/// Longest promise that is believed, in milliseconds: the longest `ttl` and a little.
pub const LONGEST_PROMISE: Millis = 3_600_000 + 60_000;

/// From a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Where it stands.
    pub stance: Stance,
    /// Identity of its data.
    pub incarnation: Option<Incarnation>,
    /// The leader's clock as the last answer had it: this beat was made after that.
    pub echo: Option<Millis>,
    /// It will not take over.
    pub promise: Option<Promise>,
}

/// Not to take over for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// For how long.
    pub time: Millis,
    /// Counted from this moment of the leader's clock, that of the answer which asked.
    pub since: Millis,
}

/// From a leader, or from whoever is taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Its clock.
    pub clock: Millis,
    /// The epoch it leads in.
    pub leads: Option<u64>,
    /// `serial` of its `sync` record.
    pub serial: u64,
    /// How long ago its loop finished a round.
    pub round_age: Millis,
    /// It asks for a promise.
    pub asks: bool,
}

impl Beat {
    pub fn line(&self) -> String {
        let stance = match self.stance {
            Stance::Neutral => "neutral".to_owned(),
            Stance::Follows { epoch } => format!("follows:{epoch}"),
            Stance::Leads { epoch } => format!("leads:{epoch}"),
        };
        let incarnation = self.incarnation.as_ref().map_or("-", Incarnation::as_str);
        let promise = self.promise.map_or("-".to_owned(), |promise| format!("{}@{}", promise.time, promise.since));
        format!("beat {stance} {incarnation} {} {promise}\n", number(self.echo))
    }

    pub fn parse(line: &str) -> Option<Beat> {
        let mut words = line.split_ascii_whitespace();
        if words.next()? != "beat" {
            return None;
        }
        let word = words.next()?;
        let stance = match word.split_once(':') {
            Some(("follows", epoch)) => Stance::Follows { epoch: epoch.parse().ok()? },
            Some(("leads", epoch)) => Stance::Leads { epoch: epoch.parse().ok()? },
            None if word == "neutral" => Stance::Neutral,
            _ => return None,
        };
        let incarnation = optional(words.next()?, |word| word.parse().ok())?;
        let echo = optional(words.next()?, |word| word.parse().ok())?;
        let promise = optional(words.next()?, |word| {
            let (time, since) = word.split_once('@')?;
            let time = time.parse().ok().filter(|time| *time <= LONGEST_PROMISE)?;
            Some(Promise { time, since: since.parse().ok()? })
        })?;
        Some(Beat { stance, incarnation, echo, promise })
    }
}

impl Live {
    pub fn line(&self) -> String {
        let asks = if self.asks { "yes" } else { "no" };
        format!("live {} {} {} {} {asks}\n", self.clock, number(self.leads), self.serial, self.round_age)
    }

    pub fn parse(line: &str) -> Option<Live> {
        let mut words = line.split_ascii_whitespace();
        if words.next()? != "live" {
            return None;
        }
        Some(Live {
            clock: words.next()?.parse().ok()?,
            leads: optional(words.next()?, |word| word.parse().ok())?,
            serial: words.next()?.parse().ok()?,
            round_age: words.next()?.parse().ok()?,
            asks: words.next()? == "yes",
        })
    }
}

fn number(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// `None` when the word is neither `-` nor understood.
fn optional<T>(word: &str, read: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if word == "-" { Some(None) } else { read(word).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_the_wire() {
        let incarnation = Some(Incarnation::from_bits(0xC0FFEE));
        let promise = Some(Promise { time: 5000, since: u64::MAX });
        for beat in [
            Beat { stance: Stance::Neutral, incarnation: None, echo: None, promise: None },
            Beat { stance: Stance::Follows { epoch: 7 }, incarnation, echo: Some(u64::MAX), promise },
            Beat { stance: Stance::Leads { epoch: 0 }, incarnation: None, echo: Some(0), promise: None },
        ] {
            assert!(beat.line().len() < LONGEST);
            assert_eq!(Beat::parse(&beat.line()), Some(beat));
        }
        for live in [
            Live { clock: 0, leads: None, serial: 0, round_age: 0, asks: false },
            Live { clock: u64::MAX, leads: Some(3), serial: u64::MAX, round_age: u64::MAX, asks: true },
        ] {
            assert!(live.line().len() < LONGEST);
            assert_eq!(Live::parse(&live.line()), Some(live));
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        let live = Live { clock: 1, leads: Some(2), serial: 3, round_age: 4, asks: true };
        assert_eq!(Live::parse(&format!("{} and more", live.line().trim())), Some(live));
    }

    #[test]
    fn garbage_says_nothing() {
        for line in [
            "",
            "beat",
            "beat follows - - -",
            "beat follows: - - -",
            "beat follows:-1 - - -",
            "beat leans:1 - - -",
            "beat follows:1 XYZ - -",
            "beat follows:1 - x -",
            "beat follows:1 - 1",
            "beat follows:1 - 1 5000",
            "beat follows:1 - 1 99999999999@1",
            "live 1 2 3 4 yes",
            "GET / HTTP/1.1",
        ] {
            assert_eq!(Beat::parse(line), None, "{line:?}");
        }
        for line in ["", "live", "live x - 1 1 no", "live 1 - 1 1", "live 1 x 1 1 no", "beat neutral - - -"] {
            assert_eq!(Live::parse(line), None, "{line:?}");
        }
    }
}
