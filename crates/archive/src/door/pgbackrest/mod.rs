//! pgBackRest's repositories: `archive/<stanza>` with the WAL of each of its databases, `backup/<stanza>` with backups of
//! files, of which a later one may refer to those of an earlier one.

mod cipher;
mod files;
mod info;
mod manifest;

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;

use async_trait::async_trait;
use jiff::Timestamp;
use matriarch_core::Timeline;

use super::Foreign;
use super::codec::Codec;
use super::shelf::{Known, Shelf};
use crate::base::Summary;
use crate::format::hex;
use crate::repository::{Repository, RepositoryError};
use crate::restore::{Last, Onto, RestoreError};
use crate::wal::{Segment, WalName};
use cipher::{Decrypted, MAGIC};
use files::sha1;
use info::{Database, Info, Row};
use manifest::Contents;

/// The oldest major version whose recovery we can set up.
const OLDEST: u32 = 13;

/// A stanza, and the database of it that is meant.
#[derive(Clone)]
pub struct Stanza {
    repository: Repository,
    name: String,
    database: Database,
    archive: Info,
    backup: Info,
    secret: Option<String>,
}

/// Without the passphrases.
impl fmt::Debug for Stanza {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stanza({} in {})", self.name, self.repository.name())
    }
}

/// An object with a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    object: String,
    sha1: String,
    codec: Codec,
}

impl Stanza {
    /// Reads what it needs to give WAL.
    pub async fn open(repository: Repository, foreign: &Foreign) -> Result<Stanza, RepositoryError> {
        let stanzas = repository.folders("archive").await?;
        let settings = |why: String| RepositoryError::Settings { repository: repository.name().to_owned(), why };
        let name = match (&foreign.name, stanzas.as_slice()) {
            (Some(name), _) if stanzas.contains(name) => name.clone(),
            (Some(name), []) => {
                let text = "there is none; a repository of pgBackRest has the folders archive and backup";
                return Err(settings(format!("it holds no stanza '{name}': {text}")));
            }
            (Some(name), _) => {
                return Err(settings(format!("it holds no stanza '{name}'; there are {}", stanzas.join(", "))));
            }
            (None, [only]) => only.clone(),
            (None, []) => {
                let text = "a repository of pgBackRest has the folders archive and backup, and this is where they lie (repo1-path)";
                return Err(settings(format!("it holds no stanza: {text}")));
            }
            (None, several) => {
                return Err(settings(format!("it holds several stanzas; name one: {}", several.join(", "))));
            }
        };
        let secret = foreign.secret()?;
        let file = format!("archive/{name}/archive.info");
        let archive = read_info(&repository, &file, secret.as_deref()).await?;
        let id = foreign.chosen.database.unwrap_or(archive.current);
        let database = archive.database(id).cloned();
        let database = database.ok_or_else(|| repository.corrupt(&file, format!("it does not know database {id}")))?;
        let repository = repository.anchored(&file);
        Ok(Stanza { repository, name, database, archive, backup: Info::default(), secret })
    }

    /// What a backup consists of.
    async fn contents(&self, label: &str) -> Result<Contents, RepositoryError> {
        let file = format!("backup/{}/{label}/backup.manifest", self.name);
        let pass = self.backup.passphrase.as_deref();
        let text = read_text(&self.repository, &file, pass).await?;
        let parsed = Contents::parse(&text, label);
        let contents = match parsed.map_err(|why| self.repository.corrupt(&file, why)) {
            Ok(contents) => contents,
            // It is written twice.
            Err(error) => match read_text(&self.repository, &format!("{file}.copy"), pass).await {
                Ok(text) => Contents::parse(&text, label).map_err(|_| error)?,
                Err(_) => return Err(error),
            },
        };
        match &contents.refused {
            Some(why) => Err(self.repository.unreadable(&file, why)),
            None => Ok(contents),
        }
    }

    fn wal_folder(&self) -> String {
        format!("archive/{}/{}-{}", self.name, self.database.version, self.database.id)
    }

    /// The object with a segment. Its name has the digest of its content, so that a list tells whether it is there.
    async fn stored(&self, segment: Segment) -> Result<Stored, RepositoryError> {
        let name = segment.to_string();
        let folder = format!("{}/{}", self.wal_folder(), &name[..16]);
        let entries = self.repository.list_after(&folder, Some(&format!("{folder}/{name}"))).await?;
        let mut found: Vec<Stored> = Vec::new();
        for entry in &entries {
            if let Some((segment, sha1, ending)) = parse(&entry.name)
                && segment.to_string() == name
            {
                let codec = Codec::of(ending).map_err(|why| self.repository.unreadable(&entry.name, &why))?;
                found.push(Stored { object: entry.name.clone(), sha1: sha1.to_owned(), codec });
            }
        }
        let several = found.windows(2).any(|pair| pair[0].sha1 != pair[1].sha1);
        match found.pop() {
            Some(stored) if several => {
                let why = "there is another one with another content: two servers have archived this segment";
                Err(self.repository.corrupt(&stored.object, why))
            }
            Some(stored) => Ok(stored),
            None => {
                self.repository.prove_presence().await?;
                Err(RepositoryError::Absent { object: name, repository: self.repository.name().to_owned() })
            }
        }
    }
}

