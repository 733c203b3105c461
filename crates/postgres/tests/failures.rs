//! What goes wrong, and what is said about it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{LONG, Lab, Node, caught_up, majors, until, value};
use matriarch_postgres::bootstrap::{InitdbError, InitdbOptions, initdb};
use matriarch_postgres::clone::{CloneError, CloneOptions, CloneProgress, OldData, clone_from};
use matriarch_postgres::control::{DataDirState, Unfinished, inspect};
use matriarch_postgres::postmaster::StartError;
use matriarch_postgres::rewind::{RewindError, rewind};
use matriarch_postgres::stop::{StopMode, StoppedBy, stop};
use matriarch_postgres::{Source, Sql, SqlError, StartAs, adopt, conf, hba, process, start};
use matriarch_testkit::ports::Port;
use rustix::process::Signal;

async fn clone_with(node: &Node, source: &Source, options: CloneOptions) -> Result<(), CloneError> {
    let (progress, _watch) = tokio::sync::watch::channel(CloneProgress::default());
    clone_from(&node.instance, source, &options, &progress).await.map(|_| ())
}

fn quick() -> CloneOptions {
    CloneOptions { extra: vec!["--no-sync".into()], ..CloneOptions::default() }
}

#[tokio::test]
async fn orphans_of_a_killed_postmaster_are_found_and_killed() {
    let lab = Lab::new(&majors()[0]);
    let mut node = lab.node("a");
    let (postmaster, sql) = node.bootstrap().await;
    // A busy backend does not notice that its postmaster died.
    let other = Sql::connect(&node.instance).await.unwrap();
    let busy = tokio::spawn(async move {
        let _ = other.query("be busy", "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$", LONG).await;
    });
    let backend = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'DO%' AND state = 'active'";
    until("the backend is busy", async || !sql.query("look", backend, LONG).await.unwrap().is_empty()).await;
    let backend: u32 = value(&sql, backend).await.parse().unwrap();
    assert!(process::tree(&node.instance.data_dir).contains(&backend));

    postmaster.signal(Signal::KILL).unwrap();
    postmaster.wait_exit().await;
    assert!(process::belongs(backend, &node.instance.data_dir), "the test needs an orphan");
    assert!(adopt(&node.instance, &node.log).unwrap().is_none(), "an orphan is no postmaster");
    let error = start(&node.instance, StartAs::Primary, &node.log).await.unwrap_err();
    assert!(matches!(&error, StartError::Occupied { pids, .. } if pids.contains(&backend)), "{error}");
    assert!(process::kill_tree_async(&node.instance.data_dir, LONG).await.unwrap() >= 1);
    assert_eq!(process::tree(&node.instance.data_dir), Vec::<u32>::new());
    busy.await.unwrap();
    node.start(StartAs::Primary).await;
}

#[tokio::test]
async fn a_running_postmaster_is_adopted() {
    let lab = Lab::new(&majors()[0]);
    let mut node = lab.node("a");
    assert!(adopt(&node.instance, &node.log).unwrap().is_none());
    let (first, sql) = node.bootstrap().await;
    let (pid, system) = (first.pid(), sql.server().system_identifier);
    drop((first, sql));
    let adopted = adopt(&node.instance, &node.log).unwrap().expect("it runs");
    assert_eq!(adopted.pid(), pid);
    let sql = adopted.wait_ready(&node.instance).await.unwrap();
    assert_eq!(sql.server().system_identifier, system);
    let mode = StopMode::Fast { checkpoint: None, deadline: LONG };
    assert_eq!(stop(&adopted, &node.instance.data_dir, Some(&sql), mode).await.unwrap().by, StoppedBy::Fast);
    assert!(adopt(&node.instance, &node.log).unwrap().is_none());
}

