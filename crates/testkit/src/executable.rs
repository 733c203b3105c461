//! Programs that a test makes and then runs.
//!
//! A file cannot be executed while anybody has it open for writing. Were it written here, then a process that another thread
//! starts at that moment would inherit the descriptor and hold it until its own `exec`. So a child process writes it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Copies a program.
pub fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("--").arg(from).arg(to).status().expect("there is cp");
    assert!(done.success(), "cp {} {}", from.display(), to.display());
}

/// Writes a script with these permissions; it appears under its name when it is whole.
pub fn script(path: &Path, text: &str, mode: u32) {
    let write = "cat > \"$1.new\" && chmod \"$2\" \"$1.new\" && mv -f \"$1.new\" \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", write, "sh"]).arg(path).arg(format!("{mode:o}")).stdin(Stdio::piped());
    let mut child = command.spawn().expect("there is a shell");
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("the shell reads it");
    assert!(child.wait().expect("it is ours").success(), "writing {}", path.display());
}
