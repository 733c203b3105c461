//! Paths of the requests. Pure.

use std::fmt::Write;

use super::options::{Consistency, ConsulOptions};
use crate::store::Revision;

/// What the paths of one handle have in common.
pub(super) struct Query {
    /// The prefix, escaped for a path.
    prefix: String,
    /// `&dc=…&ns=…&partition=…`, each only if set.
    place: String,
    watch: &'static str,
}

impl Query {
    pub fn new(options: &ConsulOptions, prefix: &str) -> Self {
        let mut place = String::new();
        let parts = [("dc", &options.datacenter), ("ns", &options.namespace), ("partition", &options.partition)];
        for (name, value) in parts {
            if let Some(value) = value {
                place.push_str(&format!("&{name}={}", escape(value, false)));
            }
        }
        let watch = match options.consistency {
            Consistency::Default => "",
            Consistency::Consistent => "&consistent",
            Consistency::Stale => "&stale",
        };
        Self { prefix: escape(prefix, true), place, watch }
    }

    /// Every key and value, consistently.
    pub fn everything(&self) -> String {
        format!("/v1/kv/{}?recurse&consistent{}", self.prefix, self.place)
    }

    /// The key that is the prefix itself: a question about permission.
    pub fn prefix_itself(&self) -> String {
        format!("/v1/kv/{}?consistent{}", self.prefix, self.place)
    }

    /// The names of the keys, as soon as one has changed after `index` or `wait_s` seconds are over.
    pub fn change_after(&self, index: Revision, wait_s: u64) -> String {
        format!("/v1/kv/{}?keys&index={index}&wait={wait_s}s{}{}", self.prefix, self.watch, self.place)
    }

    pub fn txn(&self) -> String {
        self.with_place("/v1/txn")
    }

    pub fn sessions(&self) -> String {
        format!("/v1/session/list?consistent{}", self.place)
    }

    /// `create`, `renew/<id>`, `destroy/<id>`.
    pub fn session(&self, what: &str) -> String {
        self.with_place(&format!("/v1/session/{what}"))
    }

    fn with_place(&self, path: &str) -> String {
        if self.place.is_empty() { path.to_owned() } else { format!("{path}?{}", &self.place[1..]) }
    }
}

/// Percent-encodes all but the unreserved characters, and slashes of a path.
pub(super) fn escape(text: &str, path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if path => out.push('/'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_escaped() {
        let options = ConsulOptions { datacenter: Some("a b&c".to_owned()), ..ConsulOptions::default() };
        let query = Query::new(&options, "service/my cluster?/");
        assert_eq!(query.everything(), "/v1/kv/service/my%20cluster%3F/?recurse&consistent&dc=a%20b%26c");
        assert_eq!(query.txn(), "/v1/txn?dc=a%20b%26c");
        assert_eq!(Query::new(&ConsulOptions::default(), "x/").session("create"), "/v1/session/create");
    }
}
