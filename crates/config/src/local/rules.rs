//! What must hold across keys of the local configuration. Rules see normalized values.

use std::path::Path;

use serde_json::{Map, Value};

use crate::address::Listen;
use crate::check::join;
use crate::local::keys::etcd::parse_url;
use crate::problem::Problems;

type Section = Map<String, Value>;

fn text<'a>(section: &'a Section, key: &str) -> Option<&'a str> {
    section.get(key).and_then(Value::as_str)
}

fn listen(section: Option<&Value>, key: &str) -> Option<Listen> {
    section?.get(key)?.as_str()?.parse().ok()
}

/// Others must be told an address they can use.
fn reachable(section: &Section, path: &str, example: &str, problems: &mut Problems) {
    let own = text(section, "listen").and_then(|listen| listen.parse::<Listen>().ok());
    if text(section, "connect_address").is_none() && own.is_some_and(|listen| listen.reachable().is_none()) {
        problems.add(
            join(path, "connect_address"),
            "required, since `listen` is a wildcard that others cannot connect to",
            format!("add it, as in `connect_address: {example}`"),
        );
    }
}

pub(crate) fn restapi(restapi: &Section, path: &str, problems: &mut Problems) {
    reachable(restapi, path, "10.0.0.1:8008", problems);
    if restapi.get("token").is_some_and(Value::is_string) && text(restapi, "token_file").is_some() {
        problems.add(join(path, "token_file"), "`token` is given too", "keep one of them");
    }
    api_tls(restapi, path, problems);
}

/// What a server shows comes first, then whom it asks.
fn api_tls(restapi: &Section, path: &str, problems: &mut Problems) {
    let verifies = text(restapi, "verify_client").filter(|verify| *verify != "none");
    if text(restapi, "certfile").is_none() {
        let given = |key: &&str| text(restapi, key).is_some() && (*key != "verify_client" || verifies.is_some());
        for key in ["keyfile", "cafile", "verify_client"].into_iter().filter(given) {
            let remedy = match key {
                "cafile" => {
                    "add the API's certificate, or put the authority that others are trusted by under `ctl.cacert`"
                }
                _ => "add the API's certificate, or remove it",
            };
            problems.add(join(path, key), "there is no `certfile`, so the API speaks plain HTTP", remedy);
        }
        return;
    }
    if let Some(verify) = verifies.filter(|_| text(restapi, "cafile").is_none()) {
        let remedy = "add the authorities that sign clients' certificates";
        problems.add(join(path, "cafile"), format!("required by `verify_client: {verify}`"), remedy);
    }
}

pub(crate) fn ctl(ctl: &Section, path: &str, problems: &mut Problems) {
    if text(ctl, "keyfile").is_some() && text(ctl, "certfile").is_none() {
        problems.add(join(path, "keyfile"), "there is no `certfile`", "add the client certificate, or remove it");
    }
}

pub(crate) fn postgresql(postgresql: &Section, path: &str, problems: &mut Problems) {
    reachable(postgresql, path, "10.0.0.1:5432", problems);
    for key in ["run_dir", "pgpass"] {
        outside_of_data(text(postgresql, key), text(postgresql, "data_dir"), &join(path, key), problems);
    }
    let Some(tls) = postgresql.get("tls").and_then(Value::as_object) else { return };
    for key in ["cert_file", "key_file", "ca_file"] {
        let path = join(&join(path, "tls"), key);
        outside_of_data(text(tls, key), text(postgresql, "data_dir"), &path, problems);
    }
    let required = tls.get("require").and_then(Value::as_bool) == Some(true);
    let roles = postgresql.get("authentication").and_then(Value::as_object);
    for (name, role) in roles.into_iter().flatten().filter(|_| required) {
        let mode = role.get("sslmode").and_then(Value::as_str).unwrap_or("require");
        if name != "superuser" && ["disable", "allow", "prefer"].contains(&mode) {
            let path = join(&join(&join(path, "authentication"), name), "sslmode");
            problems.add(
                path,
                format!("'{mode}' contradicts `tls.require: true`"),
                "choose require or more, or remove it",
            );
        }
    }
}

