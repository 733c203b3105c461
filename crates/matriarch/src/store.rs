//! Which store it is, as command lines and configurations name it, and opening it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use matriarch_config::{Address, ConsulConsistency};
use matriarch_dcs::consul::{self, Consistency, ConsulOptions, Token};
use matriarch_dcs::etcd::{Endpoint, EtcdOptions, Password, Servers, User};
use matriarch_dcs::{ConsulStore, EtcdStore, SqliteStore, Store};
use matriarch_tls::TlsFiles;
use serde_json::{Value, json};

/// Where a cluster's records are kept: `sqlite:PATH`, `etcd:HOST:PORT[,HOST:PORT…]` (`etcds:` with TLS), `etcd:srv:DOMAIN`,
/// `consul:HOST:PORT[,HOST:PORT…]` (`consuls:` with TLS), `consul:unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    /// A SQLite file on this host.
    Sqlite(PathBuf),
    /// etcd.
    Etcd(Box<EtcdOptions>),
    /// Consul.
    Consul(Box<ConsulOptions>),
}

/// Who we are to a store that a command line names.
#[derive(Args, Clone, Debug, Default)]
pub struct StoreAccess {
    /// Authorities that are trusted by --store etcds:… and consuls:…, PEM
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_STORE_CACERT", hide_short_help = true, help_heading = super::cluster::WHICH)]
    pub store_cacert: Option<PathBuf>,
    /// Client certificate for --store etcds:… and consuls:…, PEM
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_STORE_CERT", hide_short_help = true, help_heading = super::cluster::WHICH)]
    pub store_cert: Option<PathBuf>,
    /// Key of the client certificate, PEM
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_STORE_KEY", hide_short_help = true, help_heading = super::cluster::WHICH)]
    pub store_key: Option<PathBuf>,
    /// File that holds the ACL token for --store consul:…
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_STORE_TOKEN_FILE", hide_short_help = true, help_heading = super::cluster::WHICH)]
    pub store_token_file: Option<PathBuf>,
    /// User of the store, with --store-password-file
    #[arg(long, global = true, value_name = "NAME", env = "MATRIARCH_STORE_USERNAME", hide_short_help = true, help_heading = super::cluster::WHICH, requires = "store_password_file")]
    pub store_username: Option<String>,
    /// File that holds the password of that user
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_STORE_PASSWORD_FILE", hide_short_help = true, help_heading = super::cluster::WHICH, requires = "store_username")]
    pub store_password_file: Option<PathBuf>,
}

impl std::str::FromStr for StoreAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => Ok(StoreAddress::Sqlite(path.into())),
            Some((engine @ ("etcd" | "etcd3" | "etcds"), servers)) => {
                let servers = etcd_servers(servers, engine == "etcds")?;
                Ok(StoreAddress::Etcd(Box::new(EtcdOptions::new(servers))))
            }
            Some((engine @ ("consul" | "consuls"), agents)) => {
                Ok(StoreAddress::Consul(Box::new(consul_agents(agents, engine == "consuls")?)))
            }
            Some((engine @ "kubernetes", _)) => Err(format!(
                "the store engine '{engine}' comes with a later release; there are sqlite:PATH, etcd:HOST:PORT and \
                 consul:HOST:PORT"
            )),
            _ => {
                let ways = "etcd:HOST:PORT[,HOST:PORT…], consul:HOST:PORT or sqlite:PATH";
                Err(format!("'{text}' names no store; write {ways}"))
            }
        }
    }
}

fn etcd_servers(text: &str, tls: bool) -> Result<Servers, String> {
    if let Some(domain) = text.strip_prefix("srv:").filter(|domain| !domain.is_empty()) {
        return Ok(Servers::Srv { domain: domain.to_owned(), suffix: None });
    }
    let read = |text: &str| {
        let address: Address = text.trim().parse().map_err(|error| format!("{error}"))?;
        Ok(endpoint(&address, tls))
    };
    text.split(',').map(read).collect::<Result<_, String>>().map(Servers::Listed)
}

fn consul_agents(text: &str, tls: bool) -> Result<ConsulOptions, String> {
    let read = |text: &str| match text.trim().strip_prefix("unix:").filter(|path| !path.is_empty()) {
        Some(_) if tls => Err("a socket is spoken to without TLS: write consul:unix:PATH".to_owned()),
        Some(path) => Ok(consul::Endpoint::Unix(path.into())),
        None => Ok(agent(&text.trim().parse().map_err(|error| format!("{error}"))?)),
    };
    let endpoints = text.split(',').map(read).collect::<Result<_, String>>()?;
    Ok(ConsulOptions { endpoints, tls: tls.then(TlsFiles::default), ..ConsulOptions::default() })
}

