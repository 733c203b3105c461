//! What a repository is told about how fast, how long, and in which form to write: each has its effect.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::directory;
use matriarch_archive::configured::Configured;
use matriarch_archive::repository::{CreateBy, Location, Repository, S3, Settings, Tuning, digest_name};
use matriarch_config::DynamicConfig;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::middleman::{Fault, Middleman, Request};
use matriarch_testkit::s3::{BUCKET, KEYS, S3Server};
use serde_json::{Value, json};

const KIB: usize = 1024;

#[tokio::test]
async fn bytes_take_the_time_that_the_limits_give_them() {
    let dir = TestDir::new("tuning");
    let settings = directory(&dir, "repository");
    let tuning = Tuning { upload: Some(512 << 10), download: Some(512 << 10), ..Tuning::default() };
    let repository = Repository::init_tuned(&settings, &tuning, CreateBy::Condition).await.unwrap();
    let content = Bytes::from(vec![7; 256 * KIB]);
    let begun = Instant::now();
    for number in 0..3 {
        repository.put(&format!("a/{number}"), content.clone()).await.unwrap();
    }
    let same = |content: &[u8]| Ok(digest_name(content));
    repository.put_new("a/3", content.clone(), same).await.unwrap();
    let mut upload = repository.upload("a/4", 2).await.unwrap();
    upload.write(content.clone()).await.unwrap();
    upload.finish().await.unwrap();
    // The last of five goes when the four before it have had their half second each.
    let sent = begun.elapsed();
    assert!((1_900..20_000).contains(&sent.as_millis()), "{sent:?}");

    let begun = Instant::now();
    for number in 0..3 {
        assert_eq!(repository.range(&format!("a/{number}"), 0..256 << 10).await.unwrap(), content);
    }
    for number in 3..5 {
        assert_eq!(repository.get(&format!("a/{number}")).await.unwrap(), content);
    }
    let fetched = begun.elapsed();
    assert!((1_900..20_000).contains(&fetched.as_millis()), "{fetched:?}");

    let unlimited = Repository::open(&settings).await.unwrap();
    let begun = Instant::now();
    for number in 0..5 {
        unlimited.put(&format!("b/{number}"), content.clone()).await.unwrap();
    }
    assert!(begun.elapsed() < sent, "without limits it is faster");
}

/// What a section `archive` of the configuration says about one repository.
fn configured(section: Value) -> Configured {
    let config = DynamicConfig::from_json(&json!({ "archive": { "repositories": [section] } })).unwrap();
    Configured::new(&config.archive.unwrap(), "main", Duration::from_secs(60)).unwrap()
}

fn section(dir: &TestDir, middleman: &Middleman, more: Value) -> Value {
    let credentials = dir.join("credentials");
    std::fs::write(&credentials, format!("aws_access_key_id={}\naws_secret_access_key={}\n", KEYS.0, KEYS.1)).unwrap();
    let mut section = json!({
        "location": format!("s3://{BUCKET}/tuned"), "endpoint": middleman.endpoint(), "allow_http": true,
        "region": "us-east-1", "credentials": credentials,
    });
    for (key, value) in more.as_object().unwrap() {
        section[key] = value.clone();
    }
    section
}

/// The requests that begin an object.
fn writes(seen: &[Request]) -> Vec<&Request> {
    let begins = |request: &&Request| {
        request.method == "PUT" && !request.target.contains("partNumber=")
            || request.method == "POST" && request.target.contains("?uploads")
    };
    seen.iter().filter(begins).collect()
}

/// Every way in which objects are written; whether the store takes them is its own affair.
async fn write_all_ways(repository: &Repository) {
    let content = Bytes::from_static(b"content");
    let _ = repository.put("a/put", content.clone()).await;
    let _ = repository.put_new("a/new", content.clone(), |content| Ok(digest_name(content))).await;
    if let Ok(mut upload) = repository.upload("a/parts", 2).await {
        let _ = upload.write(content).await;
        let _ = upload.finish().await;
    }
}

