//! A guard, its orders, and the PostgreSQL that it ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use matriarch_core::decide::Job;
use matriarch_dcs::boot_clock_ms;
use matriarch_postgres::bootstrap::InitdbOptions;
use matriarch_postgres::{Binaries, Credentials, Instance, Owner, Settings, binaries, hba, process};
use matriarch_testkit::ports::Port;
use tokio::sync::watch;

use super::{GuardOptions, GuardState, Order, WatchdogSettings};
use crate::conf_files::ConfFiles;
use crate::jobs::{JobContext, perform};
use crate::virtual_ip::Place;

const LONG: Duration = Duration::from_secs(60);

fn programs() -> Binaries {
    let dirs = std::env::var_os(binaries::DIRS_VARIABLE);
    let named = dirs.iter().flat_map(std::env::split_paths).next().map(|dir| Binaries::at(&dir).unwrap());
    let installed = || binaries::SUPPORTED.into_iter().find_map(|major| Binaries::find(None, Some(major)).ok());
    named.or_else(installed).expect("a PostgreSQL is installed")
}

fn instance(dir: &std::path::Path, port: &Port) -> Arc<Instance> {
    let user = |name: &str| Credentials { username: name.into(), password: name.into() };
    Arc::new(Instance {
        binaries: programs(),
        data_dir: dir.join("data"),
        run_dir: dir.join("run"),
        port: port.number(),
        listen_addresses: vec!["127.0.0.1".into()],
        owner: Owner::choose(None).unwrap(),
        passfile: None,
        name: "a".parse().unwrap(),
        superuser: user("postgres"),
        replication: user("replicator"),
        rewind: user("rewinder"),
        pooler: None,
    })
}

