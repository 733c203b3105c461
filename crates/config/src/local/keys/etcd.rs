//! Keys of `etcd3`, and of `etcd`, which is the same: etcd's second API is gone.

use serde_json::Value;

use super::checks::{domain, peer_address};
use crate::address::Address;
use crate::check::found;
use crate::problem::Problems;
use crate::schema::{Key, Kind, absolute_path, key, one_line, refused};

/// etcd's client port, where none is given.
const PORT: u16 = 2379;

pub(super) const ETCD3: &[Key] = &keys([
    "MATRIARCH_ETCD3_HOSTS",
    "MATRIARCH_ETCD3_HOST",
    "MATRIARCH_ETCD3_URL",
    "MATRIARCH_ETCD3_SRV",
    "MATRIARCH_ETCD3_SRV_SUFFIX",
    "MATRIARCH_ETCD3_PROTOCOL",
    "MATRIARCH_ETCD3_CACERT",
    "MATRIARCH_ETCD3_CERT",
    "MATRIARCH_ETCD3_KEY",
    "MATRIARCH_ETCD3_USERNAME",
    "MATRIARCH_ETCD3_PASSWORD",
    "MATRIARCH_ETCD3_PASSWORD_FILE",
]);

pub(super) const ETCD: &[Key] = &keys([
    "MATRIARCH_ETCD_HOSTS",
    "MATRIARCH_ETCD_HOST",
    "MATRIARCH_ETCD_URL",
    "MATRIARCH_ETCD_SRV",
    "MATRIARCH_ETCD_SRV_SUFFIX",
    "MATRIARCH_ETCD_PROTOCOL",
    "MATRIARCH_ETCD_CACERT",
    "MATRIARCH_ETCD_CERT",
    "MATRIARCH_ETCD_KEY",
    "MATRIARCH_ETCD_USERNAME",
    "MATRIARCH_ETCD_PASSWORD",
    "MATRIARCH_ETCD_PASSWORD_FILE",
]);

const fn keys(variables: [&'static str; 12]) -> [Key; 17] {
    [
        key(
            "hosts",
            Kind::Other { what: "a list of HOST:PORT, or text with commas", read: hosts },
            "etcd's servers. Give one of `hosts`, `host`, `url` and `srv`.",
        )
        .env(variables[0]),
        key("host", Kind::Text { what: "an address", check: peer_address }, "The one server, as `HOST:PORT`.")
            .env(variables[1]),
        key(
            "url",
            Kind::Text { what: "a URL", check: url },
            "The one server, as `http://HOST:PORT` or `https://HOST:PORT`.",
        )
        .env(variables[2]),
        key(
            "srv",
            Kind::Text { what: "a domain", check: domain },
            "The domain whose SRV records `_etcd-client-ssl._tcp` (with TLS) or `_etcd-client._tcp` name the servers.",
        )
        .env(variables[3]),
        key(
            "srv_suffix",
            Kind::Text { what: "a part of a domain name", check: domain },
            "Follows the service's name in the SRV records after a dash: `_etcd-client-<suffix>._tcp`.",
        )
        .env(variables[4]),
        key("protocol", Kind::Choice(&["http", "https"]), "`https`: the servers speak TLS. SRV records and a URL say it themselves.")
            .env(variables[5]),
        key(
            "cacert",
            Kind::Text { what: "a path", check: absolute_path },
            "Authorities that are trusted; the system's when left out. Certificates are read again for each connection.",
        )
        .env(variables[6]),
        key("cert", Kind::Text { what: "a path", check: absolute_path }, "Client certificate with its chain.")
            .env(variables[7]),
        key(
            "key",
            Kind::Text { what: "a path", check: absolute_path },
            "Its private key; in the certificate's file when left out.",
        )
        .env(variables[8]),
        key("username", Kind::Text { what: "a user name", check: one_line }, "User of etcd, if it has authentication.")
            .env(variables[9]),
        key("password", Kind::Secret, "Its password.").env(variables[10]),
        key(
            "password_file",
            Kind::Text { what: "a path", check: absolute_path },
            "File that holds the password, instead of `password`; read again at each login.",
        )
        .env(variables[11]),
        refused("proxy", "proxies of etcd's second API are gone", "name the servers with `hosts`", &[]),
        refused("use_proxies", "proxies of etcd's second API are gone", "name the servers with `hosts`", &["false"]),
        refused("allow_reconnect", "it always connects again", "remove it", &["true"]),
        refused("cert_password", "keys with a password are not supported yet", "remove the password from the key", &[]),
        refused("verify", "the servers' certificates are always verified", "name their authority with `cacert`", &["true"]),
    ]
}

fn url(text: &str) -> Result<(), String> {
    parse_url(text).map(drop)
}

/// The address, and whether it speaks TLS.
pub(in crate::local) fn parse_url(text: &str) -> Result<(Address, bool), String> {
    let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return Err("it must begin with http:// or https://".to_owned()),
    };
    Ok((address(rest.trim_end_matches('/'))?, tls))
}

fn address(text: &str) -> Result<Address, String> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| number(port));
    let text = if has_port { text.to_owned() } else { format!("{text}:{PORT}") };
    peer_address(&text)?;
    text.parse::<Address>().map_err(|bad| bad.why().to_owned())
}

/// A list, or text with commas, to a list with ports.
fn hosts(value: &Value, path: &str, problems: &mut Problems) -> Value {
    let texts: Vec<&str> = match value {
        Value::String(text) => text.split(',').map(str::trim).collect(),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).map(str::trim).collect()
        }
        other => {
            let message = format!("expected a list of HOST:PORT, or text with commas, found {}", found(other));
            problems.add(path, message, "write it as in `hosts: [10.0.0.1:2379, 10.0.0.2:2379]`");
            return Value::Null;
        }
    };
    let mut read = Vec::new();
    for text in texts {
        match address(text) {
            Ok(address) => read.push(Value::from(address.to_string())),
            Err(why) => problems.add(path, format!("'{text}' is not an address: {why}"), "change the value"),
        }
    }
    Value::Array(read)
}
