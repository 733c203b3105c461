//! What Barman's cloud scripts have written, and CloudNativePG, which uses them: for each server `base/<id>` with tars and
//! `backup.info`, and `wals`.

mod info;
mod outlet;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use async_trait::async_trait;
use matriarch_core::Timeline;

use super::Foreign;
use super::codec::Codec;
use super::shelf::{Known, Shelf};
use super::tars::{Fate, Part, Rule, Unpacking, Unseal};
use crate::base::Summary;
use crate::repository::{Entry, Repository, RepositoryError};
use crate::restore::{Last, Onto, RestoreError};
use crate::wal::{Segment, WalName};
pub use info::Info;
pub use outlet::Outlet;

/// One server's backups.
#[derive(Clone, Debug)]
pub struct Server {
    repository: Repository,
    /// Its name, unless the location is its own folder.
    name: Option<String>,
    system_identifier: Option<u64>,
    backups: BTreeMap<String, Info>,
}

impl Server {
    /// Finds out what it needs to give WAL.
    pub async fn open(repository: Repository, foreign: &Foreign) -> Result<Server, RepositoryError> {
        let folders = repository.folders("").await?;
        let settings = |why: String| RepositoryError::Settings { repository: repository.name().to_owned(), why };
        let is_server = folders.iter().any(|folder| folder == "base");
        let name = match (&foreign.name, folders.as_slice()) {
            (Some(name), all) if all.contains(name) => Some(name.clone()),
            (None, _) if is_server => None,
            (None, [only]) => Some(only.clone()),
            (None, []) => {
                let text = "it holds nothing; the location is the URL that barman-cloud-backup was given, with the server's folder below";
                return Err(settings(text.to_owned()));
            }
            (Some(name), all) => {
                return Err(settings(format!(
                    "it holds no server '{name}', but {}",
                    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
                )));
            }
            (None, several) => {
                return Err(settings(format!(
                    "it holds several servers; name one with --server: {}",
                    several.join(", ")
                )));
            }
        };
        let system_identifier = foreign.chosen.system_identifier;
        let server = Server { repository, name, system_identifier, backups: BTreeMap::new() };
        match &foreign.chosen.backup {
            Some(backup) => {
                let anchor = server.info_of(backup);
                Ok(Server { repository: server.repository.anchored(&anchor), ..server })
            }
            None if server.repository.folders(&server.below("")).await?.iter().any(|folder| folder == "base") => {
                Ok(server)
            }
            None => {
                let why = format!("{} has no folder base, in which Barman's backups are", server.name());
                Err(RepositoryError::Settings { repository: server.repository.name().to_owned(), why })
            }
        }
    }

    fn below(&self, path: &str) -> String {
        match &self.name {
            Some(name) if path.is_empty() => name.clone(),
            Some(name) => format!("{name}/{path}"),
            None => path.to_owned(),
        }
    }

    /// What makes a backup one.
    fn info_of(&self, backup: &str) -> String {
        self.below(&format!("base/{backup}/backup.info"))
    }

    /// The folder that has a file of the WAL.
    fn wal_folder(&self, name: &WalName) -> String {
        match name {
            WalName::History(_) => self.below("wals"),
            name => self.below(&format!("wals/{}", &name.to_string()[..16])),
        }
    }

    /// The backups that have that file, complete or not.
    async fn infos(&self) -> Result<Vec<(String, Info)>, RepositoryError> {
        let mut found = Vec::new();
        for name in self.repository.folders(&self.below("base")).await? {
            let object = self.info_of(&name);
            let text = match self.repository.get(&object).await {
                // It is written last: there is no backup yet, or there will be none.
                Err(error) if error.is_absent() => continue,
                read => read?,
            };
            let info = Info::parse(&String::from_utf8_lossy(&text));
            found.push((name, info.map_err(|why| self.repository.corrupt(&object, why))?));
        }
        Ok(found)
    }

