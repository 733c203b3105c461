//! Certificates for tests, valid for as long as the test wants.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::user;

/// Signs certificates for `localhost` and 127.0.0.1, and writes them as PEM files into its folder.
pub struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one; its own certificate is `ca.pem`.
    ///
    /// # Panics
    /// When its files cannot be written.
    pub fn new(dir: &Path) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect("there is randomness");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("the parameters are complete");
        let authority = Authority { dir: dir.to_owned(), issuer };
        write(&authority.ca(), &authority.issuer.pem());
        authority
    }

    /// Issues `<name>.pem` and `<name>.key`, valid from yesterday, with the common name `name`; files of that name are
    /// replaced.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn issue(&self, name: &str, lives: Duration) {
        self.issue_until(name, SystemTime::now() + lives);
    }

    /// As [`Authority::issue`], until a time that may have passed.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn issue_until(&self, name: &str, end: SystemTime) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("both are valid names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = (end.min(SystemTime::now()) - Duration::from_secs(86_400)).into();
        params.not_after = end.into();
        let key = KeyPair::generate().expect("there is randomness");
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters are complete");
        write(&self.key(name), &key.serialize_pem());
        write(&self.cert(name), &certificate.pem());
    }

    /// The file of the authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The file of a certificate.
    pub fn cert(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pem"))
    }

    /// The file of its key.
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).expect("the test's folder is writable");
    user::give(file).expect("root may give its files away");
}
