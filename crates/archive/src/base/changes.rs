//! Which blocks of relations were changed since an earlier backup, as the log tells it. Only main forks: see
//! [`super::scan::Found::is_main`].

use std::collections::{HashMap, HashSet};

use super::page::relation_file;

/// Where relations lie that are in no tablespace of their own, and those that all databases share.
const DEFAULT_SPACE: u32 = 1663;
const GLOBAL_SPACE: u32 = 1664;

/// A relation by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Relation {
    /// Tablespace.
    pub space: u32,
    /// Database; 0 for what all share.
    pub database: u32,
    /// File node; 0 means all of the database.
    pub number: u32,
}

/// What was changed.
#[derive(Debug, Default)]
pub struct Changes {
    relations: HashMap<Relation, Blocks>,
    /// Made or dropped as a whole, by their tablespace.
    databases: HashSet<(u32, u32)>,
}

#[derive(Debug, Default)]
struct Blocks {
    /// It was cut off to so many blocks, or made anew: nothing from here on is as it was.
    limit: Option<u32>,
    changed: Vec<u64>,
}

/// What was changed of one file.
#[derive(Clone, Copy, Debug)]
pub struct FileChanges<'a> {
    blocks: Option<&'a Blocks>,
    /// The relation's block that the file begins with.
    first: u32,
}

impl Changes {
    /// A block was changed.
    pub fn block(&mut self, relation: Relation, block: u32) {
        let changed = &mut self.relations.entry(relation).or_default().changed;
        let word = block as usize / 64;
        if changed.len() <= word {
            changed.resize(word + 1, 0);
        }
        changed[word] |= 1 << (block % 64);
    }

    /// The relation was cut off to so many blocks; made or dropped: to none.
    pub fn limit(&mut self, relation: Relation, blocks: u32) {
        if relation.number == 0 {
            self.databases.insert((relation.space, relation.database));
            return;
        }
        let limit = &mut self.relations.entry(relation).or_default().limit;
        *limit = Some(limit.map_or(blocks, |earlier| earlier.min(blocks)));
    }

    /// What was changed of a file of a main fork. `None`: it must be taken as a whole.
    pub fn file(&self, path: &str, pages_per_file: u32) -> Option<FileChanges<'_>> {
        let (relation, segment) = relation_of(path)?;
        let first = segment.checked_mul(pages_per_file)?;
        let blocks = self.relations.get(&relation);
        let made_anew = blocks.and_then(|blocks| blocks.limit).is_some_and(|limit| limit <= first);
        let with_database = self.databases.contains(&(relation.space, relation.database));
        (!made_anew && !with_database).then_some(FileChanges { blocks, first })
    }
}

impl FileChanges<'_> {
    /// Whether a block of the file may be another than it was.
    pub fn has(&self, block: u32) -> bool {
        let (Some(blocks), block) = (self.blocks, self.first.saturating_add(block)) else { return false };
        let bit = |word: &u64| word & (1 << (block % 64)) != 0;
        blocks.limit.is_some_and(|limit| block >= limit) || blocks.changed.get(block as usize / 64).is_some_and(bit)
    }
}

/// The relation whose main fork lies there, and which of its files it is.
fn relation_of(path: &str) -> Option<(Relation, u32)> {
    let parts: Vec<&str> = path.split('/').collect();
    let (space, database, name) = match parts.as_slice() {
        ["global", name] => (GLOBAL_SPACE, 0, name),
        ["base", database, name] => (DEFAULT_SPACE, database.parse().ok()?, name),
        ["pg_tblspc", space, _, database, name] => (space.parse().ok()?, database.parse().ok()?, name),
        _ => return None,
    };
    let file = relation_file(name).filter(|file| file.fork == "main")?;
    Some((Relation { space, database, number: file.relation.parse().ok()? }, file.segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER_FILE: u32 = 131_072;

    fn relation(number: u32) -> Relation {
        Relation { space: DEFAULT_SPACE, database: 5, number }
    }

    #[test]
    fn blocks_of_later_files_and_cut_off_relations() {
        let mut changes = Changes::default();
        changes.block(relation(7), 3);
        changes.block(relation(7), PER_FILE + 70);
        changes.limit(relation(8), 20);
        changes.limit(relation(8), 10);
        changes.limit(relation(9), 0);
        let has = |path: &str, block| changes.file(path, PER_FILE).map(|file| file.has(block));
        assert_eq!([has("base/5/7", 3), has("base/5/7", 70)], [Some(true), Some(false)]);
        assert_eq!([has("base/5/7.1", 3), has("base/5/7.1", 70)], [Some(false), Some(true)]);
        assert_eq!([has("base/5/8", 9), has("base/5/8", 10)], [Some(false), Some(true)]);
        assert_eq!(has("base/5/8.1", 0), None, "it lies behind where it was cut off");
        assert_eq!(has("base/5/9", 0), None, "it was made anew");
        assert_eq!(has("base/6/9", 0), Some(false), "another database's");
        assert_eq!(has("base/5/7_fsm", 0), None);
        assert_eq!(has("PG_VERSION", 0), None);
    }

    #[test]
    fn tablespaces_shared_relations_and_whole_databases() {
        let mut changes = Changes::default();
        changes.block(Relation { space: GLOBAL_SPACE, database: 0, number: 1262 }, 0);
        changes.block(Relation { space: 16_500, database: 5, number: 7 }, 1);
        changes.limit(Relation { space: 16_500, database: 6, number: 0 }, 0);
        let has = |path: &str, block| changes.file(path, PER_FILE).map(|file| file.has(block));
        assert_eq!(has("global/1262", 0), Some(true));
        assert_eq!(has("pg_tblspc/16500/PG_18_202506291/5/7", 1), Some(true));
        assert_eq!(has("pg_tblspc/16500/PG_18_202506291/6/7", 1), None, "its database was copied as files");
        assert_eq!(has("base/6/7", 1), Some(false), "and not its part elsewhere");
    }
}
