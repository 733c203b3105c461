use std::path::Path;

use matriarch_core::Incarnation;

use super::*;

fn lasting(dir: &Path, boot: &str, now: Millis) -> Lasting {
    Lasting::read(dir.join("data.lasting"), None, "demo", boot.to_owned(), now)
}

fn record(epoch: u64, serial: u64) -> SyncRecord {
    let value = serde_json::json!({
        "leader": "a", "sync_standby": null, "quorum": 0, "epoch": epoch, "serial": serial,
        "incarnation": Incarnation::from_bits(1), "rule": {"voters": {}, "needed": 0}, "established": true,
    });
    serde_json::from_value(value).unwrap()
}

/// Saves as the loop does.
async fn save(lasting: &mut Lasting) -> bool {
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    lasting.save(&sender);
    match events.recv().await {
        Some(Event::Saved(result)) => lasting.saved(result),
        _ => panic!("no answer"),
    }
}

#[tokio::test]
async fn the_newest_record_survives_and_never_gets_older() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = lasting(dir.path(), "boot", 0);
    assert!(first.newest().is_none() && first.is_settled());
    for (epoch, serial, news) in [(2, 5, true), (2, 5, false), (2, 4, false), (1, 9, false), (2, 6, true), (3, 1, true)]
    {
        assert_eq!(first.learn(&record(epoch, serial)), news, "{epoch} {serial}");
    }
    assert!(!first.is_settled());
    assert!(save(&mut first).await && first.is_settled());
    let second = lasting(dir.path(), "boot", 0);
    assert_eq!(second.newest(), Some(&record(3, 1)));
    // The same directory, another cluster.
    let other = Lasting::read(dir.path().join("data.lasting"), None, "other", "boot".to_owned(), 0);
    assert_eq!((other.newest(), other.promised_until()), (None, 0));
}

#[tokio::test]
async fn a_promise_is_kept_over_restarts_and_in_full_after_a_reboot() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = lasting(dir.path(), "boot", 1000);
    first.promise(1000, 5000);
    assert_eq!(first.promised_until(), 6000);
    // A shorter one later takes nothing back.
    first.promise(1500, 100);
    assert_eq!(first.promised_until(), 6000);
    first.promise(2000, 5000);
    assert!(save(&mut first).await);
    assert_eq!(lasting(dir.path(), "boot", 3000).promised_until(), 7000);
    assert_eq!(lasting(dir.path(), "another boot", 10).promised_until(), 5010);
}

#[test]
fn garbage_is_put_aside_and_taken_for_the_longest_promise() {
    let dir = tempfile::tempdir().unwrap();
    for garbage in [&b"{"[..], b"", b"[]", b"\xFF\xFE", b"{\"scope\": \"demo\", \"promise\": {\"until\": -1}}"] {
        std::fs::write(dir.path().join("data.lasting"), garbage).unwrap();
        let read = lasting(dir.path(), "boot", 1000);
        assert_eq!((read.newest(), read.promised_until()), (None, 1000 + UNKNOWN_PROMISE), "{garbage:?}");
        assert_eq!(std::fs::read(dir.path().join("data.lasting.unreadable")).unwrap(), garbage);
        assert!(!dir.path().join("data.lasting").exists());
    }
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_told_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("gone");
    let mut lasting = Lasting::read(place.join("data.lasting"), None, "demo", "boot".to_owned(), 0);
    lasting.learn(&record(1, 1));
    assert!(!save(&mut lasting).await);
    assert!(lasting.problem().unwrap().contains("data.lasting"), "{:?}", lasting.problem());
    std::fs::create_dir(&place).unwrap();
    lasting.again();
    assert!(save(&mut lasting).await);
    assert_eq!(lasting.problem(), None);
}
