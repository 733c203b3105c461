//! The files that a section `archive` names: keys and tokens are renewed while an agent runs.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// What tells a file from the one that had its name before: device, inode, size and time of its last change.
type Stamp = (u64, u64, u64, i64, i64);

/// The files, each as it is now; `None`: it is not there.
pub(super) type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

pub(super) fn stamps(section: &matriarch_config::Archive) -> Stamps {
    let of_repositories = section.repositories.iter().flat_map(|one| [&one.credentials, &one.customer_key, &one.ca]);
    let named = of_repositories.chain([&section.encryption.identity_file]).flatten();
    let stamp = |path: &PathBuf| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    };
    named.map(|path| (path.clone(), stamp(path))).collect()
}
