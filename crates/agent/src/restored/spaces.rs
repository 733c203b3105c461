//! Where the tablespaces of a restore go, and which of them it has begun to fill.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use matriarch_archive::base::Summary;
use matriarch_postgres::files;

use super::{Failed, Order};

/// The places of all tablespaces, by their object identifiers.
pub(crate) fn spaces(order: &Order, summary: &Summary) -> Result<BTreeMap<u32, PathBuf>, Failed> {
    let mut places: BTreeMap<u32, PathBuf> =
        summary.tablespaces.iter().map(|space| (space.oid, PathBuf::from(&space.path))).collect();
    for (name, path) in &order.tablespaces {
        let Some(space) =
            summary.tablespaces.iter().find(|space| space.name == *name || space.oid.to_string() == *name)
        else {
            let known: Vec<&str> = summary.tablespaces.iter().map(|space| space.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!(
                "a tablespace is to go elsewhere, and the backup has no tablespace '{name}'; it has {known}"
            )
            .into());
        };
        places.insert(space.oid, path.clone());
    }
    Ok(places)
}

/// Beside the data directory, until the cluster is founded: the tablespaces that a restore fills, which were empty before it.
fn mark(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.as_os_str().to_owned();
    name.push(".restoring");
    PathBuf::from(name)
}

pub(crate) fn mark_spaces<'a>(data_dir: &Path, places: impl Iterator<Item = &'a PathBuf>) -> Result<(), Failed> {
    let places: Vec<&PathBuf> = places.collect();
    for place in &places {
        if std::fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_some()) {
            let text = format!("{} is not empty; empty it, or name another place", place.display());
            return Err(format!("{text} for the tablespace (--tablespace, bootstrap.restore.tablespace)").into());
        }
    }
    if !places.is_empty() {
        files::write_atomic(&mark(data_dir), &serde_json::to_vec(&places)?, 0o600, None)?;
    }
    Ok(())
}

/// Whether these are the tablespaces that an earlier try has begun to fill.
pub(super) fn is_marked<'a>(data_dir: &Path, places: impl Iterator<Item = &'a PathBuf>) -> Result<bool, Failed> {
    Ok(marked(&mark(data_dir))?.unwrap_or_default().iter().eq(places))
}

/// What the mark names; `None` without one. A garbled one names nothing: nobody knows then which places were empty before, so none
/// of them is emptied, and one that is not empty is refused by its name.
fn marked(path: &Path) -> Result<Option<Vec<PathBuf>>, Failed> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("could not read {}: {error}", path.display()).into()),
        Ok(text) => text,
    };
    let places = serde_json::from_slice(&text).unwrap_or_else(|error| {
        let path = path.display();
        tracing::warn!(
            "{path} cannot be read ({error}), so it is not known which tablespaces a restore had begun to fill: what lies in them is \
             left alone"
        );
        Vec::new()
    });
    Ok(Some(places))
}

/// The cluster is founded on what was restored.
pub fn settle(data_dir: &Path) -> Result<(), files::FileError> {
    files::remove_durably(&mark(data_dir)).map(drop)
}

/// Empties the tablespaces of a restore that was cut off, or that no cluster was founded on.
pub fn clear_spaces(data_dir: &Path) -> Result<(), Failed> {
    let path = mark(data_dir);
    let Some(places) = marked(&path)? else { return Ok(()) };
    for place in places {
        for entry in std::fs::read_dir(&place).into_iter().flatten() {
            files::remove_tree(&entry?.path())?;
        }
    }
    files::remove_durably(&path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tablespaces_that_were_begun_are_emptied_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (data, begun, used) = (dir.path().join("data"), dir.path().join("begun"), dir.path().join("used"));
        std::fs::create_dir_all(used.join("PG_18_1")).unwrap();
        std::fs::create_dir(&begun).unwrap();
        let refused = mark_spaces(&data, [&begun, &used].into_iter()).unwrap_err().to_string();
        assert!(refused.contains(&used.display().to_string()) && refused.contains("is not empty"), "{refused}");
        mark_spaces(&data, [&begun, &dir.path().join("absent")].into_iter()).unwrap();
        std::fs::create_dir_all(begun.join("PG_18_1/5")).unwrap();
        clear_spaces(&data).unwrap();
        assert_eq!(std::fs::read_dir(&begun).unwrap().count(), 0);
        // A second time there is nothing to do, nor once the cluster is founded.
        std::fs::create_dir(begun.join("mine")).unwrap();
        clear_spaces(&data).unwrap();
        mark_spaces(&data, [&dir.path().join("absent")].into_iter()).unwrap();
        settle(&data).unwrap();
        clear_spaces(&data).unwrap();
        assert!(begun.join("mine").exists() && used.join("PG_18_1").exists());
    }

    #[test]
    fn a_garbled_mark_is_none_and_nothing_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let (data, begun) = (dir.path().join("data"), dir.path().join("begun"));
        std::fs::create_dir(&begun).unwrap();
        mark_spaces(&data, [&begun].into_iter()).unwrap();
        assert!(is_marked(&data, [&begun].into_iter()).unwrap());
        std::fs::create_dir(begun.join("PG_18_1")).unwrap();
        let whole = std::fs::read(mark(&data)).unwrap();
        let garbled: [&[u8]; 4] = [&whole[..whole.len() / 2], b"", b"{}", b"\0\0\0\0"];
        for garbled in garbled {
            std::fs::write(mark(&data), garbled).unwrap();
            assert!(!is_marked(&data, [&begun].into_iter()).unwrap());
            clear_spaces(&data).unwrap();
            assert!(begun.join("PG_18_1").exists() && !mark(&data).exists());
            let refused = mark_spaces(&data, [&begun].into_iter()).unwrap_err().to_string();
            assert!(refused.contains(&begun.display().to_string()) && refused.contains("empty it"), "{refused}");
        }
    }
}
