//! Where a repository lies, and the client for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use super::error::chain;
use super::{RepositoryError, Tuning};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// PEM file with the CA that signed the endpoint's certificate.
    pub ca: Option<PathBuf>,
    /// What the store encrypts objects with.
    pub server_side: Option<ServerSide>,
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

impl std::fmt::Debug for ServerSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl ServerSide {
    /// As the client calls it.
    fn name(&self) -> &'static str {
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
    /// JSON file of a service account; without it the cloud's own chain.
    pub service_account: Option<PathBuf>,
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
    /// Access key; without it the cloud's own chain.
    pub access_key: Option<String>,
    /// `https://host:port` of an emulator or a private endpoint.
    pub endpoint: Option<String>,
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

    pub(super) fn prefix(&self) -> Result<Path, String> {
        let prefix = match self {
            Location::Directory(_) => "",
            Location::S3(s3) => &s3.prefix,
            Location::Gcs(gcs) => &gcs.prefix,
            Location::Azure(azure) => &azure.prefix,
        };
        Path::parse(prefix).map_err(|error| format!("the prefix '{prefix}' cannot be used: {error}"))
    }

    /// The client. It repeats what fails for up to `patience`.
    pub(super) fn connect(&self, patience: Duration, tuning: &Tuning) -> Result<Arc<dyn ObjectStore>, RepositoryError> {
        let settings = |why: String| RepositoryError::Settings { repository: self.describe(), why };
        self.build(patience, tuning).map_err(|error| match error {
            Unusable::Said(why) => settings(why),
            Unusable::Store(error) => settings(chain(&error)),
        })
    }

    fn build(&self, patience: Duration, tuning: &Tuning) -> Result<Arc<dyn ObjectStore>, Unusable> {
        Ok(match self {
            Location::Directory(path) => {
                if !path.is_dir() {
                    let why = format!("{} is not a directory; make it, or mount its file system", path.display());
                    return Err(Unusable::Said(why));
                }
                // Folders that retention has emptied go with their last file.
                let store = LocalFileSystem::new_with_prefix(path)?.with_fsync(true).with_automatic_cleanup(true);
                Arc::new(store)
            }
            Location::S3(s3) => Arc::new(s3.build(patience, tuning)?),
            Location::Gcs(gcs) => {
                let mut builder = GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(&gcs.bucket)
                    .with_retry(retry(patience))
                    .with_client_options(options(tuning));
                if let Some(path) = &gcs.service_account {
                    builder = builder.with_service_account_path(path.display().to_string());
                }
                Arc::new(builder.build()?)
            }
            Location::Azure(azure) => {
                let mut builder = MicrosoftAzureBuilder::from_env()
                    .with_account(&azure.account)
                    .with_container_name(&azure.container)
                    .with_retry(retry(patience))
                    .with_client_options(options(tuning));
                if let Some(key) = &azure.access_key {
                    builder = builder.with_access_key(key);
                }
                if let Some(endpoint) = &azure.endpoint {
                    builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint.clone());
                }
                Arc::new(builder.build()?)
            }
        })
    }
}

impl S3 {
    fn build(&self, patience: Duration, tuning: &Tuning) -> Result<object_store::aws::AmazonS3, Unusable> {
        let mut options = options(tuning);
        if let Some(path) = &self.ca {
            let unreadable =
                |error: &dyn std::fmt::Display| format!("the CA {} cannot be used: {error}", path.display());
            let pem = std::fs::read(path).map_err(|error| Unusable::Said(unreadable(&error)))?;
            let certificates =
                Certificate::from_pem_bundle(&pem).map_err(|error| Unusable::Said(unreadable(&error)))?;
            for certificate in certificates {
                options = options.with_root_certificate(certificate);
            }
        }
        if let Some(endpoint) = &self.endpoint {
            options = options.with_allow_http(endpoint.starts_with("http://"));
        }
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&self.bucket)
            .with_virtual_hosted_style_request(self.virtual_hosted)
            .with_retry(retry(patience))
            .with_client_options(options);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some((id, secret)) = &self.keys {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        if let Some(token) = &self.token {
            builder = builder.with_token(token);
        }
        if let Some(server_side) = &self.server_side {
            let set = |builder: AmazonS3Builder, key: &str, value: &str| -> Result<AmazonS3Builder, Unusable> {
                Ok(builder.with_config(key.parse::<AmazonS3ConfigKey>()?, value))
            };
            builder = set(builder, "aws_server_side_encryption", server_side.name())?;
            match server_side {
                ServerSide::KeyService(Some(key)) | ServerSide::KeyServiceTwice(Some(key)) => {
                    builder = set(builder, "aws_sse_kms_key_id", key)?;
                }
                ServerSide::Customer(key) => builder = set(builder, "aws_sse_customer_key_base64", key)?,
                _ => {}
            }
        }
        Ok(builder.build()?)
    }
}

enum Unusable {
    Said(String),
    Store(object_store::Error),
}

impl From<object_store::Error> for Unusable {
    fn from(error: object_store::Error) -> Self {
        Unusable::Store(error)
    }
}

fn options(tuning: &Tuning) -> ClientOptions {
    // A request that moves nothing for this long is dead; one that moves slowly is not.
    ClientOptions::new()
        .with_connect_timeout(tuning.connect.unwrap_or(Duration::from_secs(5)))
        .with_timeout_disabled()
        .with_read_timeout(tuning.stall.unwrap_or(Duration::from_secs(30)))
}

fn retry(patience: Duration) -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5), base: 2.0 };
    RetryConfig { backoff, max_retries: usize::MAX, retry_timeout: patience }
}