pub(crate) fn tls(tls: &Section, path: &str, problems: &mut Problems) {
    if text(tls, "cert_file").is_some() && text(tls, "cert_file") == text(tls, "key_file") {
        problems.add(join(path, "key_file"), "it is the certificate's file", "name the file of the private key");
    }
}

/// What lies in the data directory is gone after the next clone.
fn outside_of_data(what: Option<&str>, data_dir: Option<&str>, path: &str, problems: &mut Problems) {
    if let (Some(what), Some(data_dir)) = (what, data_dir)
        && Path::new(what).starts_with(data_dir)
    {
        problems.add(path, "it lies in the data directory, which is emptied before a clone", "choose another place");
    }
}

pub(crate) fn authentication(roles: &Section, path: &str, problems: &mut Problems) {
    for (name, role) in roles {
        let path = join(path, name);
        let given = |key: &str| role.get(key).is_some_and(Value::is_string);
        if given("sslcert") != given("sslkey") {
            problems.add(&path, "sslcert and sslkey go together", "give both or neither");
        }
        let verifies = role.get("sslmode").and_then(Value::as_str).is_some_and(|mode| mode.starts_with("verify"));
        if verifies && !given("sslrootcert") {
            problems.add(
                join(&path, "sslrootcert"),
                "required by this sslmode",
                "add the certificates that are trusted",
            );
        }
    }
    let role = |name: &str| roles.get(name).and_then(|role| role.get("username")).and_then(Value::as_str);
    if role("superuser") == role("replication") {
        problems.add(
            join(&join(path, "replication"), "username"),
            "it is the superuser's name",
            "choose another: the role that replicas use need not be a superuser",
        );
    }
    let others = ["superuser", "replication", "rewind"];
    if let Some(same) = others.into_iter().find(|other| role("pooler").is_some() && role("pooler") == role(other)) {
        problems.add(
            join(&join(path, "pooler"), "username"),
            format!("it is also the role `{same}`"),
            "choose another: the pooler's role needs nothing but its one function",
        );
    }
}

pub(crate) fn tags(tags: &Section, path: &str, problems: &mut Problems) {
    let never = tags.get("nofailover").and_then(Value::as_bool) == Some(true);
    if never && tags.get("failover_priority").and_then(Value::as_i64).is_some_and(|priority| priority > 0) {
        problems.add(join(path, "failover_priority"), "it contradicts `nofailover: true`", "keep one of them");
    }
    if tags.get("nostream").and_then(Value::as_bool) == Some(true) && text(tags, "replicatefrom").is_some() {
        problems.add(join(path, "replicatefrom"), "a member tagged `nostream` streams from nobody", "keep one of them");
    }
}

/// What a file that is valid may still lack.
pub(crate) fn notes(config: &Section) -> Vec<String> {
    let parameters = |of: Option<&Value>| of.and_then(|of| of.get("postgresql")?.get("parameters")).cloned();
    let nostream = config.get("tags").and_then(|tags| tags.get("nostream")) == Some(&Value::Bool(true));
    let whole = Value::Object(config.clone());
    let restores =
        [parameters(Some(&whole)), parameters(whole.get("bootstrap").and_then(|bootstrap| bootstrap.get("dcs")))]
            .iter()
            .flatten()
            .any(|parameters| {
                parameters.get("restore_command").and_then(Value::as_str).is_some_and(|text| !text.is_empty())
            });
    let archived = whole.pointer("/bootstrap/dcs/archive").is_some_and(Value::is_object);
    let missing = nostream && !restores && !archived;
    let text = "tags.nostream: this file has no restore_command, the only way for WAL to reach such a member; add it to \
                `postgresql.parameters`, unless the cluster's configuration has one";
    missing.then(|| text.to_owned()).into_iter().collect()
}

