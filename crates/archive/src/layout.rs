//! Where in a repository what lies: `<cluster>/<incarnation>/{wal,tail,base,pack,dump}`.

use matriarch_core::Timeline;

use crate::wal::WalName;

/// One incarnation of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    cluster: String,
    incarnation: String,
}

/// A name that cannot stand in a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{name}' cannot name {what} in a repository; use 1 to 100 letters, digits, '-', '_' and '.', beginning with a letter or a digit"
)]
pub struct BadName {
    what: &'static str,
    name: String,
}

impl Place {
    /// The place of an incarnation.
    pub fn new(cluster: &str, incarnation: &str) -> Result<Place, BadName> {
        Ok(Place { cluster: checked("a cluster", cluster)?, incarnation: checked("an incarnation", incarnation)? })
    }

    /// Name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Name of the incarnation.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// The same cluster's other incarnation.
    pub(crate) fn sibling(&self, incarnation: &str) -> Result<Place, BadName> {
        Place::new(&self.cluster, incarnation)
    }

    /// The incarnation's record.
    pub fn record(&self) -> String {
        self.below("incarnation.json")
    }

    /// A file of the write-ahead log.
    pub fn wal(&self, name: &WalName) -> String {
        match name.timeline_folder() {
            Some(timeline) => self.below(&format!("wal/{timeline:08X}/{name}")),
            None => format!("{}/{name}", self.history_folder()),
        }
    }

    /// The folder of a timeline's segments.
    pub fn wal_of(&self, timeline: Timeline) -> String {
        self.below(&format!("wal/{timeline:08X}"))
    }

    /// The folder of all timelines' histories.
    pub fn history_folder(&self) -> String {
        self.below("wal/history")
    }

    /// The folder of the tail's chunks.
    pub fn tail_folder(&self) -> String {
        self.below("tail")
    }

    /// The folder of all base backups' manifests.
    pub fn base_folder(&self) -> String {
        self.below("base")
    }

    /// The manifest of a base backup.
    pub fn manifest(&self, backup: &str) -> String {
        self.below(&format!("base/{backup}/manifest"))
    }

    /// Another record beside a base backup's manifest.
    pub(crate) fn of_backup(&self, backup: &str, file: &str) -> String {
        self.below(&format!("base/{backup}/{file}"))
    }

    /// The folder of all WAL.
    pub fn wal_folder(&self) -> String {
        self.below("wal")
    }

    /// The folder of all packs.
    pub fn pack_folder(&self) -> String {
        self.below("pack")
    }

    /// A pack of a base backup.
    pub fn pack(&self, backup: &str, number: u32) -> String {
        self.below(&format!("pack/{backup}/{number:06}"))
    }

    /// The folder of all dumps.
    pub fn dump_folder(&self) -> String {
        self.below("dump")
    }

    /// The manifest of a dump.
    pub fn dump_manifest(&self, dump: &str) -> String {
        self.of_dump(dump, "manifest")
    }

    /// A pack of a dump.
    pub fn dump_pack(&self, dump: &str, number: u32) -> String {
        self.of_dump(dump, &format!("{number:06}"))
    }

    /// An object of a dump.
    pub(crate) fn of_dump(&self, dump: &str, file: &str) -> String {
        self.below(&format!("dump/{dump}/{file}"))
    }

    fn below(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.cluster, self.incarnation)
    }
}

/// The name, if it can stand in a path.
pub(crate) fn checked(what: &'static str, name: &str) -> Result<String, BadName> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (1..=100).contains(&name.len()) && name.bytes().all(plain) && name.as_bytes()[0].is_ascii_alphanumeric();
    if fits { Ok(name.to_owned()) } else { Err(BadName { what, name: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for name in ["", "..", "a/b", ".a", "-", "ä", &"a".repeat(101)] {
            assert!(Place::new(name, "i").is_err(), "{name}");
            assert!(Place::new("c", name).is_err(), "{name}");
        }
        let place = Place::new("main", "20261122-1").unwrap();
        let segment: WalName = "000000020000000000000003".parse().unwrap();
        assert_eq!(place.wal(&segment), "main/20261122-1/wal/00000002/000000020000000000000003");
        assert_eq!(place.wal(&WalName::History(3)), "main/20261122-1/wal/history/00000003.history");
        assert_eq!(place.pack("b", 7), "main/20261122-1/pack/b/000007");
    }
}