#[async_trait]
impl Shelf for Stanza {
    fn repository(&self) -> &Repository {
        &self.repository
    }

    fn name(&self) -> String {
        format!("stanza {}", self.name)
    }

    fn system_identifier(&self) -> Option<u64> {
        Some(self.database.system_identifier)
    }

    fn is_encrypted(&self) -> bool {
        self.archive.passphrase.is_some()
    }

    fn proof(&self) -> Option<String> {
        Some(format!("archive/{}/archive.info", self.name))
    }

    fn settle(&self, foreign: &mut Foreign) {
        foreign.name = Some(self.name.clone());
        foreign.chosen.database = Some(self.database.id);
    }

    /// Of one database: that of the named backup, else the present one.
    async fn survey(&mut self, backup: Option<&str>) -> Result<Vec<Known>, RepositoryError> {
        let file = format!("backup/{}/backup.info", self.name);
        self.backup = match read_info(&self.repository, &file, self.secret.as_deref()).await {
            // Nobody has taken one.
            Err(error) if error.is_absent() => return Ok(Vec::new()),
            read => read?,
        };
        let corrupt = |why: String| self.repository.corrupt(&file, why);
        if let Some(row) = backup.and_then(|name| self.backup.backups.get(name)) {
            let id = row.db_id;
            let found = self.archive.database(id).cloned();
            self.database = found.ok_or_else(|| corrupt(format!("the archive does not know its database {id}")))?;
        }
        let Database { id, version, system_identifier } = &self.database;
        if let Some(other) = self.backup.database(*id).filter(|other| other.system_identifier != *system_identifier) {
            let found = other.system_identifier;
            return Err(corrupt(format!(
                "it is of the database system {found}, and the archive of {system_identifier}"
            )));
        }
        let major = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        if major < OLDEST {
            let why =
                format!("stanza {} is of PostgreSQL {version}, and {OLDEST} is the oldest that is read", self.name);
            return Err(RepositoryError::Settings { repository: self.repository.name().to_owned(), why });
        }
        let own = self.backup.backups.iter().filter(|(_, row)| row.db_id == *id);
        own.map(|(label, row)| row.known(label, major, *system_identifier).map_err(corrupt)).collect()
    }

    async fn describe(&self, summary: &mut Summary) -> Result<(), RepositoryError> {
        let Contents { tablespaces, damaged, .. } = self.contents(&summary.backup).await?;
        (summary.tablespaces, summary.damaged) = (tablespaces, damaged);
        Ok(())
    }

    async fn unpack(&self, summary: &Summary, onto: &Onto) -> Result<Last, RestoreError> {
        files::unpack(self, &summary.backup, onto).await
    }

    async fn timelines(&self) -> Result<BTreeSet<Timeline>, RepositoryError> {
        let names = self.repository.files(&self.wal_folder()).await?;
        let histories = names.iter().filter_map(|name| match name.parse() {
            Ok(WalName::History(timeline)) => Some(timeline),
            _ => None,
        });
        Ok(histories.collect())
    }

    async fn listed(&self, from: Segment) -> Result<BTreeSet<Segment>, RepositoryError> {
        let (folder, name) = (self.wal_folder(), from.to_string());
        let entries = self.repository.list_after(&folder, Some(&format!("{folder}/{}/{name}", &name[..16]))).await?;
        let segments = entries.iter().filter_map(|entry| parse(&entry.name)).map(|(segment, ..)| segment);
        Ok(segments.filter(|segment| segment.timeline == from.timeline).collect())
    }

    async fn find(&self, segment: Segment) -> Result<(), RepositoryError> {
        self.stored(segment).await.map(drop)
    }

    /// With the digest that its name has.
    async fn wal(&self, name: &WalName) -> Result<Vec<u8>, RepositoryError> {
        let (object, codec, digest) = match name {
            WalName::Segment(segment) => {
                let Stored { object, sha1, codec } = self.stored(*segment).await?;
                (object, codec, Some(sha1))
            }
            WalName::History(_) => (format!("{}/{name}", self.wal_folder()), Codec::Plain, None),
            // Nobody asks for them.
            WalName::Partial(_) | WalName::Backup(..) => {
                return Err(RepositoryError::Absent {
                    object: name.to_string(),
                    repository: self.repository.name().to_owned(),
                });
            }
        };
        let bytes = self.repository.get(&object).await?;
        let pass = self.archive.passphrase.clone();
        let unpack = move || -> Result<Vec<u8>, String> {
            let content = opened(&bytes, pass.as_deref(), codec)?;
            match digest.filter(|expected| *expected != hex(&sha1(&content))) {
                Some(_) => Err("its content does not have the digest that its name says".to_owned()),
                None => Ok(content),
            }
        };
        let unpacked = tokio::task::spawn_blocking(unpack).await.unwrap_or_else(|error| Err(error.to_string()));
        unpacked.map_err(|why| self.repository.corrupt(&object, why))
    }
}

