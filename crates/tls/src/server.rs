//! A server's side: what it shows, whom it asks for a certificate, and files that are renewed under it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::files::{Own, Pair, authorities, provider, read};
use crate::wire::Wire;

/// The files are looked at again for a connection that comes so long after the last look,
const FRESH: Duration = Duration::from_secs(1);
/// which waits no longer for that: a disk may hang, and the last certificate that was good still is.
const LOOK: Duration = Duration::from_millis(500);
/// How long a client that was refused may take to read why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The `error` of the answer to plain HTTP on a port with TLS.
pub const SPEAKS_TLS: &str = "this port speaks TLS, and the request came without";

/// Whether clients show a certificate. What a request may do without one is its server's business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyClient {
    /// They are not asked.
    #[default]
    None,
    /// They are asked, and one that is not good is refused.
    Optional,
    /// As before, and nobody is spoken with who has none.
    Required,
}

/// What a server shows and trusts. All files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its certificate with its chain.
    pub cert_file: PathBuf,
    /// Its private key; in `cert_file` when none.
    pub key_file: Option<PathBuf>,
    /// Authorities of clients' certificates; needed unless nobody is asked.
    pub ca_file: Option<PathBuf>,
    /// Whether clients show a certificate.
    pub verify: VerifyClient,
}

/// Why no TLS came about with a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In words.
    pub reason: String,
    /// Its certificate is missing or not good, which somebody may want to know; else it is noise.
    pub certificate: bool,
}

/// The files, and the last of their contents that were good.
#[derive(Debug)]
pub struct ServerTls {
    files: ServerFiles,
    kept: Mutex<Kept>,
    looking: AtomicBool,
}

#[derive(Debug)]
struct Kept {
    config: Arc<ServerConfig>,
    /// Of the contents that were tried last.
    digest: u64,
    looked: Instant,
    problem: Option<String>,
}

/// Contents of the files, as far as they can be read.
struct Contents {
    cert: Result<Vec<u8>, String>,
    key: Result<Vec<u8>, String>,
    ca: Option<Result<Vec<u8>, String>>,
}

impl ServerFiles {
    fn pair(&self) -> Pair {
        let key = self.key_file.clone().unwrap_or_else(|| self.cert_file.clone());
        Pair { cert: self.cert_file.clone(), key }
    }

    fn contents(&self) -> Contents {
        let (pair, asked) = (self.pair(), self.verify != VerifyClient::None);
        let ca = self.ca_file.as_ref().filter(|_| asked).map(|file| read("list of authorities", file));
        Contents { cert: read("certificate", &pair.cert), key: read("private key", &pair.key), ca }
    }

    fn config(&self, contents: Contents) -> Result<Arc<ServerConfig>, String> {
        let pair = self.pair();
        let (chain, key): Own = pair.parse(&contents.cert?, &contents.key?)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match (self.verify, contents.ca) {
            (VerifyClient::None, _) => builder.with_no_client_auth(),
            (verify, ca) => {
                let file = self.ca_file.as_deref().unwrap_or(Path::new("(no file)"));
                let roots = authorities(file, &ca.ok_or("no file names the authorities of clients' certificates")??)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                let verifier = match verify {
                    VerifyClient::Required => verifier,
                    VerifyClient::None | VerifyClient::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(
                    verifier.build().map_err(|error| format!("{}: {error}", file.display()))?,
                )
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| pair.no_pair(&error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Who was let in once is looked at again with the files of then.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl Contents {
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.cert, &self.key, &self.ca).hash(&mut hasher);
        hasher.finish()
    }
}

impl ServerTls {
    /// Reads the files. The error names the file and what is wrong with it; that a certificate has expired is none.
    pub fn open(files: ServerFiles) -> Result<Arc<ServerTls>, String> {
        let contents = files.contents();
        let digest = contents.digest();
        let config = files.config(contents)?;
        let kept = Kept { config, digest, looked: Instant::now(), problem: None };
        Ok(Arc::new(ServerTls { files, kept: Mutex::new(kept), looking: AtomicBool::new(false) }))
    }

    /// Why the files are not used as they are now; those before them are.
    pub fn problem(&self) -> Option<String> {
        self.kept().problem.clone()
    }

    /// Whether clients show a certificate.
    pub fn verify(&self) -> VerifyClient {
        self.files.verify
    }

    /// Reads the files again, and uses them from the next connection on if they are good.
    pub fn look(&self) {
        if self.looking.swap(true, Ordering::Acquire) {
            return;
        }
        let contents = self.files.contents();
        let digest = contents.digest();
        if digest != self.kept().digest {
            self.renew(digest, self.files.config(contents));
        }
        self.kept().looked = Instant::now();
        self.looking.store(false, Ordering::Release);
    }

    fn renew(&self, digest: u64, read: Result<Arc<ServerConfig>, String>) {
        let mut kept = self.kept();
        kept.digest = digest;
        match read {
            Ok(config) => {
                tracing::info!("{} and what goes with it are renewed", self.files.cert_file.display());
                (kept.config, kept.problem) = (config, None);
            }
            Err(wrong) => {
                let problem = format!("what was read before stays in use: {wrong}");
                tracing::error!("{problem}");
                kept.problem = Some(problem);
            }
        }
    }

    /// Shakes hands. The error is for the log: whoever is refused is told by TLS, or in HTTP if that is what it speaks.
    pub async fn accept(self: &Arc<Self>, stream: TcpStream) -> Result<Wire, Refused> {
        let noise = |reason: &str| Err(Refused { reason: reason.to_owned(), certificate: false });
        let mut first = [0];
        // A client that says nothing is its server's to end.
        match stream.peek(&mut first).await {
            Ok(0) => return noise("it left without a word"),
            Ok(_) if first[0].is_ascii_uppercase() => {
                refuse_plainly(stream).await;
                return noise("it speaks plain HTTP to a port with TLS: its address begins with https://");
            }
            Ok(_) => {}
            Err(error) => return noise(&error.to_string()),
        }
        let acceptor = TlsAcceptor::from(self.current().await);
        match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => Ok(Wire::Tls(Box::new(TlsStream::Server(stream)))),
            Err((error, stream)) => {
                linger(stream).await;
                let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
                let certificate = matches!(
                    cause,
                    Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_))
                );
                Err(Refused { reason: error.to_string(), certificate })
            }
        }
    }

    /// What to shake hands with now.
    async fn current(self: &Arc<Self>) -> Arc<ServerConfig> {
        let due = self.kept().looked.elapsed() >= FRESH && !self.looking.load(Ordering::Acquire);
        if due {
            let this = self.clone();
            let _ = tokio::time::timeout(LOOK, tokio::task::spawn_blocking(move || this.look())).await;
        }
        self.kept().config.clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In words that whoever speaks HTTP understands.
async fn refuse_plainly(mut stream: TcpStream) {
    let body = format!(r#"{{"error":"{SPEAKS_TLS}","remedy":"ask https:// instead of http://"}}"#);
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ";
    let _ = stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await;
    linger(stream).await;
}

/// Ends a connection so that its peer can read what was said last: to close over what it still sends would take that away.
async fn linger(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let drain = async {
        let mut rest = [0; 512];
        while matches!(stream.read(&mut rest).await, Ok(count) if count > 0) {}
    };
    let _ = tokio::time::timeout(LAST_WORDS, drain).await;
}
