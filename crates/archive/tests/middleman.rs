//! Every request to a store goes wrong once, in every way: WAL, backups, dumps, restores, retention, the tail. What was acknowledged is
//! there afterwards, what was not is an error, and nothing half-done passes for whole. Some of all combinations; all of them with
//! `MATRIARCH_STORE_FAULTS=all`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "cases/going_on.rs"]
mod going_on;

use std::time::Duration;

use common::database::{self, Database, one};
use common::{Described, PATIENT, tree};
use matriarch_archive::archive::Archive;
use matriarch_archive::base;
use matriarch_archive::dump;
use matriarch_archive::layout::Place;
use matriarch_archive::progress::Progress;
use matriarch_archive::repository::{Repository, Tuning};
use matriarch_archive::restore::{self, Target, Wanted};
use matriarch_archive::retention::{self, Policy};
use matriarch_archive::tail::{self, Joiner, Start};
use matriarch_archive::verify::{self, verify};
use matriarch_archive::wal::{self, Segment, WalName};
use matriarch_core::Lsn;
use matriarch_postgres::dump::Access;
use matriarch_postgres::replication::Target as Server;
use matriarch_postgres::{Binaries, Credentials, Source};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::middleman::{Fault, Middleman};
use matriarch_testkit::postgres::{self, Installation};
use matriarch_testkit::s3::S3Server;
use tokio::sync::{oneshot, watch};

/// How long a request stands still before its connection breaks.
const HANG: Duration = Duration::from_secs(1);

/// All of them; the first are those that differ most.
const FAULTS: [Fault; 17] = [
    Fault::After,
    Fault::CutOff,
    Fault::Status(503),
    Fault::Flipped,
    Fault::StatusAfter(412),
    Fault::Before,
    Fault::ListLacks,
    Fault::StatusAfter(500),
    Fault::Status(403),
    Fault::Short,
    Fault::Hang(HANG),
    Fault::Status(409),
    Fault::ListEmpty,
    Fault::Status(429),
    Fault::Status(412),
    Fault::Status(500),
    Fault::Torn,
];

fn all() -> bool {
    std::env::var("MATRIARCH_STORE_FAULTS").is_ok_and(|which| which == "all")
}

/// Which faults the request of this number meets, one after the other.
fn faults_of(number: usize, some: usize) -> Vec<Fault> {
    let some = if all() { FAULTS.len() } else { some };
    (0..some).map(|turn| FAULTS[(number + turn * 5) % FAULTS.len()]).collect()
}

/// Numbers of so many requests, evenly spread, or of all `count`.
fn numbers(count: usize, some: usize) -> impl Iterator<Item = usize> {
    let step = if all() { 1 } else { count.div_ceil(some).max(1) };
    (0..count).step_by(step)
}

#[tokio::test]
#[ignore = "PostgreSQL starts it"]
async fn hand() {
    database::hand().await;
}

/// A server that archives into a bucket, and the way to that bucket on which things go wrong.
struct Site {
    dir: TestDir,
    database: Database,
    middleman: Middleman,
    _server: S3Server,
}

impl Site {
    async fn new() -> Site {
        Site::of(postgres::any(), "").await
    }

    async fn of(installation: &Installation, settings: &str) -> Site {
        let dir = TestDir::new("middleman");
        let server = S3Server::start(&dir).unwrap();
        let middleman = Middleman::before(&server.endpoint()).unwrap();
        let described = Described::in_bucket(&server, "none", true);
        let settings = format!("max_wal_senders = 5\n{settings}");
        let database = Database::start(installation, &dir, described, &settings).await;
        let client = database.client().await;
        client.batch_execute("create table marks (id bigint primary key)").await.unwrap();
        Site { dir, database, middleman, _server: server }
    }

    /// The archive by the bad way.
    async fn faulty(&self) -> Archive {
        let described = self.database.described.by_way_of(&self.middleman.endpoint());
        let tuning = Tuning { stall: Some(Duration::from_secs(20)), ..Tuning::default() };
        let repository = Repository::open_tuned(&described.settings(), &tuning).await.unwrap();
        Archive::open(&repository, Described::place(), described.style(), described.identities()).await.unwrap()
    }

    async fn insert(&self, rows: i64) -> i64 {
        let client = self.database.client().await;
        let insert = "insert into marks select coalesce((select max(id) from marks), 0) + g from generate_series(1, $1::bigint) g";
        client.execute(insert, &[&rows]).await.unwrap();
        one(&client, "select max(id) from marks").await
    }

