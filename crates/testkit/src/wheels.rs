//! Wheels of PyPI that `scripts/install-deps --test` has unpacked.

use std::path::PathBuf;

use crate::postgres;

/// The folder of a package, if it is there.
pub fn folder(package: &str) -> Option<PathBuf> {
    let is_of = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let version = name.strip_prefix(package).and_then(|rest| rest.strip_prefix('-'));
        version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
            && path.join(".complete").exists()
    };
    let wheels = postgres::caches().into_iter().filter_map(|cache| std::fs::read_dir(cache.join("wheels")).ok());
    wheels.flat_map(|entries| entries.flatten()).map(|entry| entry.path()).find(is_of)
}