#[tokio::test]
async fn a_frozen_postmaster_is_killed_in_the_end() {
    let lab = Lab::new(&majors()[0]);
    let mut node = lab.node("a");
    let (postmaster, sql) = node.bootstrap().await;
    for pid in process::tree(&node.instance.data_dir) {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
    }
    let mode = StopMode::Fast { checkpoint: Some(Duration::from_millis(200)), deadline: Duration::from_millis(300) };
    let report = stop(&postmaster, &node.instance.data_dir, Some(&sql), mode).await.unwrap();
    assert_eq!(report.by, StoppedBy::Kill);
    assert!(process::tree(&node.instance.data_dir).is_empty());
    assert!(sql.is_closed());
}

#[tokio::test]
async fn a_server_outlives_its_deleted_data_directory_only_until_it_is_killed() {
    let lab = Lab::new(&majors()[0]);
    let mut node = lab.node("a");
    let (postmaster, _sql) = node.bootstrap().await;
    fs::remove_dir_all(&node.instance.data_dir).unwrap();
    assert_eq!(inspect(&node.instance).await.unwrap(), DataDirState::Missing);
    assert!(process::tree(&node.instance.data_dir).contains(&postmaster.pid()));
    let report = stop(&postmaster, &node.instance.data_dir, None, StopMode::Immediate).await.unwrap();
    assert!(report.by >= StoppedBy::Immediate);
}

#[tokio::test]
async fn whatever_is_in_the_way_of_a_clone_is_replaced() {
    for binaries in majors() {
        replace_everything(&Lab::new(&binaries)).await;
    }
}

async fn replace_everything(lab: &Lab) {
    let (mut a, mut b) = (lab.node("a"), lab.node("b"));
    let (_a_postmaster, a_sql) = a.bootstrap().await;
    let dir = b.instance.data_dir.clone();
    let garbage = async |node: &Node| matches!(inspect(&node.instance).await.unwrap(), DataDirState::Garbage(_));

    assert_eq!(inspect(&b.instance).await.unwrap(), DataDirState::Missing);
    fs::create_dir_all(&dir).unwrap();
    assert_eq!(inspect(&b.instance).await.unwrap(), DataDirState::Empty);
    fs::write(dir.join("noise"), [7; 4096]).unwrap();
    assert!(garbage(&b).await);
    let error = initdb(&b.instance, &InitdbOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("is not empty and is kept"), "{error}");

    let (postmaster, sql) = b.join(&a, &a_sql).await;
    caught_up(&a_sql, &sql).await;
    assert!(!dir.join("noise").exists());
    let leftovers =
        || fs::read_dir(dir.parent().unwrap()).unwrap().flatten().map(|e| e.file_name()).collect::<Vec<_>>();
    assert!(!leftovers().iter().any(|name| name.to_string_lossy().contains("matriarch-")), "{:?}", leftovers());
    let running = clone_with(&b, &a.source(), quick()).await.unwrap_err();
    assert!(matches!(running, CloneError::Running { .. }), "{running}");

    // A replica full of garbage.
    stop(&postmaster, &dir, None, StopMode::Immediate).await.unwrap();
    drop(sql);
    fs::write(dir.join("global/pg_control"), [0; 8192]).unwrap();
    assert!(garbage(&b).await, "{:?}", inspect(&b.instance).await);
    let old = b.incarnation();
    let options = CloneOptions { old_data: OldData::RemoveFirst, ..quick() };
    clone_with(&b, &a.source(), options).await.unwrap();
    assert_ne!(old, b.incarnation());
    let (_postmaster, sql) = b.start(StartAs::Standby).await;
    caught_up(&a_sql, &sql).await;

    fs::write(a.data("../other"), "").unwrap();
    let file = lab.node_in("c", &a.data("../other"));
    assert!(garbage(&file).await);
}

#[tokio::test]
async fn another_major_is_told_apart() {
    let lab = Lab::new(&majors()[0]);
    let node = lab.node("a");
    fs::create_dir_all(&node.instance.data_dir).unwrap();
    fs::write(node.data("PG_VERSION"), "9.6\n").unwrap();
    assert_eq!(inspect(&node.instance).await.unwrap(), DataDirState::OtherMajor { found: "9.6".into() });
}

