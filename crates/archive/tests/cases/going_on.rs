//! Restores that are cut off, and begun again in the same directory.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matriarch_archive::archive::Archive;
use matriarch_archive::restore::{self, Options, Plan, RestoreError, Target, Took, Wanted};
use matriarch_testkit::disk::{Ballast, SmallDisk};
use matriarch_testkit::middleman::{Fault, Request};
use matriarch_testkit::postgres;

use super::common::PATIENT;
use super::common::database::{connect, one};
use super::{Site, tree};

/// Bytes that were asked for of objects whose names hold this.
fn fetched(site: &Site, part: &str) -> u64 {
    site.middleman.seen().iter().filter(|request| is_read(request, part)).map(length).sum()
}

fn is_read(request: &Request, part: &str) -> bool {
    request.method == "GET" && !request.is_list() && request.target.contains(part)
}

fn length(request: &Request) -> u64 {
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    // Whole objects are at least this.
    range.map_or(1 << 20, |(from, to)| to.parse::<u64>().unwrap() + 1 - from.parse::<u64>().unwrap())
}

/// Refuses to hand out what has this in its name, after so many were asked for.
fn cut_off_after(site: &Site, part: &'static str, count: usize) {
    site.middleman.well();
    let mut asked = 0;
    site.middleman.plan(move |request| {
        asked += usize::from(is_read(request, part));
        (asked > count && request.target.contains(part)).then_some(Fault::Status(403))
    });
}

/// What the try before this one has left running in this process ends by itself.
async fn again(archive: &Archive, plan: &Plan, options: &Options) -> Result<Took, RestoreError> {
    let deadline = Instant::now() + PATIENT;
    loop {
        match restore::restore(archive, plan, options).await {
            Err(RestoreError::Busy { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(1)).await
            }
            ended => return ended,
        }
    }
}

