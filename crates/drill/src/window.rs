//! Hours of the day in which a drill may be.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Time;
use jiff::tz::TimeZone;

/// From one time of the day to another, which may be on the next day. The end does not belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    from: Time,
    to: Time,
}

impl Window {
    /// Whether a time of the day is in it.
    pub fn contains(&self, time: Time) -> bool {
        if self.from < self.to { self.from <= time && time < self.to } else { self.from <= time || time < self.to }
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' are no hours; write them as 02:00-04:00 or 22:30-01:00");
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let time = |text: &str| Time::strptime("%H:%M", text.trim()).map_err(|_| wrong());
        let (from, to) = (time(from)?, time(to)?);
        if from == to {
            return Err(format!("'{text}' is empty: it ends when it begins"));
        }
        Ok(Window { from, to })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.from.strftime("%H:%M"), self.to.strftime("%H:%M"))
    }
}

/// A time zone by its name.
pub fn time_zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| {
        format!("this machine knows no time zone '{name}'; write it as in Europe/Berlin or UTC, and see that the package tzdata is installed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_may_pass_midnight() {
        let inside = |window: &str, time: &str| {
            window.parse::<Window>().unwrap().contains(Time::strptime("%H:%M", time).unwrap())
        };
        for (window, time, expected) in [
            ("02:00-04:00", "02:00", true),
            ("02:00-04:00", "03:59", true),
            ("02:00-04:00", "04:00", false),
            ("02:00-04:00", "01:59", false),
            ("22:30-01:00", "23:00", true),
            ("22:30-01:00", "00:59", true),
            ("22:30-01:00", "12:00", false),
        ] {
            assert_eq!(inside(window, time), expected, "{window} {time}");
        }
        assert_eq!("2:00-04:30".parse::<Window>().unwrap().to_string(), "02:00-04:30");
        for wrong in ["", "02:00", "02:00-", "25:00-26:00", "04:00-04:00", "two-three"] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn zones_by_name() {
        assert!(time_zone("UTC").is_ok());
        assert!(time_zone("Europe/Atlantis").unwrap_err().contains("Europe/Atlantis"));
    }
}
