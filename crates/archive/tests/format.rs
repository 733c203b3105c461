//! The form of objects: what is not whole is refused, and a program that nobody here linked reads what is.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bytes::Bytes;
use common::Described;
use common::database::{self, Database, one};
use matriarch_archive::archive::Incarnation;
use matriarch_archive::dump;
use matriarch_archive::format::{Codec, FRAME, FormatError, Identities, Kind, Recipients, Style, open, seal};
use matriarch_archive::progress::Progress;
use matriarch_archive::restore::Target;
use matriarch_archive::wal::{Segment, WalName};
use matriarch_postgres::Binaries;
use matriarch_postgres::dump::Access;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::postgres;

const NAME: &str = "main/first/wal/00000001/000000010000000000000001";

#[tokio::test]
#[ignore = "PostgreSQL starts it"]
async fn hand() {
    database::hand().await;
}

fn style(codec: Codec, recipients: &[&str]) -> Style {
    Style { codec, recipients: Recipients::parse(recipients.iter().copied()).unwrap() }
}

/// Three frames: one that compresses, one that does not, one short.
fn content() -> Vec<u8> {
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    let mut content = vec![b'x'; FRAME];
    content.extend((0..FRAME).map(|_| random()));
    content.extend_from_slice(b"the end");
    content
}

fn every_style() -> (Vec<Style>, Identities) {
    let (identity, recipient) = Identities::generate();
    let (_, other) = Identities::generate();
    let codecs = [Codec::None, Codec::Lz4, Codec::Zstd(3)];
    let styles = codecs.into_iter().flat_map(|codec| [style(codec, &[]), style(codec, &[&other, &recipient])]);
    (styles.collect(), Identities::parse(&format!("# a comment\n{identity}\n")).unwrap())
}

#[test]
fn what_was_sealed_is_opened() {
    let (styles, identities) = every_style();
    for style in styles {
        for content in [content(), vec![7; FRAME], Vec::new(), b"x".to_vec()] {
            let object = seal(&style, Kind::Wal, NAME, &content).unwrap();
            assert!(open(&object, Kind::Wal, NAME, &identities).unwrap() == content, "{style:?}");
        }
    }
}

/// Any bit of any object matters, and no prefix passes for the whole.
#[test]
fn damage_is_noticed_wherever_it_is() {
    let (styles, identities) = every_style();
    for style in styles {
        let object = seal(&style, Kind::Wal, NAME, &content()).unwrap();
        let frames = [0, 9, 20, 80, object.len() / 2, object.len() - 1];
        for at in frames {
            let mut flipped = object.clone();
            flipped[at] ^= 4;
            let error = open(&flipped, Kind::Wal, NAME, &identities).unwrap_err();
            assert!(!matches!(error, FormatError::NoKey(_)), "byte {at} of {style:?}: {error}");
        }
        for length in [0, 7, 11, 30, 100, object.len() / 3, object.len() - 1] {
            let error = open(&object[..length], Kind::Wal, NAME, &identities).unwrap_err();
            assert!(matches!(error, FormatError::Truncated(_)), "{length} bytes of {style:?}: {error}");
        }
        let longer = [object.as_slice(), b"x"].concat();
        assert!(matches!(open(&longer, Kind::Wal, NAME, &identities), Err(FormatError::Damaged(_))));
        let elsewhere = open(&object, Kind::Wal, "main/first/wal/00000001/000000010000000000000002", &identities);
        assert!(matches!(elsewhere, Err(FormatError::Renamed { .. })));
        assert!(matches!(open(&object, Kind::Pack, NAME, &identities), Err(FormatError::Renamed { .. })));
    }
}

