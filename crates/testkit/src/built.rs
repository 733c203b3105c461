//! Servers that `scripts/build-server` has built.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of a server's programs.
///
/// # Panics
/// When it has not been built; the message says how to.
pub fn folder(name: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/build-server");
    let output = Command::new(script).args(["--print", name]).output().expect("the script runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}`make test` and `scripts/install-deps --test` do that");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
