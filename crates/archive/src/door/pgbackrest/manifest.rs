//! A backup's manifest: which files it consists of, and in which objects they lie.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::info::{read, value};
use crate::base::{DamagedPage, Tablespace};
use crate::door::codec::Codec;

/// A backup in full.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Folders below the data directory, with their modes, a folder after the one it lies in.
    pub folders: Vec<(String, u32)>,
    pub files: Vec<Member>,
    pub tablespaces: Vec<Tablespace>,
    pub codec: Codec,
    /// What its files are encrypted with.
    pub passphrase: Option<String>,
    /// Pages that pgBackRest found damaged.
    pub damaged: Vec<DamagedPage>,
    /// Why it cannot be read here although nothing is wrong with it.
    pub refused: Option<String>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Below the data directory.
    pub path: String,
    /// Its object, below the stanza's backups.
    pub object: String,
    /// Where it begins there: several share a bundle.
    pub at: u64,
    /// It is compressed and encrypted without the headers of both.
    pub raw: bool,
    /// Bytes it has there.
    pub stored: u64,
    /// Bytes it has.
    pub size: u64,
    pub sha1: Option<String>,
    pub mode: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    size: u64,
    repo_size: Option<u64>,
    checksum: Option<String>,
    reference: Option<String>,
    mode: Option<String>,
    bni: Option<u64>,
    bno: Option<u64>,
    /// Block incremental, by any of its keys.
    bi: Option<serde::de::IgnoredAny>,
    bim: Option<serde::de::IgnoredAny>,
    checksum_page_error: Option<Vec<Pages>>,
}

/// A block, or the first and the last of several.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Pages {
    One(u32),
    Range(u32, u32),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Target {
    path: Option<String>,
    tablespace_id: Option<String>,
    tablespace_name: Option<String>,
}

#[derive(Deserialize)]
struct Folder {
    mode: Option<String>,
}

/// The manifest of backup `label`, as its sections come.
struct Reading<'a> {
    label: &'a str,
    files: Vec<(String, File)>,
    folders: Vec<(String, Option<u32>)>,
    tablespaces: Vec<Tablespace>,
    codec: Option<Codec>,
    compressed: bool,
    passphrase: Option<String>,
    raw_bundles: bool,
    modes: (u32, u32),
    refused: Option<String>,
}

impl Contents {
    /// Reads it.
    pub fn parse(text: &str, label: &str) -> Result<Contents, String> {
        let mut reading = Reading {
            label,
            files: Vec::new(),
            folders: Vec::new(),
            tablespaces: Vec::new(),
            codec: None,
            compressed: false,
            passphrase: None,
            raw_bundles: false,
            modes: (0o600, 0o700),
            refused: None,
        };
        read(text, |section, key, text| reading.line(section, key, text))?;
        reading.contents()
    }
}

