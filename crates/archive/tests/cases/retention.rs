//! Retention stopped after each of its steps, and backups read for damage.

use std::time::Duration;

use matriarch_archive::archive::Archive;
use matriarch_archive::base::{self, BackupError, Hold, Notes};
use matriarch_archive::format::Identities;
use matriarch_archive::progress::Progress;
use matriarch_archive::restore::{self, RestoreError, Target, Wanted};
use matriarch_archive::retention::{self, Policy, RetentionError, Step};
use matriarch_archive::verify::{self, Report, verify};
use matriarch_testkit::dir::TestDir;

use super::common::PATIENT;
use super::common::database::{Database, connect, one};
use super::{prepared, repository};

async fn names(archive: &Archive) -> Vec<String> {
    base::list(archive).await.unwrap().into_iter().map(|summary| summary.backup).collect()
}

async fn read(archive: &Archive, backup: &str, all_wal: bool) -> Report {
    let options = verify::Options { workers: 2, all_wal, progress: Progress::default() };
    verify(archive, backup, &options).await.unwrap()
}

/// A backup, a row, and the end of the segment.
async fn another(database: &Database, name: &str) {
    database.backup(name).await.unwrap();
    let client = database.client().await;
    client.batch_execute("insert into marks select max(id) + 1 from marks").await.unwrap();
    database.archive_all().await;
}

/// What is planned a minute from now, when nothing that is written meanwhile is newer than that.
async fn planned(archive: &Archive, count: u32, grace: Duration) -> retention::Plan {
    let policy = Policy { grace, ..Policy::new(Some(count), None) };
    let now = jiff::Timestamp::now() + Duration::from_secs(60);
    retention::plan(archive, &policy, None, now).await.unwrap()
}

/// Begins a backup and stops in the middle of it; the future goes on when it is asked to.
async fn begun(
    database: &Database,
    name: &str,
    backup: std::pin::Pin<&mut impl Future<Output = impl std::fmt::Debug>>,
) {
    let packs = repository(database).join(format!("main/first/pack/{name}"));
    let begun = async {
        while !packs.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        () = begun => {}
        done = backup => panic!("it was over before it could be stopped: {done:?}"),
    }
}

#[tokio::test]
async fn retention_can_be_killed_at_any_step() {
    let dir = TestDir::new("archive");
    let database = prepared(&dir).await;
    let archive = &database.archive;
    another(&database, "a").await;
    another(&database, "two").await;
    let mut cut_off = Box::pin(database.backup("cut"));
    begun(&database, "cut", cut_off.as_mut()).await;
    drop(cut_off);
    another(&database, "0").await;
    let hold = Hold { since: jiff::Timestamp::now(), until: None, reason: "the end of the year".into() };
    base::hold(archive, "one", &hold).await.unwrap();
    assert_eq!(base::hold_of(archive, "one").await.unwrap(), Some(hold));
    let notes = Notes::from([("why".into(), "before the upgrade".into())]);
    assert_eq!(base::annotate(archive, "0", &notes).await.unwrap(), notes);
    let held = retention::plan(archive, &Policy::new(None, None), Some("one"), jiff::Timestamp::now()).await;
    assert!(matches!(held, Err(RetentionError::Held(_))), "{held:?}");
    let nothing = retention::plan(archive, &Policy::new(Some(0), None), None, jiff::Timestamp::now()).await;
    assert!(matches!(nothing, Err(RetentionError::KeepsNothing)), "{nothing:?}");

    let careful = planned(archive, 2, base::GRACE).await;
    assert_eq!((careful.expired(), careful.under_way.as_slice()), (vec!["a"], ["cut".to_owned()].as_slice()));
    let plan = planned(archive, 2, Duration::ZERO).await;
    assert_eq!((plan.expired(), plan.under_way.len()), (vec!["a"], 0), "by their times, not by their names");
    assert!(plan.steps.contains(&Step::Abandon { backup: "cut".into() }));
    assert!(plan.steps.iter().any(|step| matches!(step, Step::Wal { .. })), "{plan:?}");
    // Without a private key the same is known.
    let place = archive.place().clone();
    let blind = Archive::open(archive.repository(), place, archive.style().clone(), Identities::default());
    assert_eq!(planned(&blind.await.unwrap(), 2, Duration::ZERO).await, plan);

    for done in 1..=plan.steps.len() {
        let step = retention::Plan { steps: vec![plan.steps[done - 1].clone()], ..plan.clone() };
        retention::run(archive, &step, |_| {}).await.unwrap();
        let there = names(archive).await;
        assert_eq!(there, ["one", "two", "0"], "after {:?}", plan.steps[done - 1]);
        // What is left of a backup without its manifest is swept as that of one that was cut off.
        let rest = planned(archive, 2, Duration::ZERO).await.steps;
        let missing: Vec<&Step> = plan.steps[done..].iter().filter(|step| !rest.contains(step)).collect();
        assert_eq!(missing, Vec::<&Step>::new(), "a later run finishes what is left");
        if matches!(plan.steps[done - 1], Step::Manifest { .. } | Step::Abandon { .. }) {
            assert_eq!(read(archive, "two", true).await.faults, []);
        }
    }
    assert_eq!(read(archive, "one", false).await.faults, [], "what is held keeps the WAL that makes it consistent");
    assert_eq!(read(archive, "two", true).await.faults, []);
    assert_eq!(read(archive, "0", true).await.faults, []);
    let rest = planned(archive, 2, Duration::ZERO).await;
    let rest: Vec<Step> = rest.steps.into_iter().filter(|step| *step != Step::Abandon { backup: "a".into() }).collect();
    assert_eq!(rest, []);
    let packs = archive.repository().list(&archive.place().pack_folder()).await.unwrap();
    assert!(packs.iter().all(|entry| !entry.name.contains("/a/") && !entry.name.contains("/cut/")), "{packs:?}");

    let wanted = Wanted { backup: Some("one".into()), ..Wanted::new(Target::Latest) };
    let error = restore::plan(archive, &wanted).await.unwrap_err();
    assert!(matches!(&error, RestoreError::OutOfReach { .. }), "what it lacks is said beforehand: {error}");
    let two = Wanted { backup: Some("two".into()), ..Wanted::new(Target::Latest) };
    let plan = restore::plan(archive, &two).await.unwrap();
    let options = database.options(&dir.join("restored"));
    restore::restore(archive, &plan, &options).await.unwrap();
    let server = database.start_restored(&options.data).await;
    assert_eq!(one::<i64>(&connect(&server).await, "select count(*) from marks").await, 6);
}

