//! A server's folder that is written to: what lies there, and how what is put there is called.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Codec, Info, Server, tar_name, wal_name};
use crate::door::Foreign;
use crate::repository::{Repository, RepositoryError};
use crate::wal::{self, WalName};

/// One server's backups, of which there may be none yet.
#[derive(Clone, Debug)]
pub struct Outlet {
    server: Server,
    name: String,
}

impl Outlet {
    /// The folder of the server of that name, below what `to` names.
    pub fn open(to: &Foreign, name: &str, patience: Duration) -> Result<Outlet, RepositoryError> {
        let (repository, name) = (to.connect(patience)?, name.to_owned());
        let server = Server { repository, name: Some(name.clone()), system_identifier: None, backups: BTreeMap::new() };
        Ok(Outlet { server, name })
    }

    pub fn repository(&self) -> &Repository {
        &self.server.repository
    }

    /// Its name there.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its backups, complete or not.
    pub async fn backups(&self) -> Result<Vec<(String, Info)>, RepositoryError> {
        self.server.infos().await
    }

    /// What makes a backup one.
    pub fn info_of(&self, backup: &str) -> String {
        self.server.info_of(backup)
    }

    /// A tar of a backup: of the data directory (`data`) or of a tablespace; `ending` as its compression wants it.
    pub fn tar_of(&self, backup: &str, what: &str, number: u32, ending: &str) -> String {
        self.server.below(&format!("base/{backup}/{}{ending}", tar_name(what, number)))
    }

    /// A file of the WAL.
    pub fn wal_of(&self, name: &WalName, ending: &str) -> String {
        format!("{}/{name}{ending}", self.server.wal_folder(name))
    }

    /// What lies in the folder of a backup.
    pub async fn objects_of(&self, backup: &str) -> Result<Vec<String>, RepositoryError> {
        let entries = self.repository().list(&self.server.below(&format!("base/{backup}"))).await?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }

    /// Files of the WAL that are listed, and the objects that have them.
    pub async fn wal(&self) -> Result<BTreeMap<WalName, String>, RepositoryError> {
        let entries = self.repository().list(&self.server.below("wals")).await?;
        Ok(entries.into_iter().filter_map(|entry| Some((wal_name(&entry.name)?, entry.name))).collect())
    }

    /// The content of one of them.
    pub async fn read_wal(&self, name: &WalName, object: &str) -> Result<Vec<u8>, RepositoryError> {
        let ending = object.rsplit('/').next().and_then(|file| file.strip_prefix(&name.to_string()));
        let codec = Codec::of(ending.and_then(|ending| ending.strip_prefix('.')));
        let codec = codec.map_err(|why| self.repository().unreadable(object, &why))?;
        self.server.unpacked(object, codec).await
    }

    /// The database systems of what lies there, each with what tells of it.
    pub async fn systems(&self) -> Result<BTreeSet<(String, String)>, RepositoryError> {
        let mut found = BTreeSet::new();
        for (id, info) in self.backups().await? {
            found.extend(info.system_identifier().map(|system| (system.to_owned(), format!("its backup {id}"))));
        }
        if !found.is_empty() {
            return Ok(found);
        }
        for (name, object) in self.wal().await?.iter().filter(|(name, _)| matches!(name, WalName::Segment(_))).take(1) {
            let content = self.read_wal(name, object).await?;
            found.extend(wal::system_of(&content).map(|system| (system.to_string(), format!("its WAL {name}"))));
        }
        Ok(found)
    }
}
