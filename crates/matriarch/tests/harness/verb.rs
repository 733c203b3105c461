//! Running the binary as a person or a script does.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

/// The binary under test: the one just built, or another one that `MATRIARCH_PROGRAM` names (a release, for instance).
pub fn program() -> PathBuf {
    std::env::var_os("MATRIARCH_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_matriarch").into(), PathBuf::from)
}

/// Longer than any verb may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How a run of the binary ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub what: String,
    /// `-1` when a signal ended it.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Outcome {
    /// The output of a run that must have gone well.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert!(self.code == 0, "failed: {self}");
        &self.out
    }

    /// The message of a run that must have been refused with a code of sysexits(3).
    #[track_caller]
    pub fn refused(&self, code: u8) -> &str {
        assert!(self.code == i32::from(code), "exit code {code} was expected: {self}");
        assert!(!self.err.trim().is_empty(), "a refusal says why: {self}");
        &self.err
    }

    /// As [`Outcome::refused`], with words that the message must hold.
    #[track_caller]
    pub fn refused_naming(&self, code: u8, words: &[&str]) {
        let message = self.refused(code);
        for word in words {
            assert!(message.contains(word), "the message does not say '{word}': {self}");
        }
    }

    /// The output of a run that must have gone well, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.ok()).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with {}\n--- output\n{}\n--- errors\n{}", self.what, self.code, self.out, self.err)
    }
}

/// Runs the binary without a terminal, in `dir`, which also takes the place of the machine's temporary folder (there
/// running clusters leave their notes).
pub async fn run<I: AsRef<str>>(dir: &Path, tmp: &Path, arguments: &[I], environment: &[(&str, &str)]) -> Outcome {
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let mut command = tokio::process::Command::new(program());
    command.args(&arguments).current_dir(dir).env("TMPDIR", tmp).stdin(Stdio::null()).kill_on_drop(true);
    for name in
        ["VISUAL", "EDITOR", "PGPASSWORD", "MATRIARCH_DIR", "MATRIARCH_STORE", "MATRIARCH_SCOPE", "MATRIARCH_CONFIG"]
    {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied());
    let what = format!("matriarch {}", arguments.join(" "));
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("`{what}` has not ended after {LIMIT:?}")).expect("the binary runs");
    Outcome {
        what,
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
