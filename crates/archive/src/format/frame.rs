//! One frame: up to 1 MiB of content, by itself readable with the object's header.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use aws_lc_rs::digest;

use super::FormatError;

/// The most content that one frame holds, in bytes.
pub const FRAME: usize = 1 << 20;
/// Bytes before what a frame stores.
pub const HEAD: usize = 48;
/// What the seal adds.
const TAG: usize = 16;
const LAST: u8 = 1;
const SEALED: u8 = 2;

/// How content is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// LZ4 blocks.
    Lz4,
    /// Zstandard of a level (1 to 19; 3 is usual).
    Zstd(i32),
}

/// The head of a frame: its first 16 bytes are what the digest and the seal bind to the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub stored: usize,
    pub plain: usize,
    codec: u8,
    flags: u8,
    pub index: u32,
    digest: [u8; 32],
}

impl Head {
    pub fn is_last(&self) -> bool {
        self.flags & LAST != 0
    }

    fn bound(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..4].copy_from_slice(&(self.stored as u32).to_le_bytes());
        out[4..8].copy_from_slice(&(self.plain as u32).to_le_bytes());
        out[8] = self.codec;
        out[9] = self.flags;
        out[12..].copy_from_slice(&self.index.to_le_bytes());
        out
    }

    pub fn parse(bytes: &[u8; HEAD]) -> Result<Head, FormatError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[16..]);
        let head = Head {
            stored: word(0) as usize,
            plain: word(4) as usize,
            codec: bytes[8],
            flags: bytes[9],
            index: word(12),
            digest,
        };
        let fits = head.plain <= FRAME && head.stored <= FRAME + TAG && bytes[10..12] == [0, 0];
        if !fits || head.codec > 2 || head.flags & !(LAST | SEALED) != 0 {
            return Err(FormatError::Damaged(format!("the head of frame {} makes no sense", head.index)));
        }
        Ok(head)
    }
}

/// Compressors with their working memory, kept from frame to frame.
pub(super) struct Packer {
    codec: Codec,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    buffer: Vec<u8>,
}

impl Packer {
    pub fn new(codec: Codec) -> Result<Packer, FormatError> {
        let unwritable = |error: std::io::Error| FormatError::Unwritable(error.to_string());
        let zstd = match codec {
            Codec::Zstd(level) => Some(zstd::bulk::Compressor::new(level).map_err(unwritable)?),
            Codec::None | Codec::Lz4 => None,
        };
        Ok(Packer { codec, zstd, buffer: Vec::new() })
    }

    /// Appends the frame of `plain` to `out`.
    pub fn pack(
        &mut self,
        key: Option<&LessSafeKey>,
        header: &[u8; 32],
        index: u32,
        last: bool,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        if plain.len() > FRAME {
            return Err(FormatError::Unwritable(format!("{} bytes do not fit into a frame", plain.len())));
        }
        let start = out.len();
        out.resize(start + HEAD, 0);
        let codec = self.compress(plain)?;
        out.extend_from_slice(if codec == 0 { plain } else { &self.buffer });
        let stored = out.len() - start - HEAD + if key.is_some() { TAG } else { 0 };
        let flags = if last { LAST } else { 0 } | if key.is_some() { SEALED } else { 0 };
        let mut head = Head { stored, plain: plain.len(), codec, flags, index, digest: [0; 32] };
        let bound = head.bound();
        if let Some(key) = key {
            let tag = key
                .seal_in_place_separate_tag(
                    nonce(index),
                    Aad::from(associated(header, &bound)),
                    &mut out[start + HEAD..],
                )
                .map_err(|_| FormatError::Unwritable("AES-GCM failed".into()))?;
            out.extend_from_slice(tag.as_ref());
        }
        head.digest = digest(header, &bound, &out[start + HEAD..]);
        out[start..start + 16].copy_from_slice(&bound);
        out[start + 16..start + HEAD].copy_from_slice(&head.digest);
        Ok(())
    }

    /// Leaves the compressed content in the buffer; 0 when it is better stored as it is.
    fn compress(&mut self, plain: &[u8]) -> Result<u8, FormatError> {
        let (code, written) = match (self.codec, &mut self.zstd) {
            (Codec::Lz4, _) => {
                self.buffer.resize(lz4_flex::block::get_maximum_output_size(plain.len()), 0);
                let written = lz4_flex::block::compress_into(plain, &mut self.buffer);
                (1, written.map_err(|error| FormatError::Unwritable(error.to_string()))?)
            }
            (Codec::Zstd(_), Some(zstd)) => {
                self.buffer.clear();
                self.buffer.reserve(zstd::zstd_safe::compress_bound(plain.len()));
                let written = zstd.compress_to_buffer(plain, &mut self.buffer);
                (2, written.map_err(|error| FormatError::Unwritable(error.to_string()))?)
            }
            _ => return Ok(0),
        };
        self.buffer.truncate(written);
        Ok(if written < plain.len() { code } else { 0 })
    }
}

/// Decompressors with their working memory.
pub(super) struct Unpacker {
    zstd: zstd::bulk::Decompressor<'static>,
    sealed: Vec<u8>,
}

impl Unpacker {
    pub fn new() -> Result<Unpacker, FormatError> {
        let zstd = zstd::bulk::Decompressor::new().map_err(|error| FormatError::Unwritable(error.to_string()))?;
        Ok(Unpacker { zstd, sealed: Vec::new() })
    }

    /// Appends the content of a frame to `out`.
    pub fn unpack(
        &mut self,
        key: Option<&LessSafeKey>,
        header: &[u8; 32],
        head: &Head,
        stored: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        let damaged = |why: &str| FormatError::Damaged(format!("frame {} {why}", head.index));
        let bound = head.bound();
        if digest(header, &bound, stored) != head.digest {
            return Err(damaged("does not have its digest: it is damaged, or belongs elsewhere"));
        }
        let packed = match (key, head.flags & SEALED != 0) {
            (None, false) => stored,
            (Some(key), true) => {
                self.sealed.clear();
                self.sealed.extend_from_slice(stored);
                key.open_in_place(nonce(head.index), Aad::from(associated(header, &bound)), &mut self.sealed)
                    .map_err(|_| damaged("was not sealed with the key of this object"))?
            }
            (Some(_), false) => return Err(damaged("is not sealed, and the object says that all are")),
            (None, true) => return Err(damaged("is sealed, and the object has no key")),
        };
        let start = out.len();
        match head.codec {
            0 => out.extend_from_slice(packed),
            1 => {
                out.resize(start + head.plain, 0);
                let written = lz4_flex::block::decompress_into(packed, &mut out[start..]);
                let written = written.map_err(|_| damaged("cannot be decompressed"))?;
                out.truncate(start + written);
            }
            _ => {
                let plain = self.zstd.decompress(packed, head.plain).map_err(|_| damaged("cannot be decompressed"))?;
                out.extend_from_slice(&plain);
            }
        }
        if out.len() - start != head.plain {
            return Err(damaged("holds less or more than it says"));
        }
        Ok(())
    }
}

fn digest(header: &[u8; 32], bound: &[u8; 16], stored: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(header);
    context.update(bound);
    context.update(stored);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn associated(header: &[u8; 32], bound: &[u8; 16]) -> [u8; 48] {
    let mut out = [0; 48];
    out[..32].copy_from_slice(header);
    out[32..].copy_from_slice(bound);
    out
}

/// Every object has a key of its own, so the index never repeats under one key.
fn nonce(index: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[8..].copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
