//! When something is due: a cron expression in a time zone.
//!
//! `croner` would bring eight crates along, looks for the end of a gap second by second, and runs intervals twice in an hour
//! that comes twice.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};

/// Whoever asks for the 29th of February on a Monday may wait for so long, and a century without a leap day is among it.
const FURTHEST_DAY: u32 = 41 * 366;

/// Minute, hour, day of month, month and day of week, if need be with seconds before them.
///
/// As in cron, a day fits when either of its two fields does, unless one of them begins with `*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cron {
    text: String,
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    either_day: bool,
}

/// A time zone by its name in the tz database.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

/// A name means one zone, whose tables need not be compared every second.
impl PartialEq for Zone {
    fn eq(&self, other: &Zone) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

struct Field {
    name: &'static str,
    min: u64,
    max: u64,
    /// Names of the numbers from `min` on.
    words: &'static [&'static str],
}

const fn field(name: &'static str, min: u64, max: u64, words: &'static [&'static str]) -> Field {
    Field { name, min, max, words }
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 6] = [
    field("second", 0, 59, &[]),
    field("minute", 0, 59, &[]),
    field("hour", 0, 23, &[]),
    field("day of month", 1, 31, &[]),
    field("month", 1, 12, MONTHS),
    // Both 0 and 7 are Sunday.
    field("day of week", 0, 7, WEEKDAYS),
];
const SHORT: &[(&str, &str)] = &[
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
];

impl FromStr for Cron {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = match text.trim() {
            short if short.starts_with('@') => {
                let known = || SHORT.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                let found = SHORT.iter().find(|(name, _)| *name == short);
                found.ok_or_else(|| format!("there is no {short}; known are {}", known()))?.1
            }
            whole => whole,
        };
        let mut words: Vec<&str> = whole.split_whitespace().collect();
        match words.len() {
            5 => words.insert(0, "0"),
            6 => {}
            count => {
                return Err(format!(
                    "it has {count} fields, and needs five (minute, hour, day of month, month, day of week), or a second \
                     before them: `30 2 * * *` is half past two every day"
                ));
            }
        }
        let mut sets = [0; 6];
        for ((set, field), word) in sets.iter_mut().zip(&FIELDS).zip(&words) {
            *set = field.read(word)?;
        }
        let [seconds, minutes, hours, days, months, weekdays] = sets;
        let either_day = !words[3].starts_with('*') && !words[5].starts_with('*');
        let weekdays = (weekdays | weekdays >> 7) & 0x7f;
        let cron = Cron { text: text.to_owned(), seconds, minutes, hours, days, months, weekdays, either_day };
        match cron.next_local(DateTime::constant(2001, 1, 1, 0, 0, 0, 0)) {
            Some(_) => Ok(cron),
            None => Err("no year has such a day".to_owned()),
        }
    }
}

impl Field {
    /// The numbers that a field stands for, as bits.
    fn read(&self, text: &str) -> Result<u64, String> {
        let wrong = |why: String| format!("{}: {why}", self.name);
        let mut set = 0;
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => {
                    let step = step.parse::<u64>().ok().filter(|step| (1..=self.max).contains(step));
                    let what = || wrong(format!("the step of '{part}' must be a number from 1 to {}", self.max));
                    (range, Some(step.ok_or_else(what)?))
                }
                None => (part, None),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.min, self.max),
                Some((first, last)) => (self.number(first)?, self.number(last)?),
                None => {
                    let first = self.number(range)?;
                    (first, if step.is_some() { self.max } else { first })
                }
            };
            if first > last {
                return Err(wrong(format!("'{range}' goes backwards; write two ranges with a comma")));
            }
            (first..=last).step_by(step.unwrap_or(1) as usize).for_each(|number| set |= 1 << number);
        }
        Ok(set)
    }

    fn number(&self, text: &str) -> Result<u64, String> {
        let named = self.words.iter().position(|word| text.eq_ignore_ascii_case(word));
        let number = named.map(|place| place as u64 + self.min).or_else(|| text.parse().ok());
        let names = if self.words.is_empty() { "" } else { ", or the first three letters of its name" };
        let bounds = format!("a number from {} to {}{names}", self.min, self.max);
        match number {
            Some(number) if (self.min..=self.max).contains(&number) => Ok(number),
            Some(number) => Err(format!("{}: {number} is out of range; write {bounds}", self.name)),
            None => Err(format!("{}: '{text}' is neither *, {bounds}, a range nor a list of these", self.name)),
        }
    }
}

fn has(set: u64, number: i8) -> bool {
    set >> number & 1 == 1
}

impl Cron {
    /// The first moment after `after` that fits. A local time that a change of the clocks leaves out counts as the moment of
    /// that change; one that comes twice counts the first time. None: there is none that a clock can show.
    pub fn next(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let mut local = zone.zone.to_datetime(after);
        loop {
            local = self.next_local(local)?;
            let moment = zone.moment(local)?;
            if moment > after {
                return Some(moment);
            }
        }
    }

