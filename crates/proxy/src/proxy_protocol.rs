//! The PROXY protocol header (versions 1 and 2): how a trusted upstream tells whom it speaks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V1_MAX: usize = 107;
/// Addresses take 36 bytes at most; the rest is for extensions, which are skipped.
const V2_BODY_MAX: usize = 2048;

/// The most that one header may occupy in memory.
pub(crate) const HEADER_MAX: usize = 16 + V2_BODY_MAX;

/// Source and destination of the original connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// The client's first bytes are no PROXY header.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a PROXY protocol header, because this port only serves a trusted upstream proxy: {0}")]
pub(crate) struct HeaderError(&'static str);

/// A complete header: its length in bytes, and the origin unless the upstream does not say (health checks).
pub(crate) type Header = (usize, Option<Origin>);

/// Reads a header from the front of `bytes`; `None` while it is incomplete.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let n = bytes.len().min(V2_SIGNATURE.len());
    if bytes[..n] == V2_SIGNATURE[..n] {
        return if bytes.len() < 16 { Ok(None) } else { version_2(bytes) };
    }
    let n = bytes.len().min(6);
    if bytes[..n] == b"PROXY "[..n] {
        return version_1(bytes);
    }
    Err(HeaderError("the connection begins with something else"))
}

fn version_1(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let window = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = window.windows(2).position(|w| w == b"\r\n") else {
        return if bytes.len() < V1_MAX { Ok(None) } else { Err(HeaderError("version 1 line without an end")) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| HeaderError("version 1 line is not text"))?;
    let mut words = line.split(' ').skip(1);
    let origin = match words.next() {
        Some("UNKNOWN") => None,
        Some("TCP4" | "TCP6") => Some(version_1_origin(words).ok_or(HeaderError("version 1 line has bad addresses"))?),
        _ => return Err(HeaderError("version 1 line has an unknown family")),
    };
    Ok(Some((end + 2, origin)))
}

fn version_1_origin<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Origin> {
    let source: IpAddr = words.next()?.parse().ok()?;
    let destination: IpAddr = words.next()?.parse().ok()?;
    let source = SocketAddr::new(source, words.next()?.parse().ok()?);
    let destination = SocketAddr::new(destination, words.next()?.parse().ok()?);
    words.next().is_none().then_some(Origin { source, destination })
}

fn version_2(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let (command, family) = (bytes[12], bytes[13]);
    let body = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if command >> 4 != 2 || command & 0xf > 1 {
        return Err(HeaderError("unknown version 2 command"));
    }
    if body > V2_BODY_MAX {
        return Err(HeaderError("version 2 header is too long"));
    }
    let Some(body) = bytes.get(16..16 + body) else { return Ok(None) };
    let length = 16 + body.len();
    let origin = match (command & 0xf, family) {
        (1, 0x11) => Some(version_2_origin::<4>(body).ok_or(HeaderError("version 2 header is too short"))?),
        (1, 0x21) => Some(version_2_origin::<16>(body).ok_or(HeaderError("version 2 header is too short"))?),
        _ => None,
    };
    Ok(Some((length, origin)))
}

fn version_2_origin<const N: usize>(body: &[u8]) -> Option<Origin>
where
    [u8; N]: IntoIp,
{
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let &[a, b, c, d] = rest.first_chunk::<4>()?;
    Some(Origin {
        source: SocketAddr::new(source.into_ip(), u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(destination.into_ip(), u16::from_be_bytes([c, d])),
    })
}

trait IntoIp: Copy {
    fn into_ip(self) -> IpAddr;
}

impl IntoIp for [u8; 4] {
    fn into_ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
}

impl IntoIp for [u8; 16] {
    fn into_ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
}

/// The version 2 header for `origin`.
pub(crate) fn encode(origin: Origin) -> Vec<u8> {
    let mut out = V2_SIGNATURE.to_vec();
    out.push(0x21);
    match (origin.source.ip(), origin.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend_from_slice(&[0x11, 0, 12]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
        (source, destination) => {
            out.extend_from_slice(&[0x21, 0, 36]);
            out.extend_from_slice(&as_v6(source).octets());
            out.extend_from_slice(&as_v6(destination).octets());
        }
    }
    out.extend_from_slice(&origin.source.port().to_be_bytes());
    out.extend_from_slice(&origin.destination.port().to_be_bytes());
    out
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn version_1_lines() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 5432\r\nrest";
        let origin =
            Origin { source: "192.0.2.1:4000".parse().unwrap(), destination: "192.0.2.2:5432".parse().unwrap() };
        assert_eq!(parse(line), Ok(Some((line.len() - 4, Some(origin)))));
        for n in 0..line.len() - 4 {
            assert_eq!(parse(&line[..n]), Ok(None), "{n}");
        }
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Ok(Some((15, None))));
        assert!(parse(b"PROXY TCP4 a b c d\r\n").is_err());
        assert!(parse(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat()).is_err());
        assert!(parse(b"\0\0\0\x08").is_err());
    }

    proptest! {
        #[test]
        fn version_2_round_trip(source: (IpAddr, u16), destination: (IpAddr, u16)) {
            let origin = Origin { source: source.into(), destination: destination.into() };
            let bytes = encode(origin);
            for n in 0..bytes.len() { prop_assert_eq!(parse(&bytes[..n]), Ok(None)); }
            let (length, seen) = parse(&bytes).unwrap().unwrap();
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!(seen.unwrap().source.ip().to_canonical(), source.0.to_canonical());
            prop_assert_eq!(seen.unwrap().destination.port(), destination.1);
        }

        #[test]
        fn random_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&tail);
            let _ = parse(&[&V2_SIGNATURE[..], &tail].concat());
            let _ = parse(&[b"PROXY ".as_slice(), &tail].concat());
        }
    }
}
