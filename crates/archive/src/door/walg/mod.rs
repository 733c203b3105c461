//! WAL-G's repositories: `basebackups_005` with tars and a sentinel for each backup, `wal_005` with WAL. A delta backup has the
//! blocks that have changed since another one.

mod seal;
mod sentinel;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use matriarch_core::Timeline;

use super::codec::Codec;
use super::shelf::{Known, Shelf};
use super::tars::{Fate, Part, Rule, Unpacking, Unseal};
use super::{Foreign, LABEL, Unfit};
use crate::archive::ArchiveError;
use crate::base::Summary;
use crate::repository::{Repository, RepositoryError};
use crate::restore::{Last, Onto, RestoreError};
use crate::wal::{Segment, WalName};
use seal::{Key, PIECE, Unsealed};
use sentinel::{Files, Metadata, Sentinel};

const BACKUPS: &str = "basebackups_005";
const WAL: &str = "wal_005";
const SENTINEL: &str = "_backup_stop_sentinel.json";
/// The compressions that WAL may have, the likeliest first.
const ENDINGS: [&str; 5] = [".zst", ".lz4", "", ".br", ".lzma"];
/// Sentinels that are read at a time.
const AHEAD: usize = 8;

/// One cluster's backups.
#[derive(Debug)]
pub struct Storage {
    repository: Repository,
    system_identifier: Option<u64>,
    sentinels: BTreeMap<String, Sentinel>,
    seals: Seals,
}

/// WAL-G encrypts without saying so.
#[derive(Clone, Default)]
struct Seals {
    keys: Vec<Key>,
    /// Something was encrypted.
    seen: Arc<AtomicBool>,
}

impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seals({} keys)", self.keys.len())
    }
}

impl Seals {
    /// What it compresses has a beginning of its own; what it has encrypted has none.
    fn opened<R: Read + 'static>(&self, mut from: R, codec: Codec) -> Result<Box<dyn Read>, Unfit> {
        let beginning: &[u8] = match codec {
            Codec::Zstd => &[0x28, 0xB5, 0x2F, 0xFD],
            Codec::Lz4 => &[0x04, 0x22, 0x4D, 0x18],
            _ => &[],
        };
        let mut head = Vec::new();
        from.by_ref().take(beginning.len() as u64).read_to_end(&mut head)?;
        let is_plain = if beginning.is_empty() { self.keys.is_empty() } else { head == beginning };
        let whole = Cursor::new(head).chain(from);
        if is_plain {
            return Ok(Box::new(whole));
        }
        self.seen.store(true, Ordering::Relaxed);
        match self.keys.is_empty() {
            true => Err(Unfit::Sealed(KEYLESS.to_owned())),
            false => Ok(Box::new(Unsealed::new(whole, &self.keys, PIECE))),
        }
    }
}

const KEYLESS: &str = "it does not begin as what its name says, so it is encrypted or damaged: give the key of libsodium with --key-file \
     or in WALG_LIBSODIUM_KEY";

impl Storage {
    /// Finds out what it needs to give WAL.
    pub async fn open(repository: Repository, foreign: &Foreign) -> Result<Storage, RepositoryError> {
        if foreign.name.is_some() {
            let why = "a repository of WAL-G holds one cluster, and nothing in it is a stanza".to_owned();
            return Err(RepositoryError::Settings { repository: repository.name().to_owned(), why });
        }
        let repository = match &foreign.chosen.backup {
            Some(backup) => repository.anchored(&format!("{BACKUPS}/{backup}{SENTINEL}")),
            None => {
                let folders = repository.folders("").await?;
                if !folders.iter().any(|folder| folder == BACKUPS) {
                    let there = if folders.is_empty() { "nothing".to_owned() } else { folders.join(", ") };
                    let why = format!("it holds no {BACKUPS}, but {there}; the location is that of WALG_…_PREFIX");
                    return Err(RepositoryError::Settings { repository: repository.name().to_owned(), why });
                }
                repository
            }
        };
        let keys = foreign.secret()?.map_or_else(Vec::new, |text| seal::keys(&text));
        let seals = Seals { keys, ..Seals::default() };
        let system_identifier = foreign.chosen.system_identifier;
        Ok(Storage { repository, system_identifier, sentinels: BTreeMap::new(), seals })
    }

