//! The same promises on Google Cloud Storage and Azure Blob Storage, as emulators keep them.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use matriarch_archive::configured::Configured;
use matriarch_archive::repository::{
    Azure, AzureSecret, CreateBy, Gcs, Location, PutNew, Repository, Settings, Tuning,
};
use matriarch_config::DynamicConfig;
use matriarch_testkit::azure::{ACCOUNT, AzureServer, CONTAINER, KEY};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::gcs::{self, GcsServer};
use matriarch_testkit::middleman::{Fault, Middleman};

use serde_json::{Value, json};

use super::common::{PATIENT, init};
use super::{keeps_its_word, put_new, races, same_bytes};

fn in_google(server: &GcsServer, prefix: &str) -> Gcs {
    Gcs {
        bucket: gcs::BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        credentials: Some(server.account()),
        endpoint: Some(server.endpoint()),
        ca: None,
    }
}

fn in_azure(server: &AzureServer, prefix: &str) -> Azure {
    Azure {
        account: ACCOUNT.to_owned(),
        container: CONTAINER.to_owned(),
        prefix: prefix.to_owned(),
        secret: Some(AzureSecret::Key(KEY.to_owned())),
        endpoint: Some(server.endpoint()),
        ca: None,
    }
}

fn google(gcs: Gcs) -> Settings {
    Settings { location: Location::Gcs(Box::new(gcs)), patience: PATIENT }
}

fn azure(azure: Azure) -> Settings {
    Settings { location: Location::Azure(Box::new(azure)), patience: PATIENT }
}

fn hasty(settings: Settings) -> Settings {
    Settings { patience: Duration::from_millis(500), ..settings }
}

/// Everything that both keep. The repository is left open, for when its server is away.
async fn keeps_all(at: impl Fn(&str) -> Settings) -> Repository {
    for (prefix, by) in
        [("by/condition", CreateBy::Condition), ("by/claims", CreateBy::Claims), ("", CreateBy::Condition)]
    {
        keeps_its_word(&at(prefix), by).await;
    }
    let settings = at("by/condition");
    lists_and_checks(&settings).await;
    races(&settings, 3).await;
    Repository::open(&hasty(settings)).await.unwrap()
}

#[tokio::test]
async fn google_keeps_its_word() {
    let dir = TestDir::new("archive");
    let mut server = GcsServer::start(&dir).unwrap();
    let repository = keeps_all(|prefix| google(in_google(&server, prefix))).await;
    server.stop();
    is_away(&repository).await;
    server.run().unwrap();
    assert_eq!(put_new(&repository, "wal/away", b"content").await.unwrap(), PutNew::Created);
}

#[tokio::test]
async fn azure_keeps_its_word() {
    let dir = TestDir::new("archive");
    let mut server = AzureServer::start(&dir).unwrap();
    let repository = keeps_all(|prefix| azure(in_azure(&server, prefix))).await;
    server.stop();
    is_away(&repository).await;
    server.run().unwrap();
    assert_eq!(put_new(&repository, "wal/away", b"content").await.unwrap(), PutNew::Created);
}

/// Lists of more than one page, from anywhere on, folders among them; and the round trip of `archive check`.
async fn lists_and_checks(settings: &Settings) {
    let repository = Repository::open(settings).await.unwrap();
    repository.check().await.unwrap();
    let names: Vec<String> = (0..45).map(|n| format!("many/{:02}/{n:03} ü+%&=.x", n % 3)).collect();
    for name in &names {
        repository.put(name, Bytes::from(name.clone())).await.unwrap();
    }
    let mut sorted = names.clone();
    sorted.sort();
    let listed: Vec<String> = repository.list("many").await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(listed, sorted);
    let after = repository.list_after("many", Some(&sorted[29])).await.unwrap();
    assert_eq!(after.into_iter().map(|entry| entry.name).collect::<Vec<_>>(), sorted[30..]);
    assert_eq!(repository.folders("many").await.unwrap(), ["00", "01", "02"]);
    assert_eq!(repository.files("many/01").await.unwrap().len(), 15);
    assert_eq!(&repository.get(&sorted[7]).await.unwrap()[..], sorted[7].as_bytes());
    repository.delete(&sorted[7]).await.unwrap();
    assert!(repository.get(&sorted[7]).await.unwrap_err().is_absent());
    let begun = repository.upload("many/begun", 2).await.unwrap();
    drop(begun);
    let empty = repository.upload("many/empty", 2).await.unwrap();
    empty.finish().await.unwrap();
    assert_eq!(repository.size("many/empty").await.unwrap(), 0);
}