/// A folder of its own, reachable for PostgreSQL's user, and an instance in it.
fn place(port: &Port) -> (tempfile::TempDir, Arc<Instance>) {
    let dir = tempfile::Builder::new().prefix("mguard-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let instance = instance(dir.path(), port);
    (dir, instance)
}

fn context(instance: &Arc<Instance>, guard: Option<watch::Receiver<GuardState>>) -> JobContext {
    JobContext {
        instance: instance.clone(),
        log: instance.run_dir.parent().unwrap().join("postgresql.log"),
        settings: Settings::default(),
        rules: hba::Rules::default(),
        files: Arc::new(ConfFiles::new(instance.clone())),
        stop_limit: LONG,
        send_limit: None,
        initdb: InitdbOptions { extra: vec!["--no-sync".into()], ..InitdbOptions::default() },
        restore: None,
        dump: None,
        leader: None,
        clone_source: None,
        from_backup: None,
        unproved: Arc::default(),
        leader_timeline: 1,
        timelines: None,
        postmaster: None,
        sql: None,
        slots: Vec::new(),
        progress: Arc::new(watch::channel(Default::default()).0),
        primary: true,
        settle_limit: LONG,
        held: false,
        guard,
        settled: true,
        keeps_wal: false,
    }
}

/// Confirmed by a guard, so long from now or ago.
fn said(deadline: u64) -> Option<watch::Receiver<GuardState>> {
    Some(watch::channel(GuardState { alive: true, deadline, watchdog: None }).1)
}

/// A guard of its own, in this process: what it ends it finds by the data directory.
struct Guard {
    stream: UnixStream,
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Guard {
    fn start(options: GuardOptions) -> Guard {
        let socket = options.socket.clone();
        let thread = std::thread::spawn(move || super::run(&options));
        let end = Instant::now() + LONG;
        loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => return Guard { stream, thread: Some(thread) },
                Err(error) => assert!(Instant::now() < end, "no guard: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The deadline that it answers.
    fn ask(&self, order: Order) -> u64 {
        (&self.stream).write_all(order.line().as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(&self.stream).read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.stream.write_all(Order::Quit.line().as_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A start that was held up until the lease had ended, by an agent that does not get to look at it afterwards, is ended by
/// the guard; one that its agent looks at, by the agent.
#[tokio::test]
async fn a_primary_that_starts_after_its_deadline_is_ended_until_the_guard_is_disarmed() {
    let port = Port::reserve();
    let (dir, instance) = place(&port);
    let data_dir = instance.data_dir.clone();
    let runs = || !process::tree(&data_dir).is_empty();
    perform(Job::Initdb, context(&instance, None)).await.map_err(|failure| failure.message).unwrap();

    let guard = Guard::start(GuardOptions { data_dir: data_dir.clone(), socket: dir.path().join("guard") });
    let deadline = boot_clock_ms() + 50;
    assert_eq!(guard.ask(Order::Arm(deadline)), deadline);
    while boot_clock_ms() <= deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(guard.ask(Order::Report), deadline, "it has fired, and says since when");
    // The agent is not to look: it takes the cluster to be paused.
    for _ in 0..2 {
        assert!(perform(Job::StartPrimary, context(&instance, None)).await.is_err(), "it comes up behind the guard");
        // The postmaster has gone; the guard is at its children.
        let end = Instant::now() + LONG;
        while runs() {
            assert!(Instant::now() < end, "all of it is ended");
        }
    }
    assert_eq!(guard.ask(Order::Arm(deadline)), deadline, "a lease that has ended changes nothing");
    assert!(perform(Job::StartPrimary, context(&instance, None)).await.is_err());

    assert_eq!(guard.ask(Order::Disarm), 0);
    let ahead = boot_clock_ms() + 3_600_000;
    let started = perform(Job::StartPrimary, context(&instance, said(ahead))).await;
    let started = started.map_err(|failure| failure.message).unwrap();
    let sql = started.sql.expect("it is ready");
    sql.query("answer a test", "SELECT 1", LONG).await.unwrap();
    assert_eq!(process::postmaster(&data_dir), started.started.map(|postmaster| postmaster.pid()));
    let stop = JobContext { sql: Some(sql), ..context(&instance, None) };
    perform(Job::StopImmediate, stop).await.map_err(|failure| failure.message).unwrap();
    assert_eq!(process::postmaster(&data_dir), None, "its lock file names nobody any more");

    // Disarmed, the guard ends nothing: the agent does when the deadline that it was told has passed.
    for late in [said(boot_clock_ms()), said(0)] {
        assert!(perform(Job::StartPrimary, context(&instance, late)).await.is_err());
        assert!(!runs());
    }
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A deadline that passed long before the guard comes to it: PostgreSQL is stopped where it is, goes on with the next lease, and is
/// ended when none comes.
#[tokio::test]
async fn a_primary_whose_host_stood_still_is_held_for_a_moment() {
    let port = Port::reserve();
    let (dir, instance) = place(&port);
    let data_dir = instance.data_dir.clone();
    perform(Job::Initdb, context(&instance, None)).await.map_err(|failure| failure.message).unwrap();
    let ahead = boot_clock_ms() + 3_600_000;
    let started = perform(Job::StartPrimary, context(&instance, said(ahead))).await;
    let sql = started.map_err(|failure| failure.message).unwrap().sql.expect("it is ready");

    let guard = Guard::start(GuardOptions { data_dir: data_dir.clone(), socket: dir.path().join("guard") });
    let long_past = boot_clock_ms() - 10_000;
    guard.ask(Order::Arm(long_past));
    wait_until("it is held", || process::any_stopped(&data_dir));
    assert_eq!(guard.ask(Order::Report), long_past);
    assert_eq!(guard.ask(Order::Arm(ahead)), ahead);
    assert!(!process::any_stopped(&data_dir), "it goes on before the guard answers");
    sql.query("answer a test", "SELECT 1", LONG).await.unwrap();

    // A guard that was killed while it held PostgreSQL has a successor.
    process::hold_tree(&data_dir).unwrap();
    drop(guard);
    let guard = Guard::start(GuardOptions { data_dir: data_dir.clone(), socket: dir.path().join("guard") });
    assert_eq!(guard.ask(Order::Arm(ahead)), ahead);
    sql.query("answer a test", "SELECT 1", LONG).await.unwrap();

    guard.ask(Order::Arm(long_past));
    wait_until("it is ended in the end", || process::tree(&data_dir).is_empty());
    assert_eq!(guard.ask(Order::Report), long_past, "it has fired");
}

#[test]
fn orders_survive_the_wire_and_garbage_does_not() {
    let place = Place::parse("10.0.0.5/24", "eth0").unwrap();
    let watchdog = WatchdogSettings { device: "/dev/watchdog1".into(), timeout: 2, margin: 500 };
    let orders = [Order::Address(place), Order::Watchdog(watchdog), Order::Arm(1234)];
    for order in orders.into_iter().chain([Order::Disarm, Order::Report, Order::Quit]) {
        assert_eq!(Order::parse(&order.line()), Some(order));
    }
    for line in [
        "",
        "arm",
        "arm x",
        "arm -1",
        "disarm now",
        "arm 1 2",
        "ARM 1",
        "\0\0",
        "address x eth0",
        "address 10.0.0.5/24",
        "address 10.0.0.5/24 -x",
        "watchdog",
        "watchdog 0 500 /dev/watchdog",
        "watchdog 2 500",
        "watchdog 2 500 /dev/watchdog 1",
    ] {
        assert_eq!(Order::parse(line), None, "{line:?}");
    }
}
