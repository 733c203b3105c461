//! Picks the store's engine.

use std::path::PathBuf;
use std::sync::Arc;

use matriarch_dcs::{SqliteStore, Store};

/// Where a cluster's records are kept, as `--store` names it: `sqlite:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    /// A SQLite file on this host.
    Sqlite(PathBuf),
}

impl std::str::FromStr for StoreAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => Ok(StoreAddress::Sqlite(path.into())),
            Some((engine @ ("etcd" | "etcd3" | "consul" | "kubernetes"), _)) => {
                Err(format!("the store engine '{engine}' comes with a later release; this one has sqlite:PATH"))
            }
            _ => Err(format!("'{text}' names no store; write sqlite:PATH")),
        }
    }
}

/// Opens a store; a missing one is created only when `create` is set.
pub async fn open(address: &StoreAddress, prefix: &str, create: bool) -> anyhow::Result<Arc<dyn Store>> {
    match address {
        StoreAddress::Sqlite(path) if create => Ok(Arc::new(SqliteStore::open(path, prefix).await?)),
        StoreAddress::Sqlite(path) => Ok(Arc::new(SqliteStore::open_existing(path, prefix).await?)),
    }
}
