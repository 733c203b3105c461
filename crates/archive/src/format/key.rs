//! Data keys, and who can open them: age recipients (public) and identities (private).

use std::io::{Read, Write};

use age::secrecy::ExposeSecret;
use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::FormatError;

/// Text that is not an age key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be used: {why}")]
pub struct BadKey {
    what: String,
    why: String,
}

/// The public keys to which data keys are encrypted; each alone can open them.
#[derive(Clone, Default)]
pub struct Recipients(Vec<age::x25519::Recipient>);

impl Recipients {
    /// Reads keys of the form `age1…`.
    pub fn parse<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Recipients, BadKey> {
        let parse = |text: &'a str| {
            text.trim().parse().map_err(|why: &str| BadKey {
                what: format!("the recipient '{text}'"),
                why: format!("{why}; a recipient is the public half of an age key and begins with age1"),
            })
        };
        keys.into_iter().map(parse).collect::<Result<_, _>>().map(Recipients)
    }

    /// Whether nobody is named, which means that nothing is encrypted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A new data key, and its encrypted form for the header.
    pub(super) fn new_key(&self) -> Result<(LessSafeKey, String), FormatError> {
        let unwritable = |why: &dyn std::fmt::Display| FormatError::Unwritable(format!("its key: {why}"));
        let bytes: [u8; 32] = rand::random();
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).map_err(|error| unwritable(&error))?;
        let mut wrapped = Vec::new();
        let write = || -> std::io::Result<()> {
            let mut output = encryptor.wrap_output(&mut wrapped)?;
            output.write_all(&bytes)?;
            output.finish()?;
            Ok(())
        };
        write().map_err(|error| unwritable(&error))?;
        Ok((usable(&bytes)?, STANDARD.encode(wrapped)))
    }
}

impl std::fmt::Debug for Recipients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(ToString::to_string)).finish()
    }
}

/// Private keys, which open what was encrypted to their public halves.
#[derive(Clone, Default)]
pub struct Identities(Vec<age::x25519::Identity>);

impl Identities {
    /// Reads a file as `age-keygen` writes it: keys of the form `AGE-SECRET-KEY-1…`, one a line, and comments.
    pub fn parse(text: &str) -> Result<Identities, BadKey> {
        let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        let parse = |(number, line): (usize, &str)| {
            line.parse().map_err(|why: &str| BadKey {
                what: format!("line {number} of the identities"),
                why: format!("{why}; a private age key begins with AGE-SECRET-KEY-1"),
            })
        };
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        keys.map(parse).collect::<Result<_, _>>().map(Identities)
    }

    /// Whether there is none, so that nothing encrypted can be read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A new private key, as text to keep, and its public half.
    pub fn generate() -> (String, String) {
        let identity = age::x25519::Identity::generate();
        (identity.to_string().expose_secret().to_owned(), identity.to_public().to_string())
    }

    /// The public halves.
    pub fn public(&self) -> Vec<String> {
        self.0.iter().map(|identity| identity.to_public().to_string()).collect()
    }

    /// The data key of a header.
    pub(super) fn open_key(&self, wrapped: &str) -> Result<LessSafeKey, FormatError> {
        let damaged = |why: &dyn std::fmt::Display| FormatError::Damaged(format!("its key cannot be read: {why}"));
        if self.0.is_empty() {
            return Err(FormatError::NoKey("it is encrypted, and no identity (private age key) was given".into()));
        }
        let wrapped = STANDARD.decode(wrapped).map_err(|error| damaged(&error))?;
        let decryptor = age::Decryptor::new(&wrapped[..]).map_err(|error| damaged(&error))?;
        let mut reader = match decryptor.decrypt(self.0.iter().map(|identity| identity as &dyn age::Identity)) {
            Ok(reader) => reader,
            Err(age::DecryptError::NoMatchingKeys) => {
                let count = self.0.len();
                let why = format!("it is encrypted to other recipients: none of the {count} given identities opens it");
                return Err(FormatError::NoKey(why));
            }
            Err(error) => return Err(damaged(&error)),
        };
        let mut key = Vec::new();
        reader.read_to_end(&mut key).map_err(|error| damaged(&error))?;
        usable(&key)
    }
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

/// To how many keys the data key of a header is encrypted. Which they are it does not tell: that is how age hides them.
pub fn recipients_of(wrapped: &str) -> usize {
    let file = STANDARD.decode(wrapped).unwrap_or_default();
    let lines = file.split(|byte| *byte == b'\n').take_while(|line| !line.starts_with(b"---"));
    lines.filter(|line| line.starts_with(b"-> X25519 ")).count()
}

fn usable(key: &[u8]) -> Result<LessSafeKey, FormatError> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| FormatError::Damaged("its key is not 32 bytes".into()))?;
    Ok(LessSafeKey::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_of_a_key_are_counted() {
        let pairs: Vec<(String, String)> = (0..3).map(|_| Identities::generate()).collect();
        for count in [1, 3] {
            let keys: Vec<&str> = pairs.iter().take(count).map(|(_, public)| public.as_str()).collect();
            let recipients = Recipients::parse(keys.iter().copied()).unwrap();
            let (_, wrapped) = recipients.new_key().unwrap();
            assert_eq!(recipients_of(&wrapped), count);
        }
        assert_eq!(recipients_of("nonsense"), 0);
        let identities = Identities::parse(&pairs[0].0).unwrap();
        assert_eq!(identities.public(), [pairs[0].1.clone()]);
    }
}
