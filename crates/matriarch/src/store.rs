//! Which store it is, as command lines and configurations name it, and opening it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use matriarch_config::Address;
use matriarch_dcs::etcd::{Endpoint, EtcdOptions, Password, Servers, User};
use matriarch_dcs::tls::TlsFiles;
use matriarch_dcs::{EtcdStore, SqliteStore, Store};
use serde_json::{Value, json};

/// Where a cluster's records are kept: `sqlite:PATH`, `etcd:HOST:PORT[,HOST:PORT…]` (`etcds:` with TLS), `etcd:srv:DOMAIN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    /// A SQLite file on this host.
    Sqlite(PathBuf),
    /// etcd.
    Etcd(Box<EtcdOptions>),
}

/// Who we are to a store that a command line names.
#[derive(Args, Clone, Debug, Default)]
pub struct StoreAccess {
    /// Authorities that are trusted by --store etcds:…, PEM
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_STORE_CACERT", hide_short_help = true, help_heading = super::cluster::WHICH)]
    pub store_cacert: Option<PathBuf>,
    /// Client certificate for --store etcds:…, PEM
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_STORE_CERT", hide_short_help = true, help_heading = super::cluster::WHICH)]
    pub store_cert: Option<PathBuf>,
    /// Key of the client certificate, PEM
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_STORE_KEY", hide_short_help = true, help_heading = super::cluster::WHICH)]
    pub store_key: Option<PathBuf>,
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
            Some((engine @ ("consul" | "kubernetes"), _)) => Err(format!(
                "the store engine '{engine}' comes with a later release; there are sqlite:PATH and etcd:HOST:PORT"
            )),
            _ => Err(format!("'{text}' names no store; write etcd:HOST:PORT[,HOST:PORT…] or sqlite:PATH")),
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

fn endpoint(address: &Address, tls: bool) -> Endpoint {
    Endpoint { host: address.host.clone(), port: address.port, tls }
}

impl From<&matriarch_config::Store> for StoreAddress {
    fn from(store: &matriarch_config::Store) -> StoreAddress {
        let etcd = match store {
            matriarch_config::Store::Sqlite { path } => return StoreAddress::Sqlite(path.clone()),
            matriarch_config::Store::Etcd(etcd) => etcd,
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
        if let StoreAddress::Etcd(options) = &mut self {
            // Agents that are given these may run elsewhere.
            let absolute = |path: &Option<PathBuf>| path.as_ref().and_then(|path| std::path::absolute(path).ok());
            options.tls.ca_file = absolute(&access.store_cacert).or(options.tls.ca_file.take());
            if access.store_cert.is_some() {
                options.tls.cert_file = absolute(&access.store_cert);
                options.tls.key_file = absolute(&access.store_key);
            }
            if let Some((name, file)) = access.store_username.clone().zip(absolute(&access.store_password_file)) {
                options.user = Some(User { name, password: Password::File(file) });
            }
        }
        self
    }

    /// The section of an agent's configuration that names the same store.
    pub fn section(&self) -> (&'static str, Value) {
        let options = match self {
            StoreAddress::Sqlite(path) => return ("sqlite", json!({"path": path})),
            StoreAddress::Etcd(options) => options,
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

/// Opens a store; a missing file is created only when `create` is set.
pub async fn open(address: &StoreAddress, prefix: &str, create: bool) -> anyhow::Result<Arc<dyn Store>> {
    match address {
        StoreAddress::Sqlite(path) if create => Ok(Arc::new(SqliteStore::open(path, prefix).await?)),
        StoreAddress::Sqlite(path) => Ok(Arc::new(SqliteStore::open_existing(path, prefix).await?)),
        StoreAddress::Etcd(options) => Ok(Arc::new(EtcdStore::open((**options).clone(), prefix)?)),
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
            ("consul:a:1", "comes with a later release"),
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
            store_username: Some("u".into()),
            store_password_file: Some("/password".into()),
        };
        for (text, access) in [
            ("sqlite:/a", StoreAccess::default()),
            ("etcd:a:1,b:2", StoreAccess::default()),
            ("etcds:a:1,b:2", access.clone()),
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
