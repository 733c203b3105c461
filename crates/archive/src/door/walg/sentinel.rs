//! What WAL-G writes about a backup: the sentinel, which is last and makes it one, and the list of its files.

use std::collections::BTreeMap;

use jiff::Timestamp;
use matriarch_core::Lsn;
use serde::Deserialize;
use serde_json::Value;

use crate::base::{Summary, Tablespace};
use crate::door::shelf::Known;

/// `<name>_backup_stop_sentinel.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Sentinel {
    #[serde(rename = "LSN")]
    pub lsn: Option<u64>,
    #[serde(rename = "FinishLSN")]
    pub finish_lsn: Option<u64>,
    /// The backup that this one is a delta of.
    pub delta_from: Option<String>,
    pub pg_version: u32,
    pub system_identifier: Option<u64>,
    #[serde(default)]
    pub uncompressed_size: u64,
    #[serde(default)]
    pub compressed_size: u64,
    #[serde(default)]
    pub data_catalog_size: u64,
    pub spec: Option<BTreeMap<String, Value>>,
    pub start_time: Option<Timestamp>,
    pub finish_time: Option<Timestamp>,
    #[serde(default)]
    pub files_metadata_disabled: Option<bool>,
    /// Older versions list the files here.
    #[serde(flatten)]
    pub files: Option<Files>,
}

/// `files_metadata.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Files {
    pub files: BTreeMap<String, Note>,
    /// The paths in each tar.
    #[serde(default)]
    pub tar_file_sets: BTreeMap<String, Vec<String>>,
}

/// About a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Note {
    /// The tar has what has changed since the backup that this one is a delta of.
    #[serde(default)]
    pub is_incremented: bool,
}

/// `metadata.json`, where the sentinel of an older version has no times.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Metadata {
    pub start_time: Timestamp,
    pub finish_time: Timestamp,
}

impl Sentinel {
    /// The text says what is missing.
    pub fn known(&self, name: &str) -> Result<Known, String> {
        let lacks = |what: &str| format!("it has no {what}");
        let first_wal = name.strip_prefix("base_").and_then(|rest| rest.get(..24));
        let first_wal = first_wal.ok_or_else(|| format!("its name '{name}' is none of WAL-G's"))?;
        let timeline =
            u32::from_str_radix(&first_wal[..8], 16).map_err(|_| format!("its name '{name}' is none of WAL-G's"))?;
        let summary = Summary {
            version: 1,
            backup: name.to_owned(),
            system_identifier: self.system_identifier.map(|system| system.to_string()).unwrap_or_default(),
            major: self.pg_version / 10_000,
            timeline,
            start_lsn: Lsn(self.lsn.ok_or_else(|| lacks("LSN"))?),
            stop_lsn: Lsn(self.finish_lsn.ok_or_else(|| lacks("FinishLSN"))?),
            start_time: self.start_time.ok_or_else(|| lacks("StartTime"))?,
            stop_time: self.finish_time.ok_or_else(|| lacks("FinishTime"))?,
            from_standby: false,
            data_checksums: false,
            size: if self.data_catalog_size > 0 { self.data_catalog_size } else { self.uncompressed_size },
            stored: self.compressed_size,
            packs: 0,
            backup_label: String::new(),
            control: String::new(),
            tablespaces: self.tablespaces(),
            damaged: Vec::new(),
            increment: None,
            fallback: None,
        };
        Ok(Known { summary, first_wal: first_wal.to_owned() })
    }

    /// Their names are not known, so that their object identifiers stand for them.
    fn tablespaces(&self) -> Vec<Tablespace> {
        let spec = self.spec.iter().flatten();
        let space = |(oid, place): (&String, &Value)| {
            let (oid, path) = (oid.parse().ok()?, place.get("loc")?.as_str()?.to_owned());
            Some(Tablespace { oid, name: oid.to_string(), path })
        };
        spec.filter_map(space).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELTA: &str = r#"{"LSN":251658280,"DeltaLSN":83886120,"DeltaFrom":"base_000000010000000000000005",
        "DeltaFullName":"base_000000010000000000000005","DeltaCount":1,"PgVersion":150020,"FinishLSN":251658496,
        "SystemIdentifier":7710574906734481931,"UncompressedSize":8294796,"CompressedSize":1139715,"DataCatalogSize":57027005,
        "Spec":{"16384":{"loc":"/srv/ts1","link":"pg_tblspc/16384"},"base_prefix":"/srv/pg","tablespaces":["16384"]},
        "ChkpNum":null,"Version":2,"StartTime":"2026-11-21T10:49:32.869613Z","FinishTime":"2026-11-21T10:49:33.145888Z",
        "DateFmt":"%Y-%m-%dT%H:%M:%S.%fZ","Hostname":"vm","DataDir":"/srv/pg","IsPermanent":false}"#;
    const NAME: &str = "base_00000001000000000000000F_D_000000010000000000000005";

    #[test]
    fn reads_what_walg_wrote() {
        let sentinel: Sentinel = serde_json::from_str(DELTA).unwrap();
        assert_eq!(sentinel.delta_from.as_deref(), Some("base_000000010000000000000005"));
        assert_eq!(sentinel.files, None);
        let Known { summary, first_wal } = sentinel.known(NAME).unwrap();
        assert_eq!((summary.timeline, summary.major, first_wal.as_str()), (1, 15, "00000001000000000000000F"));
        assert_eq!((summary.start_lsn, summary.stop_lsn), (Lsn(0xF00_0028), Lsn(0xF00_0100)));
        let space = Tablespace { oid: 16384, name: "16384".into(), path: "/srv/ts1".into() };
        assert_eq!(summary.tablespaces, [space]);
        assert!(sentinel.known("elsewhere").is_err());
        let older: Sentinel = serde_json::from_str(&DELTA.replace("\"FinishTime\"", "\"Other\"")).unwrap();
        assert!(older.known(NAME).unwrap_err().contains("FinishTime"));
        let files =
            r#"{"Files":{"/base/1/112":{"IsIncremented":true,"IsSkipped":false,"MTime":"x","UpdatesCount":0}}}"#;
        let listed = format!("{},{}", DELTA.trim_end().trim_end_matches('}'), files.trim_start_matches('{'));
        let older: Sentinel = serde_json::from_str(&listed).unwrap();
        assert!(older.files.unwrap().files["/base/1/112"].is_incremented);
    }
}
