//! Writing objects.

use aws_lc_rs::aead::LessSafeKey;

use super::frame::{FRAME, Packer};
use super::header::{Content, Header, Kind};
use super::{Codec, FormatError, Recipients};

/// How objects are written.
#[derive(Clone, Debug)]
pub struct Style {
    /// Compression.
    pub codec: Codec,
    /// Who can read them; nobody named: they are not encrypted.
    pub recipients: Recipients,
}

/// An object that grows frame by frame.
pub struct Writer {
    packer: Packer,
    key: Option<LessSafeKey>,
    header: [u8; 32],
    next: u32,
}

impl Writer {
    /// Begins an object; its first bytes are appended to `out`. The header gets a key if there is anybody to seal it for.
    pub fn begin(style: &Style, header: Header, out: &mut Vec<u8>) -> Result<Writer, FormatError> {
        let (key, wrapped) = match style.recipients.is_empty() {
            true => (None, None),
            false => style.recipients.new_key().map(|(key, wrapped)| (Some(key), Some(wrapped)))?,
        };
        let (bytes, header) = Header { key: wrapped, ..header }.to_bytes()?;
        out.extend_from_slice(&bytes);
        Ok(Writer { packer: Packer::new(style.codec)?, key, header, next: 0 })
    }

    /// Appends the frame of at most [`FRAME`] bytes of content to `out` and returns its index. Every object ends with a
    /// `last` one.
    pub fn frame(&mut self, content: &[u8], last: bool, out: &mut Vec<u8>) -> Result<u32, FormatError> {
        let index = self.next;
        self.packer.pack(self.key.as_ref(), &self.header, index, last, content, out)?;
        self.next = index.checked_add(1).ok_or_else(|| FormatError::Unwritable("too many frames".into()))?;
        Ok(index)
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("next", &self.next).field("sealed", &self.key.is_some()).finish()
    }
}

/// A whole object.
pub fn seal(style: &Style, kind: Kind, name: &str, content: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut out = Vec::with_capacity(content.len() / 2 + 1024);
    let mut writer = Writer::begin(style, Header::new(kind, name, Some(Content::of(content))), &mut out)?;
    let count = content.len().div_ceil(FRAME).max(1);
    let mut frames = content.chunks(FRAME);
    for index in 0..count {
        writer.frame(frames.next().unwrap_or_default(), index + 1 == count, &mut out)?;
    }
    Ok(out)
}
