//! A server that another program has started, such as Patroni: it runs on with that program's rules, and with its socket where that
//! program put it, until it is restarted.
//!
//! Its rules may have no line for our users, above all none for the Unix socket. So ours are put before them in the file that it uses, between two
//! marks, and taken out of there before the next start, which is with our own file.

use std::fs;
use std::path::{Path, PathBuf};

use crate::files::{self, FileError};
use crate::hba;
use crate::instance::Instance;
use crate::postmaster;

const BEGIN: &str = "# Matriarch's users, until PostgreSQL is restarted with matriarch_hba.conf; taken out then.\n";
const END: &str = "# The end of Matriarch's users.\n";
/// Where a server has its rules unless its settings say otherwise.
const USUAL: &str = "pg_hba.conf";

/// The running server was started by another program, as far as its files tell.
pub fn is_running(instance: &Instance) -> bool {
    postmaster::socket_dir(&instance.data_dir).is_some_and(|dir| dir != instance.run_dir) || !hba::exists(instance)
}

/// Puts rules for our users before those of the running server, which needs a reload afterwards; whether anything changed.
///
/// # Errors
/// When its file cannot be read or written.
pub fn let_us_in(instance: &Instance) -> Result<bool, FileError> {
    let path = hba_file(&instance.data_dir);
    let text = fs::read_to_string(&path).map_err(|error| FileError::new("read", &path, error))?;
    let ours = hba::for_our_users(instance, "host");
    let text = format!("{BEGIN}{ours}{END}{}", without_ours(&text));
    files::write_atomic(&path, text.as_bytes(), 0o600, instance.owner.as_ref())
}

/// Removes the socket that an earlier server of ours has left behind: the one that runs has another, and this would be tried first.
pub fn forget_old_socket(instance: &Instance) {
    let place = |dir: PathBuf| fs::canonicalize(dir).ok();
    let elsewhere = postmaster::socket_dir(&instance.data_dir).and_then(place);
    // The same directory may have two names.
    if elsewhere.is_some_and(|dir| Some(dir) != place(instance.run_dir.clone())) {
        // Most often there is none.
        let _ = fs::remove_file(instance.socket_path());
    }
}

/// Undoes [`let_us_in`], for a server that does not run: what was done to its own files, and what a copy of another member's data
/// has brought along.
///
/// # Errors
/// When a file cannot be written.
pub fn restore(instance: &Instance) -> Result<(), FileError> {
    for path in rule_files(&instance.data_dir) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let before = without_ours(&text);
        if before.len() < text.len() {
            files::write_atomic(&path, before.as_bytes(), 0o600, instance.owner.as_ref())?;
        }
    }
    Ok(())
}

/// Rules that are not ours are in force, with ours before them.
pub(crate) fn is_in_force(instance: &Instance) -> bool {
    let marked = |path: PathBuf| fs::read(path).is_ok_and(|text| text.starts_with(BEGIN.as_bytes()));
    rule_files(&instance.data_dir).into_iter().any(marked)
}

/// The rules of such a file without ours.
pub(crate) fn without_ours(text: &str) -> &str {
    let ours = text.strip_prefix(BEGIN).and_then(|rest| rest.split_once(END));
    ours.map_or(text, |(_, rest)| rest)
}

/// Where a server that runs without our settings has its rules. Patroni names the file in `postgresql.conf` itself.
fn hba_file(data_dir: &Path) -> PathBuf {
    let text = fs::read_to_string(data_dir.join("postgresql.conf")).unwrap_or_default();
    data_dir.join(named_hba_file(&text).as_deref().unwrap_or(USUAL))
}

/// The files of a data directory that our rules may be in.
fn rule_files(data_dir: &Path) -> Vec<PathBuf> {
    let (usual, named) = (data_dir.join(USUAL), hba_file(data_dir));
    if named == usual || is_of_another(data_dir, &named) { vec![usual] } else { vec![usual, named] }
}

/// The file lies in another data directory of this host: the settings of a copy name what the original had.
fn is_of_another(data_dir: &Path, file: &Path) -> bool {
    let Some(folder) = file.parent().filter(|folder| folder.join("PG_VERSION").exists()) else { return false };
    fs::canonicalize(folder).ok() != fs::canonicalize(data_dir).ok()
}

fn named_hba_file(conf: &str) -> Option<String> {
    let mut values = conf.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        name.trim().eq_ignore_ascii_case("hba_file").then(|| value.trim())
    });
    let quoted = values.next_back()?.strip_prefix('\'')?;
    let end = quoted.rfind('\'')?;
    Some(quoted[..end].replace("''", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_before_the_rules_comes_out_again() {
        let own = "local all all peer\nhost all all 127.0.0.1/32 md5";
        let text = format!("{BEGIN}local all \"postgres\" scram-sha-256\n{END}{own}");
        assert_eq!(without_ours(&text), own);
        assert_eq!(without_ours(own), own);
        assert_eq!(without_ours(BEGIN), BEGIN);
    }

    #[test]
    fn a_copy_leaves_the_files_of_the_original_alone() {
        let dir = tempfile::tempdir().unwrap();
        let [original, copy, etc] = ["original", "copy", "etc"].map(|name| dir.path().join(name));
        [&original, &copy, &etc].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        for data_dir in [&original, &copy] {
            fs::write(data_dir.join("PG_VERSION"), "15\n").unwrap();
        }
        let name = |file: PathBuf| {
            fs::write(copy.join("postgresql.conf"), format!("hba_file = '{}'\n", file.display())).unwrap();
            rule_files(&copy)
        };
        assert_eq!(name(original.join(USUAL)), [copy.join(USUAL)]);
        assert_eq!(name(copy.join(USUAL)), [copy.join(USUAL)]);
        assert_eq!(name(etc.join("rules.conf")), [copy.join(USUAL), etc.join("rules.conf")]);
        assert_eq!(name("rules.conf".into()), [copy.join(USUAL), copy.join("rules.conf")]);
    }

    #[test]
    fn the_last_file_that_is_named_counts() {
        let conf = "#hba_file = 'ConfigDir/pg_hba.conf'\ninclude 'postgresql.base.conf'\nhba_file = '/a/one'\n HBA_FILE= '/it''s/two' # x\n";
        assert_eq!(named_hba_file(conf).as_deref(), Some("/it's/two"));
        assert_eq!(named_hba_file("port = 1\n"), None);
    }
}