/// Where each frame of an object begins and ends.
fn frames(object: &[u8]) -> Vec<std::ops::Range<usize>> {
    let word = |at: usize| u32::from_le_bytes(object[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 44 + word(8);
    let mut found = Vec::new();
    while at < object.len() {
        let end = at + 48 + word(at);
        found.push(at..end);
        at = end;
    }
    found
}

#[test]
fn frames_cannot_be_moved_left_out_or_borrowed() {
    let (styles, identities) = every_style();
    for style in styles {
        // All frames alike, so that only their places tell them apart.
        let object = seal(&style, Kind::Wal, NAME, &vec![7; 3 * FRAME]).unwrap();
        let other = seal(&style, Kind::Wal, NAME, &vec![8; 3 * FRAME]).unwrap();
        let (ours, theirs) = (frames(&object), frames(&other));
        assert_eq!(ours.len(), 3);
        let join = |parts: &[&[u8]]| [&[&object[..ours[0].start]], parts].concat().concat();
        let frame = |number: usize| &object[ours[number].clone()];
        for (what, changed) in [
            ("swapped", join(&[frame(1), frame(0), frame(2)])),
            ("left out", join(&[frame(0), frame(2)])),
            ("repeated", join(&[frame(0), frame(0), frame(2)])),
            ("borrowed", join(&[frame(0), &other[theirs[1].clone()], frame(2)])),
        ] {
            let error = open(&changed, Kind::Wal, NAME, &identities).unwrap_err();
            assert!(matches!(error, FormatError::Damaged(_)), "{what}, {style:?}: {error}");
        }
        let short = open(&join(&[frame(0), frame(1)]), Kind::Wal, NAME, &identities).unwrap_err();
        assert!(matches!(short, FormatError::Truncated(_)), "{short}");
    }
}

#[test]
fn only_the_right_key_opens() {
    let (_, recipient) = Identities::generate();
    let (stranger, _) = Identities::generate();
    let object = seal(&style(Codec::Zstd(3), &[&recipient]), Kind::Wal, NAME, b"secret").unwrap();
    for identities in [Identities::default(), Identities::parse(&stranger).unwrap()] {
        let error = open(&object, Kind::Wal, NAME, &identities).unwrap_err();
        assert!(matches!(error, FormatError::NoKey(_)), "{error}");
    }
    assert!(!object.windows(6).any(|window| window == b"secret"));
    Recipients::parse(["age1nonsense"]).unwrap_err();
    Identities::parse("nonsense").unwrap_err();
}

/// Errors name the object, and the same content sealed anew is the same.
#[tokio::test]
async fn an_archive_names_what_is_damaged() {
    let dir = TestDir::new("archive");
    let described = Described::in_directory(&dir, "repository", "zstd", true);
    let archive = described
        .begin(Incarnation {
            format: 1,
            system_identifier: "1".into(),
            major: 16,
            segment_size: 1 << 20,
            created: jiff::Timestamp::now(),
            parent: None,
        })
        .await;
    let (name, content) = ("main/first/tail/x", Bytes::from(content()));
    for _ in 0..2 {
        archive.put_new(Kind::Tail, name, content.clone()).await.unwrap();
    }
    assert!(archive.get(Kind::Tail, name).await.unwrap() == content);
    archive.put_new(Kind::Tail, name, Bytes::from_static(b"other")).await.unwrap_err();
    assert!(archive.get(Kind::Tail, name).await.unwrap() == content);
    let path = Path::new(described.directory.as_deref().unwrap()).join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 100);
    std::fs::write(&path, bytes).unwrap();
    let error = archive.get(Kind::Tail, name).await.unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("truncated"), "{error}");
}

fn extract(described: &Described, arguments: &[&str], identity: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/archive-extract");
    let mut command = Command::new("python3");
    command.arg(script).arg(described.directory.as_deref().unwrap()).arg("main/first").args(arguments);
    if let Some(key) = &described.identity {
        std::fs::write(identity, key).unwrap();
        command.arg(identity);
    }
    command.output().unwrap()
}

