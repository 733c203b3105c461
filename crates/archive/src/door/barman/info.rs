//! Barman's `backup.info`: lines of keys and values, some of them as Python would print them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use matriarch_core::{Lsn, Timeline};

use crate::base::{Summary, Tablespace};
use crate::door::shelf::Known;
use crate::wal::Segment;

/// A backup, complete or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    values: BTreeMap<String, String>,
}

impl Info {
    /// Reads the lines.
    pub fn parse(text: &str) -> Result<Info, String> {
        let mut values = BTreeMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (key, value) =
                line.split_once('=').ok_or_else(|| format!("its line {} is no key with a value", number + 1))?;
            values.insert(key.to_owned(), value.to_owned());
        }
        Ok(Info { values })
    }

    fn of(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| *value != "None")
    }

    /// Whether it was finished.
    pub fn is_done(&self) -> bool {
        self.of("status") == Some("DONE")
    }

    /// Why it cannot be read here although nothing is wrong with it.
    pub fn refused(&self) -> Option<String> {
        if self.of("snapshots_info").is_some() {
            return Some("it consists of snapshots of volumes, which are not read here".to_owned());
        }
        if let Some(parent) = self.of("parent_backup_id") {
            return Some(format!("it is an increment of {parent}, which is not read here: restore it with barman"));
        }
        self.of("encryption")
            .map(|how| format!("it is encrypted ({how}), which is not read here: restore it with barman"))
    }

    /// The label that PostgreSQL gave it.
    pub fn label(&self) -> String {
        let text = self.of("backup_label").unwrap_or_default();
        literal(text).map_or_else(|| text.to_owned(), |(text, _)| text)
    }

    /// The database system, which old versions do not tell.
    pub fn system_identifier(&self) -> Option<&str> {
        self.of("systemid")
    }

    /// The name that it has beside its identifier, if any.
    pub fn name(&self) -> Option<&str> {
        self.of("backup_name")
    }

    /// A backup of ours, as Barman describes its own; `server` is its name there. Only keys that Debian's version knows: it
    /// refuses a file with others.
    pub fn of_ours(summary: &Summary, server: &str, segment_size: u64) -> Info {
        let time = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%S.%6f+00:00").to_string();
        let offset = |lsn: Lsn| (lsn.0 % segment_size).to_string();
        let spaces = |space: &Tablespace| format!("({}, {}, {})", quoted(&space.name), space.oid, quoted(&space.path));
        let spaces: Vec<String> = summary.tablespaces.iter().map(spaces).collect();
        let (start, stop) = (summary.start_lsn, summary.stop_lsn);
        let none = ["compression", "config_file", "copy_stats", "deduplicated_size", "error", "hba_file", "ident_file"];
        let none = none.into_iter().chain(["included_files", "mode", "pgdata"]).map(|key| (key, "None".to_owned()));
        let told = [
            ("backup_label", quoted(&summary.backup_label)),
            ("backup_name", summary.backup.clone()),
            ("begin_offset", offset(start)),
            ("begin_time", time(summary.start_time)),
            ("begin_wal", Segment::at(summary.timeline, start, segment_size).to_string()),
            ("begin_xlog", start.to_string()),
            ("end_offset", offset(stop)),
            ("end_time", time(summary.stop_time)),
            ("end_wal", Segment::before(summary.timeline, stop, segment_size).to_string()),
            ("end_xlog", stop.to_string()),
            ("server_name", server.to_owned()),
            ("size", summary.size.to_string()),
            ("status", "DONE".to_owned()),
            ("systemid", summary.system_identifier.clone()),
            ("tablespaces", if spaces.is_empty() { "None".to_owned() } else { format!("[{}]", spaces.join(", ")) }),
            ("timeline", summary.timeline.to_string()),
            ("version", (summary.major * 10_000).to_string()),
            ("xlog_segment_size", segment_size.to_string()),
        ];
        Info { values: none.chain(told).map(|(key, value)| (key.to_owned(), value)).collect() }
    }

    /// The name that Barman gives to a backup of that moment.
    pub fn id(summary: &Summary) -> String {
        summary.start_time.strftime("%Y%m%dT%H%M%S").to_string()
    }

    /// The lines, sorted as Barman sorts them.
    pub fn to_text(&self) -> String {
        self.values.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    /// What is told of it; `stored`: bytes of its objects.
    pub fn known(&self, name: &str, stored: u64) -> Result<Known, String> {
        let lacks = |key: &str| format!("its {key} is missing or none");
        let text = |key: &str| self.of(key).ok_or_else(|| lacks(key));
        let number = |key: &str| self.of(key).and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| lacks(key));
        let lsn = |key: &str| self.of(key).and_then(|text| text.parse::<Lsn>().ok()).ok_or_else(|| lacks(key));
        let time = |key: &str| -> Result<Timestamp, String> { text(key)?.parse().map_err(|_| lacks(key)) };
        let timeline = Timeline::try_from(number("timeline")?).map_err(|_| lacks("timeline"))?;
        let summary = Summary {
            version: 1,
            backup: name.to_owned(),
            system_identifier: self.of("systemid").unwrap_or_default().to_owned(),
            major: (number("version")? / 10_000) as u32,
            timeline,
            start_lsn: lsn("begin_xlog")?,
            stop_lsn: lsn("end_xlog")?,
            start_time: time("begin_time")?,
            stop_time: time("end_time")?,
            from_standby: false,
            data_checksums: self.of("data_checksums") == Some("on"),
            size: number("cluster_size").or(number("size")).unwrap_or(0),
            stored,
            packs: 0,
            backup_label: String::new(),
            control: String::new(),
            tablespaces: tablespaces(self.of("tablespaces").unwrap_or_default()).ok_or_else(|| lacks("tablespaces"))?,
            damaged: Vec::new(),
            increment: None,
            fallback: None,
        };
        Ok(Known { summary, first_wal: text("begin_wal")?.to_owned() })
    }
}

