//! Programs of agents and proxies are exchanged (SIGUSR2) under clients of every kind: nobody notices.

use std::future::poll_fn;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use matriarch_testkit::ports::Port;
use matriarch_testkit::{executable, faults, postgres};
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use crate::beside::{begin_anew, edit, enters, log, pgbouncer};
use crate::harness::{Cluster, PATIENCE, Plan, fault, health, wire};
use crate::pgbouncer::{Bench, until};
use crate::{cluster, switch_over};

/// Rows that a client reads while programs change.
const ROWS: usize = 100_000;

/// One value.
async fn value(client: &Client, statement: &str) -> String {
    let messages = client.simple_query(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    row.unwrap_or_else(|| panic!("{statement} gave no row"))
}

async fn connect(dsn: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("the primary serves");
    tokio::spawn(connection);
    client
}

/// Clients of one port, each at something else when programs change.
struct Guests {
    idle: (Client, String),
    open: (Client, String),
    sleeper: JoinHandle<(String, String)>,
    listener: (Client, mpsc::UnboundedReceiver<String>),
    reader: Child,
    victim: (tokio_postgres::CancelToken, JoinHandle<tokio_postgres::Error>),
    channel: String,
}

impl Guests {
    async fn come(dsn: &str, channel: &str) -> Guests {
        let own = "SELECT pg_backend_pid()";
        let idle = connect(dsn).await;
        idle.batch_execute("CREATE TEMP TABLE own AS SELECT 7 AS n; PREPARE mine AS SELECT n FROM own")
            .await
            .expect("it works");
        let idle_pid = value(&idle, own).await;
        let open = connect(dsn).await;
        open.batch_execute(&format!("BEGIN; CREATE TABLE {channel} AS SELECT 8 AS n")).await.expect("it works");
        let open_pid = value(&open, own).await;
        let sleeper = connect(dsn).await;
        let sleeper_pid = value(&sleeper, own).await;
        let statement = "SELECT pg_backend_pid() FROM pg_sleep(3)";
        let sleeper = tokio::spawn(async move { (value(&sleeper, statement).await, sleeper_pid) });
        let (listener, mut connection) = tokio_postgres::connect(dsn, NoTls).await.expect("the primary serves");
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message {
                    let _ = tell.send(notification.payload().to_owned());
                }
            }
        });
        listener.batch_execute(&format!("LISTEN {channel}")).await.expect("it works");
        let victim = connect(dsn).await;
        let cancel = victim.cancel_token();
        let victim =
            tokio::spawn(
                async move { victim.simple_query("SELECT pg_sleep(600)").await.expect_err("it is cancelled") },
            );
        Guests {
            idle: (idle, idle_pid),
            open: (open, open_pid),
            sleeper,
            listener: (listener, heard),
            reader: reader(dsn),
            victim: (cancel, victim),
            channel: channel.to_owned(),
        }
    }

    /// Each goes on where it stood, in the session that it had.
    async fn conclude(self, dsn: &str) {
        let own = "SELECT pg_backend_pid()";
        let Guests { idle: (idle, idle_pid), open: (open, open_pid), sleeper, listener, mut reader, victim, channel } =
            self;
        assert_eq!((value(&idle, own).await, value(&idle, "EXECUTE mine").await), (idle_pid, "7".to_owned()));
        assert_eq!(
            (value(&open, own).await, value(&open, &format!("SELECT n FROM {channel}")).await),
            (open_pid, "8".to_owned())
        );
        open.batch_execute("COMMIT").await.expect("the transaction goes on");
        let (answer, pid) = sleeper.await.expect("its statement goes on");
        assert_eq!(answer, pid);
        wire::ask(dsn, &format!("NOTIFY {channel}, 'hello'")).await.expect("the primary serves");
        let (listener, mut heard) = listener;
        assert_eq!(heard.recv().await.expect("its session goes on"), "hello");
        drop(listener);
        let output = reader.stdout.take().expect("it is piped");
        let lines = tokio::task::spawn_blocking(move || BufReader::new(output).lines().map_while(Result::ok).count());
        assert_eq!(lines.await.expect("it can be read"), ROWS);
        assert!(reader.wait().expect("it ends").success());
        let (cancel, victim) = victim;
        cancel.cancel_query(NoTls).await.expect("the proxy takes it");
        let error = victim.await.expect("it is told");
        assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
    }
}

