//! Repositories to test against: a directory, and a bucket of a real S3 server.
#![allow(dead_code, reason = "each test program uses its part")]

use std::time::Duration;

use matriarch_archive::repository::{CreateBy, Location, Repository, S3, Settings};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::s3::{BUCKET, KEYS, S3Server};

/// Patience where the store is up: generous.
pub const PATIENT: Duration = Duration::from_secs(60);

pub fn directory(dir: &TestDir, name: &str) -> Settings {
    Settings { location: Location::Directory(dir.create(name)), patience: PATIENT }
}

pub fn bucket(server: &S3Server, prefix: &str) -> Settings {
    Settings { location: Location::S3(Box::new(s3(server, prefix))), patience: PATIENT }
}

pub fn s3(server: &S3Server, prefix: &str) -> S3 {
    S3 {
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: Some(server.endpoint()),
        region: Some("us-east-1".to_owned()),
        keys: Some((KEYS.0.to_owned(), KEYS.1.to_owned())),
        ..S3::default()
    }
}

pub async fn init(settings: &Settings) -> Repository {
    Repository::init(settings, CreateBy::Condition).await.unwrap()
}
