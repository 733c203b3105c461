//! A running cluster that goes back to an earlier moment.
//!
//! ```text
//! asked ── restoring ── stopping ── replacing ── done
//!             │            │   └─ one change of the store: a new epoch, led by the restored data
//!             └── failed <─┘      (from then on every other data directory is of a line that counts no more)
//! ```
//! The leader restores beside its data and recovers there while everything goes on; only what can be started is taken. Then its
//! PostgreSQL stops, and one compare-and-set on `sync` and the leader key makes the restored data the cluster's: before it the old
//! data goes on, after it only the new data does, whoever is killed at which moment. Each member puts that into effect by itself:
//! the leader renames directories, the others copy its data anew, since theirs is of another line ([`InPlace::line`]).

mod prepare;
mod record;

pub use prepare::{Prepared, Preparing, clear, staged};
pub use record::{InPlace, KEY, Kept, Phase, Request, Swap, What, Wish};

use std::path::{Path, PathBuf};

/// Where a data directory is kept that another one takes the place of.
pub fn aside(data_dir: &Path, id: &str) -> PathBuf {
    beside(data_dir, &format!(".before-{id}"))
}

/// Only what [`aside`] names may be removed on request.
pub fn is_aside(data_dir: &Path, kept: &Path) -> bool {
    let prefix = beside(data_dir, ".before-");
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    kept.parent() == data_dir.parent() && name(kept).starts_with(&name(&prefix))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_put_aside_may_be_removed() {
        let data = Path::new("/srv/a/data");
        assert!(is_aside(data, &aside(data, "20261122T060000Z")));
        for other in ["/srv/a/data", "/srv/a/data.before", "/srv/b/data.before-1", "/", "/srv/a"] {
            assert!(!is_aside(data, Path::new(other)), "{other}");
        }
    }
}
