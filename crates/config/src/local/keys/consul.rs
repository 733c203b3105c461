//! Keys of `consul`.

use serde_json::Value;

use super::checks::{domain, peer_address};
use crate::address::Address;
use crate::check::found;
use crate::problem::Problems;
use crate::schema::{Key, Kind, absolute_path, key, one_line, refused};

/// Port of a Consul agent's HTTP interface, where none is given.
pub(in crate::local) const PORT: u16 = 8500;

const PATH: &str = "a path";

pub(super) const CONSUL: &[Key] = &[
    key(
        "host",
        Kind::Text { what: "an address", check: host },
        "Consul's agent, as `HOST` or `HOST:PORT`; 127.0.0.1 if nothing else is named. Give one of `host`, `hosts`, `url` and \
         `socket`.",
    )
    .env("MATRIARCH_CONSUL_HOST"),
    key("port", Kind::Integer { min: 1, max: 65_535 }, "Its port, if `host` has none; 8500 when left out.")
        .env("MATRIARCH_CONSUL_PORT"),
    key(
        "hosts",
        Kind::Other { what: "a list of HOST:PORT, or text with commas", read: hosts },
        "Several agents or servers, for hosts without an agent of their own: the next one is asked when one does not answer.",
    )
    .env("MATRIARCH_CONSUL_HOSTS"),
    key("url", Kind::Text { what: "a URL", check: url }, "The agent as `http://HOST:PORT` or `https://HOST:PORT`.")
        .env("MATRIARCH_CONSUL_URL"),
    key("socket", Kind::Text { what: PATH, check: absolute_path }, "The agent's Unix socket.")
        .env("MATRIARCH_CONSUL_SOCKET"),
    key("scheme", Kind::Choice(&["http", "https"]), "`https`: TLS. A URL says it itself.").env("MATRIARCH_CONSUL_SCHEME"),
    key("token", Kind::Secret, "ACL token. It needs `key:write` on the cluster's prefix and `session:write`.")
        .env("MATRIARCH_CONSUL_TOKEN"),
    key(
        "token_file",
        Kind::Text { what: PATH, check: absolute_path },
        "File that holds the token, instead of `token`; read again for each request.",
    )
    .env("MATRIARCH_CONSUL_TOKEN_FILE"),
    key(
        "cacert",
        Kind::Text { what: PATH, check: absolute_path },
        "Authorities that are trusted; the system's when left out. Certificates are read again for each connection.",
    )
    .env("MATRIARCH_CONSUL_CACERT"),
    key("cert", Kind::Text { what: PATH, check: absolute_path }, "Client certificate with its chain.")
        .env("MATRIARCH_CONSUL_CERT"),
    key(
        "key",
        Kind::Text { what: PATH, check: absolute_path },
        "Its private key; in the certificate's file when left out.",
    )
    .env("MATRIARCH_CONSUL_KEY"),
    key("dc", Kind::Text { what: "a datacenter", check: one_line }, "Datacenter whose store is used; the agent's own when left out.")
        .env("MATRIARCH_CONSUL_DC"),
    key("namespace", Kind::Text { what: "a namespace", check: one_line }, "Namespace, with Consul Enterprise.")
        .env("MATRIARCH_CONSUL_NAMESPACE"),
    key("partition", Kind::Text { what: "a partition", check: one_line }, "Admin partition, with Consul Enterprise.")
        .env("MATRIARCH_CONSUL_PARTITION"),
    key(
        "consistency",
        Kind::Choice(&["default", "consistent", "stale"]),
        "How news of changes are asked for. What decisions rest on is always read consistently.",
    )
    .default("\"default\"")
    .env("MATRIARCH_CONSUL_CONSISTENCY"),
    key(
        "checks",
        Kind::Other { what: "a list of names, or text with commas", read: texts },
        "Health checks whose failure ends this member's leases, early. Without durability rule that can make two primaries.",
    )
    .default("[]")
    .env("MATRIARCH_CONSUL_CHECKS"),
    key("register_service", Kind::Bool, "Members are a service in Consul's catalogue, with their role as a tag.")
        .default("false")
        .env("MATRIARCH_CONSUL_REGISTER_SERVICE"),
    key(
        "service_tags",
        Kind::Other { what: "a list of tags, or text with commas", read: texts },
        "Further tags of the service.",
    )
    .default("[]")
    .env("MATRIARCH_CONSUL_SERVICE_TAGS"),
    key(
        "service_check_interval",
        Kind::Seconds { min: 0.5, max: 3600.0 },
        "How often Consul's agent asks the REST API whether the member still has its role.",
    )
    .default("5")
    .env("MATRIARCH_CONSUL_SERVICE_CHECK_INTERVAL"),
    key(
        "service_check_tls_server_name",
        Kind::Text { what: "a host name", check: domain },
        "The name that the check expects in the REST API's certificate.",
    )
    .env("MATRIARCH_CONSUL_SERVICE_CHECK_TLS_SERVER_NAME"),
    refused("verify", "the agent's certificate is always verified", "name its authority with `cacert`", &["true"]),
];

fn host(text: &str) -> Result<(), String> {
    address(text).map(drop)
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

/// Whether a host is given with its port.
pub(in crate::local) fn has_port(text: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.rsplit_once(':').is_some_and(|(host, port)| number(port) && (!host.contains(':') || host.ends_with(']')))
}

/// An address, with Consul's port if it has none.
pub(in crate::local) fn address(text: &str) -> Result<Address, String> {
    let text = if has_port(text) { text.to_owned() } else { format!("{text}:{PORT}") };
    peer_address(&text)?;
    text.parse::<Address>().map_err(|bad| bad.why().to_owned())
}

/// A list, or text with commas, to a list.
fn texts(value: &Value, path: &str, problems: &mut Problems) -> Value {
    let list = match value {
        Value::String(text) => {
            text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(Value::from).collect()
        }
        Value::Array(items) if items.iter().all(Value::is_string) => items.clone(),
        other => {
            let message = format!("expected a list of names, or text with commas, found {}", found(other));
            problems.add(path, message, "write it as in `[one, two]`");
            return Value::Null;
        }
    };
    Value::Array(list)
}

/// A list, or text with commas, to a list of addresses with ports.
fn hosts(value: &Value, path: &str, problems: &mut Problems) -> Value {
    let list = texts(value, path, problems);
    let given: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if given.is_empty() && list.is_array() {
        problems.add(path, "no server is named", "write it as in `hosts: [10.0.0.1:8500, 10.0.0.2:8500]`");
    }
    let mut read = Vec::new();
    for text in given {
        match address(text.trim()) {
            Ok(address) => read.push(Value::from(address.to_string())),
            Err(why) => problems.add(path, format!("'{text}' is not an address: {why}"), "change the value"),
        }
    }
    Value::Array(read)
}
