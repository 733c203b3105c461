//! pgBackRest's encryption: AES-256-CBC in the form of `openssl enc`, by a passphrase. It has no seal, so that damage shows
//! only in what is inside.

use std::io::{self, Read};

use aws_lc_rs::cipher::{AES_256, DecryptionContext, StreamingDecryptingKey, UnboundCipherKey};
use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use aws_lc_rs::iv::FixedLength;

/// What encrypted content begins with; then eight bytes of salt.
pub const MAGIC: &[u8; 8] = b"Salted__";
const BLOCK: usize = 16;
const STEP: usize = 64 << 10;

/// Decrypts what it reads.
pub struct Decrypted<R> {
    from: R,
    passphrase: String,
    raw: bool,
    key: Option<StreamingDecryptingKey>,
    begun: bool,
    plain: Vec<u8>,
    at: usize,
}

impl<R: Read> Decrypted<R> {
    /// `raw`: it begins with the salt, without the magic, as in the bundles of newer versions.
    pub fn new(from: R, passphrase: &str, raw: bool) -> Decrypted<R> {
        let passphrase = passphrase.to_owned();
        Decrypted { from, passphrase, raw, key: None, begun: false, plain: Vec::new(), at: 0 }
    }

    fn begin(&mut self) -> io::Result<()> {
        let mut head = [0; 16];
        let head = if self.raw { &mut head[..8] } else { &mut head[..] };
        self.from.read_exact(head).map_err(|_| bad("it is shorter than what encrypted content begins with"))?;
        let (magic, salt) = head.split_at(head.len() - 8);
        if !self.raw && magic != MAGIC {
            return Err(bad("it does not begin as encrypted content does"));
        }
        let (key, iv) = derive(self.passphrase.as_bytes(), salt);
        let refused = |_| bad("the cipher refuses its key");
        let key = UnboundCipherKey::new(&AES_256, &key).map_err(refused)?;
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        self.key = Some(StreamingDecryptingKey::cbc_pkcs7(key, context).map_err(refused)?);
        self.begun = true;
        Ok(())
    }

    fn more(&mut self) -> io::Result<()> {
        let mut sealed = vec![0; STEP];
        let read = self.from.read(&mut sealed)?;
        self.plain.resize(STEP + BLOCK, 0);
        self.at = 0;
        let written = match (read, self.key.take()) {
            (_, None) => 0,
            (0, Some(key)) => {
                let end = key.finish(&mut self.plain);
                end.map_err(|_| bad("it cannot be decrypted: the passphrase is another one, or it is damaged"))?
                    .written()
                    .len()
            }
            (read, Some(mut key)) => {
                let step = key.update(&sealed[..read], &mut self.plain);
                let written = step.map_err(|_| bad("it cannot be decrypted"))?.written().len();
                self.key = Some(key);
                written
            }
        };
        self.plain.truncate(written);
        Ok(())
    }
}

impl<R: Read> Read for Decrypted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.begun {
            self.begin()?;
        }
        while self.at == self.plain.len() {
            if self.key.is_none() {
                return Ok(0);
            }
            self.more()?;
        }
        let length = buffer.len().min(self.plain.len() - self.at);
        buffer[..length].copy_from_slice(&self.plain[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Key and initialisation vector, as OpenSSL derives them with one round of SHA-1.
fn derive(passphrase: &[u8], salt: &[u8]) -> ([u8; 32], [u8; BLOCK]) {
    let mut all = Vec::new();
    let mut last = Vec::new();
    while all.len() < 48 {
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(&last);
        context.update(passphrase);
        context.update(salt);
        last = context.finish().as_ref().to_vec();
        all.extend_from_slice(&last);
    }
    let (mut key, mut iv) = ([0; 32], [0; BLOCK]);
    key.copy_from_slice(&all[..32]);
    iv.copy_from_slice(&all[32..48]);
    (key, iv)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    /// `printf 'restored by its passphrase' | openssl enc -aes-256-cbc -md sha1 -pass pass:secret -S 0102030405060708 -a`, with
    /// the head that newer versions leave out when the salt is given.
    const SEALED: &str = "U2FsdGVkX18BAgMEBQYHCP2vSV8kqE8awz0VWefil7zL3JrQtqcmUemPHKlbSe0J";

    fn opened(passphrase: &str, sealed: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        Decrypted::new(sealed, passphrase, false).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn reads_what_openssl_wrote() {
        let sealed = STANDARD.decode(SEALED).unwrap();
        assert_eq!(opened("secret", &sealed).unwrap(), "restored by its passphrase");
        let mut raw = String::new();
        Decrypted::new(&sealed[8..], "secret", true).read_to_string(&mut raw).unwrap();
        assert_eq!(raw, "restored by its passphrase");
        assert!(opened("another", &sealed).is_err());
        assert!(opened("secret", &sealed[..sealed.len() - 1]).is_err());
        assert!(opened("secret", &sealed[..12]).is_err());
        assert!(opened("secret", b"[backrest]\nbackrest-format=5\n").is_err());
    }
}
