//! pgBackRest's information files: sections of keys whose values are JSON, and a checksum over all of it.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use matriarch_core::Lsn;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::format::hex;

/// Version of repositories, which every file names.
const FORMAT: &str = "5";

/// Reads a file and reports section, key and value of each line; the checksum is verified at its end.
///
/// # Errors
/// The first thing that is wrong. What was reported until then counts for nothing.
pub fn read(text: &str, mut each: impl FnMut(&str, &str, &str) -> Result<(), String>) -> Result<(), String> {
    let mut sum = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    let (mut section, mut summed, mut stored) = ("", None, None);
    sum.update(b"{");
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            continue;
        }
        let (key, value) = split(line).ok_or_else(|| format!("its line {} is no key with a value", number + 1))?;
        if (section, key) == ("backrest", "backrest-checksum") {
            stored = Some(value.trim_matches('"').to_owned());
            continue;
        }
        if (section, key) == ("backrest", "backrest-format") && value != FORMAT {
            return Err(format!("it has format {value}, and this program knows {FORMAT}"));
        }
        match summed {
            Some(same) if same == section => sum.update(b","),
            before => {
                if before.is_some() {
                    sum.update(b"},");
                }
                sum.update(format!("\"{section}\":{{").as_bytes());
                summed = Some(section);
            }
        }
        sum.update(format!("\"{key}\":").as_bytes());
        sum.update(value.as_bytes());
        each(section, key, value).map_err(|why| format!("its line {}: {why}", number + 1))?;
    }
    sum.update(b"}}");
    let found = hex(sum.finish().as_ref());
    match stored {
        None => Err("it is truncated: it has no checksum".to_owned()),
        Some(stored) if stored == found => Ok(()),
        Some(_) => Err("its checksum does not fit".to_owned()),
    }
}

/// A key may hold an equals sign: what follows the right one is JSON.
fn split(line: &str) -> Option<(&str, &str)> {
    line.match_indices('=')
        .map(|(at, _)| (&line[..at], &line[at + 1..]))
        .find(|(_, value)| serde_json::from_str::<IgnoredAny>(value).is_ok())
}

/// A value.
pub fn value<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// One of the databases that a stanza has archived: an upgrade begins another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its number in the stanza.
    pub id: u32,
    /// Major version of PostgreSQL, as it is part of names.
    pub version: String,
    /// The database system identifier.
    pub system_identifier: u64,
}

/// `archive.info` or `backup.info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Number of the database that is archived now.
    pub current: u32,
    /// All there were.
    pub databases: Vec<Database>,
    /// What the objects that it stands for are encrypted with.
    pub passphrase: Option<String>,
    /// Complete backups by their labels; none in `archive.info`.
    pub backups: BTreeMap<String, Row>,
}

/// What `backup.info` tells of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
    pub db_id: u32,
    pub backup_archive_start: Option<String>,
    pub backup_archive_stop: Option<String>,
    pub backup_lsn_start: Option<Lsn>,
    pub backup_lsn_stop: Option<Lsn>,
    pub backup_timestamp_start: i64,
    pub backup_timestamp_stop: i64,
    /// Bytes of all files, and of what the repository holds of them.
    pub backup_info_size: u64,
    pub backup_info_repo_size: Option<u64>,
    #[serde(default)]
    pub option_backup_standby: Option<bool>,
    #[serde(default)]
    pub option_checksum_page: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct History {
    #[serde(alias = "db-system-id")]
    db_id: u64,
    db_version: String,
}

impl Info {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Info, String> {
        let mut info = Info::default();
        read(text, |section, key, text| {
            match (section, key) {
                ("db", "db-id") => info.current = value(text)?,
                ("cipher", "cipher-pass") => info.passphrase = Some(value(text)?),
                ("db:history", id) => {
                    let id = id.parse().map_err(|_| format!("'{id}' is no number of a database"))?;
                    let History { db_id, db_version } = value(text)?;
                    info.databases.push(Database { id, version: db_version, system_identifier: db_id });
                }
                ("backup:current", label) => drop(info.backups.insert(label.to_owned(), value(text)?)),
                _ => {}
            }
            Ok(())
        })?;
        Ok(info)
    }

    /// One of its databases.
    pub fn database(&self, id: u32) -> Option<&Database> {
        self.databases.iter().find(|database| database.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCHIVE: &str = "[backrest]\nbackrest-format=5\nbackrest-version=\"2.45\"\n\n[db]\ndb-id=1\n\
        db-system-id=7710574906734481931\ndb-version=\"15\"\n\n[db:history]\n\
        1={\"db-id\":7710574906734481931,\"db-version\":\"15\"}\n\n[backrest]\n\
        backrest-checksum=\"2b9ddff9ce657301f32292c37c1888488f5887d4\"\n";

    #[test]
    fn reads_what_pgbackrest_wrote() {
        let info = Info::parse(ARCHIVE).unwrap();
        assert_eq!((info.current, info.passphrase.as_deref()), (1, None));
        let database = Database { id: 1, version: "15".into(), system_identifier: 7_710_574_906_734_481_931 };
        assert_eq!(info.database(1), Some(&database));
    }

    #[test]
    fn whatever_was_changed_or_cut_off_is_noticed() {
        let refused = |text: &str| Info::parse(text).unwrap_err();
        assert!(refused(&ARCHIVE.replace("\"15\"", "\"16\"")).contains("checksum"));
        assert!(refused(&ARCHIVE.replace("format=5", "format=6")).contains("format 6"));
        assert!(refused(&ARCHIVE[..ARCHIVE.len() - 72]).contains("truncated"));
        assert!(refused(&ARCHIVE.replace("db-id=1\n", "db-id\n")).contains("line 6"));
        assert!(refused("").contains("truncated"));
    }

    #[test]
    fn keys_may_hold_what_separates_them_from_values() {
        assert_eq!(split("pg_data/a={b=[1]=true"), Some(("pg_data/a={b=[1]", "true")));
        assert_eq!(split("pg_data/a={\"size\":1}"), Some(("pg_data/a", "{\"size\":1}")));
        assert_eq!(split("nothing"), None);
    }
}