    async fn is_good(&self, backup: &str) {
        let options = verify::Options { workers: 2, all_wal: false, progress: Progress::default() };
        let report = verify(&self.database.archive, backup, &options).await.unwrap();
        assert_eq!(report.faults, [], "{backup}");
    }
}

#[tokio::test]
async fn acknowledged_wal_is_there_and_is_what_was_pushed() {
    let site = Site::new().await;
    site.insert(1).await;
    site.database.archive_all().await;
    let clean = &site.database.archive;
    let size = clean.incarnation().segment_size;
    let client = site.database.client().await;
    let end: Lsn = one::<String>(&client, "select pg_current_wal_lsn()::text").await.parse().unwrap();
    let name = WalName::Segment(Segment::before(1, Lsn(end.0 - end.0 % size), size));
    let bytes = wal::content(std::slice::from_ref(clean), &name).await.unwrap();
    let path = site.dir.join(name.to_string());
    std::fs::write(&path, &bytes).unwrap();
    let faulty = site.faulty().await;
    let mut acknowledged = 0;
    for (number, some) in [(0, FAULTS.len()), (1, 3)] {
        for (turn, fault) in faults_of(number, some).into_iter().enumerate() {
            // A name of its own for each, so that each creates.
            let place = Place::new("main", &format!("turn-{number}-{turn}")).unwrap();
            let (style, identities) = (clean.style().clone(), site.database.described.identities());
            let incarnation = clean.incarnation().clone();
            let begun =
                Archive::begin(clean.repository(), place.clone(), incarnation, style.clone(), identities.clone());
            let target = begun.await.unwrap();
            let by_way = Archive::open(faulty.repository(), place, style, identities).await.unwrap();

            site.middleman.once(number, fault);
            let pushed = wal::push(std::slice::from_ref(&by_way), &path, &name).await;
            site.middleman.well();
            if pushed.is_ok() {
                acknowledged += 1;
                assert_eq!(
                    wal::content(std::slice::from_ref(&target), &name).await.unwrap(),
                    bytes,
                    "{number} {fault:?}"
                );
            } else {
                wal::push(std::slice::from_ref(&by_way), &path, &name).await.unwrap();
            }
            let there = target.repository().list(&target.place().wal_folder()).await.unwrap();
            assert_eq!(there.len(), 1, "one object, and no other content: {there:?}");

            // Fetching it: whole, or an error that is not the end of the log.
            let to = site.dir.join("fetched");
            let _ = std::fs::remove_file(&to);
            site.middleman.once(number, fault);
            let fetched = wal::fetch(std::slice::from_ref(&by_way), &name, &to).await;
            site.middleman.well();
            match fetched {
                Ok(()) => assert!(std::fs::read(&to).unwrap() == bytes, "{number} {fault:?}"),
                Err(error) => assert!(error.exit_code() > 125 && !to.exists(), "{number} {fault:?}: {error}"),
            }
        }
    }
    assert!(acknowledged > FAULTS.len() / 2, "most are overcome by trying again: {acknowledged}");
}

#[tokio::test]
async fn a_backup_is_whole_or_none_and_a_restore_of_it_as_well() {
    let site = Site::new().await;
    let rows = site.insert(1000).await;
    let faulty = site.faulty().await;
    site.middleman.well();
    site.database.backup_to(&faulty, "whole").await.unwrap();
    let count = site.middleman.seen().len();
    assert!(count > 5, "{count}");
    for number in numbers(count, 6) {
        for fault in faults_of(number, 1) {
            let name = format!("b{number}-{}", FAULTS.iter().position(|known| *known == fault).unwrap());
            site.middleman.once(number, fault);
            let taken = site.database.backup_to(&faulty, &name).await;
            site.middleman.well();
            let there = base::list(&site.database.archive).await.unwrap();
            let is_there = there.iter().any(|found| found.backup == name);
            match taken {
                Ok(_) => assert!(is_there, "{number} {fault:?}"),
                // Its manifest may be there although the word of it got lost: then it is whole.
                Err(error) => assert!(!error.to_string().is_empty(), "{number} {fault:?}"),
            }
            if is_there {
                site.is_good(&name).await;
            }
        }
    }
    site.database.archive_all().await;
    restores(&site, &faulty, rows).await;
    dumps_are_whole_or_none(&site, &faulty, rows).await;
    retention_loses_nothing(&site, &faulty).await;
}

