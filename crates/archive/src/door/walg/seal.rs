//! What WAL-G encrypts with a key of libsodium: its secret stream (XChaCha20 and Poly1305) in pieces of 8 KiB, each of which is
//! verified before a byte of it is used.

use std::io::{self, Read};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20::cipher::consts::U10;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use chacha20::{ChaCha20, hchacha};
use poly1305::Poly1305;
use poly1305::universal_hash::KeyInit;

/// Bytes of a piece that WAL-G seals at a time.
pub const PIECE: usize = 8192;
const HEADER: usize = 24;
const MAC: usize = 16;
/// The tag's byte and the code of authentication.
const MORE: usize = 1 + MAC;
/// The bit of a tag after which there is a new key.
const REKEY: u8 = 2;

/// A key.
pub type Key = [u8; 32];

/// The keys that a text can mean: WAL-G takes it as it is, as hexadecimal digits or as base64, and does not say which.
pub fn keys(text: &str) -> Vec<Key> {
    let mut raw = Key::default();
    let length = text.len().min(raw.len());
    raw[..length].copy_from_slice(&text.as_bytes()[..length]);
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let hex: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digits).collect();
    let decoded = [hex, STANDARD.decode(text).ok()].into_iter().flatten();
    decoded.filter_map(|bytes| bytes.try_into().ok()).chain([raw]).collect()
}

/// Opens what it reads.
pub struct Unsealed<R> {
    from: R,
    keys: Vec<Key>,
    piece: usize,
    state: Option<State>,
    plain: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: Read> Unsealed<R> {
    pub fn new(from: R, keys: &[Key], piece: usize) -> Unsealed<R> {
        Unsealed { from, keys: keys.to_vec(), piece, state: None, plain: Vec::new(), at: 0, ended: false }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut states = match self.state.take() {
            Some(state) => vec![state],
            None => {
                let mut header = [0; HEADER];
                self.from.read_exact(&mut header)?;
                self.keys.iter().map(|key| State::new(key, &header)).collect()
            }
        };
        let mut sealed = Vec::new();
        self.from.by_ref().take((self.piece + MORE) as u64).read_to_end(&mut sealed)?;
        if sealed.is_empty() {
            self.ended = true;
            return Ok(());
        }
        for state in &mut states {
            if let Some(plain) = state.open(&sealed) {
                (self.plain, self.at) = (plain, 0);
                self.state = Some(state.clone());
                return Ok(());
            }
        }
        match self.plain.is_empty() {
            true => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is encrypted with another key, or damaged"))
            }
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "a piece of what is encrypted is damaged")),
        }
    }
}

impl<R: Read> Read for Unsealed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() && !self.ended {
            self.more()?;
        }
        let length = buffer.len().min(self.plain.len() - self.at);
        buffer[..length].copy_from_slice(&self.plain[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Where the stream is.
#[derive(Clone)]
struct State {
    key: Key,
    /// A counter of four bytes, then what every piece changes.
    nonce: [u8; 12],
}

impl State {
    fn new(key: &Key, header: &[u8; HEADER]) -> State {
        let (salt, rest) = header.split_at(16);
        let mut nonce = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        nonce[4..].copy_from_slice(rest);
        State { key: hchacha::<U10>(key.into(), salt.into()).into(), nonce }
    }

    /// The content of the next piece, or nothing if it is not what was sealed.
    fn open(&mut self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (body, mac) = sealed.split_at_checked(sealed.len().checked_sub(MAC)?)?;
        let (tag, content) = body.split_first()?;
        let mut cipher = ChaCha20::new(&self.key.into(), &self.nonce.into());
        let mut first = [0; 64];
        cipher.apply_keystream(&mut first);
        let mut block = [0; 64];
        block[0] = *tag;
        cipher.apply_keystream(&mut block);
        let plain_tag = std::mem::replace(&mut block[0], *tag);
        let mut data = block.to_vec();
        data.extend_from_slice(content);
        // As libsodium pads, which is not what one would expect.
        data.resize(data.len() + content.len() % 16, 0);
        data.extend_from_slice(&0_u64.to_le_bytes());
        data.extend_from_slice(&(64 + content.len() as u64).to_le_bytes());
        let found = Poly1305::new((&first[..32]).into()).compute_unpadded(&data);
        verify_slices_are_equal(&found, mac).ok()?;
        let mut plain = content.to_vec();
        cipher.apply_keystream(&mut plain);
        self.advance(plain_tag, mac);
        Some(plain)
    }

    fn advance(&mut self, tag: u8, mac: &[u8]) {
        for (byte, other) in self.nonce[4..].iter_mut().zip(mac) {
            *byte ^= other;
        }
        let counter = [self.nonce[0], self.nonce[1], self.nonce[2], self.nonce[3]];
        let counter = u32::from_le_bytes(counter).wrapping_add(1);
        self.nonce[..4].copy_from_slice(&counter.to_le_bytes());
        if tag & REKEY != 0 || counter == 0 {
            let mut next = [0; 40];
            next[..32].copy_from_slice(&self.key);
            next[32..].copy_from_slice(&self.nonce[4..]);
            ChaCha20::new(&self.key.into(), &self.nonce.into()).apply_keystream(&mut next);
            self.key.copy_from_slice(&next[..32]);
            self.nonce = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            self.nonce[4..].copy_from_slice(&next[32..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by libsodium 1.0.18 with the key 1, 2, 3 … 32, in pieces of 32 bytes, the last of them shorter.
    const SEALED: &str = "TnmW71SaAZfmU19XsGIxVB3nR/VwicJjj5BuZLHm2Hvn0rOAYSuJjH0VLeEzd/+IsJ4OvpulKiw+wMWaEqaZVjrhHMn4pir0pkgaeasTgZuH2/1x4F7t\
        nosm3b9XxXoXw3zAKzEZ98UzbL3UdGQRcThn/uB3k58lOfdNErzFJvcvGkHAZ84wE5MepY94xsKm";

    fn opened(keys: &[Key], sealed: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        Unsealed::new(sealed, keys, 32).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn reads_what_libsodium_wrote() {
        let sealed = STANDARD.decode(SEALED).unwrap();
        let key: Key = std::array::from_fn(|at| at as u8 + 1);
        let content = "thirty-two bytes of the content.another thirty-two bytes of it..short";
        assert_eq!(opened(&[key], &sealed).unwrap(), content);
        assert_eq!(opened(&[Key::default(), key], &sealed).unwrap(), content);
        assert!(opened(&[Key::default()], &sealed).unwrap_err().to_string().contains("another key"));
        for at in [HEADER, HEADER + 40, HEADER + 60, sealed.len() - 1] {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert!(opened(&[key], &flipped).is_err(), "{at}");
        }
        assert!(opened(&[key], &sealed[..sealed.len() - 1]).is_err());
        assert!(opened(&[key], &sealed[..10]).is_err());
    }

    #[test]
    fn a_key_is_tried_in_every_form() {
        let key: Key = std::array::from_fn(|at| at as u8 + 1);
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(keys(&hex).contains(&key));
        assert!(keys(&STANDARD.encode(key)).contains(&key));
        let raw = "a key of thirty-two letters, yes";
        assert_eq!(keys(raw).last().unwrap(), raw.as_bytes());
        assert_eq!(keys("a key of twenty-five lett.").last().unwrap()[26..], [0; 6]);
    }
}
