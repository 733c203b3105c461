//! PEM files: read anew for every connection to a server, so that renewed certificates count at once.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

/// Where systems keep the authorities they trust; the first that is there counts.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// More than any list of authorities; a path may lead to an endless device.
const LONGEST: u64 = 16 << 20;

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
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        self.show(builder.with_root_certificates(self.roots()?), protocols)
    }

    /// With the certificate that is shown, if any.
    pub(crate) fn show(
        &self,
        builder: ConfigBuilder<ClientConfig, WantsClientCert>,
        protocols: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, String> {
        let mut config = match &self.cert_file {
            None => builder.with_no_client_auth(),
            Some(cert) => {
                let pair = Pair { cert: cert.clone(), key: self.key_file.clone().unwrap_or_else(|| cert.clone()) };
                let (chain, key) = pair.parse(&read("certificate", &pair.cert)?, &read("private key", &pair.key)?)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| pair.no_pair(&error))?
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        // What a session of before was allowed says nothing of the files of now.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        if let Some(file) = &self.ca_file {
            return authorities(file, &read("certificate", file)?);
        }
        let Some(file) = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|file| file.exists()) else {
            return Err("this system has no list of trusted authorities: name your own (cacert)".to_owned());
        };
        let mut roots = RootCertStore::empty();
        // A system's list may hold one that rustls does not understand; the others count.
        roots.add_parsable_certificates(certificates(file, &read("certificate", file)?)?);
        Ok(roots)
    }
}

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A certificate with its chain, and its key.
pub(crate) type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Pair {
    /// Of what the two files hold.
    pub fn parse(&self, cert: &[u8], key: &[u8]) -> Result<Own, String> {
        Ok((certificates(&self.cert, cert)?, private_key(&self.key, key)?))
    }

    pub fn no_pair(&self, error: &rustls::Error) -> String {
        format!("{} and {} are no pair: {error}", self.cert.display(), self.key.display())
    }
}

/// The one implementation of the primitives.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Authorities that are named; every one of them must be understood.
pub(crate) fn authorities(file: &Path, bytes: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, bytes)? {
        roots.add(certificate).map_err(|error| format!("{} holds no authority: {error}", file.display()))?;
    }
    Ok(roots)
}

/// What a file holds.
pub(crate) fn read(what: &str, file: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let taken = File::open(file).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    taken.map_err(|error| format!("the {what} {} cannot be read: {error}", file.display()))?;
    Ok(bytes)
}

fn certificates(file: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err(format!("{} holds no certificate", file.display())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{} holds no usable certificate: {error}", file.display())),
    }
}

fn private_key(file: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let words = |wanted: &[u8]| bytes.windows(wanted.len()).any(|some| some == wanted);
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        _ if words(b"BEGIN ENCRYPTED PRIVATE KEY") || words(b"Proc-Type: 4,ENCRYPTED") => {
            let file = file.display();
            format!(
                "the private key in {file} has a password, which is not supported: take it off with 'openssl pkey -in {file}' \
                 and keep the key readable for the agent alone"
            )
        }
        pem::Error::NoItemsFound => format!("{} holds no private key", file.display()),
        error => format!("{} holds no usable private key: {error}", file.display()),
    })
}
