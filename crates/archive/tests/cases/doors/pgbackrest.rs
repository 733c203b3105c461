//! pgBackRest: a server that it archives into two repositories at once, plain files and encrypted bundles.

use std::path::{Path, PathBuf};

use matriarch_archive::door::{Door, Foreign, Tool};
use matriarch_archive::restore::{Target, Wanted};
use matriarch_archive::wal::{FetchError, WalName};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::pgbackrest::{PgBackRest, STANZA};
use matriarch_testkit::postgres::Installation;
use matriarch_testkit::s3::{BUCKET, KEYS, S3Server};
use matriarch_testkit::server::Server;
use matriarch_testkit::user;
use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3Builder;

use super::cut_off::{Cut, goes_on};
use super::{
    archive_all, connect, count, cut, damaged, find, flip, foreign, in_bucket, installation, refused, restored, stock,
};
use crate::common::PATIENT;

const PASSPHRASE: &str = "not a secret, but long";

/// A server that pgBackRest archives into two repositories: plain files, and encrypted bundles.
struct Backed {
    installation: &'static Installation,
    server: Server,
    pgbackrest: PgBackRest,
    dir: TestDir,
}

impl Backed {
    async fn start(program: PathBuf, installation: &'static Installation) -> Backed {
        let dir = TestDir::new("doors");
        let settings = format!("autovacuum = off\n{}", PgBackRest::settings(&dir));
        let server = Server::create(installation, &dir, "data", &settings).await.unwrap();
        let global = format!(
            "repo1-path={}\nrepo2-path={}\nrepo2-cipher-type=aes-256-cbc\nrepo2-cipher-pass={PASSPHRASE}\nrepo2-bundle=y\n\
             compress-type=lz4",
            dir.create("plain").display(),
            dir.create("sealed").display()
        );
        let pgbackrest = PgBackRest::begin(program, &dir, &server, &global).await.unwrap();
        let tables = format!(
            "create tablespace space location '{}'; create table marks (id bigint primary key); insert into marks values (1);
             create table in_space tablespace space as select g from generate_series(1, 10000) g;
             create table large as select g, repeat(md5(g::text), 30) filler from generate_series(1, 10000) g",
            dir.create("space").display()
        );
        for statement in tables.split(';') {
            connect(&server).await.batch_execute(statement).await.unwrap();
        }
        Backed { installation, server, pgbackrest, dir }
    }

    fn run(&self, arguments: &[&str]) {
        self.pgbackrest.run(arguments).unwrap();
    }

    fn foreign(&self, repository: &str) -> Foreign {
        foreign(Tool::PgBackRest, &self.dir.join(repository))
    }

    async fn restored(&self, foreign: &Foreign, wanted: &Wanted, how: (&str, bool), settings: &str) -> Server {
        restored(&self.dir, self.installation, foreign, wanted, how, settings).await
    }

    async fn refused(&self, foreign: &Foreign, wanted: &Wanted, name: &str) -> String {
        refused(&self.dir, foreign, wanted, name).await
    }
}

