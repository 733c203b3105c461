//! A client's side: which servers are believed, and what they are shown.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::files::{TlsFiles, provider};
use crate::wire::Wire;

const PROTOCOL: &[&[u8]] = &[b"http/1.1"];

/// How servers are spoken to whose addresses begin with `https://`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerTls {
    /// Who is trusted, and what is shown.
    pub files: TlsFiles,
    /// Whatever certificate a server shows will do, whoever signed it and for whatever name.
    pub insecure: bool,
}

impl PeerTls {
    /// Reads the files. The error names the file and what is wrong with it.
    pub fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if !self.insecure {
            return self.files.client_config(PROTOCOL);
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider())));
        self.files.show(builder, PROTOCOL)
    }

    /// Shakes hands with whoever is reached under `host`: a name or an address, in brackets or not. The
    /// files are read on a thread for such: a disk may hang. What went wrong is for [`crate::explained`].
    pub async fn secure(&self, host: &str, stream: TcpStream) -> io::Result<Wire> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, rustls::Error::General(text));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|error| invalid(format!("'{host}': {error}")))?;
        let peer = self.clone();
        let read = tokio::task::spawn_blocking(move || peer.config());
        let config = read.await.map_err(io::Error::other)?.map_err(invalid)?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Wire::Tls(Box::new(TlsStream::Client(stream))))
    }
}

/// Believes every certificate, as long as whoever shows it has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
