//! What a repository promises, on a directory, on a real S3 server, and on servers that speak as Google's and Azure's do.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

#[path = "cases/chain.rs"]
mod chain;
#[path = "cases/clouds.rs"]
mod clouds;
mod common;
#[path = "cases/trust.rs"]
mod trust;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{PATIENT, bucket, directory, init, s3};
use matriarch_archive::repository::{
    CreateBy, Location, PutNew, Repository, RepositoryError, S3, Settings, digest_name,
};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::middleman::{Fault, Middleman};
use matriarch_testkit::s3::S3Server;
use rustix::process::Signal;

fn same_bytes(content: &[u8]) -> Result<String, String> {
    Ok(digest_name(content))
}

async fn put_new(repository: &Repository, name: &str, content: &'static [u8]) -> Result<PutNew, RepositoryError> {
    repository.put_new(name, Bytes::from_static(content), same_bytes).await
}

/// Everything that holds for every kind of store.
async fn keeps_its_word(settings: &Settings, create_by: CreateBy) {
    let missing = Repository::open(settings).await.unwrap_err();
    assert!(matches!(missing, RepositoryError::NotARepository { .. }), "{missing}");
    let repository = Repository::init(settings, create_by).await.unwrap();
    let again = Repository::init(settings, create_by).await.unwrap();
    assert_eq!(again.mark(), repository.mark(), "the second finds the first's mark");
    assert_eq!(repository.mark().create_by, create_by);

    assert_eq!(put_new(&repository, "a/one", b"content").await.unwrap(), PutNew::Created);
    assert_eq!(put_new(&again, "a/one", b"content").await.unwrap(), PutNew::Same);
    let conflict = put_new(&again, "a/one", b"other").await.unwrap_err();
    let RepositoryError::Conflict { object, kept, .. } = &conflict else { panic!("{conflict}") };
    assert_eq!(object, "a/one");
    assert!(conflict.to_string().contains(kept), "the error names both: {conflict}");
    assert_eq!(&repository.get("a/one").await.unwrap()[..], b"content", "the first stays");
    assert_eq!(&repository.get(kept).await.unwrap()[..], b"other", "and the second is kept");

    let absent = repository.get("a/two").await.unwrap_err();
    assert!(absent.is_absent(), "{absent}");
    assert!(repository.size("a/two").await.unwrap_err().is_absent());
    assert!(repository.range("a/two", 0..1).await.unwrap_err().is_absent());

    repository.put("b/2", Bytes::from_static(b"0123456789")).await.unwrap();
    repository.put("b/10", Bytes::from_static(b"x")).await.unwrap();
    repository.put("b/1/deep", Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(&repository.range("b/2", 3..6).await.unwrap()[..], b"345");
    assert_eq!(repository.size("b/2").await.unwrap(), 10);
    for beyond in [8..12, 100..101] {
        let error = repository.range("b/2", beyond).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Corrupt { .. }), "no outage: {error}");
    }
    let names = |entries: Vec<matriarch_archive::repository::Entry>| -> Vec<String> {
        entries.into_iter().map(|entry| entry.name).collect()
    };
    assert_eq!(names(repository.list("b").await.unwrap()), ["b/1/deep", "b/10", "b/2"]);
    assert_eq!(names(repository.list_after("b", Some("b/10")).await.unwrap()), ["b/2"]);
    assert!(repository.list("nothing").await.unwrap().is_empty());
    repository.delete("b/10").await.unwrap();
    repository.delete("b/10").await.unwrap();
    assert_eq!(names(repository.list("b").await.unwrap()), ["b/1/deep", "b/2"]);

    let mut upload = repository.upload("c/large", 2).await.unwrap();
    let block = Bytes::from(vec![7_u8; 3 << 20]);
    for _ in 0..7 {
        upload.write(block.clone()).await.unwrap();
    }
    assert!(repository.get("c/large").await.unwrap_err().is_absent(), "nothing before the end");
    upload.finish().await.unwrap();
    assert_eq!(repository.size("c/large").await.unwrap(), 21 << 20);
    assert_eq!(repository.range("c/large", (21 << 20) - 2..21 << 20).await.unwrap()[..], [7, 7]);
}

#[tokio::test]
async fn a_directory_keeps_its_word() {
    let dir = TestDir::new("archive");
    keeps_its_word(&directory(&dir, "by-condition"), CreateBy::Condition).await;
    keeps_its_word(&directory(&dir, "by-claims"), CreateBy::Claims).await;
}