#[tokio::test]
async fn an_interrupted_initdb_is_swept_and_done_again() {
    let lab = Lab::new(&majors()[0]);
    let mut node = lab.node("a");
    let options = InitdbOptions::default();
    tokio::select! {
        // Whether it has begun is asked first: the machine may stand still until initdb has ended as well.
        biased;
        () = until("initdb has begun", async || lab.path().join("a/data.matriarch-new/base").exists()) => {}
        done = initdb(&node.instance, &options) => panic!("too fast for this test: {done:?}"),
    }
    assert_eq!(inspect(&node.instance).await.unwrap(), DataDirState::Incomplete(Unfinished::Build));
    node.bootstrap().await;
    assert!(!lab.path().join("a/data.matriarch-new").exists());
    assert!(!node.instance.run_dir.join("initdb.password").exists());
}

#[tokio::test]
async fn an_interrupted_rewind_shows() {
    let lab = Lab::new(&majors()[0]);
    let (mut a, mut b) = (lab.node("a"), lab.node("b"));
    let (_a_postmaster, a_sql) = a.bootstrap().await;
    let (postmaster, sql) = b.join(&a, &a_sql).await;
    stop(&postmaster, &b.instance.data_dir, Some(&sql), StopMode::Immediate).await.unwrap();
    let port = Port::reserve();
    let source_gone = Source::new("127.0.0.1", port.number());
    let error = rewind(&b.instance, &source_gone, 2).await.unwrap_err();
    assert!(matches!(error, RewindError::SourceUnavailable { .. }), "{error}");
    assert!(matches!(inspect(&b.instance).await.unwrap(), DataDirState::Ready(_)), "the directory was not touched");
    assert!(b.data("standby.signal").exists());
    fs::write(lab.path().join("b/data.matriarch-rewinding"), "").unwrap();
    assert_eq!(inspect(&b.instance).await.unwrap(), DataDirState::Incomplete(Unfinished::Rewind));
    clone_with(&b, &a.source(), quick()).await.unwrap();
    assert!(matches!(inspect(&b.instance).await.unwrap(), DataDirState::Ready(_)));
}

