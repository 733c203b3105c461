//! TLS towards a store: from files that are read again for every connection, so that renewed certificates count at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Where systems keep the authorities they trust; the first that is there counts.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Which certificates are trusted and shown. All files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities that are trusted; the system's when none.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate with its chain, if it has one.
    pub cert_file: Option<PathBuf>,
    /// Its private key; in `cert_file` when none.
    pub key_file: Option<PathBuf>,
}

impl TlsFiles {
    /// Reads the files. The error names the file and what is wrong with it.
    pub fn client_config(&self, protocols: &[&[u8]]) -> Result<Arc<ClientConfig>, String> {
        let roots = self.roots()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match &self.cert_file {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let key_file = self.key_file.as_ref().unwrap_or(file);
                let key = PrivateKeyDer::from_pem_file(key_file)
                    .map_err(|error| unusable("private key", key_file, &error))?;
                builder
                    .with_client_auth_cert(certificates(file)?, key)
                    .map_err(|error| format!("{} and {} are no pair: {error}", file.display(), key_file.display()))?
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.ca_file {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| format!("{} holds no authority: {error}", file.display()))?;
            }
            return Ok(roots);
        }
        let Some(file) = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|file| file.exists()) else {
            return Err("this system has no list of trusted authorities: name the store's own (cacert)".to_owned());
        };
        // A system's list may hold one that rustls does not understand; the others count.
        roots.add_parsable_certificates(certificates(file)?);
        Ok(roots)
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    match found {
        Ok(certificates) if certificates.is_empty() => Err(format!("{} holds no certificate", file.display())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable("certificate", file, &error)),
    }
}

fn unusable(what: &str, file: &Path, error: &rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => format!("the {what} {} cannot be read: {error}", file.display()),
        error => format!("{} holds no usable {what}: {error}", file.display()),
    }
}
