//! What writes that were cut off have left in a directory: files beside the name that they were to get, `NAME#1`, which no list of
//! objects shows. An object store keeps the parts of an upload to itself; there a rule of the bucket clears them away.

use std::fs;
use std::io;
use std::path::Path;

use jiff::Timestamp;

use super::{Entry, Repository, RepositoryError};

/// Whether it is such a file.
pub fn is_part(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or_default();
    file.rsplit_once('#').is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

impl Repository {
    /// The objects below `folder` as a list shows them, and what was cut off while it was written there, or is just being written.
    pub async fn list_with_parts(&self, folder: &str) -> Result<Vec<Entry>, RepositoryError> {
        let mut entries = self.list(folder).await?;
        if let Some(directory) = self.directory.clone() {
            let below = folder.to_owned();
            let found = tokio::task::spawn_blocking(move || {
                let mut parts = Vec::new();
                collect(&directory, &below, &mut parts).map(|()| parts)
            });
            let found = found.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            entries.extend(found.map_err(|error| self.failed("list", folder, error))?);
        }
        Ok(entries)
    }

    /// Removes such a file.
    pub(super) fn delete_part(&self, directory: &Path, name: &str) -> Result<(), RepositoryError> {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("delete", name, error)),
            _ => {
                // Folders go with their last file, as with that of an object.
                let folders = Path::new(name).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
                for folder in folders {
                    if fs::remove_dir(directory.join(folder)).is_err() {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    fn failed(&self, action: &'static str, name: &str, error: io::Error) -> RepositoryError {
        let (object, repository, why) = (name.to_owned(), self.name.clone(), error.to_string());
        RepositoryError::Unreachable { action, object, repository, why, source: Box::new(error) }
    }
}

fn collect(directory: &Path, below: &str, parts: &mut Vec<Entry>) -> io::Result<()> {
    let entries = match fs::read_dir(directory.join(below)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(file) = entry.file_name().into_string() else { continue };
        let name = format!("{below}/{file}");
        if entry.file_type()?.is_dir() {
            collect(directory, &name, parts)?;
        } else if is_part(&name) {
            // It may be finished just now.
            let Ok(meta) = entry.metadata() else { continue };
            let modified = meta.modified().ok().and_then(|time| Timestamp::try_from(time).ok()).unwrap_or_default();
            parts.push(Entry { name, size: meta.len(), modified });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_from_objects() {
        for part in ["a/b/000001#1", "manifest#12"] {
            assert!(is_part(part), "{part}");
        }
        for object in ["a#1/b", "a/b#", "a/b#x", "a/b", "a/b#1x"] {
            assert!(!is_part(object), "{object}");
        }
    }
}
