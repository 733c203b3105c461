//! Backups of ours in Barman's form, restored by Barman as Debian has it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use matriarch_archive::door::{Foreign, Tool};
use matriarch_archive::export::{Compression, Export, ExportError};
use matriarch_archive::format::Kind;
use matriarch_archive::progress::Progress;
use matriarch_archive::repository::Repository;
use matriarch_archive::restore::{self, Target, Wanted};
use matriarch_archive::wal::{Segment, WalName};
use matriarch_core::Lsn;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::s3::{BUCKET, KEYS, S3Server};
use matriarch_testkit::server::Server;
use matriarch_testkit::user;

use super::cut_off::{Cut, goes_on};
use super::{in_bucket, installation, program, restored};
use crate::common::database::{Database, connect, one, recovered};
use crate::common::{Described, PATIENT, bucket, init};

/// Barman's programs, and the place they are pointed at.
pub(super) struct Barman {
    list: PathBuf,
    restore: PathBuf,
    fetch: PathBuf,
    variables: Vec<(&'static str, String)>,
    place: String,
}

impl Barman {
    fn new(dir: &TestDir, store: &S3Server) -> Option<Barman> {
        let variables = vec![
            ("AWS_ACCESS_KEY_ID", KEYS.0.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", KEYS.1.to_owned()),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
            ("HOME", dir.path().display().to_string()),
        ];
        Barman::at(variables, format!("--endpoint-url {} s3://{BUCKET}/some/where main", store.endpoint()))
    }

    /// `place`: what each program is given, the name of the server included.
    pub(super) fn at(variables: Vec<(&'static str, String)>, place: String) -> Option<Barman> {
        Some(Barman {
            list: program("barman-cloud-backup-list")?,
            restore: program("barman-cloud-restore")?,
            fetch: program("barman-cloud-wal-restore")?,
            variables,
            place,
        })
    }

    fn run(&self, dir: &TestDir, program: &PathBuf, before: &[&str], after: &[&str]) -> String {
        let mut command = user::command(program);
        command.current_dir(dir.path()).envs(self.variables.clone());
        let output = command.args(before).args(self.place.split(' ')).args(after).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn listed(&self, dir: &TestDir) -> String {
        self.run(dir, &self.list, &[], &[])
    }

    fn restore_command(&self) -> String {
        let given: String = self.variables.iter().map(|(name, value)| format!("{name}=\"{value}\" ")).collect();
        format!("{given}{} {} %f %p", self.fetch.display(), self.place)
    }

    /// Restores by Barman alone, and starts it with Barman's restore_command; returns once it takes writes.
    pub(super) async fn restored(&self, dir: &TestDir, id: &str, options: &[&str]) -> Server {
        let data = dir.join("theirs");
        self.run(dir, &self.restore, options, &[id, &data.display().to_string()]);
        let signal = data.join("recovery.signal");
        std::fs::write(&signal, "").unwrap();
        user::give(&signal).unwrap();
        let settings = format!("archive_mode = off\nrestore_command = '{}'", self.restore_command());
        recovered(installation().unwrap(), &data, &settings).await
    }
}

/// An incremental backup, a full one below it, and WAL of which the last part is only in the tail.
async fn prepare(database: &Database, dir: &TestDir) {
    let client = database.client().await;
    let space = format!("create tablespace space location '{}'", dir.create("space").display());
    client.batch_execute(&space).await.unwrap();
    let tables = "create table marks as select 1 id;
        create table in_space tablespace space as select g from generate_series(1, 10000) g;
        create table large as select g, repeat(md5(g::text), 30) filler from generate_series(1, 20000) g";
    client.batch_execute(tables).await.unwrap();
    assert!(database.increment("full").await.unwrap().increment.is_none());
    // Barman's names of backups are of seconds.
    client.batch_execute("select pg_sleep(1)").await.unwrap();
    client
        .batch_execute("update large set filler = 'y' where g % 1000 = 0; insert into marks values (2)")
        .await
        .unwrap();
    client.batch_execute("insert into in_space select g from generate_series(1, 10) g").await.unwrap();
    let second = database.increment("second").await.unwrap();
    assert_eq!(second.needs(), ["full"]);
    client.batch_execute("insert into marks values (3)").await.unwrap();
    database.archive_all().await;
    client.batch_execute("insert into marks values (4)").await.unwrap();
    let flushed: String = one(&client, "select pg_current_wal_flush_lsn()::text").await;
    chunk(database, flushed.parse().unwrap()).await;
}

/// The beginning of a segment, as the tail has it.
async fn chunk(database: &Database, to: Lsn) {
    let segment = Segment::before(1, to, 16 << 20);
    let from = segment.start(16 << 20);
    let content = std::fs::read(database.server.data().join("pg_wal").join(segment.to_string())).unwrap();
    let content = Bytes::from(content[..(to.0 - from.0) as usize].to_vec());
    let folder = database.archive.place().tail_folder();
    let name = format!("{folder}/00000001/{segment}/{:016X}-{:016X}", from.0, to.0);
    database.archive.put_new(Kind::Tail, &name, content).await.unwrap();
}

async fn export(
    database: &Database,
    backup: &str,
    (to, server): (&Foreign, &str),
    compression: Compression,
) -> Result<Export, ExportError> {
    let wanted = Wanted { backup: Some(backup.to_owned()), ..Wanted::new(Target::Latest) };
    let plan = restore::plan(&database.archive, &wanted).await.unwrap();
    Export::prepare(&database.archive, plan, (to, server), compression, PATIENT).await
}

/// Everything there is, as one text.
async fn content(server: &Server) -> Vec<String> {
    let client = connect(server).await;
    let mut all = Vec::new();
    for table in ["marks", "in_space", "large"] {
        let query =
            format!("select count(*) || ' ' || md5(string_agg(one::text, '|' order by one::text)) from {table} one");
        all.push(one(&client, &query).await);
    }
    all
}

async fn wal_there(repository: &Repository) -> Vec<String> {
    let entries = repository.list("main/wals").await.unwrap();
    entries.iter().map(|entry| entry.name.rsplit('/').next().unwrap().to_owned()).collect()
}

/// Ends an export after it has begun to write tars.
async fn cut_off(export: &Export) {
    let progress = Progress::default();
    let moved = async {
        while progress.done() <= export.plan().wal(16 << 20) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        written = export.write(1, &progress) => panic!("it was too fast to be cut off: {written:?}"),
        () = moved => {}
    }
}

#[tokio::test]
async fn what_is_exported_is_restored_by_barman_alone() {
    let dir = TestDir::new("export");
    let store = S3Server::start(&dir).unwrap();
    let (Some(barman), Some(installation)) = (Barman::new(&dir, &store), installation()) else {
        matriarch_testkit::skipped(
            "barman-cli-cloud and PostgreSQL 15 are needed; scripts/install-deps --test installs them",
        );
        return;
    };
    let described = Described::in_directory(&dir, "repository", "zstd", true);
    let database = Database::start(installation, &dir, described, "").await;
    prepare(&database, &dir).await;
    let expected = content(&database.server).await;
    let to = in_bucket(Tool::Barman, &dir, &store, "some/where");
    // For looking, and for putting obstacles there.
    let place = init(&bucket(&store, "some/where")).await;

    let second = export(&database, "second", (&to, "main"), Compression::Gzip).await.unwrap();
    cut_off(&second).await;
    let listed = barman.listed(&dir);
    assert!(!listed.contains(second.id()), "what was cut off is no backup: {listed}");
    let stale = format!("main/base/{}/data_0007.tar.gz", second.id());
    place.put(&stale, Bytes::from_static(b"of an earlier attempt")).await.unwrap();
    let progress = Progress::default();
    let written = second.write(2, &progress).await.unwrap();
    assert!(
        written.there > 0 && written.tars == 2,
        "WAL of the attempt that was cut off is not written again: {written:?}"
    );
    assert_eq!((progress.done() > 1 << 20, progress.total() > 1 << 20), (true, true), "it is told how far it is");
    let listed = barman.listed(&dir);
    assert!(listed.contains(second.id()) && listed.contains("second"), "{listed}");
    assert!(wal_there(&place).await.iter().any(|name| name.ends_with(".partial.gz")), "the tail goes along");
    let space = format!("space:{}", dir.join("theirs-space").display());
    let theirs = barman.restored(&dir, second.id(), &["--tablespace", &space]).await;
    assert_eq!(content(&theirs).await, expected, "also what was only in the tail");
    drop(theirs);

    database.archive_all().await;
    let full = export(&database, "full", (&to, "main"), Compression::None).await.unwrap();
    full.write(2, &Progress::default()).await.unwrap();
    assert!(!wal_there(&place).await.iter().any(|name| name.contains("partial")), "the whole segment is there now");
    let wanted = Wanted { backup: Some(full.id().to_owned()), ..Wanted::new(Target::Latest) };
    let main = Foreign { name: Some("main".into()), ..to.clone() };
    let ours = restored(&dir, installation, &main, &wanted, ("ours", true), "").await;
    assert_eq!(content(&ours).await, expected);
    drop(ours);
    let cut = Cut { objects: ".tar", reads: 8, rest: 0.75 };
    goes_on(&dir, &main, Some(full.id()), &cut).await;
    refusals(&database, &to, &place).await;
}

async fn refusals(database: &Database, to: &Foreign, place: &Repository) {
    let refused = async |server: &str| match export(database, "second", (to, server), Compression::None).await {
        Err(error) => error.to_string(),
        Ok(export) => export.write(2, &Progress::default()).await.unwrap_err().to_string(),
    };
    let told = refused("main").await;
    assert!(told.contains("already holds") && told.contains("(second)"), "{told}");
    place
        .put("other/base/20200101T000000/backup.info", Bytes::from_static(b"status=DONE\nsystemid=7\n"))
        .await
        .unwrap();
    let told = refused("other").await;
    assert!(told.contains("another database: its backup 20200101T000000 is of the system 7"), "{told}");
    let plan = export(database, "second", (to, "new"), Compression::None).await.unwrap().plan().clone();
    let object = |server: &str| format!("{server}/wals/0000000100000000/{}", plan.complete[0]);
    let name = database.archive.place().wal(&WalName::Segment(plan.complete[0]));
    let mut segment = database.archive.get(Kind::Wal, &name).await.unwrap();
    segment[5000] ^= 1;
    place.put(&object("split"), Bytes::from(segment.clone())).await.unwrap();
    let told = refused("split").await;
    assert!(told.contains("another content") && told.contains(&plan.complete[0].to_string()), "{told}");
    assert!(place.list("split/base").await.unwrap().is_empty(), "nothing else was written");
    segment[24..32].copy_from_slice(&9_u64.to_le_bytes());
    place.put(&object("foreign"), Bytes::from(segment)).await.unwrap();
    let told = refused("foreign").await;
    assert!(told.contains("its WAL") && told.contains("the system 9"), "{told}");
    assert!(refused("a b").await.contains("'a b' cannot name a server"));
}
