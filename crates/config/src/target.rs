//! How far a restore goes, and how people write that.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use matriarch_core::Lsn;
use serde::Deserialize;

/// How far to go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum RestoreTarget {
    /// As far as the archive reaches.
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// Up to and with what was committed at this time.
    Time(Timestamp),
    /// Up to and with the record at this position.
    Lsn(Lsn),
    /// Up to and with this transaction.
    Xid(u32),
    /// The point that `pg_create_restore_point` made.
    Name(String),
}

impl fmt::Display for RestoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreTarget::Latest => f.write_str("the end of the archive"),
            RestoreTarget::Immediate => f.write_str("the end of the backup"),
            RestoreTarget::Time(time) => write!(f, "the time {time}"),
            RestoreTarget::Lsn(lsn) => write!(f, "position {lsn}"),
            RestoreTarget::Xid(xid) => write!(f, "transaction {xid}"),
            RestoreTarget::Name(name) => write!(f, "the restore point '{name}'"),
        }
    }
}

impl FromStr for RestoreTarget {
    type Err = String;

    /// `latest`, `immediate`, a time with its zone (also `time=…`), a position (also `lsn=…`), `xid=…` or `name=…`.
    fn from_str(text: &str) -> Result<RestoreTarget, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("'{text}' is no transaction number"));
        match text.split_once('=') {
            None if text == "latest" => Ok(RestoreTarget::Latest),
            None if text == "immediate" => Ok(RestoreTarget::Immediate),
            Some(("xid", xid)) => number(xid).map(RestoreTarget::Xid),
            Some(("name", "")) => Err("the name of a restore point is missing".to_owned()),
            Some(("name", name)) => Ok(RestoreTarget::Name(name.to_owned())),
            Some(("time", text)) => moment(text).map(RestoreTarget::Time),
            Some(("lsn", text)) => {
                text.parse().map(RestoreTarget::Lsn).map_err(|_| format!("'{text}' is no position, such as 0/3000148"))
            }
            _ => {
                let lsn = text.parse().map(RestoreTarget::Lsn);
                lsn.or_else(|_| moment(text).map(RestoreTarget::Time)).map_err(|_| {
                    "expected latest, immediate, a time with its zone (2026-12-24T03:00:00+01:00), a position (0/3000148), \
                     xid=NUMBER or name=RESTORE_POINT"
                        .to_owned()
                })
            }
        }
    }
}

impl TryFrom<String> for RestoreTarget {
    type Error = String;

    fn try_from(text: String) -> Result<RestoreTarget, String> {
        text.parse()
    }
}

/// A moment with its zone: `2026-12-24T03:00:00+01:00`, also with a space and with `[Europe/Berlin]`.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    let zoned = text.parse::<jiff::Zoned>().map(|zoned| zoned.timestamp());
    zoned.or_else(|_| text.parse()).map_err(|_| {
        "expected a time with its zone, such as 2026-12-24T03:00:00+01:00 or 2026-12-24T02:00:00Z".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let target = str::parse::<RestoreTarget>;
        assert_eq!(target("latest"), Ok(RestoreTarget::Latest));
        assert_eq!(target("0/3000148"), Ok(RestoreTarget::Lsn(Lsn(0x300_0148))));
        assert_eq!(target("lsn=0/3000148"), Ok(RestoreTarget::Lsn(Lsn(0x300_0148))));
        assert_eq!(target("xid=77"), Ok(RestoreTarget::Xid(77)));
        assert_eq!(target("name=before = after"), Ok(RestoreTarget::Name("before = after".into())));
        let time = RestoreTarget::Time("2026-11-22T05:00:00Z".parse().unwrap());
        assert_eq!(target("2026-11-22 06:00:00+01:00"), Ok(time.clone()));
        assert_eq!(target("time=2026-11-22T05:00:00Z"), Ok(time));
        for wrong in ["", "newest", "xid=x", "name=", "lsn=5", "2026-11-22 06:00", "time=noon"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_have_a_zone() {
        let expected = "2026-12-24T02:00:00Z".parse().unwrap();
        for text in ["2026-12-24T03:00:00+01:00", "2026-12-24 02:00:00Z", "2026-12-24T03:00:00+01:00[Europe/Berlin]"] {
            assert_eq!(moment(text), Ok(expected), "{text}");
        }
        assert!(moment("2026-12-24T03:00:00").is_err(), "without a zone nobody knows when that is");
    }
}
