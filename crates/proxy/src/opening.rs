//! The client's first packets, as bytes: pure parsing, no sockets.

/// PostgreSQL's own limit for a startup packet, length field included.
const STARTUP_MAX: usize = 10_000;
const PROTOCOL_3: u16 = 3;
const CANCEL_CODE: u32 = 80_877_102;
const SSL_CODE: u32 = 80_877_103;
const GSSENC_CODE: u32 = 80_877_104;

/// The most that one opening packet may occupy in memory.
pub(crate) const OPENING_MAX: usize = STARTUP_MAX;

/// One packet a client may open with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// StartupMessage of protocol 3.x (a replication start is one too).
    Startup,
    /// SSLRequest.
    Ssl,
    /// A TLS ClientHello without SSLRequest (`sslnegotiation=direct`).
    DirectTls,
    /// GSSENCRequest.
    GssEnc,
    /// CancelRequest with its opaque key: process id and secret, as BackendKeyData had them.
    Cancel(Box<[u8]>),
}

/// What is wrong with a client's first bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpeningError {
    /// An HTTP client; it is answered in HTTP.
    #[error("this is a PostgreSQL port, not an HTTP port; the REST API listens elsewhere")]
    Http,
    /// The first four bytes are no length a startup packet can have.
    #[error("invalid length of startup packet: {0} bytes; this is a PostgreSQL port")]
    Length(u32),
    /// A protocol that PostgreSQL gave up long ago, or no PostgreSQL at all.
    #[error("unsupported frontend protocol {0}.{1}: this port speaks PostgreSQL protocol 3")]
    Protocol(u16, u16),
    /// A request whose length does not fit its code.
    #[error("malformed {0} request: wrong length {1}")]
    Malformed(&'static str, usize),
}

/// Reads one opening packet from the front of `bytes`. Returns it with its length in bytes, or `None`
/// while it is incomplete. A TLS ClientHello has length 0: its bytes belong to the server.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Opening, usize)>, OpeningError> {
    // Type "handshake" and major version 3: as a length it would be over 368 million.
    if bytes.len() >= 2 && bytes[..2] == [0x16, 0x03] {
        return Ok(Some((Opening::DirectTls, 0)));
    }
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    if is_http_method(length) {
        return Err(OpeningError::Http);
    }
    let length = u32::from_be_bytes(*length);
    let total = length as usize;
    if !(8..=STARTUP_MAX).contains(&total) {
        return Err(OpeningError::Length(length));
    }
    let Some((code, _)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let code = u32::from_be_bytes(*code);
    let opening = match code {
        SSL_CODE | GSSENC_CODE if total != 8 => {
            return Err(OpeningError::Malformed(if code == SSL_CODE { "SSL" } else { "GSS encryption" }, total));
        }
        SSL_CODE => Opening::Ssl,
        GSSENC_CODE => Opening::GssEnc,
        CANCEL_CODE if !(16..=268).contains(&total) => return Err(OpeningError::Malformed("cancel", total)),
        CANCEL_CODE => Opening::Cancel(bytes.get(8..total).unwrap_or_default().into()),
        _ if (code >> 16) as u16 == PROTOCOL_3 => Opening::Startup,
        _ => return Err(OpeningError::Protocol((code >> 16) as u16, code as u16)),
    };
    Ok((bytes.len() >= total).then_some((opening, total)))
}

/// The SSLRequest packet.
pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The CancelRequest packet for an opaque key.
pub(crate) fn cancel_request(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + key.len());
    out.extend_from_slice(&(8 + key.len() as u32).to_be_bytes());
    out.extend_from_slice(&CANCEL_CODE.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// A StartupMessage that finds out whether a server takes sessions. With passwords it ends at the server's
/// request for one, which the server does not log.
pub(crate) fn probe() -> Vec<u8> {
    let parameters = b"user\0postgres\0database\0postgres\0application_name\0matriarch-proxy\0\0";
    let mut out = (8 + parameters.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(&(u32::from(PROTOCOL_3) << 16).to_be_bytes());
    out.extend_from_slice(parameters);
    out
}

fn is_http_method(first: &[u8; 4]) -> bool {
    [b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC"].contains(&first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        [&(8 + body.len() as u32).to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    }

    #[test]
    fn knows_every_opening() {
        assert_eq!(parse(&SSL_REQUEST), Ok(Some((Opening::Ssl, 8))));
        assert_eq!(parse(&packet(GSSENC_CODE, b"")), Ok(Some((Opening::GssEnc, 8))));
        let startup = packet(0x0003_0002, b"user\0u\0replication\0true\0\0");
        assert_eq!(parse(&startup), Ok(Some((Opening::Startup, startup.len()))));
        assert_eq!(parse(&[&startup[..], b"more"].concat()), Ok(Some((Opening::Startup, startup.len()))));
        for secret in [4, 32, 256] {
            let key = vec![7; 4 + secret];
            let request = cancel_request(&key);
            assert_eq!(parse(&request), Ok(Some((Opening::Cancel(key.into()), request.len()))));
        }
        assert_eq!(parse(&probe()), Ok(Some((Opening::Startup, probe().len()))));
        assert_eq!(parse(&[0x16, 3, 1, 2]), Ok(Some((Opening::DirectTls, 0))));
    }

    #[test]
    fn waits_for_the_rest() {
        let startup = packet(0x0003_0000, b"user\0u\0\0");
        for n in 0..startup.len() {
            assert_eq!(parse(&startup[..n]), Ok(None), "{n}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Err(OpeningError::Http));
        assert_eq!(parse(&[0xff; 8]), Err(OpeningError::Length(u32::MAX)));
        assert_eq!(parse(&[0, 0, 0, 4]), Err(OpeningError::Length(4)));
        assert_eq!(parse(&10_001u32.to_be_bytes()), Err(OpeningError::Length(10_001)));
        assert_eq!(parse(&packet(0x0002_0000, b"")), Err(OpeningError::Protocol(2, 0)));
        assert_eq!(parse(&packet(SSL_CODE, b"x")), Err(OpeningError::Malformed("SSL", 9)));
        assert_eq!(parse(&packet(CANCEL_CODE, b"1234567")), Err(OpeningError::Malformed("cancel", 15)));
        assert_eq!(parse(&packet(CANCEL_CODE, &[0; 261])), Err(OpeningError::Malformed("cancel", 269)));
    }

    proptest! {
        #[test]
        fn never_claims_more_than_it_was_given(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some((_, length))) = parse(&bytes) { prop_assert!(length <= bytes.len()); }
        }

        #[test]
        fn an_answer_never_changes_when_more_arrives(length in 0u32..600, code in prop_oneof![Just(SSL_CODE), Just(CANCEL_CODE), Just(GSSENC_CODE), Just(196_608u32), any::<u32>()], body in proptest::collection::vec(any::<u8>(), 0..700)) {
            let bytes = [&length.to_be_bytes()[..], &code.to_be_bytes(), &body].concat();
            let mut decided = None;
            for n in 0..=bytes.len() {
                let now = parse(&bytes[..n]);
                if let Some(before) = &decided { prop_assert_eq!(before, &now); }
                else if now != Ok(None) { decided = Some(now); }
            }
        }
    }
}