    async fn sentinel(&self, name: String) -> Result<(String, Sentinel), RepositoryError> {
        let mut sentinel: Sentinel = self.json(&format!("{BACKUPS}/{name}{SENTINEL}")).await?;
        if sentinel.finish_time.is_none() {
            let Metadata { start_time, finish_time } = self.json(&format!("{BACKUPS}/{name}/metadata.json")).await?;
            (sentinel.start_time, sentinel.finish_time) = (Some(start_time), Some(finish_time));
        }
        Ok((name, sentinel))
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, object: &str) -> Result<T, RepositoryError> {
        let bytes = self.repository.get(object).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.repository.corrupt(object, error.to_string()))
    }

    /// Which files a backup has, unless it was told to keep no list.
    async fn files(&self, name: &str) -> Result<Option<Files>, RepositoryError> {
        let sentinel = self.sentinels.get(name);
        if sentinel.is_some_and(|sentinel| sentinel.files_metadata_disabled == Some(true)) {
            return Ok(None);
        }
        match sentinel.and_then(|sentinel| sentinel.files.clone()) {
            Some(files) => Ok(Some(files)),
            None => self.json(&format!("{BACKUPS}/{name}/files_metadata.json")).await.map(Some),
        }
    }

    /// A backup and those that it is a delta of, the full one first.
    fn chain(&self, name: &str) -> Result<Vec<String>, RepositoryError> {
        let mut chain = vec![name.to_owned()];
        while let Some(from) = chain.last().and_then(|last| self.sentinels.get(last)?.delta_from.clone()) {
            if !self.sentinels.contains_key(&from) || chain.contains(&from) {
                let why = format!("it is a delta of {from}, which is not there");
                return Err(self.repository.corrupt(chain.last().unwrap_or(&from), why));
            }
            chain.push(from);
        }
        chain.reverse();
        Ok(chain)
    }

    /// The tars of a backup, all of which must be there.
    async fn parts(&self, name: &str, files: Option<&Files>) -> Result<Vec<Part>, RepositoryError> {
        let folder = format!("{BACKUPS}/{name}/tar_partitions");
        let mut parts = Vec::new();
        for entry in self.repository.list(&folder).await? {
            let file = entry.name.rsplit('/').next().unwrap_or_default();
            let Some((_, rest)) = file.split_once(".tar") else { continue };
            let ending = rest.strip_prefix('.');
            let codec = Codec::of(ending).map_err(|why| self.repository.unreadable(&entry.name, &why))?;
            parts.push(Part { object: entry.name, codec, below: String::new() });
        }
        let needed = files.into_iter().flat_map(|files| files.tar_file_sets.keys());
        for needed in needed.map(|part| format!("{folder}/{part}")) {
            if !parts.iter().any(|part| part.object == needed) {
                return Err(self
                    .repository
                    .corrupt(&needed, "it is missing, and the list of the backup's files names it"));
            }
        }
        Ok(parts)
    }

    /// The object of a file of the WAL, whichever its compression is, with the content.
    async fn object(&self, name: &WalName) -> Result<(String, Codec, bytes::Bytes), RepositoryError> {
        let mut absent = None;
        for ending in ENDINGS {
            let object = format!("{WAL}/{name}{ending}");
            match self.repository.get(&object).await {
                Ok(content) => {
                    let codec = Codec::of(ending.strip_prefix('.'));
                    return Ok((
                        object.clone(),
                        codec.map_err(|why| self.repository.unreadable(&object, &why))?,
                        content,
                    ));
                }
                Err(error) if error.is_absent() => absent = absent.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(absent.unwrap_or_else(|| self.repository.corrupt(&name.to_string(), "it has no name")))
    }

    /// Removes what is there of a file that only has what has changed, and writes the rest.
    fn rule(own: Option<&Files>, newest: Option<&Files>) -> Rule {
        let (own, newest) = (own.cloned(), newest.cloned());
        Arc::new(move |path| {
            let key = format!("/{path}");
            let there = newest.as_ref().is_none_or(|files| path.is_empty() || files.files.contains_key(&key));
            let incremented =
                own.as_ref().and_then(|files| files.files.get(&key)).is_some_and(|note| note.is_incremented);
            match (there, incremented) {
                (false, _) => Fate::Skip,
                (true, true) => Fate::Change,
                (true, false) => Fate::Write,
            }
        })
    }

    /// Every path that the list names must have been in its tar.
    fn complete(
        &self,
        name: &str,
        files: &Files,
        seen: &BTreeMap<String, BTreeSet<String>>,
    ) -> Result<(), RepositoryError> {
        for (part, paths) in &files.tar_file_sets {
            let object = format!("{BACKUPS}/{name}/tar_partitions/{part}");
            let Some(seen) = seen.get(&object) else { continue };
            if let Some(path) = paths.iter().find(|path| !seen.contains(path.trim_start_matches('/'))) {
                return Err(self
                    .repository
                    .corrupt(&object, format!("it lacks {path}, which the list of its files names")));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Shelf for Storage {
    fn repository(&self) -> &Repository {
        &self.repository
    }

    fn name(&self) -> String {
        "the cluster".to_owned()
    }

    fn system_identifier(&self) -> Option<u64> {
        self.system_identifier
    }

    fn is_encrypted(&self) -> bool {
        self.seals.seen.load(Ordering::Relaxed)
    }

    fn proof(&self) -> Option<String> {
        self.sentinels.keys().next().map(|name| format!("{BACKUPS}/{name}{SENTINEL}"))
    }

    fn settle(&self, _foreign: &mut Foreign) {}

    /// Of one database system: that of the named backup, else that of the newest.
    async fn survey(&mut self, backup: Option<&str>) -> Result<Vec<Known>, RepositoryError> {
        let names = self.repository.files(BACKUPS).await?;
        let names: Vec<String> =
            names.iter().filter_map(|name| Some(name.strip_suffix(SENTINEL)?.to_owned())).collect();
        let read = futures_util::stream::iter(names).map(|name| self.sentinel(name)).buffered(AHEAD).try_collect();
        let sentinels: BTreeMap<String, Sentinel> = read.await?;
        let newest = sentinels.iter().max_by_key(|(_, sentinel)| sentinel.finish_time);
        let meant = backup.and_then(|name| sentinels.get(name)).or(newest.map(|(_, sentinel)| sentinel));
        let system = meant.and_then(|sentinel| sentinel.system_identifier);
        self.system_identifier = system;
        if let Some(name) = sentinels.keys().next() {
            self.repository = self.repository.clone().anchored(&format!("{BACKUPS}/{name}{SENTINEL}"));
        }
        self.sentinels = sentinels;
        let own = self.sentinels.iter().filter(|(_, sentinel)| sentinel.system_identifier == system);
        own.map(|(name, sentinel)| {
            let known = sentinel.known(name);
            known.map_err(|why| self.repository.corrupt(&format!("{BACKUPS}/{name}{SENTINEL}"), why))
        })
        .collect()
    }

    async fn describe(&self, summary: &mut Summary) -> Result<(), RepositoryError> {
        // What a delta is of is read as well.
        let stored = |name: &String| self.sentinels.get(name).map_or(0, |sentinel| sentinel.compressed_size);
        summary.stored = self.chain(&summary.backup)?.iter().map(stored).sum();
        Ok(())
    }

    async fn unpack(&self, summary: &Summary, onto: &Onto) -> Result<Last, RestoreError> {
        let chain = self.chain(&summary.backup)?;
        let newest = self.files(&summary.backup).await?;
        if newest.is_none() && chain.len() > 1 {
            let why = "it is a delta without a list of its files, which is not read here";
            return Err(self.repository.unreadable(&summary.backup, why).into());
        }
        let seals = self.seals.clone();
        let unseal: Unseal = Arc::new(move |stream, codec| seals.opened(stream, codec));
        let is_plain = self.seals.keys.is_empty();
        let unpacking = Unpacking::new(&self.repository, onto, unseal, is_plain);
        for name in &chain {
            let files = if *name == summary.backup { newest.clone() } else { self.files(name).await? };
            let mut parts = self.parts(name, files.as_ref()).await?;
            if *name != summary.backup {
                let comes_last = |part: &Part| {
                    [LABEL, "pg_control"].iter().any(|file| part.object.contains(&format!("/{file}.tar")))
                };
                parts.retain(|part| !comes_last(part));
            }
            let seen = unpacking.all(parts, &Storage::rule(files.as_ref(), newest.as_ref())).await?;
            if let Some(files) = &files {
                self.complete(name, files, &seen)?;
            }
        }
        Ok(unpacking.last())
    }

    async fn timelines(&self) -> Result<BTreeSet<Timeline>, RepositoryError> {
        let names = self.repository.files(WAL).await?;
        let histories = names.iter().filter_map(|name| match plain(name)?.parse() {
            Ok(WalName::History(timeline)) => Some(timeline),
            _ => None,
        });
        Ok(histories.collect())
    }

    async fn listed(&self, from: Segment) -> Result<BTreeSet<Segment>, RepositoryError> {
        let entries = self.repository.list_after(WAL, Some(&format!("{WAL}/{from}"))).await?;
        let segments = entries.iter().filter_map(|entry| match plain(entry.name.rsplit('/').next()?)?.parse() {
            Ok(WalName::Segment(segment)) => Some(segment),
            _ => None,
        });
        Ok(segments.filter(|segment| segment.timeline == from.timeline).collect())
    }

    async fn find(&self, segment: Segment) -> Result<(), RepositoryError> {
        let mut absent = None;
        for ending in ENDINGS {
            match self.repository.size(&format!("{WAL}/{segment}{ending}")).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_absent() => absent = absent.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        absent.map_or(Ok(()), Err)
    }

    async fn wal(&self, name: &WalName) -> Result<Vec<u8>, RepositoryError> {
        let (object, codec, bytes) = self.object(name).await?;
        let seals = self.seals.clone();
        let unpack = move || -> Result<Vec<u8>, Unfit> {
            let mut content = Vec::new();
            codec.reader(seals.opened(Cursor::new(bytes), codec)?)?.read_to_end(&mut content)?;
            Ok(content)
        };
        let unpacked = tokio::task::spawn_blocking(unpack).await;
        let unpacked = unpacked.unwrap_or_else(|error| Err(Unfit::Content(error.to_string())));
        unpacked.map_err(|unfit| match unfit.about(&self.repository, &object) {
            RestoreError::Archive(ArchiveError::Repository(error)) => error,
            error => self.repository.corrupt(&object, error.to_string()),
        })
    }
}

/// A name without the ending of its compression.
fn plain(name: &str) -> Option<&str> {
    let known = |ending: &&str| !ending.is_empty() && name.ends_with(ending);
    match ENDINGS.iter().copied().find(|ending| known(ending)) {
        Some(ending) => name.strip_suffix(ending),
        None => Some(name),
    }
}