impl Reading<'_> {
    fn line(&mut self, section: &str, key: &str, text: &str) -> Result<(), String> {
        match (section, key) {
            ("target:file", path) => self.files.push((path.to_owned(), value(text)?)),
            ("target:path", path) => {
                let folder: Folder = value(text)?;
                self.folders.push((path.to_owned(), folder.mode.as_deref().map(mode).transpose()?));
            }
            ("target:file:default", "mode") => self.modes.0 = mode(value(text)?)?,
            ("target:path:default", "mode") => self.modes.1 = mode(value(text)?)?,
            ("backup", "backup-label") if value::<&str>(text)? != self.label => {
                return Err(format!("it is of backup {text} and lies where {} is to be", self.label));
            }
            ("backup", "backup-bundle-raw") => self.raw_bundles = value(text)?,
            ("backup:option", "option-compress-type") => match Codec::of(Some(value(text)?)) {
                Ok(codec) => self.codec = Some(codec),
                Err(why) => self.refused = Some(why),
            },
            ("backup:option", "option-compress") => self.compressed = value(text)?,
            ("backup:target", _) => self.target(value(text)?)?,
            ("cipher", "cipher-pass") => self.passphrase = Some(value(text)?),
            _ => {}
        }
        Ok(())
    }

    fn target(&mut self, target: Target) -> Result<(), String> {
        let Target { path, tablespace_id, tablespace_name } = target;
        // Other links are not followed: what lies behind them goes into the data directory.
        let Some((oid, path)) = tablespace_id.zip(path) else { return Ok(()) };
        let oid = oid.parse().map_err(|_| format!("'{oid}' is no identifier of a tablespace"))?;
        let name = tablespace_name.unwrap_or_else(|| format!("ts{oid}"));
        self.tablespaces.push(Tablespace { oid, name, path });
        Ok(())
    }

    fn contents(mut self) -> Result<Contents, String> {
        let codec = self.codec.unwrap_or(if self.compressed { Codec::Gzip } else { Codec::Plain });
        let (mut files, mut damaged) = (Vec::new(), Vec::new());
        for (name, file) in std::mem::take(&mut self.files) {
            if file.bi.is_some() || file.bim.is_some() {
                self.refused.get_or_insert_with(|| {
                    format!(
                        "{name} is stored as block increments (repo-block), which are not read here: restore it with pgBackRest, \
                         or take a backup with --no-repo-block"
                    )
                });
            }
            let path = below(&name).ok_or_else(|| format!("'{name}' lies nowhere"))?.to_owned();
            for pages in file.checksum_page_error.iter().flatten() {
                let (first, last) = match *pages {
                    Pages::One(block) => (block, block),
                    Pages::Range(first, last) => (first, last),
                };
                damaged.extend((first..=last).map(|block| DamagedPage { path: path.clone(), block }));
            }
            let backup = file.reference.as_deref().unwrap_or(self.label);
            let object = match file.bni {
                Some(bundle) => format!("{backup}/bundle/{bundle}"),
                None => format!("{backup}/{name}{}", ending(codec)),
            };
            files.push(Member {
                path,
                object,
                at: file.bno.unwrap_or(0),
                raw: self.raw_bundles && file.bni.is_some(),
                stored: file.repo_size.unwrap_or(file.size),
                size: file.size,
                sha1: file.checksum,
                mode: file.mode.as_deref().map_or(Ok(self.modes.0), mode)?,
            });
        }
        let mode = self.modes.1;
        let folder = |(name, own): (String, Option<u32>)| Some((below(&name)?.to_owned(), own.unwrap_or(mode)));
        // The links of pg_data are the targets of their own.
        let folders: BTreeMap<String, u32> = std::mem::take(&mut self.folders).into_iter().filter_map(folder).collect();
        let Reading { tablespaces, passphrase, refused, .. } = self;
        Ok(Contents { folders: folders.into_iter().collect(), files, tablespaces, codec, passphrase, damaged, refused })
    }
}

/// A manifest's name as a path below the data directory.
fn below(name: &str) -> Option<&str> {
    match name.strip_prefix("pg_data") {
        Some("") => Some(""),
        Some(rest) => rest.strip_prefix('/'),
        None => name.starts_with("pg_tblspc").then_some(name),
    }
}