    /// The tars of a backup, which are numbered from none on.
    async fn parts(&self, backup: &Summary) -> Result<Vec<Part>, RepositoryError> {
        let folder = self.below(&format!("base/{}", backup.backup));
        let mut numbers: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        let mut parts = Vec::new();
        for entry in self.repository.list(&folder).await? {
            let file = entry.name.rsplit('/').next().unwrap_or_default();
            let Some((stem, rest)) = file.split_once(".tar") else { continue };
            let (what, number) =
                stem.split_once('_').map_or((stem, Some(0)), |(what, number)| (what, number.parse().ok()));
            let Some(number) = number else { continue };
            let codec =
                Codec::of(rest.strip_prefix('.')).map_err(|why| self.repository.unreadable(&entry.name, &why))?;
            let below = if what == "data" { String::new() } else { format!("pg_tblspc/{what}") };
            numbers.entry(what.to_owned()).or_default().insert(number);
            parts.push(Part { object: entry.name.clone(), codec, below });
        }
        let spaces = backup.tablespaces.iter().map(|space| space.oid.to_string());
        for what in spaces.chain(["data".to_owned()]) {
            let found = numbers.get(&what);
            let count = found.map_or(0, BTreeSet::len) as u32;
            let missing = (0..count.max(1)).find(|number| found.is_none_or(|found| !found.contains(number)));
            if let Some(missing) = missing {
                return Err(self
                    .repository
                    .corrupt(&format!("{folder}/{}", tar_name(&what, missing)), "it is missing"));
            }
        }
        Ok(parts)
    }

    /// The object with a file of the WAL, whatever its compression is.
    async fn object(&self, name: &WalName) -> Result<(String, Codec), RepositoryError> {
        let (text, absent) = (name.to_string(), || RepositoryError::Absent {
            object: name.to_string(),
            repository: self.repository.name().to_owned(),
        });
        let folder = self.wal_folder(name);
        let entries: Vec<String> = match name {
            WalName::History(_) => {
                let files = self.repository.files(&folder).await?;
                files.into_iter().map(|file| format!("{folder}/{file}")).collect()
            }
            WalName::Segment(_) => {
                let entries = self.repository.list(&folder).await?;
                entries.into_iter().map(|entry| entry.name).collect()
            }
            WalName::Partial(_) | WalName::Backup(..) => return Err(absent()),
        };
        for object in entries {
            let Some(rest) = object.rsplit('/').next().and_then(|file| file.strip_prefix(&text)) else { continue };
            // `.partial` and `.….backup` are other files.
            if rest.is_empty() || rest.starts_with('.') && !rest.contains("partial") && !rest.contains("backup") {
                let codec =
                    Codec::of(rest.strip_prefix('.')).map_err(|why| self.repository.unreadable(&object, &why))?;
                return Ok((object, codec));
            }
        }
        self.repository.prove_presence().await?;
        Err(absent())
    }

    async fn unpacked(&self, object: &str, codec: Codec) -> Result<Vec<u8>, RepositoryError> {
        let bytes = self.repository.get(object).await?;
        let unpack = move || -> std::io::Result<Vec<u8>> {
            let mut content = Vec::new();
            codec.reader(bytes.as_ref())?.read_to_end(&mut content)?;
            Ok(content)
        };
        let unpacked =
            tokio::task::spawn_blocking(unpack).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        unpacked.map_err(|error| self.repository.corrupt(object, error.to_string()))
    }
}

/// The name of a tar in the folder of its backup, without the ending of its compression. The first has no number.
fn tar_name(what: &str, number: u32) -> String {
    match number {
        0 => format!("{what}.tar"),
        number => format!("{what}_{number:04}.tar"),
    }
}

/// The name of a file of the WAL, without the ending of its compression.
fn wal_name(object: &str) -> Option<WalName> {
    let file = object.rsplit('/').next()?;
    file.parse().ok().or_else(|| file.rsplit_once('.')?.0.parse().ok())
}

#[async_trait]
impl Shelf for Server {
    fn repository(&self) -> &Repository {
        &self.repository
    }

