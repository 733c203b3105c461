//! The manifest of what was copied, and its writing, which makes a backup of it.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::BackupError;
use super::copy::Copied;
use super::increment::{self, Basis};
use super::manifest::{Line, Manifest, Summary};
use super::scan::{Found, Scan};
use super::session::{Server, Started, Stopped};
use crate::archive::Archive;
use crate::format::{self, Content, FRAME, FormatError, Header, Kind, Writer};

/// Everything of a backup but its files.
pub struct Taken<'a> {
    pub name: &'a str,
    pub server: Server,
    pub started: Started,
    pub stopped: Stopped,
    pub control: Vec<u8>,
    pub basis: Option<Basis>,
    pub fallback: Option<String>,
}

impl Taken<'_> {
    /// The manifest, with the files and where their content lies.
    pub fn manifest(self, scan: Scan, copied: Copied) -> Manifest {
        let Taken { name, server, started, stopped, control, basis, fallback } = self;
        let (needs, earlier) = increment::frames(basis.as_ref().map(|basis| &basis.parent), copied.taken);
        let increment = basis.map(|basis| increment::described(&basis, needs, &earlier));
        let vanished: BTreeSet<u32> = copied.vanished.iter().copied().collect();
        let mut lines: Vec<Line> =
            scan.folders.into_iter().map(|folder| Line::Folder(folder.path, folder.mode)).collect();
        let sizes = sizes(&scan.files, earlier.iter().chain(&copied.frames));
        for (number, file) in scan.files.into_iter().enumerate() {
            // Frames name files by their place, so one that vanished keeps its line; nothing of it is restored.
            let mode = if vanished.contains(&(number as u32)) { 0 } else { file.mode };
            lines.push(Line::File(file.path, sizes[number], mode));
        }
        lines.extend(earlier);
        lines.extend(copied.frames);
        let summary = Summary {
            version: 1,
            backup: name.to_owned(),
            system_identifier: server.system_identifier.to_string(),
            major: server.version / 10_000,
            timeline: stopped.timeline,
            start_lsn: started.lsn,
            stop_lsn: stopped.lsn,
            start_time: started.time,
            stop_time: stopped.time,
            from_standby: server.is_standby,
            data_checksums: server.data_checksums,
            size: sizes.iter().sum(),
            stored: copied.stored,
            packs: copied.packs,
            backup_label: stopped.label,
            control: STANDARD.encode(control),
            tablespaces: server.tablespaces,
            damaged: copied.damaged,
            increment,
            fallback,
        };
        Manifest { summary, lines }
    }
}

/// How long each file is: as far as it was read, since it may have been truncated.
fn sizes<'a>(files: &[Found], frames: impl Iterator<Item = &'a Line>) -> Vec<u64> {
    let mut sizes: Vec<u64> = vec![0; files.len()];
    for line in frames {
        if let Line::Frame(.., parts) | Line::Earlier(.., parts) = line {
            for (file, offset, length) in parts {
                // What belongs nowhere has no file.
                if let Some(size) = sizes.get_mut(*file as usize) {
                    *size = (offset + length).max(*size);
                }
            }
        }
    }
    sizes
}

/// Writes the manifest. Its first frame holds the summary alone, so that a list of backups need not read the rest.
pub async fn commit(archive: &Archive, manifest: &Manifest) -> Result<(), BackupError> {
    let name = archive.place().manifest(&manifest.summary.backup);
    let (text, first) = manifest.to_text().map_err(|why| archive.error(&name, FormatError::Unwritable(why)))?;
    let seal = || -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        let header = Header::new(Kind::Manifest, &name, Some(Content::of(&text)));
        let header = Header { backup: Some(manifest.summary.outline()), ..header };
        let mut writer = Writer::begin(archive.style(), header, &mut out)?;
        for chunk in text[..first].chunks(FRAME).chain(text[first..].chunks(FRAME)) {
            writer.frame(chunk, false, &mut out)?;
        }
        writer.frame(&[], true, &mut out)?;
        Ok(out)
    };
    let sealed = seal().map_err(|error| archive.error(&name, error))?;
    archive.repository().put_new(&name, Bytes::from(sealed), format::identity_of).await?;
    Ok(())
}