fn ending(codec: Codec) -> &'static str {
    match codec {
        Codec::Plain => "",
        Codec::Snappy => ".snappy",
        Codec::Gzip | Codec::Deflate => ".gz",
        Codec::Lz4 => ".lz4",
        Codec::Zstd => ".zst",
    }
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).map_err(|_| format!("'{text}' is no mode"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::hex;
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

    const LABEL: &str = "20261121-104851F_20261121-104933I";

    /// With the checksum that its sections have.
    fn signed(files: &str) -> String {
        let sections = [
            ("backrest", "backrest-format=5".to_owned()),
            ("backup", format!("backup-label=\"{LABEL}\"")),
            ("backup:option", "option-compress=true\noption-compress-type=\"lz4\"".to_owned()),
            (
                "backup:target",
                "pg_data={\"path\":\"/pg\",\"type\":\"path\"}\n\
                 pg_tblspc/16384={\"path\":\"/ts\",\"tablespace-id\":\"16384\",\"tablespace-name\":\"ts1\",\"type\":\"link\"}"
                    .to_owned(),
            ),
            ("target:file", files.to_owned()),
            ("target:file:default", "mode=\"0640\"".to_owned()),
            ("target:path", "pg_data={}\npg_data/base={\"mode\":\"0750\"}\npg_tblspc/16384={}".to_owned()),
        ];
        let (mut text, mut summed) = (String::new(), Vec::new());
        for (name, lines) in &sections {
            text.push_str(&format!("[{name}]\n{lines}\n\n"));
            let pair = |line: &str| line.split_once('=').map(|(key, value)| format!("\"{key}\":{value}")).unwrap();
            summed.push(format!("\"{name}\":{{{}}}", lines.lines().map(pair).collect::<Vec<_>>().join(",")));
        }
        let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{{{}}}", summed.join(",")).as_bytes());
        format!("{text}[backrest]\nbackrest-checksum=\"{}\"\n", hex(sum.as_ref()))
    }

    #[test]
    fn tells_where_each_file_lies() {
        let files = "pg_data/base/5/1259={\"checksum\":\"ab\",\"repo-size\":30,\"size\":8192}\n\
            pg_data/base/5/1260={\"bni\":2,\"bno\":77,\"checksum\":\"cd\",\"mode\":\"0600\",\"reference\":\"20261121-104851F\",\"repo-size\":40,\"size\":8192}\n\
            pg_tblspc/16384/PG_15/5/1={\"checksum-page\":false,\"checksum-page-error\":[3,[5,6]],\"size\":7}";
        let contents = Contents::parse(&signed(files), LABEL).unwrap();
        assert_eq!(contents.codec, Codec::Lz4);
        assert_eq!(contents.tablespaces, [Tablespace { oid: 16384, name: "ts1".into(), path: "/ts".into() }]);
        let folders: Vec<(&str, u32)> = contents.folders.iter().map(|(path, mode)| (path.as_str(), *mode)).collect();
        assert_eq!(folders, [("", 0o700), ("base", 0o750), ("pg_tblspc/16384", 0o700)]);
        let places: Vec<(&str, &str, u64, u64, u32)> =
            contents.files.iter().map(|one| (&*one.path, &*one.object, one.at, one.stored, one.mode)).collect();
        let own = format!("{LABEL}/pg_data/base/5/1259.lz4");
        let third = format!("{LABEL}/pg_tblspc/16384/PG_15/5/1.lz4");
        assert_eq!(
            places,
            [
                ("base/5/1259", own.as_str(), 0, 30, 0o640),
                ("base/5/1260", "20261121-104851F/bundle/2", 77, 40, 0o600),
                ("pg_tblspc/16384/PG_15/5/1", third.as_str(), 0, 7, 0o640),
            ]
        );
        let blocks: Vec<u32> = contents.damaged.iter().map(|page| page.block).collect();
        assert_eq!(blocks, [3, 5, 6]);
    }

    #[test]
    fn what_is_not_read_is_refused_by_its_name() {
        let blocks = signed("pg_data/base/5/1259={\"bi\":1,\"bim\":20,\"checksum\":\"ab\",\"size\":8192}");
        let refused = Contents::parse(&blocks, LABEL).unwrap().refused.unwrap();
        assert!(refused.contains("repo-block") && refused.contains("pg_data/base/5/1259"), "{refused}");
        let plain = signed("pg_data/a={\"size\":1}");
        assert_eq!(Contents::parse(&plain, LABEL).unwrap().refused, None);
        assert!(Contents::parse(&plain, "20261121-104851F").unwrap_err().contains(LABEL));
        assert!(Contents::parse(&plain.replace("\"size\":1", "\"size\":2"), LABEL).unwrap_err().contains("checksum"));
        let elsewhere = signed("elsewhere/a={\"size\":1}");
        assert!(Contents::parse(&elsewhere, LABEL).unwrap_err().contains("lies nowhere"));
    }
}
