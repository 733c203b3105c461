//! Connection strings as libpq reads them.

use std::collections::BTreeMap;

use crate::instance::Credentials;

/// Where to stream, clone or rewind from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Host name, address, or absolute directory of a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Further libpq options (`sslmode`, `sslrootcert`, `sslcert`, `sslkey`, …); they override our defaults.
    pub options: BTreeMap<String, String>,
}

/// Notices a dead peer within seconds: the defaults of libpq wait for minutes to hours.
const DEFAULTS: [(&str, &str); 6] = [
    ("connect_timeout", "2"),
    ("keepalives_idle", "1"),
    ("keepalives_interval", "1"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "3000"),
    ("gssencmode", "disable"),
];

impl Source {
    /// A source without further options.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Source { host: host.into(), port, options: BTreeMap::new() }
    }

    /// The connection string without a password; `extra` comes last and wins.
    pub fn conninfo(&self, user: &Credentials, extra: &[(&str, &str)]) -> String {
        let port = self.port.to_string();
        let fixed = [("host", self.host.as_str()), ("port", port.as_str()), ("user", user.username.as_str())];
        let options = self.options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for (key, value) in fixed.into_iter().chain(DEFAULTS).chain(options).chain(extra.iter().copied()) {
            match pairs.iter_mut().find(|(known, _)| *known == key) {
                Some(pair) => pair.1 = value,
                None => pairs.push((key, value)),
            }
        }
        pairs.iter().map(|(key, value)| format!("{key}={}", quote(value))).collect::<Vec<_>>().join(" ")
    }
}

/// Whether libpq or one of its programs says that it does not accept the other side's certificate.
pub fn is_distrust(said: &str) -> bool {
    let signs =
        ["certificate verify failed", "server certificate for", "does not match host name", "root certificate file"];
    signs.iter().any(|sign| said.contains(sign))
}

/// Quotes a value when it needs it, as libpq's parser expects.
pub fn quote(value: &str) -> String {
    let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "_.-/:".contains(c));
    if plain {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_and_quotes() {
        let user = Credentials { username: "o'brien".into(), password: "secret".into() };
        let mut source = Source::new("10.0.0.1", 5432);
        source.options.insert("sslmode".into(), "verify-full".into());
        source.options.insert("connect_timeout".into(), "7".into());
        let text = source.conninfo(&user, &[("application_name", "a b")]);
        assert!(text.starts_with(r"host=10.0.0.1 port=5432 user='o\'brien' connect_timeout=7 "), "{text}");
        assert!(text.ends_with("sslmode=verify-full application_name='a b'"), "{text}");
        assert!(!text.contains("secret"));
        assert_eq!(quote(""), "''");
    }
}