fn agent(address: &Address) -> consul::Endpoint {
    consul::Endpoint::Tcp { host: address.host.clone(), port: address.port }
}

/// What the section `consul` says about the store; what it says about the service is for [`crate::service`].
pub fn consul_options(consul: &matriarch_config::Consul) -> ConsulOptions {
    let socket = consul.socket.iter().map(|path| consul::Endpoint::Unix(path.clone()));
    let files =
        TlsFiles { ca_file: consul.cacert.clone(), cert_file: consul.cert.clone(), key_file: consul.key.clone() };
    let text = consul.token.as_ref().map(|token| Token::Text(token.reveal().to_owned()));
    ConsulOptions {
        endpoints: consul.hosts.iter().map(agent).chain(socket).collect(),
        tls: consul.tls.then_some(files),
        token: text.or(consul.token_file.clone().map(Token::File)),
        datacenter: consul.dc.clone(),
        namespace: consul.namespace.clone(),
        partition: consul.partition.clone(),
        consistency: match consul.consistency {
            ConsulConsistency::Default => Consistency::Default,
            ConsulConsistency::Consistent => Consistency::Consistent,
            ConsulConsistency::Stale => Consistency::Stale,
        },
        checks: consul.checks.clone(),
    }
}

fn endpoint(address: &Address, tls: bool) -> Endpoint {
    Endpoint { host: address.host.clone(), port: address.port, tls }
}

impl From<&matriarch_config::Store> for StoreAddress {
    fn from(store: &matriarch_config::Store) -> StoreAddress {
        let etcd = match store {
            matriarch_config::Store::Sqlite { path } => return StoreAddress::Sqlite(path.clone()),
            matriarch_config::Store::Etcd(etcd) => etcd,
            matriarch_config::Store::Consul(consul) => return StoreAddress::Consul(Box::new(consul_options(consul))),
        };
        let servers = match &etcd.srv {
            Some(domain) => Servers::Srv { domain: domain.clone(), suffix: etcd.srv_suffix.clone() },
            None => Servers::Listed(etcd.hosts.iter().map(|address| endpoint(address, etcd.tls)).collect()),
        };
        let mut options = EtcdOptions::new(servers);
        options.tls =
            TlsFiles { ca_file: etcd.cacert.clone(), cert_file: etcd.cert.clone(), key_file: etcd.key.clone() };
        let text = etcd.password.as_ref().map(|password| Password::Text(password.reveal().to_owned()));
        let password = text.or(etcd.password_file.clone().map(Password::File));
        options.user = etcd.username.clone().zip(password).map(|(name, password)| User { name, password });
        StoreAddress::Etcd(Box::new(options))
    }
}

impl StoreAddress {
    /// With what the command line says about who we are, as far as it does.
    pub fn with(mut self, access: &StoreAccess) -> StoreAddress {
        // Agents that are given these may run elsewhere.
        let absolute = |path: &Option<PathBuf>| path.as_ref().and_then(|path| std::path::absolute(path).ok());
        let show = |tls: &mut TlsFiles| {
            tls.ca_file = absolute(&access.store_cacert).or(tls.ca_file.take());
            if access.store_cert.is_some() {
                tls.cert_file = absolute(&access.store_cert);
                tls.key_file = absolute(&access.store_key);
            }
        };
        match &mut self {
            StoreAddress::Sqlite(_) => {}
            StoreAddress::Etcd(options) => {
                show(&mut options.tls);
                if let Some((name, file)) = access.store_username.clone().zip(absolute(&access.store_password_file)) {
                    options.user = Some(User { name, password: Password::File(file) });
                }
            }
            StoreAddress::Consul(options) => {
                if let Some(tls) = &mut options.tls {
                    show(tls);
                }
                options.token = absolute(&access.store_token_file).map(Token::File).or(options.token.take());
            }
        }
        self
    }

    /// The section of an agent's configuration that names the same store.
    pub fn section(&self) -> (&'static str, Value) {
        let options = match self {
            StoreAddress::Sqlite(path) => return ("sqlite", json!({"path": path})),
            StoreAddress::Etcd(options) => options,
            StoreAddress::Consul(options) => return ("consul", consul_section(options)),
        };
        let mut section = match &options.servers {
            Servers::Srv { domain, suffix } => json!({"srv": domain, "srv_suffix": suffix}),
            Servers::Listed(servers) => json!({
                "hosts": servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "protocol": if servers.iter().any(|server| server.tls) { "https" } else { "http" },
            }),
        };
        section["cacert"] = json!(options.tls.ca_file);
        section["cert"] = json!(options.tls.cert_file);
        section["key"] = json!(options.tls.key_file);
        if let Some(user) = &options.user {
            section["username"] = json!(user.name);
            match &user.password {
                Password::Text(text) => section["password"] = json!(text),
                Password::File(file) => section["password_file"] = json!(file),
            }
        }
        ("etcd3", section)
    }
}

