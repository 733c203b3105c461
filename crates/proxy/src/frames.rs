//! The server's side of the protocol: message boundaries, the cancel key, and the first answer.

use serde::{Deserialize, Serialize};

/// Longest BackendKeyData body: a process id and PostgreSQL 18's 256 bytes of secret.
const KEY_BODY_MAX: usize = 4 + 256;
const KEY_BODY_MIN: usize = 4 + 4;
/// A first answer that grows beyond this is passed on as it is.
const ANSWER_MAX: usize = 64 * 1024;

/// Follows message boundaries in the bytes a server sends, whatever way they are split.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Frames {
    header: [u8; 5],
    have: usize,
    body: usize,
    key: Option<Vec<u8>>,
    started: bool,
    broken: bool,
    /// The message under way is ReadyForQuery.
    at_status: bool,
    /// Transaction status of the last ReadyForQuery, until either side begins something.
    ready: Option<u8>,
}

impl Frames {
    /// Whether the server waits for a statement outside any transaction, as far as its side tells. A client that sends
    /// several batches ahead is not seen through.
    pub fn idle(&self) -> bool {
        self.at_boundary() && self.ready == Some(b'I')
    }

    /// Authentication is over.
    pub fn started(&self) -> bool {
        self.started
    }

    /// The client has sent something.
    pub fn asked(&mut self) {
        self.ready = None;
    }

    /// Whether the next byte would begin a message, so that a message of our own may be inserted.
    pub fn at_boundary(&self) -> bool {
        !self.broken && self.have == 0 && self.body == 0
    }

    /// Takes note of the next bytes. Returns the body of BackendKeyData once it is complete; only
    /// messages before the first ReadyForQuery are looked at.
    pub fn observe(&mut self, mut bytes: &[u8]) -> Option<Box<[u8]>> {
        let mut found = None;
        while !bytes.is_empty() && !self.broken {
            if self.body > 0 {
                let n = self.body.min(bytes.len());
                if let Some(key) = &mut self.key {
                    key.extend_from_slice(&bytes[..n]);
                }
                if self.at_status {
                    self.ready = Some(bytes[0]);
                }
                self.body -= n;
                bytes = &bytes[n..];
                if self.body == 0 {
                    found = self.key.take().map(Vec::into_boxed_slice).or(found);
                }
            } else {
                let n = (5 - self.have).min(bytes.len());
                self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
                self.have += n;
                bytes = &bytes[n..];
                if self.have == 5 {
                    self.begin();
                }
            }
        }
        found
    }

    fn begin(&mut self) {
        self.have = 0;
        let [tag, length @ ..] = self.header;
        match (u32::from_be_bytes(length) as usize).checked_sub(4) {
            Some(body) => self.body = body,
            None => self.broken = true,
        }
        self.at_status = tag == b'Z';
        // Notices, parameters and notifications also come in between.
        if !matches!(tag, b'N' | b'S' | b'A') {
            self.ready = None;
        }
        if self.started {
            return;
        }
        match tag {
            b'Z' => self.started = true,
            b'K' if (KEY_BODY_MIN..=KEY_BODY_MAX).contains(&self.body) => {
                self.key = Some(Vec::with_capacity(self.body))
            }
            _ => {}
        }
    }
}

/// What a server's first bytes after the startup packet amount to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not decided yet.
    More,
    /// Pass it on to the client: the session goes its way.
    Forward,
    /// The server cannot take sessions at the moment; nothing of it needs to reach the client.
    NotNow(String),
}

/// Judges the server's first bytes. As long as the server only reports success (no password asked), the
/// answer is kept back until ReadyForQuery, because until then the attempt can be repeated elsewhere.
pub(crate) fn first_answer(mut bytes: &[u8]) -> Answer {
    if bytes.len() > ANSWER_MAX {
        return Answer::Forward;
    }
    while let Some(Message { tag, body, rest }) = split_message(bytes) {
        match (tag, body) {
            (b'R', Some([0, 0, 0, 0])) | (b'S' | b'K' | b'v' | b'N', Some(_)) => bytes = rest,
            (b'R' | b'S' | b'K' | b'v' | b'N' | b'E', None) => return Answer::More,
            (b'E', Some(fields)) => return refusal(fields),
            _ => return Answer::Forward,
        }
    }
    Answer::More
}

/// The first message of some bytes.
struct Message<'a> {
    tag: u8,
    /// `None` while incomplete.
    body: Option<&'a [u8]>,
    rest: &'a [u8],
}