    fn name(&self) -> String {
        self.name.as_ref().map_or_else(|| "the server".to_owned(), |name| format!("server {name}"))
    }

    fn system_identifier(&self) -> Option<u64> {
        self.system_identifier
    }

    fn is_encrypted(&self) -> bool {
        false
    }

    fn proof(&self) -> Option<String> {
        self.backups.keys().next().map(|name| self.info_of(name))
    }

    fn settle(&self, foreign: &mut Foreign) {
        foreign.name.clone_from(&self.name);
    }

    async fn survey(&mut self, _backup: Option<&str>) -> Result<Vec<Known>, RepositoryError> {
        let mut all = Vec::new();
        for (name, info) in self.infos().await? {
            if info.is_done() {
                let corrupt = |why: String| self.repository.corrupt(&self.info_of(&name), why);
                let entries: Vec<Entry> = self.repository.list(&self.below(&format!("base/{name}"))).await?;
                let stored = entries.iter().map(|entry| entry.size).sum();
                all.push(info.known(&name, stored).map_err(corrupt)?);
                self.backups.insert(name, info);
            }
        }
        if let Some(anchor) = self.proof() {
            self.repository = self.repository.clone().anchored(&anchor);
        }
        Ok(all)
    }

    async fn describe(&self, summary: &mut Summary) -> Result<(), RepositoryError> {
        match self.backups.get(&summary.backup).and_then(Info::refused) {
            Some(why) => Err(self.repository.unreadable(&summary.backup, &why)),
            None => Ok(()),
        }
    }

    async fn unpack(&self, summary: &Summary, onto: &Onto) -> Result<Last, RestoreError> {
        let parts = self.parts(summary).await?;
        let unseal: Unseal = Arc::new(|stream, _| Ok(Box::new(stream)));
        let unpacking = Unpacking::new(&self.repository, onto, unseal, true);
        let rule: Rule = Arc::new(|_| Fate::Write);
        unpacking.all(parts, &rule).await?;
        let mut last = unpacking.last();
        if last.label.is_empty() {
            last.label = self.backups.get(&summary.backup).map(Info::label).unwrap_or_default();
        }
        Ok(last)
    }

    async fn timelines(&self) -> Result<BTreeSet<Timeline>, RepositoryError> {
        let files = self.repository.files(&self.below("wals")).await?;
        let histories = files.iter().filter_map(|file| match wal_name(file)? {
            WalName::History(timeline) => Some(timeline),
            _ => None,
        });
        Ok(histories.collect())
    }

    async fn listed(&self, from: Segment) -> Result<BTreeSet<Segment>, RepositoryError> {
        let (folder, name) = (self.below("wals"), from.to_string());
        let entries = self.repository.list_after(&folder, Some(&format!("{folder}/{}/{name}", &name[..16]))).await?;
        let segments = entries.iter().filter_map(|entry| match wal_name(&entry.name)? {
            WalName::Segment(segment) => Some(segment),
            _ => None,
        });
        Ok(segments.filter(|segment| segment.timeline == from.timeline).collect())
    }

    async fn find(&self, segment: Segment) -> Result<(), RepositoryError> {
        self.object(&WalName::Segment(segment)).await.map(drop)
    }

    async fn wal(&self, name: &WalName) -> Result<Vec<u8>, RepositoryError> {
        let (object, codec) = self.object(name).await?;
        self.unpacked(&object, codec).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_wal_are_known_with_any_ending() {
        let named = |object: &str| wal_name(object).map(|name| name.to_string());
        assert_eq!(
            named("c/wals/0000000100000000/00000001000000000000000A.gz").as_deref(),
            Some("00000001000000000000000A")
        );
        assert_eq!(named("c/wals/00000002.history.gz").as_deref(), Some("00000002.history"));
        assert_eq!(named("c/wals/00000002.history").as_deref(), Some("00000002.history"));
        let backup = "00000001000000000000000A.00000028.backup";
        assert_eq!(named(&format!("{backup}.gz")).as_deref(), Some(backup));
        assert_eq!(named("c/wals/other.gz"), None);
    }
}