async fn restores(site: &Site, faulty: &Archive, rows: i64) {
    let wanted = Wanted { backup: Some("whole".to_owned()), ..Wanted::new(Target::Latest) };
    let attempt = async |name: &str| {
        let plan = restore::plan(faulty, &wanted).await?;
        restore::restore(faulty, &plan, &site.database.options(&site.dir.join(name))).await
    };
    site.middleman.well();
    attempt("reference").await.unwrap();
    let count = site.middleman.seen().len();
    let expected = tree(&site.dir.join("reference"));
    for number in numbers(count, 8) {
        for fault in faults_of(number, 1) {
            let data = site.dir.join("attempt");
            site.middleman.once(number, fault);
            let outcome = attempt("attempt").await;
            site.middleman.well();
            match outcome {
                Ok(_) => {
                    let found = tree(&data);
                    let differs = expected.iter().find(|(name, digest)| found.get(*name) != Some(digest));
                    assert_eq!(differs, None, "{number} {fault:?}");
                }
                Err(error) => {
                    assert!(!data.join("global/pg_control").exists(), "{number} {fault:?}: {error}");
                    going_on::until_done(faulty, &wanted, &site.database.options(&data)).await;
                    assert_eq!(tree(&data), expected, "{number} {fault:?}: {error}");
                }
            }
            let _ = std::fs::remove_dir_all(&data);
        }
    }
    let restored = site.database.start_restored(&site.dir.join("reference")).await;
    let client = database::connect(&restored).await;
    assert_eq!(one::<i64>(&client, "select count(*) from marks").await, rows);
}

/// Taken and restored: what is listed is good, and a database is restored whole or is not there.
async fn dumps_are_whole_or_none(site: &Site, faulty: &Archive, rows: i64) {
    let binaries = Binaries::at(&postgres::any().bins).unwrap();
    let access = Access::new(binaries, site.database.server.dsn().parse().unwrap());
    let options = dump::Options {
        databases: vec!["postgres".to_owned()],
        format: dump::Format::Custom,
        jobs: 1,
        globals: true,
        scheduled: false,
        scratch: Default::default(),
        progress: Progress::default(),
    };
    let archives = std::slice::from_ref(faulty);
    site.middleman.well();
    dump::take(archives, &access, "whole", &options).await.unwrap();
    for number in numbers(site.middleman.seen().len(), 6) {
        for fault in faults_of(number, 1) {
            let name = format!("d{number}-{}", FAULTS.iter().position(|known| *known == fault).unwrap());
            site.middleman.once(number, fault);
            let taken = dump::take(archives, &access, &name, &options).await;
            site.middleman.well();
            let there = dump::list(&site.database.archive).await.unwrap();
            let is_there = there.iter().any(|found| found.dump == name);
            assert!(is_there || taken.is_err(), "{number} {fault:?}");
            if is_there {
                let manifest = dump::manifest(&site.database.archive, &name).await.unwrap();
                let report = dump::verify(&site.database.archive, &manifest, &Progress::default()).await.unwrap();
                assert_eq!(report.faults, [], "{number} {fault:?}");
            }
        }
    }
    let into = |name: &str| dump::Request {
        databases: vec![("postgres".to_owned(), name.to_owned())],
        jobs: 1,
        ..dump::Request::default()
    };
    let attempt = async |name: &str| {
        let manifest = dump::manifest(faulty, "whole").await?;
        dump::restore(faulty, &manifest, &access, &into(name)).await
    };
    site.middleman.well();
    attempt("reference").await.unwrap();
    for number in numbers(site.middleman.seen().len(), 4) {
        for fault in faults_of(number, 1) {
            let name = format!("r{number}-{}", FAULTS.iter().position(|known| *known == fault).unwrap());
            site.middleman.once(number, fault);
            let restored = attempt(&name).await;
            site.middleman.well();
            let found = access.contents(&name).await;
            match restored {
                Ok(_) => {
                    let client = access.connect(&name).await.unwrap();
                    assert_eq!(one::<i64>(&client, "select count(*) from marks").await, rows, "{number} {fault:?}");
                }
                Err(error) => assert!(found.is_err(), "{number} {fault:?}: {error}: a half-made database is left"),
            }
        }
    }
}

