//! TLS of the REST API, as an agent's configuration and the command line name it: what the API shows, and how others are asked.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use matriarch_config::{LocalConfig, VerifyClient as Wanted};
use matriarch_tls::{PeerTls, ServerFiles, ServerTls, TlsFiles, VerifyClient};

/// Who we are to agents that speak TLS, and which of them we believe.
#[derive(Args, Clone, Debug, Default)]
pub struct ApiAccess {
    /// Authorities that are trusted to sign certificates of agents (https), PEM; the system's, or those of --config, unless given
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_CACERT", hide_short_help = true, help_heading = super::cluster::WHICH)]
    pub cacert: Option<PathBuf>,
    /// Client certificate for agents that want one, PEM
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_CERT", hide_short_help = true, help_heading = super::cluster::WHICH)]
    pub cert: Option<PathBuf>,
    /// Key of the client certificate, PEM; in the certificate's file unless given
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_KEY", hide_short_help = true, help_heading = super::cluster::WHICH, requires = "cert")]
    pub key: Option<PathBuf>,
    /// Believe agents whatever certificate they show
    #[arg(long, global = true, env = "MATRIARCH_INSECURE", hide_short_help = true, help_heading = super::cluster::WHICH)]
    pub insecure: bool,
}

impl ApiAccess {
    /// How agents are asked: as the command line says, and where it says nothing as the configuration does.
    pub fn peers(&self, config: Option<&LocalConfig>) -> PeerTls {
        let mut peers = config.map(readable_peers).unwrap_or_default();
        if self.cacert.is_some() {
            peers.files.ca_file = self.cacert.clone();
        }
        if self.cert.is_some() {
            (peers.files.cert_file, peers.files.key_file) = (self.cert.clone(), self.key.clone());
        }
        peers.insecure |= self.insecure;
        peers
    }
}

/// What the API of this agent shows and trusts; nothing when it speaks plain HTTP.
pub fn server(config: &LocalConfig) -> anyhow::Result<Option<Arc<ServerTls>>> {
    let restapi = &config.restapi;
    let Some(cert_file) = restapi.certfile.clone() else { return Ok(None) };
    let files = ServerFiles {
        cert_file,
        key_file: restapi.keyfile.clone(),
        ca_file: restapi.cafile.clone(),
        verify: match restapi.verify_client {
            Wanted::None => VerifyClient::None,
            Wanted::Optional => VerifyClient::Optional,
            Wanted::Required => VerifyClient::Required,
        },
    };
    let open = ServerTls::open(files).map_err(|error| {
        anyhow::anyhow!(
            "the REST API cannot speak TLS: {error}; mend the file, or name another with restapi.certfile, keyfile and cafile"
        )
    })?;
    Ok(Some(open))
}

/// How members ask each other: as `ctl` says, and where it says nothing with the API's own files, as Patroni does.
pub fn peers(config: &LocalConfig) -> PeerTls {
    let (ctl, restapi) = (&config.ctl, &config.restapi);
    let (cert_file, key_file) = match &ctl.certfile {
        Some(file) => (Some(file.clone()), ctl.keyfile.clone()),
        None => (restapi.certfile.clone(), restapi.keyfile.clone()),
    };
    let ca_file = ctl.cacert.clone().or(restapi.cafile.clone());
    PeerTls { files: TlsFiles { ca_file, cert_file, key_file }, insecure: ctl.insecure }
}

/// The same for whoever runs a verb, and may not be allowed to read the API's own key: most of what is asked needs none.
fn readable_peers(config: &LocalConfig) -> PeerTls {
    let mut peers = peers(config);
    let key = peers.files.key_file.as_ref().or(peers.files.cert_file.as_ref());
    let denied =
        |key: &PathBuf| std::fs::File::open(key).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    if config.ctl.certfile.is_none() && key.is_some_and(denied) {
        (peers.files.cert_file, peers.files.key_file) = (None, None);
    }
    peers
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(restapi: &serde_json::Value, ctl: &serde_json::Value) -> LocalConfig {
        LocalConfig::from_json(&json!({
            "scope": "s", "name": "n", "sqlite": {"path": "/s"}, "restapi": restapi, "ctl": ctl,
            "postgresql": {"listen": "127.0.0.1:5432", "data_dir": "/d"},
        }))
        .expect("it is complete")
    }

    fn files(ca: &str, cert: &str, key: &str) -> TlsFiles {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        TlsFiles { ca_file: path(ca), cert_file: path(cert), key_file: path(key) }
    }

    #[test]
    fn ctl_comes_first_and_a_key_goes_with_its_certificate() {
        let own = json!({"certfile": "/r.pem", "keyfile": "/r.key", "cafile": "/r.ca", "verify_client": "optional"});
        assert_eq!(peers(&config(&own, &json!({}))).files, files("/r.ca", "/r.pem", "/r.key"));
        let ctl = json!({"cacert": "/c.ca", "certfile": "/c.pem"});
        assert_eq!(peers(&config(&own, &ctl)).files, files("/c.ca", "/c.pem", ""));
        let plain = config(&json!({}), &json!({"insecure": true}));
        assert_eq!(peers(&plain), PeerTls { insecure: true, ..PeerTls::default() });
        assert!(server(&plain).expect("nothing is read").is_none());
    }

    #[test]
    fn the_command_line_wins() {
        let ctl = config(&json!({}), &json!({"cacert": "/c.ca", "certfile": "/c.pem", "keyfile": "/c.key"}));
        let access = ApiAccess { cert: Some("/mine.pem".into()), insecure: true, ..ApiAccess::default() };
        let peers = access.peers(Some(&ctl));
        assert_eq!((peers.files, peers.insecure), (files("/c.ca", "/mine.pem", ""), true));
        let access = ApiAccess { cacert: Some("/mine.ca".into()), ..ApiAccess::default() };
        assert_eq!(access.peers(None).files, files("/mine.ca", "", ""));
    }
}