#[tokio::test]
async fn a_bucket_keeps_its_word() {
    let dir = TestDir::new("archive");
    let server = S3Server::start(&dir).unwrap();
    keeps_its_word(&bucket(&server, "by/condition"), CreateBy::Condition).await;
    keeps_its_word(&bucket(&server, "by/claims"), CreateBy::Claims).await;
    keeps_its_word(&bucket(&server, ""), CreateBy::Condition).await;
}

/// Of many writers of one name exactly one content wins, and every other is told.
async fn races(settings: &Settings, rounds: u8) {
    let repository = Repository::open(settings).await.unwrap();
    for round in 0..rounds {
        let name = format!("race/{round}");
        let writers = (0..8_u8).map(|writer| {
            let (repository, name) = (repository.clone(), name.clone());
            // Two contents, four writers each.
            tokio::spawn(
                async move { repository.put_new(&name, Bytes::from(vec![writer % 2; 100_000]), same_bytes).await },
            )
        });
        let mut created = 0;
        for writer in writers.collect::<Vec<_>>() {
            match writer.await.unwrap() {
                Ok(PutNew::Created) => created += 1,
                Ok(PutNew::Same) | Err(RepositoryError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(created, 1, "{} round {round}", repository.name());
    }
}

#[tokio::test]
async fn writers_of_one_name_do_not_overwrite_each_other() {
    let dir = TestDir::new("archive");
    let server = S3Server::start(&dir).unwrap();
    for settings in [directory(&dir, "repository"), bucket(&server, "race")] {
        init(&settings).await;
        races(&settings, 5).await;
    }
}

/// With claims, two contents may both be refused; never are both taken.
#[tokio::test]
async fn claims_never_let_two_contents_through() {
    let dir = TestDir::new("archive");
    let repository = Repository::init(&directory(&dir, "repository"), CreateBy::Claims).await.unwrap();
    for round in 0..20 {
        let name = format!("wal/{round}");
        let write = |content: &'static [u8]| {
            let (repository, name) = (repository.clone(), name.clone());
            tokio::spawn(async move { put_new(&repository, &name, content).await })
        };
        let (one, other) = (write(b"one"), write(b"other"));
        let won = [one.await.unwrap(), other.await.unwrap()].iter().filter(|answer| answer.is_ok()).count();
        assert!(won <= 1, "round {round}");
    }
}

#[tokio::test]
async fn an_outage_is_never_absence() {
    let dir = TestDir::new("archive");
    let mut server = S3Server::start(&dir).unwrap();
    init(&bucket(&server, "p")).await;
    let hasty = Settings { patience: Duration::from_millis(500), ..bucket(&server, "p") };
    let repository = Repository::open(&hasty).await.unwrap();
    assert!(repository.get("wal/1").await.unwrap_err().is_absent());
    server.stop();
    let error = repository.get("wal/1").await.unwrap_err();
    assert!(error.is_outage() && !error.is_absent(), "{error}");
    let error = put_new(&repository, "wal/1", b"content").await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    server.run().unwrap();
    assert_eq!(put_new(&repository, "wal/1", b"content").await.unwrap(), PutNew::Created);
}

#[tokio::test]
async fn a_write_outlasts_a_store_that_hangs() {
    let dir = TestDir::new("archive");
    let server = S3Server::start(&dir).unwrap();
    let repository = init(&bucket(&server, "p")).await;
    server.signal(Signal::STOP);
    let writing = tokio::spawn(async move { (put_new(&repository, "wal/1", b"content").await, repository) });
    tokio::task::yield_now().await;
    server.signal(Signal::CONT);
    let (written, repository) = writing.await.unwrap();
    written.unwrap();
    assert_eq!(&repository.get("wal/1").await.unwrap()[..], b"content");
}

/// The part that a request is about, of an object that is written in parts.
fn part(target: &str) -> Option<char> {
    target.split("partNumber=").nth(1)?.chars().next()
}

/// Connections break in the middle of large objects: what has arrived is not sent again.
#[tokio::test]
async fn a_transfer_that_breaks_goes_on_where_it_was() {
    let dir = TestDir::new("archive");
    let server = S3Server::start(&dir).unwrap();
    init(&bucket(&server, "p")).await;
    let middleman = Middleman::before(&server.endpoint()).unwrap();
    let location = Location::S3(Box::new(S3 { endpoint: Some(middleman.endpoint()), ..s3(&server, "p") }));
    let repository = Repository::open(&Settings { location, patience: PATIENT }).await.unwrap();
    let content = Bytes::from((0..5_u32 << 20).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());

    let mut broken = BTreeSet::new();
    middleman.plan(move |request| {
        let part = part(&request.target)?;
        let fault = match part {
            '2' => Fault::Torn,
            '3' => Fault::After,
            _ => return None,
        };
        broken.insert(part).then_some(fault)
    });
    let mut upload = repository.upload("a/large", 2).await.unwrap();
    for piece in content.chunks(2 << 20) {
        upload.write(content.slice_ref(piece)).await.unwrap();
    }
    upload.finish().await.unwrap();
    let seen = middleman.seen();
    let begun = seen.iter().filter(|request| request.target.contains("?uploads")).count();
    let mut parts: Vec<char> = seen.iter().filter_map(|request| part(&request.target)).collect();
    parts.sort_unstable();
    assert_eq!((begun, parts), (1, vec!['1', '2', '2', '3', '3']), "{seen:?}");

    let cut_off_once = || {
        middleman.well();
        let mut is_first = true;
        middleman.plan(move |_| std::mem::take(&mut is_first).then_some(Fault::CutOff));
    };
    let ranges = || -> Vec<Option<String>> {
        let asked = middleman.seen();
        asked.iter().map(|request| request.header("range").map(str::to_owned)).collect()
    };
    cut_off_once();
    let read = repository.range("a/large", 1 << 20..9 << 20).await.unwrap();
    assert!(read == content[1 << 20..9 << 20]);
    assert_eq!(ranges(), [Some("bytes=1048576-9437183".to_owned()), Some("bytes=5242880-9437183".to_owned())]);
    cut_off_once();
    assert!(repository.get("a/large").await.unwrap() == content);
    assert_eq!(ranges(), [None, Some("bytes=10485760-20971519".to_owned())]);

    // The store keeps no parts of what was given up.
    middleman.well();
    let mut upload = repository.upload("a/given-up", 2).await.unwrap();
    upload.write(content.slice(..9 << 20)).await.unwrap();
    drop(upload);
    let deadline = Instant::now() + PATIENT;
    while !middleman.seen().iter().any(|request| request.method == "DELETE" && request.target.contains("uploadId=")) {
        assert!(Instant::now() < deadline, "the store is not told: {:?}", middleman.seen());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn wrong_credentials_and_wrong_places_are_not_absence() {
    let dir = TestDir::new("archive");
    let server = S3Server::start(&dir).unwrap();
    init(&bucket(&server, "p")).await;
    let with = |change: &dyn Fn(&mut matriarch_archive::repository::S3)| {
        let mut location = s3(&server, "p");
        change(&mut location);
        Settings { location: Location::S3(Box::new(location)), patience: Duration::from_millis(500) }
    };
    let refused =
        Repository::open(&with(&|s3| s3.keys = Some(("matriarch".into(), "wrong".into())))).await.unwrap_err();
    assert!(matches!(refused, RepositoryError::Refused { .. }), "{refused}");
    let elsewhere = Repository::open(&with(&|s3| s3.bucket = "no-such-bucket".into())).await.unwrap_err();
    assert!(matches!(elsewhere, RepositoryError::Settings { .. }), "{elsewhere}");
    assert!(elsewhere.to_string().contains("there is no bucket no-such-bucket"), "{elsewhere}");
    let elsewhere = Repository::open(&with(&|s3| s3.prefix = "other".into())).await.unwrap_err();
    assert!(matches!(elsewhere, RepositoryError::NotARepository { .. }), "{elsewhere}");
}

/// An unmounted file system is an empty directory, where everything would be absent and every write misplaced.
#[tokio::test]
async fn a_directory_that_lost_its_content_is_no_repository() {
    let dir = TestDir::new("archive");
    let settings = directory(&dir, "repository");
    let repository = init(&settings).await;
    let Location::Directory(path) = &settings.location else { unreachable!() };
    std::fs::rename(path, dir.join("elsewhere")).unwrap();
    std::fs::create_dir(path).unwrap();
    for error in [
        repository.get("wal/1").await.unwrap_err(),
        repository.list("wal").await.unwrap_err(),
        put_new(&repository, "wal/1", b"content").await.unwrap_err(),
        repository.upload("pack/1", 1).await.unwrap_err(),
    ] {
        assert!(matches!(error, RepositoryError::NotARepository { .. }), "{error}");
    }
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "nothing was written there");
}