fn consul_section(options: &ConsulOptions) -> Value {
    let mut section = match options.endpoints.as_slice() {
        [consul::Endpoint::Unix(path)] => json!({"socket": path}),
        all => json!({
            "hosts": all.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "scheme": if options.tls.is_some() { "https" } else { "http" },
        }),
    };
    if let Some(tls) = &options.tls {
        section["cacert"] = json!(tls.ca_file);
        section["cert"] = json!(tls.cert_file);
        section["key"] = json!(tls.key_file);
    }
    match &options.token {
        Some(Token::Text(text)) => section["token"] = json!(text),
        Some(Token::File(file)) => section["token_file"] = json!(file),
        None => {}
    }
    section["dc"] = json!(options.datacenter);
    section["namespace"] = json!(options.namespace);
    section["partition"] = json!(options.partition);
    section["checks"] = json!(options.checks);
    section["consistency"] = json!(match options.consistency {
        Consistency::Default => "default",
        Consistency::Consistent => "consistent",
        Consistency::Stale => "stale",
    });
    section
}

/// Opens a store; a missing file is created only when `create` is set.
pub async fn open(address: &StoreAddress, prefix: &str, create: bool) -> anyhow::Result<Arc<dyn Store>> {
    match address {
        StoreAddress::Sqlite(path) if create => Ok(Arc::new(SqliteStore::open(path, prefix).await?)),
        StoreAddress::Sqlite(path) => Ok(Arc::new(SqliteStore::open_existing(path, prefix).await?)),
        StoreAddress::Etcd(options) => Ok(Arc::new(EtcdStore::open((**options).clone(), prefix)?)),
        StoreAddress::Consul(options) => Ok(Arc::new(ConsulStore::open((**options).clone(), prefix)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etcd(text: &str) -> EtcdOptions {
        match text.parse::<StoreAddress>() {
            Ok(StoreAddress::Etcd(options)) => *options,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!("sqlite:/a".parse(), Ok(StoreAddress::Sqlite("/a".into())));
        assert_eq!(etcd("etcd:a:1,[::1]:2").servers.to_string(), "a:1,[::1]:2");
        assert!(matches!(etcd("etcds:a:1").servers, Servers::Listed(all) if all[0].tls));
        assert_eq!(etcd("etcd:srv:example.org").servers.to_string(), "srv:example.org");
        for (wrong, why) in [
            ("etcd:a", "the port is missing"),
            ("etcd:", "the port is missing"),
            ("sqlite:", "names no store"),
            ("postgres:x", "names no store"),
            ("consul:", "the port is missing"),
            ("consul:a", "the port is missing"),
            ("consuls:unix:/x", "without TLS"),
            ("kubernetes:x", "comes with a later release"),
        ] {
            let said = wrong.parse::<StoreAddress>().unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }

    #[test]
    fn a_section_of_the_configuration_says_the_same_as_the_address() {
        let access = StoreAccess {
            store_cacert: Some("/ca".into()),
            store_cert: Some("/cert".into()),
            store_key: Some("/key".into()),
            store_token_file: Some("/token".into()),
            store_username: Some("u".into()),
            store_password_file: Some("/password".into()),
        };
        for (text, access) in [
            ("sqlite:/a", StoreAccess::default()),
            ("etcd:a:1,b:2", StoreAccess::default()),
            ("etcds:a:1,b:2", access.clone()),
            ("consul:a:1,[::1]:2", StoreAccess::default()),
            ("consuls:a:1", access.clone()),
            ("consul:unix:/run/consul.sock", StoreAccess::default()),
            ("etcd:srv:example.org", access),
        ] {
            let address = text.parse::<StoreAddress>().unwrap().with(&access);
            let (name, section) = address.section();
            let config = json!({
                "scope": "s", "name": "n", name: section,
                "postgresql": {"listen": "127.0.0.1:5432", "data_dir": "/d"},
            });
            let config = matriarch_config::LocalConfig::from_json(&config).unwrap();
            assert_eq!(StoreAddress::from(&config.store), address, "{text}");
        }
    }
}
