//! What travels inside the copy: WAL and keepalives from the server, our positions to it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use matriarch_core::Lsn;
use postgres_protocol::message::frontend;

use super::message::{Body, Malformed};

/// What one piece of the copy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// WAL from `start` on. `server_end`: how far the server's own WAL goes.
    Wal { start: Lsn, server_end: Lsn, bytes: Bytes },
    /// A sign of life, with the wish for one of ours or without.
    Keepalive { server_end: Lsn, reply_wanted: bool },
}

/// Reads one piece.
pub(super) fn parse(data: Bytes) -> Result<Copied, Malformed> {
    let mut body = Body(data);
    match body.take(1)?[0] {
        b'w' => {
            let (start, server_end, _sent_at) = (Lsn(body.u64()?), Lsn(body.u64()?), body.u64()?);
            let fits = start.0.checked_add(body.0.len() as u64).is_some();
            if !fits {
                return Err(Malformed(format!("WAL that begins at {start} and has no end")));
            }
            Ok(Copied::Wal { start, server_end, bytes: body.0 })
        }
        b'k' => {
            let (server_end, _sent_at, wish) = (Lsn(body.u64()?), body.u64()?, body.take(1)?[0]);
            if !body.0.is_empty() {
                return Err(Malformed(format!("a keepalive with {} bytes too many", body.0.len())));
            }
            Ok(Copied::Keepalive { server_end, reply_wanted: wish != 0 })
        }
        other => Err(Malformed(format!("an unknown kind of data in the copy, '{}'", other.escape_ascii()))),
    }
}

/// How far we are. [`Lsn::ZERO`] says nothing about that position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Everything before it has been taken over.
    pub write: Lsn,
    /// Everything before it is durable here: the server may forget it, and counts it as acknowledged by a synchronous
    /// standby. It moves the slot.
    pub flush: Lsn,
    /// Everything before it has been replayed here.
    pub apply: Lsn,
}

/// Appends a standby status update.
pub(super) fn put_status(output: &mut BytesMut, positions: Positions, reply_wanted: bool) -> std::io::Result<()> {
    let mut body = BytesMut::with_capacity(34);
    body.put_u8(b'r');
    for lsn in [positions.write, positions.flush, positions.apply] {
        body.put_u64(lsn.0);
    }
    body.put_i64(postgres_now());
    body.put_u8(u8::from(reply_wanted));
    frontend::CopyData::new(body.freeze())?.write(output);
    Ok(())
}

/// Seconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH: i64 = 946_684_800;

/// Microseconds since 2000.
fn postgres_now() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX).saturating_sub(EPOCH * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_wal_and_keepalives() {
        let wal = [&b"w"[..], &7_u64.to_be_bytes(), &9_u64.to_be_bytes(), &[0; 8], b"ab"].concat();
        let expected = Copied::Wal { start: Lsn(7), server_end: Lsn(9), bytes: Bytes::from_static(b"ab") };
        assert_eq!(parse(wal.into()).unwrap(), expected);
        let alive = [&b"k"[..], &9_u64.to_be_bytes(), &[0; 8], &[1]].concat();
        assert_eq!(parse(alive.into()).unwrap(), Copied::Keepalive { server_end: Lsn(9), reply_wanted: true });
        let past_the_end = [&b"w"[..], &[255; 8], &[0; 16], b"ab"].concat();
        for bad in [&b""[..], b"w", b"k\0", b"x12345678", &past_the_end] {
            assert!(parse(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_status_has_the_layout_of_the_protocol() {
        let mut output = BytesMut::new();
        put_status(&mut output, Positions { write: Lsn(3), flush: Lsn(2), apply: Lsn(1) }, true).unwrap();
        assert_eq!(output.len(), 1 + 4 + 34);
        assert_eq!((output[0], &output[1..5], output[5]), (b'd', &[0, 0, 0, 38][..], b'r'));
        assert_eq!((output[13], output[21], output[29], output[38]), (3, 2, 1, 1));
        assert!(postgres_now() > 0);
    }

    proptest! {
        #[test]
        fn any_data_is_read_or_refused(
            kind in prop_oneof![Just(b'w'), Just(b'k'), any::<u8>()],
            rest in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let data = Bytes::from([&[kind][..], &rest].concat());
            if let Ok(Copied::Wal { start, bytes, .. }) = parse(data) {
                prop_assert!(start.0.checked_add(bytes.len() as u64).is_some());
            }
        }
    }
}