impl Row {
    fn known(&self, label: &str, major: u32, system_identifier: u64) -> Result<Known, String> {
        let lacks =
            |what: &str| format!("backup {label} has no {what}: it was taken of a stopped server, which is not read");
        let first_wal = self.backup_archive_start.clone().ok_or_else(|| lacks("WAL"))?;
        let timeline = first_wal.get(..8).and_then(|text| u32::from_str_radix(text, 16).ok());
        let time = |seconds: i64| Timestamp::from_second(seconds).map_err(|error| format!("backup {label}: {error}"));
        let summary = Summary {
            version: 1,
            backup: label.to_owned(),
            system_identifier: system_identifier.to_string(),
            major,
            timeline: timeline.ok_or_else(|| format!("backup {label} begins with the WAL '{first_wal}'"))?,
            start_lsn: self.backup_lsn_start.ok_or_else(|| lacks("first position"))?,
            stop_lsn: self.backup_lsn_stop.ok_or_else(|| lacks("last position"))?,
            start_time: time(self.backup_timestamp_start)?,
            stop_time: time(self.backup_timestamp_stop)?,
            from_standby: self.option_backup_standby.unwrap_or(false),
            data_checksums: self.option_checksum_page.unwrap_or(false),
            size: self.backup_info_size,
            stored: self.backup_info_repo_size.unwrap_or(0),
            packs: 0,
            backup_label: String::new(),
            control: String::new(),
            tablespaces: Vec::new(),
            damaged: Vec::new(),
            increment: None,
            fallback: None,
        };
        Ok(Known { summary, first_wal })
    }
}

/// `…/000000010000000000000001-<40 digits>.zst`: the segment, its digest, the ending.
fn parse(object: &str) -> Option<(Segment, &str, Option<&str>)> {
    let (segment, rest) = object.rsplit('/').next()?.split_once('-')?;
    let (sha1, ending) = rest.split_once('.').map_or((rest, None), |(sha1, ending)| (sha1, Some(ending)));
    match segment.parse() {
        Ok(WalName::Segment(segment)) if sha1.len() == 40 => Some((segment, sha1, ending)),
        _ => None,
    }
}

/// An information file, or its copy where it is damaged.
async fn read_info(repository: &Repository, file: &str, secret: Option<&str>) -> Result<Info, RepositoryError> {
    match read_one(repository, file, secret).await {
        Ok(info) => Ok(info),
        Err(error) => read_one(repository, &format!("{file}.copy"), secret).await.map_err(|_| error),
    }
}

async fn read_one(repository: &Repository, file: &str, secret: Option<&str>) -> Result<Info, RepositoryError> {
    let text = read_text(repository, file, secret).await?;
    Info::parse(&text).map_err(|why| repository.corrupt(file, why))
}

/// A text that may be encrypted.
async fn read_text(repository: &Repository, file: &str, secret: Option<&str>) -> Result<String, RepositoryError> {
    let bytes = repository.get(file).await?;
    let no_key = |why: String| {
        let (object, repository) = (file.to_owned(), repository.name().to_owned());
        RepositoryError::NoKey { object, repository, why }
    };
    match (bytes.starts_with(MAGIC), secret) {
        (false, _) => String::from_utf8(bytes.to_vec()).map_err(|_| repository.corrupt(file, "it is no text")),
        (true, None) => Err(no_key(
            "it is encrypted; give the passphrase (repo1-cipher-pass) with --key-file or in PGBACKREST_REPO1_CIPHER_PASS"
                .to_owned(),
        )),
        // Damage cannot be told from a wrong key: there is no seal.
        (true, Some(secret)) => {
            let opened = opened(&bytes, Some(secret), Codec::Plain).map_err(no_key)?;
            let text = String::from_utf8(opened);
            text.map_err(|_| no_key("the passphrase is another one, or it is damaged".to_owned()))
        }
    }
}

fn opened(bytes: &[u8], passphrase: Option<&str>, codec: Codec) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let mut unpack = || match passphrase {
        Some(passphrase) => codec.reader(Decrypted::new(bytes, passphrase, false))?.read_to_end(&mut content),
        None => codec.reader(bytes)?.read_to_end(&mut content),
    };
    unpack().map_err(|error| error.to_string())?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments_tell_their_digest() {
        let name =
            "archive/s/15-1/0000000100000000/000000010000000000000001-e27f3a81a3318b98152dfe22e99ed03035a9e374.zst";
        let (segment, sha1, ending) = parse(name).unwrap();
        assert_eq!((segment.part, sha1, ending), (1, "e27f3a81a3318b98152dfe22e99ed03035a9e374", Some("zst")));
        assert_eq!(parse(name.strip_suffix(".zst").unwrap()).unwrap().2, None);
        for other in [
            "a/000000010000000000000010.00000028.backup",
            "a/00000002.history",
            "a/000000010000000000000001.partial-e27f3a81a3318b98152dfe22e99ed03035a9e374.zst",
            "a/000000010000000000000001-e27f.zst",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
