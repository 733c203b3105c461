//! Names of members and of the data they hold.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a member: 1 to 48 of `a-z A-Z 0-9 _ . -`, starting with a letter or digit.
///
/// The bound leaves room for an incarnation within PostgreSQL's 63 bytes of `application_name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberName(String);

/// A random identity of one data directory: new at initdb, clone, restore and rewind.
///
/// A voter is a name *and* an incarnation, so that a member that came back empty cannot vouch for data that is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Incarnation(String);

/// A name that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' cannot be a {what}: {why}")]
pub struct BadName {
    what: &'static str,
    name: String,
    why: &'static str,
}

impl MemberName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The physical replication slot that the leader keeps for this member: PostgreSQL allows only `a-z0-9_` there.
    pub fn slot(&self) -> String {
        let mut slot = String::with_capacity(self.0.len());
        for c in self.0.chars() {
            match c {
                'a'..='z' | '0'..='9' | '_' => slot.push(c),
                'A'..='Z' => slot.push(c.to_ascii_lowercase()),
                '-' | '.' => slot.push('_'),
                // The constructor admits nothing else.
                _ => slot.push_str(&format!("u{:04x}", c as u32)),
            }
        }
        slot
    }
}

impl Incarnation {
    /// The incarnation as text: 8 to 16 lower-case hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes an incarnation from random bits (the caller owns the randomness).
    pub fn from_bits(bits: u64) -> Self {
        Incarnation(format!("{bits:016x}"))
    }
}

impl FromStr for MemberName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let refuse = |why| Err(BadName { what: "member name", name: text.to_owned(), why });
        if text.is_empty() || text.len() > 48 {
            return refuse("it must have 1 to 48 characters");
        }
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return refuse("it must start with a letter or a digit");
        }
        if !text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
            return refuse("only a-z, A-Z, 0-9, '_', '.' and '-' are allowed");
        }
        Ok(MemberName(text.to_owned()))
    }
}

impl FromStr for Incarnation {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let fits =
            (8..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        if !fits {
            return Err(BadName {
                what: "incarnation",
                name: text.to_owned(),
                why: "it must be 8 to 16 lower-case hexadecimal digits",
            });
        }
        Ok(Incarnation(text.to_owned()))
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $type {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
    };
}
as_text!(MemberName);
as_text!(Incarnation);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_fit_postgresql() {
        let slot = |name: &str| name.parse::<MemberName>().unwrap().slot();
        assert_eq!(slot("Db-1.example"), "db_1_example");
        assert_eq!(slot("a"), "a");
    }

    #[test]
    fn odd_names_are_refused_with_the_reason() {
        for name in ["", "-a", "a b", "a/b", "ä", &"x".repeat(49)] {
            assert!(name.parse::<MemberName>().is_err(), "{name:?} was accepted");
        }
        let error = "a b".parse::<MemberName>().unwrap_err().to_string();
        assert!(error.contains("'a b'") && error.contains("allowed"), "{error}");
    }

    #[test]
    fn incarnations_round_trip() {
        let incarnation = Incarnation::from_bits(0x1234);
        assert_eq!(incarnation.as_str().parse::<Incarnation>().unwrap(), incarnation);
        assert!("XYZ".parse::<Incarnation>().is_err());
    }
}