    /// The first local time after this one.
    fn next_local(&self, after: DateTime) -> Option<DateTime> {
        let mut date = after.date();
        let mut left = FURTHEST_DAY;
        if self.fits(date)
            && let Some(time) = self.next_time(Some(after.time()))
        {
            return Some(date.to_datetime(time));
        }
        while left > 0 {
            date = date.tomorrow().ok()?;
            if self.fits(date) {
                return Some(date.to_datetime(self.next_time(None)?));
            }
            left -= 1;
        }
        None
    }

    fn fits(&self, date: Date) -> bool {
        let of_month = has(self.days, date.day());
        let of_week = has(self.weekdays, date.weekday().since(Weekday::Sunday));
        has(self.months, date.month()) && if self.either_day { of_month || of_week } else { of_month && of_week }
    }

    /// The first time of a day, or the first after another.
    fn next_time(&self, after: Option<Time>) -> Option<Time> {
        for hour in (after.map_or(0, Time::hour)..24).filter(|hour| has(self.hours, *hour)) {
            for minute in (0..60).filter(|minute| has(self.minutes, *minute)) {
                for second in (0..60).filter(|second| has(self.seconds, *second)) {
                    let time = Time::constant(hour, minute, second, 0);
                    if after.is_none_or(|after| time > after) {
                        return Some(time);
                    }
                }
            }
        }
        None
    }
}

