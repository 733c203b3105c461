//! Backups that later ones build upon.

use std::collections::{BTreeMap, BTreeSet};

use super::RetentionError;
use super::sweep::{MARK, read_marker};
use crate::archive::Archive;
use crate::base::{self, Found};

/// What each backup needs, by its name.
pub type Chains<'a> = BTreeMap<&'a str, &'a [String]>;

/// Everything that these need, directly or through another.
pub fn needed<'a>(chains: &Chains<'a>, by: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<&str> = by.into_iter().collect();
    while let Some(name) = waiting.pop() {
        for needed in chains.get(name).copied().unwrap_or_default() {
            if found.insert(needed.as_str()) {
                waiting.push(needed);
            }
        }
    }
    found
}

/// Everything that needs this one, directly or through another.
pub fn users<'a>(chains: &Chains<'a>, of: &str) -> BTreeSet<&'a str> {
    let needs_it = |name: &&&str| needed(chains, [**name]).contains(of);
    chains.keys().filter(needs_it).copied().collect()
}

/// In an order in which nothing goes before those that need it; else as they are.
pub fn children_first<'a>(chains: &Chains<'a>, names: Vec<&'a str>) -> Vec<&'a str> {
    let mut order = Vec::with_capacity(names.len());
    let mut left = names;
    while !left.is_empty() {
        let used = |name: &str| left.iter().any(|other| *other != name && needed(chains, [*other]).contains(name));
        // A circle would be somebody's forgery; it must not keep us here.
        let next = left.iter().position(|name| !used(name)).unwrap_or_default();
        order.push(left.remove(next));
    }
    order
}

/// Who needs what just now, also of those that have begun since a plan was made.
#[derive(Debug, Default)]
pub struct Users {
    /// What is in manifests, which never change.
    known: BTreeMap<String, Vec<String>>,
}

impl Users {
    /// Whether there is any of this backup.
    pub async fn any(&mut self, archive: &Archive, of: &str) -> Result<bool, RetentionError> {
        let folder = archive.place().base_folder();
        let of = of.to_owned();
        for entry in archive.repository().list(&folder).await? {
            if entry.name.ends_with(MARK) {
                let marker = read_marker(archive, &entry.name).await?;
                if marker.is_some_and(|marker| marker.needs.contains(&of)) {
                    return Ok(true);
                }
            } else if entry.name.ends_with("/manifest") {
                if let Some(needs) = self.known.get(&entry.name) {
                    if !needs.contains(&of) {
                        continue;
                    }
                    // It is among those that are removed together, unless it is still there.
                    match archive.repository().size(&entry.name).await {
                        Ok(_) => return Ok(true),
                        Err(error) if error.is_absent() => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                let needs = match base::outline(archive, &entry.name, entry.size).await {
                    Ok(Found::Whole(outline)) => outline.needs,
                    Ok(Found::Abandoned) => Vec::new(),
                    Err(error) if error.is_absent() => continue,
                    Err(error) => return Err(error.into()),
                };
                let uses_it = needs.contains(&of);
                self.known.insert(entry.name, needs);
                if uses_it {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_followed_in_both_directions() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        let (two, three, other) = (names(&["one"]), names(&["two"]), names(&["zero"]));
        let chains: Chains<'_> =
            [("one", &[][..]), ("other", &other), ("three", &three), ("two", &two), ("zero", &[])].into();
        assert_eq!(needed(&chains, ["three"]), BTreeSet::from(["one", "two"]), "what is kept can be restored itself");
        assert_eq!(users(&chains, "one"), BTreeSet::from(["three", "two"]));
        assert_eq!(users(&chains, "three"), BTreeSet::new());
        assert_eq!(children_first(&chains, vec!["zero", "one", "two", "three"]), ["zero", "three", "two", "one"]);
        let (a, b) = (names(&["b"]), names(&["a"]));
        let circle: Chains<'_> = [("a", a.as_slice()), ("b", b.as_slice())].into();
        assert_eq!(children_first(&circle, vec!["a", "b"]), ["a", "b"]);
    }
}