/// `[('name', oid, 'path'), …]`.
fn tablespaces(text: &str) -> Option<Vec<Tablespace>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('(') {
        let (name, after) = literal(rest[at + 1..].trim_start())?;
        let (oid, after) = after.trim_start().strip_prefix(',')?.split_once(',')?;
        let (path, after) = literal(after.trim_start())?;
        found.push(Tablespace { oid: oid.trim().parse().ok()?, name, path });
        rest = after.trim_start().strip_prefix(')')?;
    }
    Some(found)
}

/// A text as Python prints it, and what follows it.
fn literal(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|first| ['\'', '"'].contains(first))?;
    let mut value = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            letter if letter == quote => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                kind @ ('x' | 'u' | 'U') => {
                    let digits = match kind {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let code: String = letters.by_ref().take(digits).map(|(_, digit)| digit).collect();
                    value.push(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32)?);
                }
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// A text as Python reads it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for letter in text.chars() {
        match letter {
            '\'' => quoted.push_str("\\'"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            letter if letter.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => quoted.push(letter),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "backup_label='START WAL LOCATION: 0/A000028 (file 00000001000000000000000A)\\nLABEL: it\\'s\\n'\n\
        begin_offset=40\nbegin_time=2026-11-21 10:49:14.843866+00:00\nbegin_wal=00000001000000000000000A\nbegin_xlog=0/A000028\n\
        cluster_size=56646189\ncompression=None\nencryption=None\nend_time=2026-11-21 10:49:24.133328+00:00\nend_xlog=0/A165B08\n\
        parent_backup_id=None\nsize=None\nstatus=DONE\nsystemid=7710574906734481931\n\
        tablespaces=[('ts1', 16384, '/srv/ts1'), (\"it's\", 16385, '/srv/\\xe4')]\ntimeline=1\nversion=150020\n";

    #[test]
    fn reads_what_barman_wrote() {
        let info = Info::parse(INFO).unwrap();
        assert!(info.is_done() && info.refused().is_none());
        assert_eq!(info.label().lines().last(), Some("LABEL: it's"));
        let Known { summary, first_wal } = info.known("20261121T104914", 5).unwrap();
        assert_eq!((summary.start_lsn, summary.stop_lsn), (Lsn(0xA00_0028), Lsn(0xA16_5B08)));
        assert_eq!((summary.major, summary.size, first_wal.as_str()), (15, 56_646_189, "00000001000000000000000A"));
        assert_eq!(summary.stop_time.to_string(), "2026-11-21T10:49:24.133328Z");
        let spaces: Vec<(u32, &str, &str)> =
            summary.tablespaces.iter().map(|space| (space.oid, &*space.name, &*space.path)).collect();
        assert_eq!(spaces, [(16384, "ts1", "/srv/ts1"), (16385, "it's", "/srv/ä")]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let info = Info::parse(INFO).unwrap();
        let Known { summary, .. } = info.known("20261121T104914Z-3f2a", 5).unwrap();
        let label = "START WAL LOCATION: 0/A000028\nLABEL: it's a \\ and a \u{7}\n";
        let ours = Summary { backup_label: label.to_owned(), ..summary.clone() };
        let text = Info::of_ours(&ours, "main", 16 << 20).to_text();
        assert!(text.lines().is_sorted(), "{text}");
        let read = Info::parse(&text).unwrap();
        assert!(read.is_done() && read.refused().is_none(), "{text}");
        assert_eq!((read.label().as_str(), read.name()), (label, Some("20261121T104914Z-3f2a")));
        let Known { summary: again, first_wal } = read.known("20261121T104914Z-3f2a", 5).unwrap();
        assert_eq!(
            (again, first_wal.as_str()),
            (Summary { data_checksums: false, ..summary }, "00000001000000000000000A")
        );
        assert!(text.contains("begin_offset=40\n") && text.contains("end_wal=00000001000000000000000A\n"), "{text}");
        assert_eq!(Info::id(&ours), "20261121T104914");
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        let told = |from: &str, to: &str| Info::parse(&INFO.replace(from, to)).unwrap();
        assert!(!told("status=DONE", "status=FAILED").is_done());
        assert!(told("parent_backup_id=None", "parent_backup_id=1").refused().unwrap().contains("increment of 1"));
        assert!(told("encryption=None", "encryption=gpg").refused().unwrap().contains("gpg"));
        assert!(told("end_xlog=0/A165B08", "end_xlog=None").known("x", 0).unwrap_err().contains("end_xlog"));
        assert!(told("('ts1', 16384", "('ts1' 16384").known("x", 0).unwrap_err().contains("tablespaces"));
        assert!(Info::parse("nonsense").unwrap_err().contains("line 1"));
    }
}
