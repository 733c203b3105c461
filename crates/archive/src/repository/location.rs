//! Where a repository lies.

use std::fmt;
use std::path::{Path as FilePath, PathBuf};

use jiff::Timestamp;
use object_store::path::Path;

/// Where a repository lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A directory, which must exist: of this machine, or a mounted file system (NFS).
    Directory(PathBuf),
    /// Amazon S3 and what speaks like it.
    S3(Box<S3>),
    /// Google Cloud Storage.
    Gcs(Box<Gcs>),
    /// Azure Blob Storage.
    Azure(Box<Azure>),
}

/// A bucket of S3 or of a compatible store. What is not set comes from the environment and the cloud's own chain
/// (`AWS_…` variables, web identity, container and instance credentials).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3 {
    /// The bucket, which must exist.
    pub bucket: String,
    /// Path below the bucket, without slashes at its ends; empty for the bucket itself.
    pub prefix: String,
    /// `https://host:port` of a compatible store; `http://` sends everything in the clear.
    pub endpoint: Option<String>,
    /// Region; compatible stores take any.
    pub region: Option<String>,
    /// The bucket is part of the host name (`bucket.host`), not of the path.
    pub virtual_hosted: bool,
    /// Access key and its secret.
    pub keys: Option<(String, String)>,
    /// Session token that belongs to the keys.
    pub token: Option<String>,
    /// When that ends, where it is told.
    pub token_ends: Option<Timestamp>,
    /// PEM file with the CA that signed the endpoint's certificate.
    pub ca: Option<PathBuf>,
    /// What the store encrypts objects with.
    pub server_side: Option<ServerSide>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All of them, so that a new one is shown or kept back on purpose.
        let S3 { bucket, prefix, endpoint, region, virtual_hosted, keys, token, token_ends, ca, server_side } = self;
        let mut shown = f.debug_struct("S3");
        shown.field("bucket", bucket).field("prefix", prefix).field("endpoint", endpoint).field("region", region);
        shown.field("virtual_hosted", virtual_hosted).field("key", &keys.as_ref().map(|(id, _)| id));
        shown.field("has_token", &token.is_some()).field("token_ends", token_ends).field("ca", ca);
        shown.field("server_side", server_side).finish_non_exhaustive()
    }
}

/// What S3 encrypts objects with where they rest.
#[derive(Clone, PartialEq, Eq)]
pub enum ServerSide {
    /// Its own keys.
    Own,
    /// A key of its key service: the named one, or the account's.
    KeyService(Option<String>),
    /// Twice, with such a key.
    KeyServiceTwice(Option<String>),
    /// This one (32 bytes in base64), which comes with each request.
    Customer(String),
}

impl fmt::Debug for ServerSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ServerSide {
    /// As the client calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            ServerSide::Own => "AES256",
            ServerSide::KeyService(_) => "aws:kms",
            ServerSide::KeyServiceTwice(_) => "aws:kms:dsse",
            ServerSide::Customer(_) => "sse-c",
        }
    }
}

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gcs {
    /// The bucket, which must exist.
    pub bucket: String,
    /// Path below the bucket.
    pub prefix: String,
    /// JSON file of a service account or of a user; without it the environment and the cloud's own chain.
    pub credentials: Option<PathBuf>,
    /// `https://host:port` of an emulator or a private endpoint.
    pub endpoint: Option<String>,
    /// PEM file with the CA that signed the endpoint's certificate.
    pub ca: Option<PathBuf>,
}

/// A container of Azure Blob Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Azure {
    /// Storage account.
    pub account: String,
    /// The container, which must exist.
    pub container: String,
    /// Path below the container.
    pub prefix: String,
    /// What proves who we are; without it the environment and the cloud's own chain.
    pub secret: Option<AzureSecret>,
    /// `https://host:port` of an emulator or a private endpoint. Where its host is an address, the account comes into the path.
    pub endpoint: Option<String>,
    /// PEM file with the CA that signed the endpoint's certificate.
    pub ca: Option<PathBuf>,
}

/// What Azure is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum AzureSecret {
    /// An access key of the account.
    Key(String),
    /// A shared access signature: `sv=…&sig=…`.
    Signature(String),
}

impl fmt::Debug for AzureSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AzureSecret::Key(_) => "an access key",
            AzureSecret::Signature(_) => "a shared access signature",
        })
    }
}

impl Location {
    /// As people write it: `directory /srv/archive`, `s3://bucket/prefix`.
    pub fn describe(&self) -> String {
        let below = |prefix: &str| if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        match self {
            Location::Directory(path) => format!("directory {}", path.display()),
            Location::S3(s3) => format!("s3://{}{}", s3.bucket, below(&s3.prefix)),
            Location::Gcs(gcs) => format!("gs://{}{}", gcs.bucket, below(&gcs.prefix)),
            Location::Azure(azure) => format!("azure://{}/{}{}", azure.account, azure.container, below(&azure.prefix)),
        }
    }

    /// PEM file with the CA of its endpoint, if there is one.
    pub(super) fn ca(&self) -> Option<&FilePath> {
        match self {
            Location::Directory(_) => None,
            Location::S3(s3) => s3.ca.as_deref(),
            Location::Gcs(gcs) => gcs.ca.as_deref(),
            Location::Azure(azure) => azure.ca.as_deref(),
        }
    }

    /// What must be there before it can be a repository.
    pub(super) fn holder(&self) -> String {
        match self {
            Location::Directory(path) => format!("directory {}", path.display()),
            Location::S3(s3) => format!("bucket {}", s3.bucket),
            Location::Gcs(gcs) => format!("bucket {}", gcs.bucket),
            Location::Azure(azure) => format!("container {}", azure.container),
        }
    }

    pub(super) fn prefix(&self) -> Result<Path, String> {
        let prefix = match self {
            Location::Directory(_) => "",
            Location::S3(s3) => &s3.prefix,
            Location::Gcs(gcs) => &gcs.prefix,
            Location::Azure(azure) => &azure.prefix,
        };
        Path::parse(prefix).map_err(|error| format!("the prefix '{prefix}' cannot be used: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Repository, Settings};
    use super::*;

    #[test]
    fn nothing_that_is_logged_or_shown_tells_a_secret() {
        let key = "bm90LWEtc2VjcmV0";
        let s3 = S3 {
            bucket: "bucket".into(),
            keys: Some(("the-id".into(), "the-secret".into())),
            token: Some("the-token".into()),
            server_side: Some(ServerSide::Customer("the-customers-key".into())),
            region: Some("here".into()),
            ..S3::default()
        };
        let azure = |secret| Azure {
            account: "shop".into(),
            container: "bucket".into(),
            secret: Some(secret),
            ..Azure::default()
        };
        let server_side = None;
        for location in [
            Location::S3(Box::new(s3.clone())),
            Location::S3(Box::new(S3 { server_side, ..s3 })),
            Location::Azure(Box::new(azure(AzureSecret::Key(key.into())))),
            Location::Azure(Box::new(azure(AzureSecret::Signature(
                "sv=1&se=2999-01-01T00:00:00Z&sig=the-signature".into(),
            )))),
        ] {
            let settings = Settings { location, patience: Duration::ZERO };
            let mut shown = format!("{settings:?}");
            assert!(shown.contains("bucket"), "{shown}");
            // A client would not be made of a key that is none.
            if let Ok(repository) = Repository::foreign(&settings) {
                shown.push_str(&format!("{repository:?}"));
            }
            for secret in ["the-secret", "the-token", "the-customers-key", key, "the-signature", "110, 111, 116"] {
                assert!(!shown.contains(secret), "{secret} is in {shown}");
            }
        }
    }
}