#[tokio::test]
async fn a_backup_under_way_keeps_what_it_needs_and_one_given_up_cannot_come_back() {
    let dir = TestDir::new("archive");
    let database = prepared(&dir).await;
    let archive = &database.archive;
    let mut slow = Box::pin(database.backup("slow"));
    begun(&database, "slow", slow.as_mut()).await;
    another(&database, "two").await;
    another(&database, "three").await;
    let plan = planned(archive, 1, base::GRACE).await;
    assert_eq!((plan.expired(), plan.under_way.as_slice()), (vec!["one", "two"], ["slow".to_owned()].as_slice()));
    retention::run(archive, &plan, |_| {}).await.unwrap();
    tokio::time::timeout(PATIENT, slow).await.unwrap().unwrap();
    assert_eq!(names(archive).await, ["three", "slow"]);
    assert_eq!(read(archive, "slow", true).await.faults, []);

    let mut late = Box::pin(database.backup("late"));
    begun(&database, "late", late.as_mut()).await;
    let plan = planned(archive, 1, Duration::ZERO).await;
    retention::run(archive, &plan, |_| {}).await.unwrap();
    let error = tokio::time::timeout(PATIENT, late).await.unwrap().unwrap_err();
    assert!(matches!(&error, BackupError::ClearedAway { .. }), "{error}");
    assert_eq!(names(archive).await, ["slow"]);
    assert_eq!(read(archive, "slow", true).await.faults, []);

    // What cannot be understood is no reason to remove anything.
    let manifest = repository(&database).join(archive.place().manifest("slow"));
    let whole = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &whole[..60]).unwrap();
    let policy = Policy::new(Some(1), None);
    let refused = retention::plan(archive, &policy, None, jiff::Timestamp::now()).await.unwrap_err();
    assert!(refused.to_string().contains("truncated"), "{refused}");
}

#[tokio::test]
async fn damage_is_told_by_relation_and_block() {
    let dir = TestDir::new("archive");
    let database = prepared(&dir).await;
    let archive = &database.archive;
    let client = database.client().await;
    let large: String = one(&client, "select pg_relation_filepath('large')").await;
    let good = read(archive, "one", true).await;
    assert!(good.faults.is_empty() && good.frames > 10 && good.segments > 3, "{good:?}");

    let manifest = base::manifest(archive, "one").await.unwrap();
    let packs = manifest.summary.packs;
    for number in 0..packs {
        let path = repository(&database).join(archive.place().pack("one", number));
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
    }
    let flipped = read(archive, "one", false).await;
    assert_eq!(flipped.frames + u64::from(packs), good.frames, "one frame of each pack is damaged");
    for number in 0..packs {
        let path = repository(&database).join(archive.place().pack("one", number));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len().min(3000)]).unwrap();
    }
    let truncated = read(archive, "one", false).await;
    let faults: Vec<_> = truncated.faults.iter().filter(|fault| fault.what == large).collect();
    let lost: u64 = faults.iter().filter_map(|fault| fault.blocks).map(|(first, last)| last + 1 - first).sum();
    let blocks: i64 = one(&client, "select pg_relation_size('large') / 8192").await;
    assert_eq!(lost, blocks as u64, "every block of it is lost: {faults:?}");
    assert!(faults[0].why.contains("/pack/one/") && faults[0].why.contains("truncated"), "{faults:?}");

    let size = archive.incarnation().segment_size;
    let segment = matriarch_archive::wal::Segment::at(1, manifest.summary.start_lsn, size);
    std::fs::remove_file(super::segment_file(&database, segment)).unwrap();
    let report = read(archive, "one", false).await;
    assert!(report.faults.iter().any(|fault| fault.what == segment.to_string()), "{:?}", report.faults);
}