#[tokio::test]
async fn a_store_is_told_the_class_and_the_encryption_of_every_object() {
    let dir = TestDir::new("tuning");
    let server = S3Server::start(&dir).unwrap();
    let middleman = Middleman::before(&server.endpoint()).unwrap();
    let key = dir.join("customer.key");
    std::fs::write(&key, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n").unwrap();
    // Made without any of it, so that the mark is there whatever the store makes of the rest.
    let plain = configured(section(&dir, &middleman, json!({})));
    assert!(plain.init().await.remove(0).is_ok());
    assert!(middleman.seen().iter().all(|request| request.header("x-amz-storage-class").is_none()));

    let kms = "arn:aws:kms:eu-1:1:key/k";
    let cases = [
        (json!({ "storage_class": "STANDARD_IA" }), vec![("x-amz-storage-class", "STANDARD_IA")]),
        (json!({ "server_side_encryption": "sse-s3" }), vec![("x-amz-server-side-encryption", "AES256")]),
        (
            json!({ "server_side_encryption": "sse-kms", "kms_key": kms, "storage_class": "GLACIER_IR" }),
            vec![
                ("x-amz-server-side-encryption", "aws:kms"),
                ("x-amz-server-side-encryption-aws-kms-key-id", kms),
                ("x-amz-storage-class", "GLACIER_IR"),
            ],
        ),
        (json!({ "server_side_encryption": "dsse-kms" }), vec![("x-amz-server-side-encryption", "aws:kms:dsse")]),
        (
            json!({ "server_side_encryption": "sse-c", "customer_key": key }),
            vec![("x-amz-server-side-encryption-customer-algorithm", "AES256")],
        ),
    ];
    for (more, headers) in cases {
        let is_customer = more["server_side_encryption"] == "sse-c";
        let mut more = more;
        more["retry_for"] = json!(0);
        let tuned = configured(section(&dir, &middleman, more.clone()));
        middleman.well();
        if is_customer {
            // The mark was written without the key, so a store may refuse to show it: only what is asked counts here.
            let _ = tuned.init().await;
            let reads = middleman.seen();
            let told =
                reads.iter().any(|request| request.header("x-amz-server-side-encryption-customer-key").is_some());
            assert!(told, "{more}: {reads:?}");
            continue;
        }
        let repository = tuned.repositories().await.remove(0).unwrap();
        middleman.well();
        write_all_ways(&repository).await;
        let seen = middleman.seen();
        let writes = writes(&seen);
        assert!(writes.len() >= 3, "{more}: {writes:?}");
        for request in writes {
            let signed = request.header("authorization").unwrap_or_default();
            for (name, value) in &headers {
                assert_eq!(request.header(name), Some(*value), "{more}: {} {}", request.method, request.target);
                assert!(signed.contains(name), "{name} is not signed: {signed}");
            }
        }
    }
    let wrong = dir.join("wrong.key");
    std::fs::write(&wrong, "c2hvcnQ=").unwrap();
    let more = json!({ "server_side_encryption": "sse-c", "customer_key": wrong });
    let error = configured(section(&dir, &middleman, more)).init().await.remove(0).unwrap_err().to_string();
    assert!(error.contains("repositories[0].customer_key") && error.contains("openssl rand"), "{error}");
}

#[tokio::test]
async fn requests_that_stand_still_are_made_again_and_calls_are_repeated_as_long_as_they_may_be() {
    let dir = TestDir::new("tuning");
    let server = S3Server::start(&dir).unwrap();
    let middleman = Middleman::before(&server.endpoint()).unwrap();
    let plain = configured(section(&dir, &middleman, json!({})));
    plain.init().await.remove(0).unwrap().put("a", Bytes::from_static(b"x")).await.unwrap();
    let open = |more: Value| {
        let tuned = configured(section(&dir, &middleman, more));
        async move { tuned.repositories().await.remove(0).unwrap() }
    };
    let hasty = open(json!({ "request_timeout": 1, "retry_for": 60 })).await;
    middleman.once(0, Fault::Hang(Duration::from_secs(20)));
    let begun = Instant::now();
    assert_eq!(&hasty.get("a").await.unwrap()[..], b"x");
    let took = begun.elapsed();
    assert!((900..15_000).contains(&took.as_millis()), "{took:?}");

    for (seconds, least, most) in [(0, 0, 2_000), (2, 800, 20_000)] {
        let repository = open(json!({ "retry_for": seconds })).await;
        middleman.plan(|_| Some(Fault::Status(503)));
        let begun = Instant::now();
        let error = repository.get("a").await.unwrap_err();
        let took = begun.elapsed();
        middleman.well();
        assert!(error.is_outage() && !error.is_absent(), "{error}");
        assert!((least..most).contains(&took.as_millis()), "{seconds} s: {took:?}");
    }
}

/// A listener that accepts nothing, and whose queue is full: a connection to it does not come about.
fn deaf() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        held.push(stream);
        assert!(held.len() < 10_000, "its queue has no end");
    }
    (listener, held)
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_given_up() {
    let (listener, _held) = deaf();
    let location = S3 {
        bucket: BUCKET.to_owned(),
        endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
        region: Some("us-east-1".to_owned()),
        keys: Some((KEYS.0.to_owned(), KEYS.1.to_owned())),
        ..S3::default()
    };
    let settings = Settings { location: Location::S3(Box::new(location)), patience: Duration::ZERO };
    let tuning = Tuning { connect: Some(Duration::from_millis(500)), ..Tuning::default() };
    let begun = Instant::now();
    let error = Repository::open_tuned(&settings, &tuning).await.unwrap_err();
    let took = begun.elapsed();
    assert!(error.is_outage(), "{error}");
    assert!((400..4_000).contains(&took.as_millis()), "sooner than the default of 5 s: {took:?}");
}

#[test]
fn a_secret_is_not_shown() {
    let server_side = matriarch_archive::repository::ServerSide::Customer("secret".to_owned());
    assert_eq!(format!("{server_side:?}"), "sse-c");
}
