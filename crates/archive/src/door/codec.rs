//! The compressions that other tools use, each known by the ending of an object's name.

use std::io::{self, Read};

use flate2::read::{DeflateDecoder, MultiGzDecoder};

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// None.
    Plain,
    /// gzip.
    Gzip,
    /// What is inside of gzip, without its header and its checksum.
    Deflate,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
    /// Snappy in frames.
    Snappy,
}

impl Codec {
    /// By an ending without its dot; none is no compression.
    ///
    /// # Errors
    /// Names what cannot be read, and the way out.
    pub fn of(ending: Option<&str>) -> Result<Codec, String> {
        match ending {
            None | Some("none") => Ok(Codec::Plain),
            Some("gz") => Ok(Codec::Gzip),
            Some("lz4") => Ok(Codec::Lz4),
            Some("zst") => Ok(Codec::Zstd),
            Some("snappy") => Ok(Codec::Snappy),
            Some(other) => Err(format!(
                "its compression '{other}' is not supported here (gz, lz4, zst, snappy and none are): restore it with the tool that made it, \
                 or take a backup with another compression"
            )),
        }
    }

    /// What the bytes were before.
    pub fn reader<'a>(self, from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Codec::Plain => Box::new(from),
            Codec::Gzip => Box::new(MultiGzDecoder::new(from)),
            Codec::Deflate => Box::new(DeflateDecoder::new(from)),
            Codec::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(from)),
            Codec::Snappy => Box::new(snap::read::FrameDecoder::new(from)),
            Codec::Zstd => Box::new(zstd::stream::read::Decoder::new(from)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        assert_eq!(Codec::of(Some("zst")), Ok(Codec::Zstd));
        assert_eq!(Codec::of(None), Ok(Codec::Plain));
        let refused = Codec::of(Some("bz2")).unwrap_err();
        assert!(refused.contains("'bz2'") && refused.contains("gz, lz4, zst"), "{refused}");
        assert_eq!(Codec::of(Some("snappy")), Ok(Codec::Snappy));
    }
}
