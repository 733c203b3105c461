//! Tests that cannot run here, or not all of them: said on the spot, where nobody sees it of a test that passes, and in the file
//! that `MATRIARCH_SKIPPED` names, which `scripts/test` prints at the end.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

/// Says why the test of this thread, or a part of it, is left out.
///
/// # Panics
/// When the file cannot be written: what is not told counts as tested.
pub fn skipped(why: impl Display) {
    eprintln!("skipped: {why}");
    if let Some(path) = std::env::var_os("MATRIARCH_SKIPPED").filter(|path| !path.is_empty()) {
        note(Path::new(&path), &why.to_string());
    }
}

fn note(path: &Path, why: &str) {
    // The harness names the thread after the test.
    let thread = std::thread::current();
    let line = format!("{}: {}\n", thread.name().unwrap_or("?"), why.replace('\n', " "));
    let file = std::fs::File::options().create(true).append(true).open(path);
    // In one piece: other tests write there, too.
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("noting a skipped test in {}: {error}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::TestDir;

    #[test]
    fn each_is_a_line_with_the_name_of_its_test() {
        let dir = TestDir::new("skipped");
        let path = dir.join("list");
        note(&path, "no root");
        note(&path, "two\nlines");
        let test = "skipped::tests::each_is_a_line_with_the_name_of_its_test";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{test}: no root\n{test}: two lines\n"));
    }
}
