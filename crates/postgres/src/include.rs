//! The one line of the user's `postgresql.conf` that is ours: it includes `matriarch.conf`, and is the last.
//!
//! PostgreSQL takes a file that it cannot open for an empty one where the line says `include_if_exists`, whatever the reason: a data
//! directory that is being deleted, a volume that fails, no descriptor left. A reload at that moment would forget
//! `synchronous_standby_names`, and commits would wait for nobody. An `include` makes it refuse the reload as a whole.

use std::fs;
use std::path::Path;

use crate::conf;
use crate::files::FileError;
use crate::instance::Instance;

const LINE: &[u8] = b"include = 'matriarch.conf'";
/// What earlier versions wrote.
const LINE_BEFORE: &[u8] = b"include_if_exists = 'matriarch.conf'";

/// Makes `postgresql.conf` include our file, and that file exist; returns whether either was changed.
pub fn ensure(instance: &Instance) -> Result<bool, FileError> {
    ensure_in(instance, &instance.data_dir)
}

/// As [`ensure`], in a directory that is not in its place yet.
pub(crate) fn ensure_in(instance: &Instance, dir: &Path) -> Result<bool, FileError> {
    let path = dir.join("postgresql.conf");
    let text = fs::read(&path).map_err(|error| FileError::new("read", &path, error))?;
    // PostgreSQL does not start without it, nor do its tools that read the settings.
    let made = !dir.join(conf::FILE).exists();
    if made {
        instance.write_in(dir, conf::FILE, conf::HEAD.as_bytes())?;
    }
    let Some(text) = with_line(&text) else { return Ok(made) };
    instance.write_in(dir, "postgresql.conf", &text)
}

/// `postgresql.conf` with our line in it; `None` when it has it.
fn with_line(text: &[u8]) -> Option<Vec<u8>> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    if lines.iter().any(|line| line.trim_ascii() == LINE) {
        return None;
    }
    if let Some(line) = lines.iter_mut().find(|line| line.trim_ascii() == LINE_BEFORE) {
        *line = LINE;
        return Some(lines.join(&b'\n'));
    }
    let mut text = text.to_vec();
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(b"\n# Matriarch's settings; keep this line last.\n");
    text.extend_from_slice(LINE);
    text.push(b'\n');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_added_once() {
        let added = with_line(b"port = 1").unwrap();
        let expected = "port = 1\n\n# Matriarch's settings; keep this line last.\ninclude = 'matriarch.conf'\n";
        assert_eq!(String::from_utf8(added.clone()).unwrap(), expected);
        assert_eq!(with_line(&added), None);
    }

    #[test]
    fn the_line_of_earlier_versions_is_replaced() {
        let before = b"port = 1\n# keep\n  include_if_exists = 'matriarch.conf' \nwork_mem = '1MB'\n";
        let after = with_line(before).unwrap();
        assert_eq!(
            String::from_utf8(after).unwrap(),
            "port = 1\n# keep\ninclude = 'matriarch.conf'\nwork_mem = '1MB'\n"
        );
    }
}
