//! What a server sends, frame by frame. Nothing of it is trusted: lengths are bounded before memory is taken for them.

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::Header;

/// The largest frame that is taken, in bytes. A walsender sends at most 16 pages of WAL at once, and a page has 64 KiB
/// at most; every other answer is smaller.
pub(super) const LARGEST: usize = 2 << 20;
/// No answer to a replication command has more columns.
const MOST_COLUMNS: usize = 32;
/// What is kept of one text of an error or a notice, in bytes.
const LONGEST_TEXT: usize = 4096;

/// Bytes that no PostgreSQL sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) String);

fn malformed<T>(reason: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(reason.into()))
}

/// One frame of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// What it wants next to let us in.
    Authentication(Authentication),
    /// A setting that it reports.
    Parameter { name: String, value: String },
    /// The key to cancel with, which is of no use here.
    CancelKey,
    /// It refuses or gives up.
    Error(Box<ServerSaid>),
    /// It has something to say.
    Notice(Box<ServerSaid>),
    /// Columns of the rows to come.
    Columns,
    /// One row, each value as text.
    Row(Vec<Option<Bytes>>),
    /// A command is done.
    Complete(String),
    /// It waits for a command.
    Ready,
    /// Copying begins in both directions.
    CopyBoth,
    /// Data of the copy.
    Copy(Bytes),
    /// It has ended its side of the copy.
    CopyDone,
}

impl Message {
    /// What it is, for errors.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Message::Authentication(_) => "a step of authentication",
            Message::Parameter { .. } => "a setting",
            Message::CancelKey => "a key",
            Message::Error(_) => "an error",
            Message::Notice(_) => "a notice",
            Message::Columns => "a description of columns",
            Message::Row(_) => "a row",
            Message::Complete(_) => "the end of a command",
            Message::Ready => "the wish for a command",
            Message::CopyBoth => "the start of a copy",
            Message::Copy(_) => "data of a copy",
            Message::CopyDone => "the end of a copy",
        }
    }
}

/// A step of the authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Authentication {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    /// The mechanisms that the server offers.
    Sasl(Vec<String>),
    SaslContinue(Bytes),
    SaslFinal(Bytes),
    /// By its number.
    Other(u32),
}

/// An error or a notice, as PostgreSQL worded it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSaid {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, …, never translated.
    pub severity: String,
    /// The five characters of the SQLSTATE.
    pub code: String,
    /// Its message, in the server's language.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The function of the server's source that said it.
    pub routine: String,
}

impl std::fmt::Display for ServerSaid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        for part in [&self.detail, &self.hint].into_iter().flatten() {
            write!(f, "; {part}")?;
        }
        if self.code.is_empty() { Ok(()) } else { write!(f, " (SQLSTATE {})", self.code) }
    }
}

/// Takes the first frame out of `input`, if it is there as a whole.
pub(super) fn take(input: &mut BytesMut) -> Result<Option<Message>, Malformed> {
    let header = Header::parse(input).map_err(|error| Malformed(error.to_string()))?;
    let Some(header) = header else { return Ok(None) };
    let length = usize::try_from(header.len()).map_err(|error| Malformed(error.to_string()))?;
    if length > LARGEST {
        return malformed(format!("a frame '{}' of {length} bytes", header.tag().escape_ascii()));
    }
    if input.len() <= length {
        return Ok(None);
    }
    let mut body = input.split_to(length + 1).freeze();
    body.advance(5);
    parse(header.tag(), Body(body)).map(Some)
}

fn parse(tag: u8, mut body: Body) -> Result<Message, Malformed> {
    let message = match tag {
        b'R' => return Ok(Message::Authentication(authentication(body)?)),
        b'S' => Message::Parameter { name: body.text()?, value: body.text()? },
        // Its length depends on the version.
        b'K' => return Ok(Message::CancelKey),
        b'E' => return Ok(Message::Error(said(body)?)),
        b'N' => return Ok(Message::Notice(said(body)?)),
        // We know what we asked for.
        b'T' => return Ok(Message::Columns),
        b'D' => Message::Row(body.row()?),
        b'C' => Message::Complete(body.text()?),
        b'Z' => {
            body.take(1)?;
            Message::Ready
        }
        b'W' => return Ok(Message::CopyBoth),
        b'd' => return Ok(Message::Copy(body.0)),
        b'c' => Message::CopyDone,
        other => return malformed(format!("an unknown kind of frame, '{}'", other.escape_ascii())),
    };
    if body.0.is_empty() {
        Ok(message)
    } else {
        malformed(format!("{} bytes too many in a frame '{}'", body.0.len(), tag.escape_ascii()))
    }
}

fn authentication(mut body: Body) -> Result<Authentication, Malformed> {
    Ok(match body.u32()? {
        0 => Authentication::Ok,
        3 => Authentication::Cleartext,
        5 => {
            let salt = body.take(4)?;
            Authentication::Md5([salt[0], salt[1], salt[2], salt[3]])
        }
        10 => {
            let mut mechanisms = Vec::new();
            while body.0.first().is_some_and(|byte| *byte != 0) && mechanisms.len() < 16 {
                mechanisms.push(body.text()?);
            }
            Authentication::Sasl(mechanisms)
        }
        11 => Authentication::SaslContinue(body.0),
        12 => Authentication::SaslFinal(body.0),
        other => Authentication::Other(other),
    })
}