/// Splits off the first message; `None` when not even its header is complete.
fn split_message(bytes: &[u8]) -> Option<Message<'_>> {
    let (&[tag, a, b, c, d], after) = bytes.split_first_chunk::<5>()?;
    Some(match (u32::from_be_bytes([a, b, c, d]) as usize).checked_sub(4) {
        Some(length) if length <= after.len() => Message { tag, body: Some(&after[..length]), rest: &after[length..] },
        Some(length) if length <= ANSWER_MAX => Message { tag, body: None, rest: after },
        // No length a server would send (before protocol 3, errors had none): never hold such a thing back.
        _ => Message { tag: 0, body: None, rest: after },
    })
}

fn refusal(fields: &[u8]) -> Answer {
    let field = |tag: u8| {
        fields
            .split(|b| *b == 0)
            .find(|f| f.first() == Some(&tag))
            .map(|f| String::from_utf8_lossy(&f[1..]).into_owned())
    };
    match field(b'C').as_deref() {
        // cannot_connect_now, admin_shutdown, crash_shutdown: the instance starts or stops.
        Some("57P03" | "57P01" | "57P02") => {
            Answer::NotNow(field(b'M').unwrap_or_else(|| "cannot connect now".to_owned()))
        }
        _ => Answer::Forward,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::Report;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend((body.len() as u32 + 4).to_be_bytes());
        out.extend(body);
        out
    }

    fn greeting(secret: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let key = [&[0, 0, 1, 2], secret].concat();
        let mut out = message(b'R', &[0, 0, 0, 0]);
        out.extend(message(b'S', b"server_version\x0018\0"));
        out.extend(message(b'K', &key));
        out.extend(message(b'Z', b"I"));
        (out, key)
    }

    proptest! {
        #[test]
        fn finds_the_key_however_the_bytes_are_split(len in 4usize..=256, cuts in proptest::collection::vec(1usize..40, 1..60)) {
            let (bytes, key) = greeting(&vec![9u8; len]);
            let (mut frames, mut rest, mut found) = (Frames::default(), &bytes[..], None);
            for cut in cuts.iter().cycle() {
                let n = (*cut).min(rest.len());
                found = frames.observe(&rest[..n]).or(found);
                rest = &rest[n..];
                prop_assert!(!rest.is_empty() || frames.at_boundary());
                if rest.is_empty() { break; }
            }
            prop_assert_eq!(found.as_deref(), Some(&key[..]));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut frames = Frames::default();
            for b in &bytes { frames.observe(std::slice::from_ref(b)); }
            let _ = first_answer(&bytes);
        }
    }

    #[test]
    fn keys_after_the_first_ready_for_query_and_oversized_keys_are_ignored() {
        let mut frames = Frames::default();
        assert_eq!(frames.observe(&message(b'K', &[1; 261])), None);
        assert_eq!(frames.observe(&message(b'Z', b"I")), None);
        assert_eq!(frames.observe(&message(b'K', &[1; 8])), None);
        assert!(frames.at_boundary());
    }

    #[test]
    fn idle_is_between_transactions_only() {
        let mut frames = Frames::default();
        frames.observe(&greeting(&[1; 4]).0);
        assert!(frames.idle());
        frames.asked();
        assert!(!frames.idle());
        frames.observe(&[message(b'C', b"BEGIN\0"), message(b'Z', b"T")].concat());
        assert!(!frames.idle());
        frames.observe(&message(b'C', b"COMMIT\0"));
        let ready = message(b'Z', b"I");
        frames.observe(&ready[..5]);
        assert!(!frames.idle(), "only half of it is there");
        frames.observe(&ready[5..]);
        frames.observe(&message(b'A', b"notification"));
        assert!(frames.idle());
        frames.observe(&message(b'T', b""));
        assert!(!frames.idle());
    }

    #[test]
    fn an_impossible_length_is_never_a_boundary() {
        let mut frames = Frames::default();
        frames.observe(&[b'D', 0, 0, 0, 1]);
        assert!(!frames.at_boundary());
    }

    #[test]
    fn first_answers() {
        let (ready, _) = greeting(&[1; 4]);
        assert_eq!(first_answer(&ready), Answer::Forward);
        for n in 0..ready.len() - 6 {
            assert_eq!(first_answer(&ready[..n]), Answer::More, "{n}");
        }
        assert_eq!(first_answer(&message(b'R', &[0, 0, 0, 10, 1])), Answer::Forward, "a password is asked for");
        let starting = Report::new("57P03", "the database system is starting up").encode();
        assert_eq!(first_answer(&starting), Answer::NotNow("the database system is starting up".into()));
        let late = [message(b'R', &[0, 0, 0, 0]), Report::new("57P01", "bye").encode()].concat();
        assert_eq!(first_answer(&late), Answer::NotNow("bye".into()));
        assert_eq!(first_answer(&Report::new("28P01", "wrong password").encode()), Answer::Forward);
        assert_eq!(first_answer(b"Ecould not fork new process\0"), Answer::Forward);
    }
}