/// Whatever a request meets, the call goes on, and what it did is there once.
async fn goes_on(settings: &Settings, middleman: &Middleman) {
    let repository = Repository::open(settings).await.unwrap();
    let content = Bytes::from((0..9_u32 << 18).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    repository.put("fault/whole", content.clone()).await.unwrap();
    let faults = [
        Fault::Before,
        Fault::Torn,
        Fault::After,
        Fault::Status(503),
        Fault::StatusAfter(503),
        Fault::Status(429),
        Fault::CutOff,
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let name = |what: &str| format!("fault/{what}-{number}");
        let met = |at: usize| {
            middleman.well();
            middleman.once(at, fault);
        };
        repository.put(&name("gone"), content.slice(..10)).await.unwrap();
        met(0);
        let put = repository.put_new(&name("new"), content.slice(..100_000), same_bytes).await;
        assert!(put.is_ok(), "create, {fault:?}: {put:?}");
        met(0);
        repository
            .put(&name("put"), content.slice(..100_000))
            .await
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        met(0);
        assert!(repository.get("fault/whole").await.unwrap_or_else(|error| panic!("{fault:?}: {error}")) == content);
        met(0);
        let range = repository.range("fault/whole", 1000..9000).await;
        assert!(range.unwrap_or_else(|error| panic!("{fault:?}: {error}")) == content[1000..9000]);
        met(0);
        assert_eq!(repository.size("fault/whole").await.unwrap_or_else(|error| panic!("{fault:?}: {error}")), 9 << 20);
        met(0);
        let listed = repository.list("fault").await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert!(listed.iter().any(|entry| entry.name == name("new")), "{fault:?}: {listed:?}");
        met(0);
        repository.delete(&name("gone")).await.unwrap_or_else(|error| panic!("delete, {fault:?}: {error}"));
        middleman.well();
        for at in 0..4 {
            met(at);
            let mut upload = match repository.upload(&name("parts"), 2).await {
                Ok(upload) => upload,
                Err(error) => panic!("begin, {fault:?}: {error}"),
            };
            upload.write(content.clone()).await.unwrap_or_else(|error| panic!("part, {at} {fault:?}: {error}"));
            upload.finish().await.unwrap_or_else(|error| panic!("finish, {at} {fault:?}: {error}"));
            middleman.well();
            assert!(repository.get(&name("parts")).await.unwrap() == content, "{at} {fault:?}");
            repository.delete(&name("parts")).await.unwrap();
        }
        assert!(repository.get(&name("gone")).await.unwrap_err().is_absent(), "{fault:?}");
        assert!(repository.get(&name("new")).await.unwrap() == content[..100_000], "{fault:?}");
        assert!(repository.get(&name("put")).await.unwrap() == content[..100_000], "{fault:?}");
    }
}

/// Every object is written to the class that was asked for.
async fn tells_the_class(settings: &Settings, middleman: &Middleman, header: &str, class: &str) {
    middleman.well();
    let tuning = Tuning { storage_class: Some(class.to_owned()), ..Tuning::default() };
    let repository = Repository::open_tuned(settings, &tuning).await.unwrap();
    put_new(&repository, "class/new", b"content").await.unwrap();
    repository.put("class/put", Bytes::from_static(b"content")).await.unwrap();
    let mut upload = repository.upload("class/parts", 2).await.unwrap();
    upload.write(Bytes::from(vec![1; 9 << 20])).await.unwrap();
    upload.finish().await.unwrap();
    let told = middleman.seen().iter().filter(|request| request.header(header) == Some(class)).count();
    assert_eq!(told, 3, "{:?}", middleman.seen());
}

#[tokio::test]
async fn requests_to_google_may_fail_in_every_way() {
    let dir = TestDir::new("archive");
    let server = GcsServer::start(&dir).unwrap();
    init(&google(in_google(&server, "p"))).await;
    let middleman = Middleman::before(&server.endpoint()).unwrap();
    let settings = google(Gcs { endpoint: Some(middleman.endpoint()), ..in_google(&server, "p") });
    goes_on(&settings, &middleman).await;
    tells_the_class(&settings, &middleman, "x-goog-storage-class", "NEARLINE").await;
}

#[tokio::test]
async fn requests_to_azure_may_fail_in_every_way() {
    let dir = TestDir::new("archive");
    let server = AzureServer::start(&dir).unwrap();
    init(&azure(in_azure(&server, "p"))).await;
    let middleman = Middleman::before(&server.endpoint()).unwrap();
    let settings = azure(Azure { endpoint: Some(middleman.endpoint()), ..in_azure(&server, "p") });
    goes_on(&settings, &middleman).await;
    tells_the_class(&settings, &middleman, "x-ms-access-tier", "Cool").await;
}

async fn is_away(repository: &Repository) {
    for error in [
        repository.get("wal/away").await.unwrap_err(),
        repository.list("wal").await.unwrap_err(),
        put_new(repository, "wal/away", b"content").await.unwrap_err(),
        repository.check().await.unwrap_err(),
    ] {
        assert!(error.is_outage() && !error.is_absent(), "{error}");
        assert!(error.to_string().contains(repository.name()), "{error}");
    }
}

/// What `archive check` and the log say of a repository as it is configured, in which something is wrong.
pub async fn said(section: Value) -> String {
    let config = DynamicConfig::from_json(&json!({ "archive": { "repositories": [section] } })).unwrap();
    let configured = Configured::new(&config.archive.unwrap(), "main", Duration::from_millis(500)).unwrap();
    // Nothing may be made where something is wrong, or be taken for absent.
    match configured.init().await.remove(0) {
        Ok(repository) => repository.check().await.map(|_| String::new()).unwrap_or_else(|error| error.to_string()),
        Err(error) => {
            assert!(!error.is_absent(), "{error}");
            error.to_string()
        }
    }
}

pub fn file(dir: &TestDir, name: &str, text: &str) -> Value {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    json!(path)
}

pub fn assert_named(said: &str, names: &[&str]) {
    for name in names {
        assert!(said.contains(name), "'{name}' is not in: {said}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_place_in_google_is_named() {
    let dir = TestDir::new("archive");
    let server = GcsServer::start(&dir).unwrap();
    let right = json!({
        "location": format!("gs://{}/p", gcs::BUCKET), "endpoint": server.endpoint(), "allow_http": true,
        "credentials": server.account(),
    });
    let with = |key: &str, value: Value| {
        let mut section = right.clone();
        section[key] = value;
        section
    };
    assert_eq!(said(right.clone()).await, "");
    let account = std::fs::read_to_string(server.account()).unwrap();
    let mut stranger: Value = serde_json::from_str(&account).unwrap();
    stranger["client_email"] = json!("stranger@elsewhere.iam.gserviceaccount.com");
    let stranger = file(&dir, "stranger.json", &stranger.to_string());
    assert_named(
        &said(with("credentials", stranger)).await,
        &["gs://archive/p refuses", "401", "check the credentials"],
    );
    let missing = said(with("location", json!("gs://no-such-bucket/p"))).await;
    assert_named(&missing, &["gs://no-such-bucket/p", "there is no bucket no-such-bucket", "make it"]);
    let absent = said(with("credentials", json!("/nonexistent/account.json"))).await;
    assert_named(&absent, &["repositories[0].credentials: /nonexistent/account.json", "No such file"]);
    for (text, told) in [
        (&account[..account.len() / 2], "it is no JSON"),
        ("{}", "it names no `type`"),
        (&*account.replace("BEGIN PRIVATE", "BEGIN NO"), "cannot be used"),
    ] {
        let garbled = file(&dir, "garbled.json", text);
        assert_named(&said(with("credentials", garbled)).await, &["garbled.json", told]);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_place_in_azure_is_named() {
    let dir = TestDir::new("archive");
    let server = AzureServer::start(&dir).unwrap();
    let right = json!({
        "location": format!("azure://{ACCOUNT}/{CONTAINER}/p"), "endpoint": server.endpoint(), "allow_http": true,
        "credentials": file(&dir, "key", KEY),
    });
    let with = |key: &str, value: Value| {
        let mut section = right.clone();
        section[key] = value;
        section
    };
    assert_eq!(said(right.clone()).await, "");
    let (soon, gone) =
        (Timestamp::now() + SignedDuration::from_mins(10), Timestamp::now() - SignedDuration::from_mins(10));
    let signed =
        |permissions: &str, until| with("credentials", file(&dir, "signature", &server.signature(permissions, until)));
    assert_eq!(said(signed("racwdl", soon)).await, "");
    assert_named(&said(signed("racwdl", gone)).await, &["azure://matriarch/archive/p", "ended at", "write a new one"]);
    let only_read = said(signed("rl", soon)).await;
    assert_named(&only_read, &["azure://matriarch/archive/p refuses to create probe/", "403", "check the credentials"]);
    assert!(!only_read.contains("sig="), "the secret is told: {only_read}");
    assert_named(&said(signed("racwd", soon)).await, &["azure://matriarch/archive/p refuses to list", "403"]);
    let wrong = with("credentials", file(&dir, "wrong", "d3Jvbmc="));
    assert_named(&said(wrong).await, &["azure://matriarch/archive/p refuses", "403", "check the credentials"]);
    let missing = said(with("location", json!(format!("azure://{ACCOUNT}/no-such-container/p")))).await;
    assert_named(&missing, &["there is no container no-such-container", "make it"]);
    let garbled = said(with("credentials", file(&dir, "garbled", "{\"key\": 1}"))).await;
    assert_named(&garbled, &["repositories[0].credentials", "garbled", "neither an access key"]);
    let other = said(with("location", json!(format!("azure://nobody/{CONTAINER}/p")))).await;
    assert_named(&other, &["azure://nobody/archive/p"]);
}