async fn retention_loses_nothing(site: &Site, faulty: &Archive) {
    let clean = &site.database.archive;
    site.database.backup("last").await.unwrap();
    let policy = Policy { grace: Duration::ZERO, ..Policy::new(Some(1), None) };
    for number in numbers(12, 5) {
        for fault in faults_of(number, 1) {
            site.middleman.once(number, fault);
            // Whatever comes of it, what is to be kept stays.
            if let Ok(plan) = retention::plan(faulty, &policy, None, jiff::Timestamp::now()).await {
                assert!(!plan.expired().contains(&"last"), "{number} {fault:?}: {plan:?}");
                let _ = retention::run(faulty, &plan, |_| {}).await;
            }
            site.middleman.well();
            site.is_good("last").await;
        }
    }
    let plan = retention::plan(faulty, &policy, None, jiff::Timestamp::now()).await.unwrap();
    retention::run(faulty, &plan, |_| {}).await.unwrap();
    let names: Vec<String> = base::list(clean).await.unwrap().into_iter().map(|found| found.backup).collect();
    assert_eq!(names, ["last"]);
    site.is_good("last").await;
}

/// Every third request goes wrong, in every way, while the tail is written; what it says is stored is stored.
#[tokio::test]
async fn what_the_tail_says_is_stored_is_stored() {
    let site = Site::new().await;
    let faulty = site.faulty().await;
    let user = Credentials { username: "postgres".into(), password: String::new() };
    let source = Source::new("127.0.0.1", site.database.server.port());
    let mut target = Server::new(source, user, "tail");
    (target.connect_limit, target.answer_limit, target.silence_limit) = (PATIENT, PATIENT, PATIENT);
    let mut settings = tail::Settings::new(faulty, target, None);
    settings.interval = Duration::from_millis(50);
    let (sender, mut progress) = watch::channel(tail::Progress::default());
    let (stop, stopped) = oneshot::channel::<()>();
    // An error that nobody overcomes by waiting ends the tail; its agent begins it anew where it was.
    let task = tokio::spawn(async move {
        let (mut stopped, mut start, mut ended) = (stopped, Start::Anew, Vec::new());
        loop {
            let stop = async { (&mut stopped).await.unwrap_or(()) };
            match tail::run(&settings, start, &sender, stop).await {
                Ok(_) => return ended,
                Err(error) => ended.push(error.to_string()),
            }
            start = Start::Resume;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    progress.wait_for(|progress| progress.timeline > 0).await.unwrap();
    site.middleman.plan(|request| (request.number % 3 == 2).then(|| FAULTS[(request.number / 3) % FAULTS.len()]));
    let client = site.database.client().await;
    for _ in 0..40 {
        client.batch_execute("insert into marks select coalesce(max(id), 0) + 1 from marks").await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let flushed: Lsn = one::<String>(&client, "select pg_current_wal_flush_lsn()::text").await.parse().unwrap();
    let stored = tokio::time::timeout(PATIENT, progress.wait_for(|progress| progress.stored >= flushed)).await;
    let stored = stored.expect("it comes to an end").unwrap().stored;
    let faults = site.middleman.seen().len() / 3;
    site.middleman.well();
    stop.send(()).unwrap();
    let ended = task.await.unwrap();
    assert!(faults >= 10, "{faults}: {ended:?}");

    let (clean, size) = (&site.database.archive, site.database.archive.incarnation().segment_size);
    let mut end = Lsn::ZERO;
    let joiner = Joiner::new(clean).unwrap();
    for (segment, chunks) in joiner.chunks(1).await.unwrap() {
        let Some(joined) = joiner.join(segment, &chunks, None).await.unwrap() else { continue };
        assert_eq!(joined.beyond_gap, None, "{segment}");
        let known = joined.end.bytes_since(segment.start(size)) as usize;
        let file = std::fs::read(site.database.server.data().join("pg_wal").join(segment.to_string())).unwrap();
        assert!(joined.bytes[..known] == file[..known], "{segment} differs from the server's");
        end = end.max(joined.end);
    }
    assert!(end >= stored, "{end} is stored, and {stored} was said");
    let conflicts = clean.repository().list(&clean.place().tail_folder()).await.unwrap();
    assert!(conflicts.iter().all(|entry| !entry.name.contains("conflict")), "{conflicts:?}");
}