#[tokio::test]
async fn a_rewind_needs_a_checkpoint_on_the_new_timeline() {
    let lab = Lab::new(&majors()[0]);
    let (mut a, mut b) = (lab.node("a"), lab.node("b"));
    let (postmaster, a_sql) = a.bootstrap().await;
    let (_b_postmaster, _b_sql) = b.join(&a, &a_sql).await;
    let mode = StopMode::Fast { checkpoint: None, deadline: LONG };
    stop(&postmaster, &a.instance.data_dir, Some(&a_sql), mode).await.unwrap();
    // As if b had just been promoted to timeline 2 and its control file still said 1.
    let error = rewind(&a.instance, &b.source(), 2).await.unwrap_err();
    assert!(matches!(error, RewindError::SourceNotCheckpointed { .. }), "{error}");
    // Another cluster altogether.
    let mut c = lab.node("c");
    let (_c_postmaster, _c_sql) = c.bootstrap().await;
    let error = rewind(&a.instance, &c.source(), 2).await.unwrap_err();
    assert!(matches!(error, RewindError::NeedsClone { .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_named() {
    let lab = Lab::new(&majors()[0]);
    let mut node = lab.node("a");
    let (_postmaster, _sql) = node.bootstrap().await;
    node.instance.superuser.password = "wrong".into();
    let Err(error) = Sql::connect(&node.instance).await else { panic!("let in") };
    assert!(matches!(error, SqlError::WrongPassword { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("'postgres'") && text.contains("ALTER ROLE") && !text.contains("wrong"), "{text}");

    let mut b = lab.node("b");
    b.instance.replication.password = "wrong".into();
    let error = clone_with(&b, &node.source(), quick()).await.unwrap_err();
    assert!(matches!(&error, CloneError::Refused { user, .. } if user == "replicator"), "{error}");
    let port = Port::reserve();
    let nobody = Source::new("127.0.0.1", port.number());
    let error = clone_with(&b, &nobody, quick()).await.unwrap_err();
    assert!(matches!(error, CloneError::SourceUnavailable { .. }), "{error}");
    let options = CloneOptions { slot: Some("none".into()), ..quick() };
    b.instance.replication = node.instance.replication.clone();
    let error = clone_with(&b, &node.source(), options).await.unwrap_err();
    assert!(matches!(error, CloneError::NoSlot { .. }), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_log() {
    let lab = Lab::new(&majors()[0]);
    let mut node = lab.node("a");
    initdb(&node.instance, &InitdbOptions::default()).await.unwrap();
    let _taken = TcpListener::bind(("127.0.0.1", node.instance.port)).unwrap();
    node.write_files();
    let postmaster = start(&node.instance, StartAs::Primary, &node.log).await.unwrap();
    let Err(error) = postmaster.wait_ready(&node.instance).await else { panic!("it started") };
    let text = error.to_string();
    assert!(text.contains("the port is in use") && text.contains("Address already in use"), "{text}");
    assert!(text.contains(&node.instance.port.to_string()), "{text}");
}

#[tokio::test]
async fn a_bad_setting_and_a_bad_rule_are_named() {
    let lab = Lab::new(&majors()[0]);
    let mut node = lab.node("a");
    let (postmaster, sql) = node.bootstrap().await;
    node.settings.parameters.insert("work_mem".into(), "a lot".into());
    node.settings.parameters.insert("max_connections".into(), "77".into());
    node.write_files();
    let rules = hba::Rules { lines: vec!["host all all nonsense".into()], ..hba::Rules::default() };
    hba::write(&node.instance, &rules).unwrap();
    sql.reload().await.unwrap();
    let settings = sql.configuration_errors().await.unwrap();
    assert_eq!(settings.len(), 1, "{settings:?}");
    assert!(settings[0].file.ends_with("matriarch.conf") && settings[0].name.as_deref() == Some("work_mem"));
    let rules = sql.hba_errors().await.unwrap();
    assert!(rules.len() == 1 && rules[0].line > 0 && rules[0].file.ends_with("matriarch_hba.conf"), "{rules:?}");

    let mode = StopMode::Fast { checkpoint: None, deadline: LONG };
    stop(&postmaster, &node.instance.data_dir, Some(&sql), mode).await.unwrap();
    let postmaster = start(&node.instance, StartAs::Primary, &node.log).await.unwrap();
    let Err(error) = postmaster.wait_ready(&node.instance).await else { panic!("it started") };
    let text = error.to_string();
    assert!(text.contains("work_mem") && text.contains("a setting is wrong"), "{text}");
}

#[tokio::test]
async fn odd_values_arrive_unchanged_and_changes_wait_for_a_restart() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut node = lab.node("a");
        let odd = "it's a \\ \"quoted\"\ttext\nwith lines # and = signs";
        node.settings.parameters.insert("myapp.odd".into(), odd.into());
        node.settings.parameters.insert("PORT".into(), "1".into());
        let (_postmaster, sql) = node.bootstrap().await;
        assert_eq!(value(&sql, "SHOW myapp.odd").await, odd);
        assert_eq!(value(&sql, "SELECT setting FROM pg_file_settings WHERE name = 'myapp.odd'").await, odd);
        assert_eq!(sql.configuration_errors().await.unwrap(), []);
        assert_eq!(sql.hba_errors().await.unwrap(), []);

        node.settings.parameters.insert("max_connections".into(), "77".into());
        node.write_files();
        sql.reload().await.unwrap();
        until("the change is seen", async || !sql.pending_restart().await.unwrap().is_empty()).await;
        let pending = sql.pending_restart().await.unwrap().remove(0);
        assert_eq!((pending.name.as_str(), pending.current.as_str()), ("max_connections", "100"));
        assert_eq!(pending.new.as_deref(), Some("77"));
        let shown = sql.settings(&["max_connections", "wal_level", "nonsense"]).await.unwrap();
        assert_eq!(shown.len(), 2, "{shown:?}");
    }
}

#[tokio::test]
async fn lowered_limits_are_clamped_and_auto_conf_is_cleaned() {
    let lab = Lab::new(&majors()[0]);
    let mut node = lab.node("a");
    let (postmaster, sql) = node.bootstrap().await;
    sql.query("alter", "ALTER SYSTEM SET primary_conninfo = 'host=elsewhere'", LONG).await.unwrap();
    sql.query("alter", "ALTER SYSTEM SET work_mem = '5MB'", LONG).await.unwrap();
    stop(&postmaster, &node.instance.data_dir, None, StopMode::Immediate).await.unwrap();
    node.settings.parameters.insert("max_connections".into(), "20".into());
    let mut effective = conf::effective(&node.instance, &node.settings).unwrap();
    let DataDirState::Ready(control) = inspect(&node.instance).await.unwrap() else { panic!("not ready") };
    assert_eq!(conf::clamp_for_standby(&mut effective, &control), ["max_connections"]);
    assert_eq!(effective["max_connections"], "100");
    let (_postmaster, sql) = node.start(StartAs::Primary).await;
    assert_eq!(sql.probe(LONG).await.unwrap().primary_conninfo, "");
    assert_eq!(value(&sql, "SHOW work_mem").await, "5MB");
}

/// A file system of `kib` KiB, unmounted when dropped; `None` where we may not mount.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: &Path, kib: u32) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let size = format!("size={kib}k,mode=755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).status();
        mounted.is_ok_and(|status| status.success()).then(|| SmallDisk(path.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_harms_nothing() {
    let lab = Lab::new(&majors()[0]);
    let (mut a, disk) = (lab.node("a"), lab.path().join("disk"));
    let Some(_disk) = SmallDisk::mount(&disk, 20 * 1024) else {
        matriarch_testkit::skipped("mounting a small file system needs root");
        return;
    };
    let b = lab.node_in("b", &disk.join("data"));
    let error = initdb(&b.instance, &InitdbOptions::default()).await.unwrap_err();
    assert!(matches!(&error, InitdbError::Initdb { .. }), "{error}");
    assert!(error.to_string().contains("free space"), "{error}");
    assert_eq!(inspect(&b.instance).await.unwrap(), DataDirState::Missing);

    let (_postmaster, _sql) = a.bootstrap().await;
    fs::create_dir(&b.instance.data_dir).unwrap();
    fs::write(b.data("precious"), "x").unwrap();
    let error = clone_with(&b, &a.source(), quick()).await.unwrap_err();
    assert!(matches!(error, CloneError::NoSpace { .. }), "{error}");
    assert!(b.data("precious").exists());
    // The data directory itself as a mount point.
    let c = lab.node_in("c", &disk);
    let error = clone_with(&c, &a.source(), quick()).await.unwrap_err();
    assert!(error.to_string().contains("cannot itself be a mount point"), "{error}");
}

#[tokio::test]
async fn a_cancelled_clone_leaves_no_process_and_the_old_data() {
    let lab = Lab::new(&majors()[0]);
    let (mut a, b) = (lab.node("a"), lab.node("b"));
    let (_postmaster, sql) = a.bootstrap().await;
    sql.execute("fill", "CREATE TABLE public.t AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
        .await
        .unwrap();
    fs::create_dir_all(&b.instance.data_dir).unwrap();
    fs::write(b.data("old"), "x").unwrap();
    let new = lab.path().join("b/data.matriarch-new");
    let (source, options) = (a.source(), CloneOptions { max_rate: Some(1024), ..quick() });
    tokio::select! {
        biased;
        () = until("the clone has begun", async || new.join("base").exists()) => {}
        done = clone_with(&b, &source, options) => panic!("too fast for this test: {done:?}"),
    }
    until("pg_basebackup is gone", async || process::tree(&new).is_empty()).await;
    assert!(b.data("old").exists());
}
