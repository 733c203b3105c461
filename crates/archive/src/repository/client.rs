//! The clients of the stores.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredentialProvider, GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use super::ending::part;
use super::error::chain;
use super::federation::{Account, Federated};
use super::keeping::Keeping;
use super::location::{Azure, AzureSecret, Gcs, Location, S3, ServerSide};
use super::{RepositoryError, Tuning};

impl Location {
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
            Location::Gcs(gcs) => Arc::new(gcs.build(patience, tuning)?),
            Location::Azure(azure) => Arc::new(azure.build(patience, tuning)?),
        })
    }
}

impl Gcs {
    fn build(&self, patience: Duration, tuning: &Tuning) -> Result<GoogleCloudStorage, Unusable> {
        let named = self.credentials.clone().or_else(external_account_of_environment);
        let account = named.and_then(|path| Account::read(&path));
        // With credentials of its own nothing of the environment may mix with them.
        let mut builder = match &self.credentials {
            _ if account.is_some() => GoogleCloudStorageBuilder::new(),
            Some(path) => GoogleCloudStorageBuilder::new().with_application_credentials(path.display().to_string()),
            None => GoogleCloudStorageBuilder::from_env(),
        };
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_config(GoogleConfigKey::BaseUrl, endpoint.trim_end_matches('/'));
        }
        let options = options(tuning, self.endpoint.as_deref(), self.ca.as_ref())?;
        let builder = builder.with_bucket_name(&self.bucket).with_retry(retry(patience));
        let builder = builder.with_client_options(options.clone());
        if let Some(account) = account {
            let own: GcpCredentialProvider = Arc::new(Federated::new(account, &options, patience)?);
            return Ok(builder.with_credentials(Arc::new(Keeping::new(&own))).build()?);
        }
        if self.credentials.is_none() {
            let own = builder.clone().build()?;
            return Ok(builder.with_credentials(Arc::new(Keeping::new(own.credentials()))).build()?);
        }
        builder.build().map_err(|error| match &self.credentials {
            Some(path) => {
                Unusable::Said(format!("its credentials {} cannot be used: {}", path.display(), chain(&error)))
            }
            None => error.into(),
        })
    }
}

/// A file that may be one of a workload, where nothing comes before it.
fn external_account_of_environment() -> Option<PathBuf> {
    let before =
        ["SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY"];
    if before.iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    std::env::var_os("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from)
}

impl Azure {
    fn build(&self, patience: Duration, tuning: &Tuning) -> Result<MicrosoftAzure, Unusable> {
        let mut builder = match &self.secret {
            Some(AzureSecret::Key(key)) => MicrosoftAzureBuilder::new().with_access_key(key),
            Some(AzureSecret::Signature(signature)) => {
                if let Some(ends) = part(signature, "se").filter(|ends| *ends <= Timestamp::now()) {
                    let why = format!(
                        "its shared access signature ended at {ends}; write a new one into its credentials file"
                    );
                    return Err(Unusable::Said(why));
                }
                MicrosoftAzureBuilder::new().with_config(AzureConfigKey::SasKey, signature)
            }
            None => MicrosoftAzureBuilder::from_env(),
        };
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(self.with_account(endpoint));
        }
        let builder = builder
            .with_account(&self.account)
            .with_container_name(&self.container)
            .with_retry(retry(patience))
            .with_client_options(options(tuning, self.endpoint.as_deref(), self.ca.as_ref())?);
        if self.secret.is_none() {
            let own = builder.clone().build()?;
            return Ok(builder.with_credentials(Arc::new(Keeping::new(own.credentials()))).build()?);
        }
        Ok(builder.build()?)
    }

    /// Azure has the account in its host name; an emulator at an address has it in its path.
    fn with_account(&self, endpoint: &str) -> String {
        let endpoint = endpoint.trim_end_matches('/');
        let place = endpoint.split_once("://").map_or(endpoint, |(_, place)| place);
        let host =
            place.strip_prefix('[').map_or(place.split(':').next(), |six| six.split(']').next()).unwrap_or(place);
        let is_address = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok();
        if is_address && !place.contains('/') { format!("{endpoint}/{}", self.account) } else { endpoint.to_owned() }
    }
}

impl S3 {
    /// What the environment says; of who we are only where there are no keys, which a token of others would make useless.
    fn by_environment(&self) -> AmazonS3Builder {
        if self.keys.is_none() {
            let builder = AmazonS3Builder::from_env();
            // Its name with Amazon's own tools; the library has another one.
            return match std::env::var("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
                Ok(endpoint) => builder.with_metadata_endpoint(endpoint.trim_end_matches('/')),
                Err(_) => builder,
            };
        }
        let names_us = [
            AmazonS3ConfigKey::AccessKeyId,
            AmazonS3ConfigKey::SecretAccessKey,
            AmazonS3ConfigKey::Token,
            AmazonS3ConfigKey::SkipSignature,
        ];
        let mut builder = AmazonS3Builder::new();
        for (name, value) in std::env::vars_os() {
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
            match name.to_ascii_lowercase().parse() {
                Ok(key) if name.starts_with("AWS_") && !names_us.contains(&key) => {
                    builder = builder.with_config(key, value);
                }
                _ => {}
            }
        }
        builder
    }

    fn build(&self, patience: Duration, tuning: &Tuning) -> Result<AmazonS3, Unusable> {
        let options = options(tuning, self.endpoint.as_deref(), self.ca.as_ref())?;
        let mut builder = self
            .by_environment()
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
        if self.keys.is_none() {
            let own = builder.clone().build()?;
            return Ok(builder.with_credentials(Arc::new(Keeping::new(own.credentials()))).build()?);
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

fn options(tuning: &Tuning, endpoint: Option<&str>, ca: Option<&PathBuf>) -> Result<ClientOptions, Unusable> {
    // A request that moves nothing for this long is dead; one that moves slowly is not.
    let mut options = ClientOptions::new()
        .with_connect_timeout(tuning.connect.unwrap_or(Duration::from_secs(5)))
        .with_timeout_disabled()
        .with_read_timeout(tuning.stall.unwrap_or(Duration::from_secs(30)));
    if let Some(endpoint) = endpoint {
        options = options.with_allow_http(endpoint.starts_with("http://"));
    }
    if let Some(path) = ca {
        let unreadable = |error: &dyn std::fmt::Display| {
            Unusable::Said(format!("the CA {} cannot be used: {error}", path.display()))
        };
        let pem = std::fs::read(path).map_err(|error| unreadable(&error))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(&error))?;
        if certificates.is_empty() {
            return Err(unreadable(&"it holds no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)"));
        }
        for certificate in certificates {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn retry(patience: Duration) -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5), base: 2.0 };
    RetryConfig { backoff, max_retries: usize::MAX, retry_timeout: patience }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_comes_into_the_path_where_no_host_name_can_hold_it() {
        let azure = Azure { account: "shop".to_owned(), ..Azure::default() };
        for (endpoint, asked) in [
            ("http://127.0.0.1:10000", "http://127.0.0.1:10000/shop"),
            ("http://[::1]:10000/", "http://[::1]:10000/shop"),
            ("http://localhost:10000", "http://localhost:10000/shop"),
            ("http://127.0.0.1:10000/other", "http://127.0.0.1:10000/other"),
            ("https://shop.blob.core.example", "https://shop.blob.core.example"),
            ("https://blobs.shop.example:8443/", "https://blobs.shop.example:8443"),
        ] {
            assert_eq!(azure.with_account(endpoint), asked);
        }
    }
}
