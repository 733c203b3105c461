//! A mark beside the data directory: made by our initdb, not yet announced in the store.
//!
//! If another member announces its cluster first, the data under the mark is nobody's and may be replaced by a clone.

use std::path::PathBuf;

use matriarch_postgres::Instance;
use matriarch_postgres::files::{self, FileError};

fn path(instance: &Instance) -> PathBuf {
    let mut name = instance.data_dir.clone().into_os_string();
    name.push(".unclaimed");
    PathBuf::from(name)
}

/// Sets the mark, durably.
pub fn mark(instance: &Instance) -> Result<(), FileError> {
    files::write_atomic(&path(instance), b"", 0o600, instance.owner.as_ref()).map(|_| ())
}

/// Removes it.
pub fn clear(instance: &Instance) -> Result<(), FileError> {
    files::remove_durably(&path(instance)).map(|_| ())
}

/// Whether it is set.
pub fn is_marked(instance: &Instance) -> bool {
    path(instance).exists()
}
