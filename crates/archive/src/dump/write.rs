//! Writing: streams become frames in packs, which go to every repository at once.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::DumpError;
use super::manifest::{Line, Manifest};
use crate::archive::Archive;
use crate::format::{self, Content, FRAME, FormatError, Header, Kind, hex, sha256};
use crate::progress::Progress;
use crate::repository::Upload;

/// A pack is closed when it has this many bytes.
const PACK: u64 = 64 << 20;
/// Bytes that are handed to an upload at a time.
const BATCH: usize = 2 << 20;
/// Parts of one pack that are on their way to a repository at a time.
const IN_FLIGHT: usize = 2;
/// Of files and folders that somebody extracts by hand.
const FILE: u32 = 0o600;
const FOLDER: u32 = 0o700;

/// A dump that grows.
pub struct Writer<'a> {
    archives: &'a [Archive],
    dump: String,
    progress: Progress,
    pack: Option<Pack>,
    folders: Vec<Line>,
    files: Vec<Line>,
    frames: Vec<Line>,
    pub packs: u32,
    pub size: u64,
    pub stored: u64,
}

/// The pack that is being filled.
struct Pack {
    number: u32,
    sealing: Sealing,
    /// Bytes of it that were handed over.
    sent: u64,
    uploads: Vec<Upload>,
}

/// What a thread works with.
struct Sealing {
    name: String,
    writer: format::Writer,
    out: Vec<u8>,
}

impl<'a> Writer<'a> {
    /// To the same incarnation in several repositories: what is sealed for one is good for all.
    pub fn new(archives: &'a [Archive], dump: &str, progress: &Progress) -> Writer<'a> {
        Writer {
            archives,
            dump: dump.to_owned(),
            progress: progress.clone(),
            pack: None,
            folders: Vec::new(),
            files: Vec::new(),
            frames: Vec::new(),
            packs: 0,
            size: 0,
            stored: 0,
        }
    }

    /// Names a folder.
    pub fn folder(&mut self, path: &str) {
        self.folders.push(Line::Folder(path.to_owned(), FOLDER));
    }

    /// Stores a file; returns its bytes. The next frame is read while one is compressed and sealed.
    pub async fn file(&mut self, path: &str, mut source: impl AsyncRead + Unpin) -> Result<u64, DumpError> {
        let number = self.files.len() as u32;
        let mut at = 0;
        let mut next = chunk(&mut source).await?;
        while !next.is_empty() {
            let length = next.len() as u64;
            let (framed, ahead) = tokio::join!(self.frame(number, at, next), chunk(&mut source));
            framed?;
            next = ahead?;
            at += length;
        }
        self.files.push(Line::File(path.to_owned(), at, FILE));
        self.size += at;
        Ok(at)
    }

    async fn frame(&mut self, file: u32, at: u64, content: Vec<u8>) -> Result<(), DumpError> {
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.begin().await?,
        };
        let length = content.len() as u64;
        let mut sealing = pack.sealing;
        let work = move || {
            let before = sealing.out.len();
            let written = sealing.writer.frame(&content, false, &mut sealing.out);
            (sealing, before, written, hex(&sha256(&content)))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let (sealing, before, written, digest) = done.map_err(|error| DumpError::Worker(error.to_string()))?;
        pack.sealing = sealing;
        let index = written.map_err(|error| self.unwritable(&pack.sealing.name, error))?;
        let (begin, stored) = (pack.sent + before as u64, (pack.sealing.out.len() - before) as u64);
        self.frames.push(Line::Frame(pack.number, index, begin, stored, digest, vec![(file, at, length)]));
        self.progress.add(length);
        let full = begin + stored >= PACK;
        if pack.sealing.out.len() >= BATCH {
            pack.send().await?;
        }
        self.pack = Some(pack);
        if full { self.close().await } else { Ok(()) }
    }

    async fn begin(&mut self) -> Result<Pack, DumpError> {
        let number = self.packs;
        self.packs += 1;
        let first = self.archive();
        let name = first.place().dump_pack(&self.dump, number);
        let mut out = Vec::new();
        let begun = format::Writer::begin(first.style(), Header::new(Kind::Pack, &name, None), &mut out);
        let writer = begun.map_err(|error| self.unwritable(&name, error))?;
        let mut uploads = Vec::new();
        for archive in self.archives {
            uploads.push(archive.repository().upload(&name, IN_FLIGHT).await?);
        }
        Ok(Pack { number, sealing: Sealing { name, writer, out }, sent: 0, uploads })
    }

    /// Ends the pack that is being filled, if one is.
    pub async fn close(&mut self) -> Result<(), DumpError> {
        let Some(mut pack) = self.pack.take() else { return Ok(()) };
        let ended = pack.sealing.writer.frame(&[], true, &mut pack.sealing.out);
        ended.map_err(|error| self.unwritable(&pack.sealing.name, error))?;
        pack.send().await?;
        self.stored += pack.sent;
        for upload in pack.uploads {
            upload.finish().await?;
        }
        Ok(())
    }

    /// All lines of the manifest. Every pack must be closed.
    pub fn lines(self) -> Vec<Line> {
        self.folders.into_iter().chain(self.files).chain(self.frames).collect()
    }

    fn archive(&self) -> &'a Archive {
        // Nobody takes a dump into no repository; `take` sees to it.
        &self.archives[0]
    }

    fn unwritable(&self, name: &str, error: FormatError) -> DumpError {
        self.archive().error(name, error).into()
    }
}

impl Pack {
    async fn send(&mut self) -> Result<(), DumpError> {
        let bytes = Bytes::from(std::mem::take(&mut self.sealing.out));
        self.sent += bytes.len() as u64;
        for upload in &mut self.uploads {
            upload.write(bytes.clone()).await?;
        }
        Ok(())
    }
}

/// A full frame, or what is left.
async fn chunk(source: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, DumpError> {
    let mut content = Vec::with_capacity(FRAME);
    // Vectors grow when they are full.
    let mut limited = source.take(FRAME as u64);
    while content.len() < FRAME && limited.read_buf(&mut content).await.map_err(DumpError::Stream)? > 0 {}
    Ok(content)
}

/// Writes the manifest: from here on it is a dump. The first frame holds the summary alone.
pub async fn commit(archive: &Archive, manifest: &Manifest) -> Result<(), DumpError> {
    let name = archive.place().dump_manifest(&manifest.summary.dump);
    let (text, first) = manifest.to_text().map_err(|why| archive.error(&name, FormatError::Unwritable(why)))?;
    let seal = || -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        let header = Header::new(Kind::Dump, &name, Some(Content::of(&text)));
        let header = Header { dump: Some(manifest.summary.outline()), ..header };
        let mut writer = format::Writer::begin(archive.style(), header, &mut out)?;
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
