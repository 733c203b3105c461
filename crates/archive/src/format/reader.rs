//! Reading objects, and refusing what is not whole.

use aws_lc_rs::aead::LessSafeKey;

use super::frame::{HEAD, Head, Unpacker};
use super::header::{Content, Header, Kind};
use super::{FormatError, Identities};

/// Reads the frames of one object, in any order.
pub struct Reader {
    header: Header,
    digest: [u8; 32],
    key: Option<LessSafeKey>,
    unpacker: Unpacker,
}

impl Reader {
    /// Reads the header of an object that must be `name`; the second value is where its first frame begins.
    pub fn begin(
        object: &[u8],
        kind: Kind,
        name: &str,
        identities: &Identities,
    ) -> Result<(Reader, usize), FormatError> {
        let (header, start, digest) = Header::parse(object)?;
        header.check(kind, name)?;
        let key = header.key.as_deref().map(|wrapped| identities.open_key(wrapped)).transpose()?;
        Ok((Reader { header, digest, key, unpacker: Unpacker::new()? }, start))
    }

    /// What the object says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Appends the content of the frame at the beginning of `bytes`, which must be frame `index`, to `out`. Returns its
    /// length in the object, and whether it is the last.
    pub fn frame(&mut self, bytes: &[u8], index: u32, out: &mut Vec<u8>) -> Result<(usize, bool), FormatError> {
        let truncated = || FormatError::Truncated(format!("frame {index} is not complete"));
        let head = bytes.first_chunk::<HEAD>().ok_or_else(truncated)?;
        let head = Head::parse(head)?;
        if head.index != index {
            let why = format!("frame {} is where frame {index} must be: frames were moved", head.index);
            return Err(FormatError::Damaged(why));
        }
        let end = HEAD + head.stored;
        let stored = bytes.get(HEAD..end).ok_or_else(truncated)?;
        self.unpacker.unpack(self.key.as_ref(), &self.digest, &head, stored, out)?;
        Ok((end, head.is_last()))
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("header", &self.header).finish_non_exhaustive()
    }
}

/// The content of a whole object, which must be `name`.
pub fn open(object: &[u8], kind: Kind, name: &str, identities: &Identities) -> Result<Vec<u8>, FormatError> {
    let (mut reader, mut at) = Reader::begin(object, kind, name, identities)?;
    let mut content = Vec::new();
    let mut index = 0;
    loop {
        let (length, last) = reader.frame(&object[at..], index, &mut content)?;
        at += length;
        if last {
            break;
        }
        index += 1;
    }
    if at != object.len() {
        return Err(FormatError::Damaged(format!("{} bytes follow its last frame", object.len() - at)));
    }
    match &reader.header.content {
        Some(expected) if *expected != Content::of(&content) => {
            Err(FormatError::Damaged("its content does not have the size and digest of its header".into()))
        }
        _ => Ok(content),
    }
}

/// The header of an object, without a key. Its first 64 KiB and 44 bytes are enough.
pub fn peek(object: &[u8]) -> Result<Header, FormatError> {
    Header::parse(object).map(|(header, ..)| header)
}

/// The digest of an object's content as its header tells it, without a key: two objects with one identity hold the same.
pub fn identity_of(object: &[u8]) -> Result<String, String> {
    let (header, ..) = Header::parse(object).map_err(|error| error.to_string())?;
    header.content.map(|content| content.sha256).ok_or_else(|| "its header has no digest of its content".to_owned())
}
