//! What the answers to replication commands say.

use std::str::FromStr;

use bytes::Bytes;
use matriarch_core::{Lsn, Timeline};

use super::error::ReplicationError;
use crate::history::History;

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Identity of the cluster, the same on all its members.
    pub system_identifier: u64,
    /// Its timeline.
    pub timeline: Timeline,
    /// Everything before it is flushed there (on a standby: received and flushed, or replayed).
    pub flushed: Lsn,
}

/// Where a physical slot holds WAL from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPosition {
    /// The first position that is held, and its timeline; `None` before the slot's first use.
    pub restart: Option<(Lsn, Timeline)>,
}

/// What comes after a timeline that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextTimeline {
    /// The timeline that follows in the server's history.
    pub timeline: Timeline,
    /// Its first position: the first that does not belong to the one that ended.
    pub start: Lsn,
}

type Row = [Option<Bytes>];

pub(super) fn identity(what: &'static str, rows: &[Vec<Option<Bytes>>]) -> Result<Identity, ReplicationError> {
    let row = only(what, rows)?;
    Ok(Identity {
        system_identifier: value(what, row, 0)?,
        timeline: value(what, row, 1)?,
        flushed: value(what, row, 2)?,
    })
}

pub(super) fn single(what: &'static str, rows: &[Vec<Option<Bytes>>]) -> Result<String, ReplicationError> {
    value(what, only(what, rows)?, 0)
}

pub(super) fn slot(what: &'static str, rows: &[Vec<Option<Bytes>>]) -> Result<Option<SlotPosition>, ReplicationError> {
    let row = only(what, rows)?;
    let is_there = row.first().is_some_and(Option::is_some);
    let held = row.get(1).is_some_and(Option::is_some) && row.get(2).is_some_and(Option::is_some);
    let restart = held.then(|| Ok((value(what, row, 1)?, value(what, row, 2)?))).transpose()?;
    Ok(is_there.then_some(SlotPosition { restart }))
}

pub(super) fn history_file(
    what: &'static str,
    timeline: Timeline,
    rows: &[Vec<Option<Bytes>>],
) -> Result<Bytes, ReplicationError> {
    let row = only(what, rows)?;
    let name: String = value(what, row, 0)?;
    if name != History::file_name(timeline) {
        return Err(odd(what, format!("it gave the file '{name:.100}'")));
    }
    row.get(1).cloned().flatten().ok_or_else(|| odd(what, "the file has no content".to_owned()))
}

pub(super) fn next_timeline(what: &'static str, row: &Row) -> Result<NextTimeline, ReplicationError> {
    Ok(NextTimeline { timeline: value(what, row, 0)?, start: value(what, row, 1)? })
}

/// Reads `16MB`, `1GB`.
pub(super) fn segment_size(text: &str) -> Result<u64, ReplicationError> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match &text[end..] {
        "GB" => 1 << 30,
        "MB" => 1 << 20,
        "kB" => 1 << 10,
        "B" | "" => 1,
        _ => 0,
    };
    let size = text[..end].parse().ok().and_then(|number: u64| number.checked_mul(unit)).unwrap_or(0);
    if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) {
        return Ok(size);
    }
    Err(odd("show a setting", format!("its segments of WAL have '{text}'")))
}

fn only<'a>(what: &'static str, rows: &'a [Vec<Option<Bytes>>]) -> Result<&'a Row, ReplicationError> {
    match rows {
        [row] => Ok(row),
        _ => Err(odd(what, format!("{} rows instead of one", rows.len()))),
    }
}

fn value<T: FromStr>(what: &'static str, row: &Row, column: usize) -> Result<T, ReplicationError> {
    let Some(Some(bytes)) = row.get(column) else {
        return Err(odd(what, format!("no value in column {}", column + 1)));
    };
    let text = String::from_utf8_lossy(bytes);
    text.parse().map_err(|_| odd(what, format!("'{text:.100}' in column {}", column + 1)))
}

fn odd(what: &'static str, reason: String) -> ReplicationError {
    ReplicationError::Protocol { what, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&'static str>]) -> Vec<Vec<Option<Bytes>>> {
        vec![values.iter().map(|value| value.map(|text| Bytes::from_static(text.as_bytes()))).collect()]
    }

    #[test]
    fn reads_answers() {
        let rows = row(&[Some("7301234567890123456"), Some("3"), Some("1A/2B"), None]);
        let expected =
            Identity { system_identifier: 7_301_234_567_890_123_456, timeline: 3, flushed: Lsn(0x1A_0000_002B) };
        assert_eq!(identity("test", &rows).unwrap(), expected);
        assert!(identity("test", &row(&[Some("x")])).is_err());
        assert!(identity("test", &[]).is_err());

        let fresh = slot("test", &row(&[Some("physical"), None, None])).unwrap();
        assert_eq!(fresh, Some(SlotPosition { restart: None }));
        let used = slot("test", &row(&[Some("physical"), Some("0/5"), Some("2")])).unwrap();
        assert_eq!(used, Some(SlotPosition { restart: Some((Lsn(5), 2)) }));
        assert_eq!(slot("test", &row(&[None, None, None])).unwrap(), None);

        assert!(history_file("test", 2, &row(&[Some("00000003.history"), Some("")])).is_err());
    }

    #[test]
    fn reads_sizes_of_segments() {
        for (text, size) in [("1MB", 1 << 20), ("16MB", 1 << 24), ("64MB", 1 << 26), ("1GB", 1 << 30)] {
            assert_eq!(segment_size(text).unwrap(), size);
        }
        for bad in ["", "16", "3MB", "2GB", "16TB", "99999999999999999999MB", "MB"] {
            assert!(segment_size(bad).is_err(), "{bad}");
        }
    }
}