/// A client that asks for 100 MB and reads nothing for now.
fn reader(dsn: &str) -> Child {
    let mut command = Command::new(postgres::any().bins.join("psql"));
    let copy = format!("COPY (SELECT g, repeat('x', 1000) FROM generate_series(1, {ROWS}) g) TO STDOUT");
    command.args(["-XAtq", "-c", &copy, dsn]).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().expect("psql runs")
}

/// Connects all the time, and asks.
struct Stream {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Stream {
    fn start(dsn: String) -> Stream {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (stop.clone(), done.clone());
        let task = tokio::spawn(async move {
            while !told.load(Relaxed) {
                assert_eq!(wire::ask(&dsn, "SELECT 1").await.expect("a new session"), "1");
                count.fetch_add(1, Relaxed);
            }
        });
        Stream { stop, done, task }
    }

    async fn goes_on(&self) {
        let before = self.done.load(Relaxed);
        until("new sessions", async || (self.task.is_finished() || self.done.load(Relaxed) > before + 5).then_some(()))
            .await;
    }

    async fn conclude(self) {
        self.stop.store(true, Relaxed);
        self.task.await.expect("no new session saw an error");
    }
}

fn proxy_of_up(cluster: &Cluster) -> i32 {
    let all = faults::processes_of(&cluster.path());
    let proxies = all.iter().filter(|process| process.arguments.get(1).is_some_and(|word| word == "proxy"));
    let port = cluster.read_write().to_string();
    let mut found =
        proxies.filter(|process| process.arguments.iter().any(|word| word.ends_with(&port))).map(|process| process.pid);
    found.next_back().expect("`up` runs one")
}

/// The proxy of `up` begins anew in its process.
async fn exchange_proxy(cluster: &Cluster) {
    let log = || std::fs::read_to_string(cluster.path().join("proxy.log")).unwrap_or_default();
    let starts = || log().matches("routing for").count();
    let (before, pid) = (starts(), proxy_of_up(cluster));
    assert!(faults::signal(pid, Signal::USR2), "it runs");
    until("the proxy begins anew", async || (starts() > before).then_some(())).await;
    assert_eq!(proxy_of_up(cluster), pid, "the process stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_agents_proxies_and_poolers_notice_no_upgrade() {
    let cluster = cluster("upgrades").await;
    let leader = health::leader(&cluster).await;
    let (door, pool, alone) = (Port::reserve(), Port::reserve(), Port::reserve());
    let listen = |port: &Port| format!("127.0.0.1:{}", port.number());
    // An agent with a PgBouncer and no proxy.
    let replica = health::replicas(&cluster).await.remove(0);
    edit(&cluster, &replica, |config| {
        config["postgresql"]["authentication"]["pooler"] = json!({"username": "matriarch_pooler", "password": "p"});
        config["proxy"] = json!({"pooler": {"read_write": listen(&alone), "settings": {"default_pool_size": 10}}});
    });
    begin_anew(&cluster, &replica).await;
    edit(&cluster, &leader, |config| {
        config["postgresql"]["authentication"]["pooler"] = json!({"username": "matriarch_pooler", "password": "p"});
        let pooler = json!({"read_write": listen(&pool), "settings": {"default_pool_size": 30}});
        config["proxy"] = json!({"read_write": listen(&door), "drain_timeout": 1, "pooler": pooler});
    });
    begin_anew(&cluster, &leader).await;
    for port in [&pool, &alone] {
        until("the pooler serves", async || enters(port.number(), "app", "hush").await.ok()).await;
    }
    let bouncer = pgbouncer(&cluster, &leader, pool.number());
    let pauses = || {
        let dir = cluster.member(&replica).join("data.pooler").join(alone.number().to_string());
        let log = std::fs::read_to_string(dir.join("pgbouncer.log")).expect("PgBouncer logs");
        log.matches("PAUSE command issued").count()
    };
    let paused = pauses();
    Bench::tables(&cluster, pool.number());
    let benches = [Bench::start(&cluster, pool.number(), 10), Bench::start(&cluster, alone.number(), 3)];
    let doors = [cluster.dsn(door.number()), cluster.dsn(cluster.read_write())];
    let streams = doors.each_ref().map(|dsn| Stream::start(dsn.clone()));
    let guests = [Guests::come(&doors[0], "ours").await, Guests::come(&doors[1], "theirs").await];
    for bench in &benches {
        bench.works().await;
    }
    for _ in 0..2 {
        begin_anew(&cluster, &leader).await;
        begin_anew(&cluster, &replica).await;
        exchange_proxy(&cluster).await;
        for stream in &streams {
            stream.goes_on().await;
        }
    }
    for (guests, dsn) in guests.into_iter().zip(&doors) {
        guests.conclude(dsn).await;
    }
    for stream in streams {
        stream.conclude().await;
    }
    for bench in benches {
        bench.works().await;
        bench.conclude();
    }
    assert_eq!(pgbouncer(&cluster, &leader, pool.number()), bouncer, "PgBouncer stays");
    assert_eq!(pauses(), paused, "nothing was held");
    assert_eq!(health::leader(&cluster).await, leader);

    // A new session of a proxy in another program follows the primary, and old ones end with their primary's lead.
    let old = connect(&doors[0]).await;
    switch_over(&cluster).await;
    until("the old session ends", async || old.is_closed().then_some(())).await;
    assert_eq!(wire::ask(&doors[0], "SELECT n FROM ours").await.expect("the new primary serves"), "8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_while_a_switchover_holds_costs_nothing() {
    let cluster = cluster("upgradehold").await;
    let leader = health::leader(&cluster).await;
    let replica = health::replicas(&cluster).await.remove(0);
    let (door, pool) = (Port::reserve(), Port::reserve());
    edit(&cluster, &replica, |config| {
        config["postgresql"]["authentication"]["pooler"] = json!({"username": "matriarch_pooler", "password": "p"});
        let pooler = json!({"read_write": format!("127.0.0.1:{}", pool.number())});
        config["proxy"] = json!({"read_write": format!("127.0.0.1:{}", door.number()), "pooler": pooler});
    });
    for name in cluster.names() {
        edit(&cluster, &name, |config| {
            config["postgresql"]["authentication"]["pooler"] = json!({"username": "matriarch_pooler", "password": "p"});
        });
        begin_anew(&cluster, &name).await;
    }
    until("the pooler serves", async || enters(pool.number(), "app", "hush").await.ok()).await;
    let dsn = cluster.dsn(door.number());
    wire::ask(&dsn, "CREATE TABLE t (n int)").await.expect("the primary serves");
    Bench::tables(&cluster, pool.number());
    let bench = Bench::start(&cluster, pool.number(), 5);
    bench.works().await;
    for upgraded in [&replica, &leader] {
        let open = connect(&dsn).await;
        open.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.expect("it works");
        let before = health::leader(&cluster).await;
        let holds = || log(&cluster, &before).matches("switchover_settle").count();
        let held = holds();
        let switchover = async {
            let done = cluster.verb(&["switchover", "--force"]).await;
            (done.code == 0, done)
        };
        let meanwhile = async {
            // Every router holds, and the transaction is waited for.
            until("the leader waits for transactions", async || (holds() > held).then_some(())).await;
            let starts = || log(&cluster, upgraded).matches("agent of member").count();
            let first = starts();
            assert!(faults::signal(fault::agent(&cluster, upgraded), Signal::USR2), "it runs");
            let waiting = tokio::spawn({
                let dsn = dsn.clone();
                async move { wire::ask(&dsn, "SELECT 1").await }
            });
            if upgraded == &replica {
                until("another program", async || (starts() > first).then_some(())).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                assert!(!waiting.is_finished(), "new sessions are still held");
            }
            open.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.expect("the transaction goes on");
            assert_eq!(waiting.await.expect("no panic").expect("it was held, not refused"), "1");
        };
        let ((done, outcome), ()) = tokio::join!(switchover, meanwhile);
        assert!(done, "{outcome}");
        health::well(&cluster, PATIENCE).await;
        assert_ne!(health::leader(&cluster).await, before);
    }
    assert_eq!(wire::ask(&dsn, "SELECT sum(n) FROM t").await.expect("it serves"), "6");
    bench.works().await;
    bench.conclude();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_do_not_work_change_nothing() {
    let mut cluster = Plan::new("upgradebad").members(1).prepare();
    let program: PathBuf = cluster.run_copy();
    cluster.up().await;
    let good = program.with_extension("good");
    std::fs::hard_link(&program, &good).expect("the folder is ours");
    let door = Port::reserve();
    edit(&cluster, "a", |config| config["proxy"] = json!({"read_write": format!("127.0.0.1:{}", door.number())}));
    begin_anew(&cluster, "a").await;
    let clients = [connect(&cluster.dsn(door.number())).await, connect(&cluster.dsn(cluster.read_write())).await];
    let mut pids = Vec::new();
    for client in &clients {
        pids.push(value(client, "SELECT pg_backend_pid()").await);
    }
    let logs = || [log(&cluster, "a"), std::fs::read_to_string(cluster.path().join("proxy.log")).unwrap_or_default()];
    let processes = || [fault::agent(&cluster, "a"), proxy_of_up(&cluster)];
    let first = processes();
    let begin = || logs().map(|log| log.matches("agent of member").count() + log.matches("routing for").count());
    for (text, mode, words, anew) in [
        (None, 0, "cannot be started: No such file", false),
        (Some("#!/bin/sh\n"), 0o644, "cannot be started: Permission denied", false),
        (Some("#!/bin/sh\nkill -SEGV $$\n"), 0o755, "signal: 11", false),
        (Some("#!/bin/sh\necho 'no such verb' >&2\nexit 64\n"), 0o755, "no such verb", false),
        // It passes the check, and is gone when it is to be executed.
        (Some("#!/bin/sh\nrm \"$0\"\n"), 0o755, "the program that runs begins anew", true),
    ] {
        for (index, process) in first.into_iter().enumerate() {
            match text {
                Some(text) => executable::script(&program, text, mode),
                None => std::fs::remove_file(&program).unwrap_or_default(),
            }
            let (before, starts) = (logs()[index].matches(words).count(), begin()[index]);
            assert!(faults::signal(process, Signal::USR2), "it runs");
            until(words, async || (logs()[index].matches(words).count() > before).then_some(())).await;
            if anew {
                until("it begins anew", async || (begin()[index] > starts).then_some(())).await;
            } else {
                assert!(logs()[index].contains("goes on with the program it has"));
            }
            assert_eq!(value(&clients[index], "SELECT pg_backend_pid()").await, pids[index], "{words}");
            connect(&cluster.dsn([door.number(), cluster.read_write()][index])).await;
        }
    }
    // One that works is taken all the same.
    std::fs::rename(&good, &program).expect("the folder is ours");
    for (index, process) in first.into_iter().enumerate() {
        let starts = begin()[index];
        assert!(faults::signal(process, Signal::USR2), "it runs");
        until("it begins anew", async || (begin()[index] > starts).then_some(())).await;
        assert_eq!(value(&clients[index], "SELECT pg_backend_pid()").await, pids[index]);
    }
    assert_eq!(processes(), first);
    health::well(&cluster, PATIENCE).await;
}