/// Waits until nothing of it runs any more.
async fn ended(data: &Path) {
    let record = std::fs::File::open(data.join("matriarch_restoring.json")).unwrap();
    while record.try_lock().is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Goes on with what was cut off, or begins if nothing was.
pub async fn until_done(archive: &Archive, wanted: &Wanted, options: &Options) {
    let plan = restore::plan(archive, wanted).await.unwrap();
    again(archive, &plan, options).await.unwrap();
}

async fn plan_of(archive: &Archive, backup: &str) -> Plan {
    let wanted = Wanted { backup: Some(backup.to_owned()), ..Wanted::new(Target::Latest) };
    restore::plan(archive, &wanted).await.unwrap()
}

/// The largest file of the directory.
fn largest(data: &Path) -> PathBuf {
    let files = tree(data).into_keys().map(|name| data.join(name));
    files.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

#[tokio::test]
async fn a_restore_goes_on_where_it_was_cut_off() {
    let installation = postgres::all_majors().last().unwrap();
    let summaries = if installation.major >= 17 { "summarize_wal = on" } else { "" };
    let site = Site::of(installation, summaries).await;
    let client = site.database.client().await;
    let large = "create table large as select g, repeat(md5(g::text), 30) filler from generate_series(1, 30000) g";
    client.batch_execute(large).await.unwrap();
    site.insert(1000).await;
    site.database.backup("one").await.unwrap();
    site.database.archive_all().await;
    let faulty = site.faulty().await;
    over_damage(&site, &faulty).await;
    over_a_full_disk(&site, &faulty).await;

    let changes = "update large set filler = 'changed' where g % 3000 = 0; checkpoint";
    client.batch_execute(changes).await.unwrap();
    site.database.increment("two").await.unwrap();
    for _ in 0..4 {
        site.insert(1).await;
        site.database.archive_all().await;
    }
    with_wal_in_place(&site, &faulty).await;
    refused(&site, &faulty).await;
}

/// What the disk has lost of it is fetched again, and no more than that.
async fn over_damage(site: &Site, faulty: &Archive) {
    let plan = plan_of(faulty, "one").await;
    let reference = site.database.options(&site.dir.join("reference"));
    site.middleman.well();
    restore::restore(faulty, &plan, &reference).await.unwrap();
    let whole = fetched(site, "/pack/");
    let options = Options { workers: 1, ..site.database.options(&site.dir.join("cut")) };
    cut_off_after(site, "/pack/", 6);
    let error = restore::restore(faulty, &plan, &options).await.unwrap_err();
    assert!(error.to_string().contains("pack/one"), "{error}");
    assert!(!options.data.join("global/pg_control").exists());

    // As after the power has failed: some of it is not as it was written.
    ended(&options.data).await;
    let victim = largest(&options.data);
    let content = std::fs::read(&victim).unwrap();
    let page = content.chunks(8192).rposition(|page| page.iter().any(|byte| *byte != 0)).unwrap();
    let file = std::fs::File::options().write(true).open(&victim).unwrap();
    file.write_all_at(&[0; 8192], page as u64 * 8192).unwrap();
    std::fs::write(options.data.join("postgresql.auto.conf"), "port = 1\n".repeat(1000)).unwrap();
    let other = |name: &String| name.starts_with("base/") && options.data.join(name) != victim;
    let lost = tree(&options.data).into_keys().find(other).unwrap();
    std::fs::remove_file(options.data.join(lost)).unwrap();

    site.middleman.well();
    let took = again(faulty, &plan, &options).await.unwrap();
    let rest = fetched(site, "/pack/");
    assert!(took.there > 0 && rest > 0 && rest < whole * 3 / 4, "{took:?}: {rest} of {whole}");
    assert_eq!(tree(&options.data), tree(&reference.data));
    let server = site.database.start_restored(&options.data).await;
    assert_eq!(one::<i64>(&connect(&server).await, "select count(*) from marks").await, 1000);
}

/// A volume that is full in the middle of it is told, and once there is room the rest is fetched.
async fn over_a_full_disk(site: &Site, faulty: &Archive) {
    const DISK: u32 = 256;
    let place = site.dir.join("small");
    let Some(_disk) = SmallDisk::mount(&place, DISK).unwrap() else { return };
    let ballast = Ballast::leave(&place, 16 << 20, u64::from(DISK) << 20).unwrap();
    let plan = plan_of(faulty, "one").await;
    let options = site.database.options(&place.join("data"));
    site.middleman.well();
    for _ in 0..2 {
        let error = again(faulty, &plan, &options).await.unwrap_err();
        assert!(error.is_full() && error.to_string().contains("full: free some of it"), "{error}");
        assert!(restore::is_unfinished(&options.data));
        assert_eq!(restore::begun(&options.data).as_deref(), Some("one"));
    }
    drop(ballast);
    let whole = fetched(site, "/pack/");
    site.middleman.well();
    let fresh = Options { progress: Default::default(), ..options.clone() };
    let took = again(faulty, &plan, &fresh).await.unwrap();
    let rest = fetched(site, "/pack/");
    assert!(took.there > 0 && rest > 0 && rest < whole, "{took:?}: {rest} beside {whole}");
    assert_eq!(took.there + took.fetched, plan.summary.size, "{took:?}");
    assert_eq!(tree(&options.data), tree(&site.dir.join("reference")));
}

/// Frames of which an incremental backup uses a part are known as well, and WAL that was put in place.
async fn with_wal_in_place(site: &Site, faulty: &Archive) {
    let plan = plan_of(faulty, "two").await;
    assert!(plan.complete.len() > 3, "{plan:?}");
    let data = site.dir.join("placed");
    let options = Options { place_wal: true, workers: 1, ..site.database.options(&data) };
    let segments = "/wal/00000001/";
    cut_off_after(site, segments, 2);
    let error = restore::restore(faulty, &plan, &options).await.unwrap_err();
    assert!(error.to_string().contains("wal/00000001"), "{error}");

    site.middleman.well();
    let fresh = Options { progress: Default::default(), ..options.clone() };
    let took = again(faulty, &plan, &fresh).await.unwrap();
    assert_eq!(fetched(site, "/pack/"), 0, "every frame was there: {:?}", site.middleman.seen());
    let size = faulty.incarnation().segment_size;
    assert_eq!(took.there, plan.summary.size + 2 * size, "{took:?}");
    assert_eq!(took.fetched, (plan.complete.len() as u64 - 2) * size, "{took:?}");
    assert_eq!((fresh.progress.done(), fresh.progress.there()), (fresh.progress.total(), took.there));
    let server = site.database.start_restored(&data).await;
    let client = connect(&server).await;
    assert_eq!(one::<i64>(&client, "select count(*) from marks").await, 1004);
    assert_eq!(one::<i64>(&client, "select count(*) from large where filler = 'changed'").await, 10);
    assert!(!data.join("matriarch_restoring.json").exists() && !data.join("matriarch_restoring.parts").exists());
}

/// Nothing is written over that is not of this restore.
async fn refused(site: &Site, faulty: &Archive) {
    let (plan, other) = (plan_of(faulty, "two").await, plan_of(faulty, "one").await);
    let options = site.database.options(&site.dir.join("refused"));
    cut_off_after(site, "/pack/", 1);
    restore::restore(faulty, &plan, &options).await.unwrap_err();
    site.middleman.well();
    ended(&options.data).await;
    let error = again(faulty, &other, &options).await.unwrap_err().to_string();
    assert!(error.contains("of backup two") && error.contains("--backup two"), "{error}");

    for stranger in ["precious", "base/precious", "pg_wal/precious", "global/pg_control.old"] {
        let path = options.data.join(stranger);
        std::fs::write(&path, "x").unwrap();
        let error = again(faulty, &plan, &options).await.unwrap_err();
        let named = matches!(&error, RestoreError::Stranger { path: found, .. } if *found == path);
        assert!(named && error.to_string().contains("move that away"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x");
        std::fs::remove_file(&path).unwrap();
    }
    let version = options.data.join("PG_VERSION");
    let _ = std::fs::remove_file(&version);
    std::os::unix::fs::symlink("/etc/hostname", &version).unwrap();
    let error = again(faulty, &plan, &options).await.unwrap_err();
    assert!(matches!(error, RestoreError::Stranger { .. }), "{error}");
    std::fs::remove_file(&version).unwrap();

    // One that is at work.
    let record = std::fs::File::open(options.data.join("matriarch_restoring.json")).unwrap();
    record.lock().unwrap();
    let error = restore::restore(faulty, &plan, &options).await.unwrap_err();
    assert!(matches!(error, RestoreError::Busy { .. }), "{error}");
    drop(record);
    std::fs::write(options.data.join("matriarch_restoring.json"), "{").unwrap();
    let error = again(faulty, &plan, &options).await.unwrap_err().to_string();
    assert!(error.contains("cannot be read") && error.contains("empty"), "{error}");
    // A record that was cut off at its very beginning is none.
    let bare = site.database.options(&site.dir.create("bare"));
    std::fs::write(bare.data.join("matriarch_restoring.json"), "").unwrap();
    restore::restore(faulty, &other, &bare).await.unwrap();
}
