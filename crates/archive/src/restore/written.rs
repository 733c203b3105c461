//! What a restore has written of tars, which say nothing beforehand of what is in them and have no digests.
//!
//! Each entry is noted with a digest once it is written, so that what was cut off goes on: what is in the file must have that digest.
//! One line for each, as they come; one that was cut off, or that is garbled, is none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::RestoreError;

/// Beside the record.
pub const WRITTEN: &str = "matriarch_restoring.tars";

/// An entry of a tar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The tar.
    pub object: String,
    /// Where it begins in the tar, and where the next one does.
    pub start: u64,
    pub end: u64,
    pub what: What,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The tar ends here.
    End,
    /// It is not written.
    Passed {
        path: String,
    },
    Folder {
        path: String,
        mode: u32,
    },
    File {
        path: String,
        mode: u32,
        size: u64,
        sha256: String,
    },
    /// It is written last: the content, in Base64.
    Kept {
        path: String,
        content: String,
        sha256: String,
    },
}

impl What {
    /// Its path; the end has none.
    pub fn path(&self) -> Option<&str> {
        match self {
            What::End => None,
            What::Passed { path } | What::Folder { path, .. } | What::File { path, .. } | What::Kept { path, .. } => {
                Some(path)
            }
        }
    }
}

/// All that is known.
#[derive(Debug)]
pub struct Written {
    path: PathBuf,
    /// By the tar, and by where the entry begins.
    known: BTreeMap<String, BTreeMap<u64, Line>>,
    file: Mutex<File>,
}

impl Written {
    /// Reads what is there, to which more is added.
    pub fn open(data: &Path) -> Result<Written, RestoreError> {
        let path = data.join(WRITTEN);
        let open = || -> io::Result<(Vec<u8>, File)> {
            let mut file = File::options().read(true).append(true).create(true).mode(0o600).open(&path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            bytes.truncate(whole);
            // What comes next begins a line.
            file.set_len(whole as u64)?;
            Ok((bytes, file))
        };
        let (bytes, file) = open().map_err(RestoreError::write(&path))?;
        let mut known: BTreeMap<String, BTreeMap<u64, Line>> = BTreeMap::new();
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        for line in lines {
            known.entry(line.object.clone()).or_default().insert(line.start, line);
        }
        Ok(Written { path, known, file: Mutex::new(file) })
    }

    /// Notes an entry that was written as a whole.
    pub fn note(&self, line: &Line) -> Result<(), RestoreError> {
        let failed = RestoreError::write(&self.path);
        let mut text = match serde_json::to_vec(line) {
            Ok(text) => text,
            Err(error) => return Err(failed(error.into())),
        };
        text.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&text).map_err(failed)
    }

    /// The entries of a tar from its first one on, as far as they follow each other.
    pub fn of(&self, object: &str) -> Vec<&Line> {
        let mut found = Vec::new();
        let Some(lines) = self.known.get(object) else { return found };
        let mut at = 0;
        while let Some(line) = lines.get(&at) {
            found.push(line);
            if line.end <= at {
                break;
            }
            at = line.end;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_each_other_is_known_and_what_is_torn_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let line = |object: &str, start, end| {
            let what = What::Folder { path: format!("base/{start}"), mode: 0o700 };
            Line { object: object.to_owned(), start, end, what }
        };
        let written = Written::open(dir.path()).unwrap();
        let end = Line { what: What::End, ..line("a", 1536, 1536) };
        for line in [line("a", 0, 512), line("b", 512, 1024), line("a", 512, 1536), end.clone()] {
            written.note(&line).unwrap();
        }
        assert!(written.of("a").is_empty(), "nothing is known that was not read again");
        drop(written);
        let torn = &serde_json::to_vec(&line("b", 0, 512)).unwrap()[..20];
        File::options().append(true).open(dir.path().join(WRITTEN)).unwrap().write_all(torn).unwrap();
        let written = Written::open(dir.path()).unwrap();
        assert_eq!(written.of("a"), [&line("a", 0, 512), &line("a", 512, 1536), &end]);
        assert!(written.of("b").is_empty() && written.of("c").is_empty(), "its first entry is not there");
        written.note(&line("b", 0, 512)).unwrap();
        drop(written);
        assert_eq!(Written::open(dir.path()).unwrap().of("b").len(), 2);
    }
}