/// All objects of a directory, into the bucket.
pub async fn upload(server: &S3Server, from: &Path, to: &str) {
    let builder =
        AmazonS3Builder::new().with_endpoint(server.endpoint()).with_allow_http(true).with_region("us-east-1");
    let store =
        builder.with_bucket_name(BUCKET).with_access_key_id(KEYS.0).with_secret_access_key(KEYS.1).build().unwrap();
    let mut folders = vec![from.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                continue; // `latest`, which a store does not have
            } else if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = format!("{to}/{}", path.strip_prefix(from).unwrap().display());
            store.put(&name.into(), std::fs::read(&path).unwrap().into()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_pgbackrest_has_archived_comes_back() {
    let (Some(program), Some(installation)) = (PgBackRest::program(), installation()) else {
        matriarch_testkit::skipped(
            "pgBackRest and PostgreSQL 15 are needed; scripts/install-deps --test installs them",
        );
        return;
    };
    let backed = Backed::start(program, installation).await;
    let client = connect(&backed.server).await;
    backed.run(&["--repo=1", "--type=full", "--compress-type=zst", "backup"]);
    backed.run(&["--repo=2", "--type=full", "--compress-type=gz", "backup"]);
    client.batch_execute("insert into marks values (2); checkpoint").await.unwrap();
    backed.run(&["--repo=1", "--type=diff", "--compress-type=zst", "backup"]);
    backed.run(&["--repo=2", "--type=incr", "--compress-type=gz", "backup"]);
    client.batch_execute("insert into marks values (3)").await.unwrap();
    client.batch_execute("select pg_create_restore_point('before')").await.unwrap();
    client.batch_execute("drop table in_space").await.unwrap();
    let last: WalName = archive_all(&client).await.parse().unwrap();

    let plain = backed.foreign("plain");
    let before = Wanted::new(Target::Name("before".into()));
    let stock_of_plain = stock(&plain).await.unwrap();
    assert_eq!(stock_of_plain.segment_size(), 16 << 20);
    let labels: Vec<&str> = stock_of_plain.backups().iter().map(|backup| backup.backup.as_str()).collect();
    assert!(labels.len() == 2 && labels[0].ends_with('F') && labels[1].ends_with('D'), "{labels:?}");
    // It goes on from there, on a timeline of its own, in the same repositories.
    let push = backed.pgbackrest.push(&PgBackRest::data(&backed.dir.join("named")));
    let settings = format!("archive_mode = on\narchive_command = '{push}'");
    let server = backed.restored(&plain, &before, ("named", false), &settings).await;
    assert_eq!((count(&server, "marks").await, count(&server, "in_space").await), (3, 10_000));
    let whole = "large where filler = repeat(md5(g::text), 30)";
    assert_eq!(count(&server, whole).await, 10_000);
    let client = connect(&server).await;
    client.batch_execute("insert into marks values (4)").await.unwrap();
    let newer = archive_all(&client).await;
    assert!(newer.starts_with("00000002"), "{newer}");
    drop(server);

    // Encrypted bundles, read from a store: latest follows the newest timeline, and the old one is there for who asks.
    let key = backed.dir.join("key");
    std::fs::write(&key, format!("{PASSPHRASE}\n")).unwrap();
    user::give(&key).unwrap();
    let store = S3Server::start(&backed.dir).unwrap();
    upload(&store, &backed.dir.join("sealed"), "some/where").await;
    let sealed = in_bucket(Tool::PgBackRest, &backed.dir, &store, "some/where");
    let sealed = Foreign { key_file: Some(key.clone()), ..sealed };
    let server = backed.restored(&sealed, &Wanted::new(Target::Latest), ("latest", false), "").await;
    assert_eq!((count(&server, "marks").await, count(&server, "in_space").await), (4, 10_000));
    drop(server);
    let cut = Cut { objects: "/backup/", reads: 1, rest: 0.95 };
    goes_on(&backed.dir, &sealed, None, &cut).await;
    let old = Wanted { timeline: Some(1), ..Wanted::new(Target::Latest) };
    let local = Foreign { key_file: Some(key), ..backed.foreign("sealed") };
    let server = backed.restored(&local, &old, ("old", true), "").await;
    assert_eq!((count(&server, "marks").await, count(&server, "pg_class where relname = 'in_space'").await), (3, 0));
    drop(server);

    what_is_damaged_is_told(&backed, &plain, &last).await;
    who_has_no_key_is_told(&backed).await;
}

async fn what_is_damaged_is_told(backed: &Backed, plain: &Foreign, last: &WalName) {
    let latest = Wanted { timeline: Some(1), ..Wanted::new(Target::Latest) };
    let place = backed.dir.join("plain");
    // A file of the full backup, which the differential one refers to.
    let largest = find(&place.join("backup"), &|name| name.ends_with(".zst") && name.contains("F/pg_data/base"));
    let named = largest.strip_prefix(&place).unwrap().display().to_string();
    let told = damaged(&largest, flip, backed.refused(plain, &latest, "flipped")).await;
    assert!(told.contains(&named) && told.contains("damaged"), "{told}");
    let told = damaged(&largest, cut, backed.refused(plain, &latest, "cut")).await;
    assert!(told.contains(&named) && told.contains("truncated"), "{told}");

    // Each information file is there twice.
    let info = place.join(format!("backup/{STANZA}/backup.info"));
    damaged(&info, flip, async { assert_eq!(stock(plain).await.unwrap().backups().len(), 2) }).await;
    let copy = place.join(format!("backup/{STANZA}/backup.info.copy"));
    let told = damaged(&info, cut, damaged(&copy, flip, backed.refused(plain, &latest, "info"))).await;
    assert!(told.contains("backup.info") && told.contains("damaged"), "{told}");

    // WAL: damaged stops a recovery, absent ends one.
    let wal = find(&place.join("archive"), &|name| name.contains(&format!("{last}-")));
    let door = Door::open(plain, PATIENT).await.unwrap();
    let to = backed.dir.join("fetched");
    let error = damaged(&wal, flip, door.fetch(last, &to)).await.unwrap_err();
    assert!(matches!(error, FetchError::Archive(_)) && error.exit_code() == 126, "{error}");
    assert!(!to.exists());
    let away = backed.dir.join("away");
    std::fs::rename(&wal, &away).unwrap();
    let error = door.fetch(last, &to).await.unwrap_err();
    assert!(matches!(error, FetchError::Absent(_)) && error.exit_code() == 1, "{error}");
    let told = backed.refused(plain, &Wanted { target: Target::Name("before".into()), ..latest.clone() }, "gap").await;
    assert!(told.contains("does not reach") && told.contains("before"), "{told}");
    // The same, with a repository that is not there any more, is no proof.
    std::fs::rename(&place, backed.dir.join("elsewhere")).unwrap();
    backed.dir.create("plain");
    let error = door.fetch(last, &to).await.unwrap_err();
    assert!(error.exit_code() == 126 && error.to_string().contains("archive.info"), "{error}");
    std::fs::remove_dir(&place).unwrap();
    std::fs::rename(backed.dir.join("elsewhere"), &place).unwrap();
    std::fs::rename(&away, &wal).unwrap();
    door.fetch(last, &to).await.unwrap();
    let told = backed.refused(&Foreign { name: Some("t".into()), ..plain.clone() }, &latest, "stanza").await;
    assert!(told.contains("no stanza 't'") && told.contains(STANZA), "{told}");
}

async fn who_has_no_key_is_told(backed: &Backed) {
    let latest = Wanted::new(Target::Latest);
    let sealed = backed.foreign("sealed");
    let told = backed.refused(&sealed, &latest, "keyless").await;
    assert!(told.contains("encrypted") && told.contains("--key-file"), "{told}");
    let wrong = backed.dir.join("wrong");
    std::fs::write(&wrong, "another one").unwrap();
    let told = backed.refused(&Foreign { key_file: Some(wrong), ..sealed }, &latest, "wrong").await;
    assert!(told.contains("archive.info") && told.contains("passphrase"), "{told}");
}