/// The extractor knows only docs/archive-format.md. What it restores is started and counted.
async fn is_read_by_the_extractor(codec: &str, encrypted: bool) {
    let dir = TestDir::new("archive");
    let described = Described::in_directory(&dir, "repository", codec, encrypted);
    let database = Database::start(postgres::any(), &dir, described.clone(), "").await;
    let client = database.client().await;
    client.batch_execute("create table t as select g from generate_series(1, 200000) g").await.unwrap();
    database.backup("one").await.unwrap();
    client.batch_execute("insert into t select 0").await.unwrap();
    let summary = database.increment("two").await.unwrap();
    assert_eq!(summary.needs(), ["one"]);
    client.batch_execute("insert into t select 0").await.unwrap();
    database.archive_all().await;

    let identity = dir.join("identity.txt");
    let run = |arguments: &[&str]| {
        let output = extract(&described, arguments, &identity);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let (data, wal): (PathBuf, PathBuf) = (dir.join("extracted"), dir.create("wal"));
    run(&["backup", "two", &data.display().to_string()]);
    let size = database.archive.incarnation().segment_size;
    let mut segment = Segment::at(1, summary.start_lsn, size);
    let plan = database.plan(&Target::Latest).await.unwrap();
    while segment.start(size) < plan.reach {
        let name = WalName::Segment(segment).to_string();
        run(&["wal", &name, &wal.join(&name).display().to_string()]);
        segment = segment.next(size);
    }
    let mut own = Command::new("chown");
    if let Some(user) = matriarch_testkit::user::unprivileged() {
        assert!(
            own.arg("-R").arg(format!("{}:{}", user.uid, user.gid)).args([&data, &wal]).status().unwrap().success()
        );
    }
    std::fs::write(data.join("recovery.signal"), "").unwrap();
    matriarch_testkit::user::give(&data.join("recovery.signal")).unwrap();
    let settings = format!("archive_mode = off\nrestore_command = 'cp {}/%f %p'", wal.display());
    let server = database.start_restored_with(&data, &settings).await;
    let count: i64 = one(&database::connect(&server).await, "select count(*) from t").await;
    assert_eq!(count, 200_002);
    dump_is_read_by_the_extractor(&database, &described, &dir).await;
}

/// What it extracts is what PostgreSQL's programs wrote, which pg_restore reads.
async fn dump_is_read_by_the_extractor(database: &Database, described: &Described, dir: &TestDir) {
    let binaries = Binaries::at(&postgres::any().bins).unwrap();
    let access = Access::new(binaries.clone(), database.server.dsn().parse().unwrap());
    let options = dump::Options {
        databases: Vec::new(),
        format: dump::Format::Custom,
        jobs: 1,
        globals: true,
        scheduled: false,
        scratch: PathBuf::new(),
        progress: Progress::default(),
    };
    let taken = dump::take(std::slice::from_ref(&database.archive), &access, "logical", &options).await.unwrap();
    assert_eq!(dump::list(&database.archive).await.unwrap(), std::slice::from_ref(&taken));
    let target = dir.join("logical");
    let output = extract(described, &["dump", "logical", &target.display().to_string()], &dir.join("identity.txt"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.starts_with("1.dump\t") && told.trim_end().ends_with("\tpostgres\tpostgres"), "{told}");
    assert!(std::fs::read_to_string(target.join("globals.sql")).unwrap().contains("ROLE postgres"));
    let mut restore = Command::new(binaries.program("pg_restore"));
    let read = restore.args(["--data-only", "--table=t", "--file=-"]).arg(target.join("1.dump")).output().unwrap();
    let rows = String::from_utf8_lossy(&read.stdout).lines().filter(|line| line.parse::<u32>().is_ok()).count();
    assert_eq!(rows, 200_002, "{}", String::from_utf8_lossy(&read.stderr));
}

#[tokio::test]
async fn an_encrypted_zstd_repository_is_read_by_the_extractor() {
    is_read_by_the_extractor("zstd", true).await;
}

#[tokio::test]
async fn a_plain_lz4_repository_is_read_by_the_extractor() {
    is_read_by_the_extractor("lz4", false).await;
}

#[test]
fn the_extractor_refuses_a_flipped_bit() {
    let dir = TestDir::new("archive");
    let described = Described::in_directory(&dir, "repository", "none", false);
    let path = Path::new(described.directory.as_deref().unwrap()).join(NAME);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut object = seal(&style(Codec::None, &[]), Kind::Wal, NAME, &content()).unwrap();
    let arguments = ["wal", "000000010000000000000001", &dir.join("out").display().to_string()];
    std::fs::write(&path, &object).unwrap();
    assert!(extract(&described, &arguments, Path::new("")).status.success());
    assert!(std::fs::read(dir.join("out")).unwrap() == content());
    let at = object.len() / 2;
    object[at] ^= 1;
    std::fs::write(&path, &object).unwrap();
    let output = extract(&described, &arguments, Path::new(""));
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("is damaged"));
}