fn said(mut body: Body) -> Result<Box<ServerSaid>, Malformed> {
    let mut said = Box::<ServerSaid>::default();
    loop {
        match body.take(1)?[0] {
            0 => return Ok(said),
            b'V' => said.severity = body.text()?,
            // In the server's language, and the only one of old servers.
            b'S' if said.severity.is_empty() => said.severity = body.text()?,
            b'C' => said.code = body.text()?,
            b'M' => said.message = body.text()?,
            b'D' => said.detail = Some(body.text()?),
            b'H' => said.hint = Some(body.text()?),
            b'R' => said.routine = body.text()?,
            _ => drop(body.text()?),
        }
    }
}

/// What is left of a frame.
pub(super) struct Body(pub(super) Bytes);

impl Body {
    pub(super) fn take(&mut self, count: usize) -> Result<Bytes, Malformed> {
        if self.0.len() < count {
            return malformed(format!("a frame ends {} bytes too early", count - self.0.len()));
        }
        Ok(self.0.split_to(count))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(self.take(4)?.get_u32())
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(self.take(8)?.get_u64())
    }

    /// A text that ends with a zero byte; what is not UTF-8 is replaced, and what is very long is cut.
    fn text(&mut self) -> Result<String, Malformed> {
        let Some(end) = self.0.iter().position(|byte| *byte == 0) else { return malformed("a text without an end") };
        let bytes = self.0.split_to(end);
        self.0.advance(1);
        Ok(String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_TEXT)]).into_owned())
    }

    fn row(&mut self) -> Result<Vec<Option<Bytes>>, Malformed> {
        let columns = usize::from(self.take(2)?.get_u16());
        if columns > MOST_COLUMNS {
            return malformed(format!("a row of {columns} columns"));
        }
        (0..columns).map(|_| self.value()).collect()
    }

    fn value(&mut self) -> Result<Option<Bytes>, Malformed> {
        match self.u32()? {
            u32::MAX => Ok(None),
            length => self.take(usize::try_from(length).unwrap_or(usize::MAX)).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    fn one(tag: u8, body: &[u8]) -> Result<Message, Malformed> {
        take(&mut BytesMut::from(&frame(tag, body)[..])).map(Option::unwrap)
    }

    #[test]
    fn reads_what_servers_send() {
        let said = "SFEHLER\0VFATAL\0C57P03\0Mno\0Dbecause\0Fx.c\0L1\0Rmain\0\0";
        let Message::Error(error) = one(b'E', said.as_bytes()).unwrap() else { panic!() };
        assert_eq!((error.severity.as_str(), error.code.as_str(), error.routine.as_str()), ("FATAL", "57P03", "main"));
        assert_eq!(error.to_string(), "no; because (SQLSTATE 57P03)");
        let row = one(b'D', b"\0\x02\0\0\0\x03abc\xff\xff\xff\xff").unwrap();
        assert_eq!(row, Message::Row(vec![Some(Bytes::from_static(b"abc")), None]));
        let sasl = one(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0").unwrap();
        let offered = vec!["SCRAM-SHA-256-PLUS".to_owned(), "SCRAM-SHA-256".to_owned()];
        assert_eq!(sasl, Message::Authentication(Authentication::Sasl(offered)));
        assert_eq!(one(b'W', b"\0\0\0").unwrap(), Message::CopyBoth);
        assert_eq!(one(b'K', &[7; 40]).unwrap(), Message::CancelKey, "keys of version 3.2 are longer");
    }

    #[test]
    fn refuses_what_no_server_sends() {
        for (tag, body) in [
            (b'Z', &b""[..]),
            (b'c', b"x"),
            (b'D', b"\xff\xff"),
            (b'D', b"\0\x01\0\0\xff\xff"),
            (b'D', b"\0\x01\xff\xff\xff\xfe"),
            (b'C', b"COPY"),
            (b'E', b"Mno end"),
            (b'R', b"\0\0"),
            (b'R', b"\0\0\0\x05ab"),
            (b'?', b""),
        ] {
            assert!(one(tag, body).is_err(), "{} {body:?}", tag as char);
        }
        for length in [0_u32, 3, 0x8000_0000, LARGEST as u32 + 1, u32::MAX] {
            let bytes = [&b"d"[..], &length.to_be_bytes()].concat();
            assert!(take(&mut BytesMut::from(&bytes[..])).is_err(), "a length of {length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_an_error_or_not_enough(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take(&mut input) {}
            prop_assert!(input.len() <= bytes.len());
        }

        #[test]
        fn any_body_of_any_kind_is_read_or_refused(
            tag in proptest::sample::select(b"RSKENTDCZWdcAvIG1".to_vec()),
            body in proptest::collection::vec(prop_oneof![Just(0_u8), Just(255), any::<u8>()], 0..200),
        ) {
            let _ = one(tag, &body);
        }

        #[test]
        fn frames_may_come_in_pieces(text in "[a-zA-Z ]{0,40}", cut in 0_usize..50) {
            let bytes = frame(b'C', format!("{text}\0").as_bytes());
            let cut = cut.min(bytes.len() - 1);
            let mut input = BytesMut::from(&bytes[..cut]);
            prop_assert_eq!(take(&mut input).unwrap(), None);
            input.extend_from_slice(&bytes[cut..]);
            prop_assert_eq!(take(&mut input).unwrap(), Some(Message::Complete(text)));
            prop_assert!(input.is_empty());
        }
    }
}
