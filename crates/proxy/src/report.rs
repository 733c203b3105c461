//! What the proxy itself says to a client: a PostgreSQL ErrorResponse.

/// A fatal error in the shape clients understand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// SQLSTATE, five characters.
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
}

impl Report {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The client sent something that is no session start (SQLSTATE 08P01).
    pub fn protocol(message: impl Into<String>) -> Self {
        Self::new("08P01", message)
    }

    /// The bytes of the ErrorResponse message.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.message.len() + 96);
        let mut field = |tag: u8, text: &str| {
            body.push(tag);
            // A zero byte would end the field early and shift all that follow.
            body.extend(text.bytes().filter(|b| *b != 0));
            body.push(0);
        };
        field(b'S', "FATAL");
        field(b'V', "FATAL");
        field(b'C', self.code);
        field(b'M', &self.message);
        if let Some(hint) = &self.hint {
            field(b'H', hint);
        }
        body.push(0);
        let mut out = Vec::with_capacity(body.len() + 5);
        out.push(b'E');
        out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        out.extend_from_slice(&body);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_all_fields_and_a_right_length() {
        let bytes = Report::new("57P03", "no\0 primary").hint("wait").encode();
        assert_eq!(bytes[0], b'E');
        assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 1);
        assert_eq!(&bytes[5..], b"SFATAL\0VFATAL\0C57P03\0Mno primary\0Hwait\0\0");
    }
}