pub(crate) fn proxy(proxy: &Section, path: &str, problems: &mut Problems) {
    let has_pooler = proxy.get("pooler").is_some_and(Value::is_object);
    if text(proxy, "read_write").is_none() && text(proxy, "read_only").is_none() && !has_pooler {
        problems.add(
            path,
            "the proxy has no port",
            "add `read_write`, `read_only` or both, as in `read_write: 127.0.0.1:5000`, or a PgBouncer as `pooler`",
        );
    }
}

pub(crate) fn pooler(pooler: &Section, path: &str, problems: &mut Problems) {
    let own = text(pooler, "read_write").or(text(pooler, "read_only")).is_some();
    let registered = pooler.get("addresses").and_then(Value::as_array).is_some_and(|addresses| !addresses.is_empty());
    let has_admin = pooler.get("admin").is_some_and(Value::is_object);
    if !own && !registered {
        let remedy = "add `read_write: 0.0.0.0:6432` to have one run, or `addresses` for those that others run";
        problems.add(path, "there is no PgBouncer", remedy);
    }
    if registered && !has_admin {
        let remedy = "add its `username` and `password`";
        problems.add(join(path, "admin"), "required with `addresses`: it pauses and resumes them", remedy);
    } else if has_admin && !registered {
        problems.add(join(path, "admin"), "there are no `addresses`", "add them, or remove it");
    }
}

/// One that we run must know the roles' passwords.
fn pooler_secrets(config: &Section, problems: &mut Problems) {
    let Some(Value::Object(pooler)) = config.get("proxy").and_then(|proxy| proxy.get("pooler")) else { return };
    let postgresql = config.get("postgresql");
    let data_dir = postgresql.and_then(|postgresql| postgresql.get("data_dir")?.as_str());
    for key in ["dir", "auth_file"] {
        outside_of_data(text(pooler, key), data_dir, &join("proxy.pooler", key), problems);
    }
    let own = text(pooler, "read_write").or(text(pooler, "read_only")).is_some();
    let role = postgresql.and_then(|postgresql| postgresql.get("authentication")?.get("pooler")?.as_object()).is_some();
    if own && !role && text(pooler, "auth_file").is_none() {
        problems.add(
            "proxy.pooler",
            "it must know the roles' passwords",
            "add a role for it, as in `postgresql.authentication.pooler: {password: …}`, to the file of every host (it is made \
             by itself), or `auth_file`",
        );
    }
}

/// Which servers, how they are spoken to, and as whom.
pub(crate) fn etcd(etcd: &Section, path: &str, problems: &mut Problems) {
    let given = |key: &&str| etcd.get(*key).is_some_and(|value| !value.is_null());
    let named: Vec<&str> = ["hosts", "host", "url", "srv"].into_iter().filter(|key| given(key)).collect();
    match named.as_slice() {
        [] => problems.add(path, "no server is named", "add `hosts`, as in `hosts: [10.0.0.1:2379, 10.0.0.2:2379]`"),
        [_] => {}
        [first, second, ..] => problems.add(join(path, second), format!("`{first}` is given too"), "keep one of them"),
    }
    if given(&"srv_suffix") && !given(&"srv") {
        problems.add(join(path, "srv_suffix"), "there is no `srv`", "add the domain, or remove it");
    }
    let protocol = text(etcd, "protocol");
    let by_url =
        text(etcd, "url").and_then(|url| parse_url(url).ok()).map(|(_, tls)| if tls { "https" } else { "http" });
    if let (Some(protocol), Some(by_url)) = (protocol, by_url)
        && protocol != by_url
    {
        problems.add(join(path, "protocol"), format!("the URL says {by_url}"), "make them the same");
    }
    let certificate = ["cacert", "cert", "key"].into_iter().find(|key| given(key));
    let plain = !given(&"srv") && by_url.or(protocol).unwrap_or("http") == "http";
    if let Some(certificate) = certificate.filter(|_| plain) {
        problems.add(
            join(path, certificate),
            "the servers are spoken to without TLS",
            "add `protocol: https`, or remove it",
        );
    }
    if given(&"key") && !given(&"cert") {
        problems.add(join(path, "key"), "there is no `cert`", "add the client certificate, or remove it");
    }
    if given(&"password") && given(&"password_file") {
        problems.add(join(path, "password_file"), "`password` is given too", "keep one of them");
    }
    match (given(&"username"), given(&"password") || given(&"password_file")) {
        (true, false) => problems.add(join(path, "password"), "required with `username`", "add it or `password_file`"),
        (false, true) => problems.add(join(path, "username"), "required with a password", "add the user, or remove it"),
        _ => {}
    }
}