impl Zone {
    fn moment(&self, local: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(local);
        match ambiguous.offset() {
            AmbiguousOffset::Gap { after, .. } => {
                // Read by the later offset, a time within the gap lies before the change.
                let before = after.to_timestamp(local).ok()?;
                self.zone.following(before).next().map(|change| change.timestamp())
            }
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.compatible().ok(),
        }
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        // The host's own database may be missing, or know other names than that of the next host.
        match TimeZoneDatabase::bundled().get(name) {
            Ok(zone) => Ok(Zone { name: name.to_owned(), zone }),
            Err(_) => Err("write a name of the tz database, such as Europe/Berlin, or UTC".to_owned()),
        }
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl TryFrom<String> for Cron {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Cron> for String {
    fn from(cron: Cron) -> String {
        cron.text
    }
}

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> String {
        zone.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The next moments after a time, as the zone's clocks show them.
    fn next(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let (cron, zone): (Cron, Zone) = (cron.parse().unwrap(), zone.parse().unwrap());
        let mut at: Timestamp = after.parse().unwrap();
        let mut found = Vec::new();
        for _ in 0..count {
            at = cron.next(at, &zone).unwrap();
            found.push(at.to_zoned(zone.zone.clone()).strftime("%a %F %T%:z").to_string());
        }
        found
    }

    #[test]
    fn fields_ranges_steps_lists_and_names() {
        let utc = |cron, after, count| next(cron, "UTC", after, count);
        let sunday = "2026-11-22T09:20:30Z";
        assert_eq!(utc("30 2 * * *", sunday, 2), ["Mon 2026-11-23 02:30:00+00:00", "Tue 2026-11-24 02:30:00+00:00"]);
        assert_eq!(
            utc("*/15 * * * *", sunday, 3)[1..],
            ["Sun 2026-11-22 09:45:00+00:00", "Sun 2026-11-22 10:00:00+00:00"]
        );
        assert_eq!(
            utc("*/20 20 9 * * *", sunday, 2),
            ["Sun 2026-11-22 09:20:40+00:00", "Mon 2026-11-23 09:20:00+00:00"]
        );
        assert_eq!(utc("0 10-12/2,20 * * *", sunday, 3)[2], "Sun 2026-11-22 20:00:00+00:00");
        assert_eq!(utc("5/25 9 * * *", sunday, 2), ["Sun 2026-11-22 09:30:00+00:00", "Sun 2026-11-22 09:55:00+00:00"]);
        assert_eq!(utc("0 0 * * 7", sunday, 1), utc("0 0 * * SUN", sunday, 1));
        assert_eq!(utc("0 0 * * mon-fri", sunday, 1), ["Mon 2026-11-23 00:00:00+00:00"]);
        assert_eq!(
            utc("0 0 1 jan,Jul *", sunday, 2),
            ["Fri 2027-01-01 00:00:00+00:00", "Thu 2027-07-01 00:00:00+00:00"]
        );
        assert_eq!(utc("@weekly", sunday, 1), ["Sun 2026-11-29 00:00:00+00:00"]);
        // Either field of the day, as in cron, unless one is a star.
        assert_eq!(utc("0 0 1 * tue", sunday, 2), ["Tue 2026-11-24 00:00:00+00:00", "Tue 2026-12-01 00:00:00+00:00"]);
        assert_eq!(utc("0 0 13 * fri", sunday, 4)[3], "Sun 2026-12-13 00:00:00+00:00");
        assert_eq!(utc("0 0 29 2 *", "2096-03-01T00:00:00Z", 1), ["Fri 2104-02-29 00:00:00+00:00"]);
        assert_eq!(utc("0 0 29 2 */7", sunday, 1), ["Sun 2032-02-29 00:00:00+00:00"]);
        assert_eq!(
            utc("20 9 * * *", "2026-11-22T09:20:00Z", 1),
            ["Mon 2026-11-23 09:20:00+00:00"],
            "not the same again"
        );
        assert_eq!(utc("20 9 * * *", "2026-11-22T09:19:59.999Z", 1), ["Sun 2026-11-22 09:20:00+00:00"]);
    }

    #[test]
    fn a_time_that_does_not_exist_is_the_moment_of_the_change() {
        let before = "2026-03-28T12:00:00Z";
        let berlin = |cron, count| next(cron, "Europe/Berlin", before, count);
        assert_eq!(berlin("30 2 * * *", 2), ["Sun 2026-03-29 03:00:00+02:00", "Mon 2026-03-30 02:30:00+02:00"]);
        let quarters = next("*/15 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3);
        assert_eq!(
            quarters[..2],
            ["Sun 2026-03-29 03:00:00+02:00", "Sun 2026-03-29 03:15:00+02:00"],
            "once, not four times"
        );
        // Samoa left out a whole day, Lord Howe half an hour; in Beirut the day begins at one.
        let samoa = next("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 1);
        assert_eq!(samoa, ["Sat 2011-12-31 00:00:00+14:00"]);
        let howe = next("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 1);
        assert_eq!(howe, ["Sun 2026-10-04 02:30:00+11:00"]);
        let beirut = next("0 0 * * *", "Asia/Beirut", "2026-03-28T12:00:00Z", 2);
        assert_eq!(beirut, ["Sun 2026-03-29 01:00:00+03:00", "Mon 2026-03-30 00:00:00+03:00"]);
    }

    #[test]
    fn a_time_that_comes_twice_counts_once() {
        let berlin = |cron, after, count| next(cron, "Europe/Berlin", after, count);
        let daily = ["Sun 2026-10-25 02:30:00+02:00", "Mon 2026-10-26 02:30:00+01:00"];
        assert_eq!(berlin("30 2 * * *", "2026-10-24T12:00:00Z", 2), daily);
        // In the second pass, too.
        assert_eq!(berlin("30 2 * * *", "2026-10-25T01:10:00Z", 1), daily[1..]);
        let halves = berlin("*/30 * * * *", "2026-10-25T00:15:00Z", 2);
        assert_eq!(halves, ["Sun 2026-10-25 02:30:00+02:00", "Sun 2026-10-25 03:00:00+01:00"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, told) in [
            ("", "it has 0 fields, and needs five"),
            ("* * * * * * *", "it has 7 fields"),
            ("60 * * * *", "minute: 60 is out of range; write a number from 0 to 59"),
            ("* 24 * * *", "hour: 24 is out of range"),
            ("* * 0 * *", "day of month: 0 is out of range; write a number from 1 to 31"),
            ("* * * june *", "month: 'june' is neither *, a number from 1 to 12, or the first three letters"),
            ("* * * * 8", "day of week: 8 is out of range"),
            ("*/0 * * * *", "minute: the step of '*/0' must be a number from 1 to 59"),
            ("*/x * * * *", "the step of '*/x'"),
            ("* 22-4 * * *", "hour: '22-4' goes backwards; write two ranges with a comma"),
            ("1,,2 * * * *", "minute: '' is neither"),
            ("-1 * * * *", "minute: '' is neither"),
            ("0 0 30 2 *", "no year has such a day"),
            ("@nightly", "there is no @nightly; known are @hourly, @daily"),
        ] {
            let said = text.parse::<Cron>().unwrap_err();
            assert!(said.contains(told), "{text}: {said}");
        }
        for zone in ["", "Europe/Berln", "CET+1", "../UTC", "+01:00"] {
            assert!(zone.parse::<Zone>().unwrap_err().contains("Europe/Berlin"), "{zone}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9*/,@a-z -]{0,30}", at in 0i64..4_000_000_000) {
            if let Ok(cron) = text.parse::<Cron>() {
                let at = Timestamp::from_second(at).unwrap();
                for zone in ["UTC", "Europe/Berlin", "America/St_Johns"] {
                    let next = cron.next(at, &zone.parse().unwrap());
                    prop_assert!(next.is_none_or(|next| next > at));
                }
            }
        }

        /// What fits a moment is found from just before it, and nothing is found between.
        #[test]
        fn nothing_is_left_out(minute in 0u32..60, hour in 0u32..24, at in 1_700_000_000i64..1_900_000_000) {
            let (cron, zone): (Cron, Zone) = (format!("{minute} {hour} * * *").parse().unwrap(), "Europe/Berlin".parse().unwrap());
            let at = Timestamp::from_second(at).unwrap();
            let next = cron.next(at, &zone).unwrap();
            let away = next.duration_since(at).as_secs();
            prop_assert!(away > 0 && away <= 25 * 3600, "{at}: {next}");
            prop_assert_eq!(cron.next(Timestamp::from_nanosecond(next.as_nanosecond() - 1).unwrap(), &zone), Some(next));
        }
    }
}