/// Sections that name a store.
pub(crate) const STORES: [&str; 4] = ["sqlite", "etcd3", "etcd", "consul"];

/// Rules across sections.
pub(crate) fn whole(config: &Section, path: &str, problems: &mut Problems) {
    let named: Vec<&str> = STORES.into_iter().filter(|name| config.get(*name).is_some_and(Value::is_object)).collect();
    match named.as_slice() {
        [] => {
            let remedy = "add one, as in `etcd3: {hosts: [10.0.0.1:2379]}`, or for members on one host \
                          `sqlite: {path: /var/lib/matriarch/store.db}`";
            problems.add(path, "no store is configured", remedy);
            return;
        }
        [_] => {}
        [first, second, ..] => {
            let what = format!("`{first}` is configured too, and a cluster has one store");
            problems.add(join(path, second), what, "keep the one that all members use");
            return;
        }
    }
    let of =
        |section: &str, key: &str| config.get(section).and_then(|section| section.get(key)).and_then(Value::as_str);
    let data_dir = of("postgresql", "data_dir");
    outside_of_data(of("sqlite", "path"), data_dir, "sqlite.path", problems);
    outside_of_data(of("restapi", "token_file"), data_dir, "restapi.token_file", problems);
    outside_of_data(of("log", "postgresql"), data_dir, "log.postgresql", problems);
    let files = [("restapi", ["certfile", "keyfile", "cafile"]), ("ctl", ["certfile", "keyfile", "cacert"])];
    for (section, key) in files.into_iter().flat_map(|(section, keys)| keys.map(|key| (section, key))) {
        outside_of_data(of(section, key), data_dir, &join(section, key), problems);
    }
    if of("tags", "replicatefrom").is_some() && of("tags", "replicatefrom") == text(config, "name") {
        problems.add("tags.replicatefrom", "a member cannot stream from itself", "name another member");
    }
    super::virtual_ip::whole(config, problems);
    pooler_secrets(config, problems);
    ports(config, problems);
}

/// No two listeners may want the same address.
fn ports(config: &Section, problems: &mut Problems) {
    let pooler = config.get("proxy").and_then(|proxy| proxy.get("pooler"));
    let keys = [
        ("postgresql", config.get("postgresql"), "listen"),
        ("restapi", config.get("restapi"), "listen"),
        ("proxy", config.get("proxy"), "read_write"),
        ("proxy", config.get("proxy"), "read_only"),
        ("proxy.pooler", pooler, "read_write"),
        ("proxy.pooler", pooler, "read_only"),
    ];
    let mut taken: Vec<(String, Listen)> = Vec::new();
    for (section, at, key) in keys {
        let Some(listen) = listen(at, key) else { continue };
        let path = format!("{section}.{key}");
        if let Some((other, _)) = taken.iter().find(|(_, other)| overlap(other, &listen)) {
            problems.add(&path, format!("{} is also the port of {other}", listen.port), "choose another port");
        }
        taken.push((path, listen));
    }
}

fn overlap(a: &Listen, b: &Listen) -> bool {
    let wide = |listen: &Listen| listen.hosts.iter().any(|host| ["*", "0.0.0.0", "::"].contains(&host.as_str()));
    a.port == b.port && (wide(a) || wide(b) || a.hosts.iter().any(|host| b.hosts.contains(host)))
}
