//! Drills on purpose: measured, kept, within their bounds, and leaving nothing behind.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio_postgres::NoTls;

use crate::harness::{Cluster, Fault, PATIENCE, Plan, health, verb, wire};

const UNAVAILABLE: u8 = 69;
const TEMPORARY: u8 = 75;

const TRACES: &str = "select count(*) from pg_namespace where nspname = 'matriarch'";

async fn leaves_nothing(cluster: &Cluster) {
    let traces = cluster.ask(cluster.read_write(), TRACES).await.expect("the primary answers");
    assert_eq!(traces, "0", "the schema of the drill is still there");
}

/// Runs drills until the machine is quick enough for one: before the blow no write may take a second, else nothing is done. Nor is
/// anything done right after a start, before a replica has told how far it is.
async fn drilled(cluster: &Cluster, arguments: &[&str]) -> Value {
    let all: Vec<&str> = ["drill"].iter().chain(arguments).copied().chain(["--force", "-o", "json"]).collect();
    let begun = Instant::now();
    loop {
        let outcome = cluster.verb(&all).await;
        let reasons = ["writes fail before anything is done", "behind is not known"];
        let early = outcome.code == i32::from(TEMPORARY) && reasons.iter().any(|reason| outcome.err.contains(reason));
        if !early || begun.elapsed() > PATIENCE {
            return outcome.json();
        }
    }
}

/// What must be true of every drill that passed.
#[track_caller]
fn passed<'a>(drill: &'a Value, kind: &str, from: &str) -> &'a str {
    assert_eq!(drill["result"], "passed", "{drill}");
    assert_eq!(drill["kind"], kind, "{drill}");
    assert_eq!(drill["from"], from, "{drill}");
    assert_eq!(drill["lost_writes"], 0, "{drill}");
    assert!(drill["acknowledged"].as_u64().is_some_and(|rows| rows > 10), "{drill}");
    let gap = drill["gap_seconds"].as_f64().expect("it was measured");
    assert!(gap > 0.0 && gap < PATIENCE.as_secs_f64(), "{drill}");
    assert!(drill["well_after_seconds"].as_f64().is_some_and(|after| after >= gap), "{drill}");
    assert!(drill["timeline"].as_u64() > drill["timeline_before"].as_u64(), "{drill}");
    drill["to"].as_str().expect("somebody leads")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drills_are_measured_and_kept() {
    let cluster = Cluster::start("drills").await;
    cluster.be_patient().await;
    let first = health::leader(&cluster).await;
    assert!(cluster.verb(&["drill", "history"]).await.ok().contains("No drill"));

    let there_and_back = drilled(&cluster, &["switchover", "--and-back"]).await;
    let [there, back] = &there_and_back.as_array().expect("a list")[..] else { panic!("{there_and_back}") };
    let second = passed(there, "switchover", &first);
    assert_ne!(second, first);
    assert_eq!(passed(back, "switchover", second), first);
    assert_eq!(health::leader(&cluster).await, first);

    let failover = drilled(&cluster, &["failover", "--database", "postgres"]).await;
    let heir = passed(&failover[0], "failover", &first).to_owned();
    assert_ne!(heir, first, "{failover}");
    assert_eq!(failover[0]["blow"], "postgres");
    assert_eq!(health::leader(&cluster).await, heir);
    leaves_nothing(&cluster).await;

    let history = cluster.verb(&["drill", "history", "-o", "json"]).await.json();
    assert_eq!(history.as_array().map(Vec::len), Some(3), "{history}");
    assert_eq!(history[2], failover[0]);
    let table = cluster.verb(&["drill", "history"]).await;
    assert!(table.ok().contains("failover") && table.out.contains("passed"), "{table}");
    // Every member shows them.
    for name in cluster.names() {
        let answer = wire::http(cluster.api_port(&name), "GET", "/metrics", None, "").await.expect("it answers");
        for (metric, labels) in [
            ("matriarch_drill_last_gap_seconds", "kind=\"failover\""),
            ("matriarch_drill_last_timestamp_seconds", "kind=\"switchover\""),
            ("matriarch_drill_last_lost_writes", "kind=\"failover\"} 0"),
            ("matriarch_drills_total", "kind=\"switchover\",result=\"passed\"} 2"),
        ] {
            let found = answer.body.lines().any(|line| line.starts_with(metric) && line.contains(labels));
            assert!(found, "{name} has no {metric} with {labels}:\n{}", answer.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_instance_is_killed_where_it_is_started_again() {
    let cluster = Cluster::start("drill-instance").await;
    let first = health::leader(&cluster).await;
    let agent = crate::harness::fault::agent(&cluster, &first);
    let drill = drilled(&cluster, &["failover", "--kind", "instance"]).await;
    assert_eq!(drill[0]["blow"], "instance");
    assert_eq!(drill[0]["result"], "passed", "{drill}");
    assert_eq!(drill[0]["lost_writes"], 0, "{drill}");
    assert_ne!(crate::harness::fault::agent(&cluster, &first), agent, "another agent runs");
    health::well(&cluster, PATIENCE).await;
    leaves_nothing(&cluster).await;
}

/// Each bound by itself, and nothing moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_struck_out_of_bounds() {
    let cluster = Cluster::start("drill-bounds").await;
    let leader = health::leader(&cluster).await;
    let epoch = |cluster: &Cluster| {
        let port = cluster.api_port("a");
        async move {
            let answer = wire::http(port, "GET", "/cluster", None, "").await.expect("it answers");
            serde_json::from_str::<Value>(&answer.body).expect("it is JSON")["matriarch"]["epoch"].clone()
        }
    };
    let before = epoch(&cluster).await;
    let possible = cluster.verb(&["drill", "failover", "--dry-run"]).await;
    assert!(possible.ok().contains("could be done now") && possible.out.contains(&leader), "{possible}");

    let hour = |ahead: i8| {
        let hour = (jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).hour() + ahead).rem_euclid(24);
        format!("{hour:02}:00")
    };
    let elsewhen = format!("{}-{}", hour(2), hour(4));
    let refuse = async |arguments: &[&str], words: &[&str]| {
        let all: Vec<&str> = ["drill", "failover", "--force"].iter().chain(arguments).copied().collect();
        cluster.verb(&all).await.refused_naming(TEMPORARY, words);
        let rehearsal: Vec<&str> = all.iter().copied().chain(["--dry-run"]).collect();
        cluster.verb(&rehearsal).await.refused_naming(TEMPORARY, words);
    };
    refuse(&["--between", &elsewhen, "--time-zone", "UTC"], &["outside of", &elsewhen]).await;
    refuse(&["--spare-voters", "2"], &["2 voters stream, and 3 are wanted"]).await;

    let replica = health::replicas(&cluster).await.remove(0);
    cluster.ask(cluster.postgres_port(&replica), "select pg_wal_replay_pause()").await.expect("it answers");
    let fill = "create table filler as select repeat('x', 1000) from generate_series(1, 3000)";
    cluster.ask(cluster.read_write(), fill).await.expect("the primary answers");
    let begun = Instant::now();
    loop {
        let outcome = cluster.verb(&["drill", "failover", "--force", "--dry-run", "--max-lag", "1MB"]).await;
        if outcome.code == i32::from(TEMPORARY) && outcome.err.contains("bytes behind") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the lag is not seen: {outcome}");
    }
    refuse(&["--max-lag", "1MB"], &[&replica, "bytes behind"]).await;
    cluster.ask(cluster.postgres_port(&replica), "select pg_wal_replay_resume()").await.expect("it answers");

    cluster.verb(&["pause", "--wait"]).await.ok();
    refuse(&[], &["paused"]).await;
    // The agent itself refuses, whatever a client has looked at.
    let body = format!("{{\"epoch\": {before}}}");
    let blow = wire::http(cluster.api_port(&leader), "POST", "/drill", Some(&cluster.token()), &body).await.unwrap();
    assert!(blow.status == 412 && blow.body.contains("paused"), "{blow:?}");
    cluster.verb(&["resume", "--wait"]).await.ok();

    let far = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(2);
    cluster.verb(&["switchover", "--scheduled", &far.to_string(), "--force"]).await.ok();
    let begun = Instant::now();
    while cluster.verb(&["drill", "failover", "--force", "--dry-run"]).await.code == 0 {
        assert!(begun.elapsed() < PATIENCE, "the scheduled switchover is not seen");
    }
    refuse(&[], &["scheduled"]).await;
    cluster.verb(&["switchover", "--cancel"]).await.ok();

    for (body, words) in [("{\"epoch\": 99}", "not 99"), (&body.replace('}', ", \"spare_voters\": 2}"), "3 are wanted")]
    {
        let begun = Instant::now();
        let blow = loop {
            let token = cluster.token();
            let blow = wire::http(cluster.api_port(&leader), "POST", "/drill", Some(&token), body).await.unwrap();
            // Its agent may not have read yet that the switchover is called off.
            if !blow.body.contains("a switchover is asked for") || begun.elapsed() > PATIENCE {
                break blow;
            }
        };
        assert!(blow.status == 412 && blow.body.contains(words), "{blow:?}");
    }
    let unknown = wire::http(cluster.api_port(&leader), "POST", "/drill", None, &body).await.unwrap();
    assert_eq!(unknown.status, 401);

    // A member away.
    let agent = crate::harness::fault::agent(&cluster, &replica);
    matriarch_testkit::faults::freeze(&[agent]);
    refuse(&[], &[&replica]).await;
    matriarch_testkit::faults::thaw(&[agent]);
    health::well(&cluster, PATIENCE).await;
    assert_eq!(epoch(&cluster).await, before, "nothing has moved");
    assert!(cluster.verb(&["drill", "history"]).await.ok().contains("No drill"), "refusals are no drills");
    leaves_nothing(&cluster).await;
}

/// A drill under way, whose lines of progress can be waited for.
struct Running {
    child: tokio::process::Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
    said: String,
}

impl Running {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Running {
        let mut command = tokio::process::Command::new(verb::program());
        command.arg("--dir").arg(cluster.path()).arg("drill").args(arguments).current_dir(cluster.root());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.env_remove("PGPASSWORD");
        let mut child = command.spawn().expect("the binary runs");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        Running { child, lines, said: String::new() }
    }

    /// Waits for a line with these words.
    async fn says(&mut self, words: &str) {
        let wait = async {
            while let Some(line) = self.lines.next_line().await.expect("it is text") {
                self.said.push_str(&line);
                self.said.push('\n');
                if line.contains(words) {
                    return true;
                }
            }
            false
        };
        let said = tokio::time::timeout(PATIENCE, wait).await;
        assert!(said == Ok(true), "it does not say '{words}':\n{}", self.said);
    }

    fn interrupt(&self) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid as i32)).expect("it runs");
        kill_process(pid, Signal::INT).expect("it is ours");
    }

    /// Waits for its end; answers exit code, output and messages.
    async fn end(mut self) -> (Option<i32>, String, String) {
        let wait = async {
            let mut out = String::new();
            self.child.stdout.take().expect("it is piped").read_to_string(&mut out).await.expect("it is text");
            while let Some(line) = self.lines.next_line().await.expect("it is text") {
                self.said.push_str(&line);
                self.said.push('\n');
            }
            (self.child.wait().await.expect("it ends").code(), out, std::mem::take(&mut self.said))
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it ends")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_drill_leaves_nothing_behind() {
    let cluster = Cluster::start("drill-interrupt").await;
    cluster.be_patient().await;
    let leader = health::leader(&cluster).await;
    // Before the blow: nothing is done.
    let (holder, connection) =
        tokio_postgres::connect(&cluster.dsn(cluster.read_write()), NoTls).await.expect("it serves");
    tokio::spawn(connection);
    // It makes a schema of this name first, and so waits for us.
    holder.batch_execute("begin; create schema matriarch").await.expect("the primary answers");
    let mut early = Running::start(&cluster, &["failover", "--force"]);
    early.says("writing to").await;
    early.interrupt();
    holder.batch_execute("rollback").await.expect("the primary answers");
    let (code, _, said) = early.end().await;
    assert!(code == Some(i32::from(TEMPORARY)) && said.contains("interrupted before anything"), "{code:?} {said}");
    assert_eq!(health::leader(&cluster).await, leader);
    leaves_nothing(&cluster).await;
    assert!(cluster.verb(&["drill", "history"]).await.ok().contains("No drill"));
    // After it: it is measured, cleaned up and kept all the same.
    let mut late = Running::start(&cluster, &["failover", "--force", "-o", "json"]);
    late.says("the postmaster was killed").await;
    late.interrupt();
    let (code, out, said) = late.end().await;
    assert_eq!(code, Some(0), "{said}");
    let drills: Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!(drills[0]["lost_writes"], 0, "{drills}");
    assert_eq!(cluster.verb(&["drill", "history", "-o", "json"]).await.json(), drills);
    health::well(&cluster, PATIENCE).await;
    leaves_nothing(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drills_go_on_at_their_interval_until_interrupted() {
    let cluster = Cluster::start("drill-every").await;
    cluster.be_patient().await;
    let mut scheduler = Running::start(&cluster, &["switchover", "--force", "--every", "3s"]);
    scheduler.says("switchover drill passed").await;
    scheduler.says("switchover drill passed").await;
    scheduler.interrupt();
    let (code, _, said) = scheduler.end().await;
    assert!(code == Some(0) && said.contains("no more drills"), "{code:?} {said}");
    let history = cluster.verb(&["drill", "history", "-o", "json"]).await.json();
    assert!(history.as_array().is_some_and(|drills| drills.len() >= 2), "{history}");
    by_the_store(&cluster).await;
    let soon = cluster.verb(&["drill", "switchover", "--force", "--at-least-apart", "1h"]).await;
    soon.refused_naming(TEMPORARY, &["the last drill was at"]);
    leaves_nothing(&cluster).await;
}

/// Without a proxy the client finds the primary among the members, and the password as psql does.
async fn by_the_store(cluster: &Cluster) {
    health::well(cluster, PATIENCE).await;
    let store = format!("sqlite:{}", cluster.path().join("store.db").display());
    let arguments = ["--store", &store, "--scope", "demo", "drill", "switchover", "--force", "-o", "json"];
    let run = |secrets: Vec<(&'static str, String)>| async move {
        let secrets: Vec<(&str, &str)> = secrets.iter().map(|(name, value)| (*name, value.as_str())).collect();
        verb::run(cluster.root(), &cluster.tmp, &arguments, &secrets).await
    };
    let token = ("MATRIARCH_TOKEN", cluster.token());
    let nobody = ("PGPASSFILE", "/dev/null".to_owned());
    run(vec![token.clone(), nobody]).await.refused_naming(UNAVAILABLE, &["cannot connect", "PGPASSWORD"]);
    let drill = run(vec![token, ("PGPASSWORD", cluster.password())]).await;
    assert_eq!(drill.json()[0]["result"], "passed", "{drill}");
    for name in cluster.names() {
        let address = format!("127.0.0.1:{}", cluster.postgres_port(&name));
        assert!(drill.err.contains(&address), "{address}: {drill}");
    }
}

/// Two members are asynchronous by default: a crash may lose writes, a planned move does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asynchronous_cluster_is_not_crashed() {
    let cluster = Plan::new("drill-two").members(2).start().await;
    cluster.be_patient().await;
    let leader = health::leader(&cluster).await;
    cluster.verb(&["drill", "failover", "--force"]).await.refused_naming(TEMPORARY, &["asynchronous", "switchover"]);
    let moved = drilled(&cluster, &["switchover"]).await;
    passed(&moved[0], "switchover", &leader);
    // A drill cannot be done while a member is gone.
    let victim = health::replicas(&cluster).await.remove(0);
    cluster.verb(&["pause", "--wait"]).await.ok();
    let struck = Fault::KillReplica.strike(&cluster, 1).await;
    assert_eq!(struck.victim, victim);
    cluster.verb(&["drill", "switchover", "--force"]).await.refused(TEMPORARY);
    cluster.verb(&["resume", "--wait"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    tokio::time::timeout(Duration::from_secs(60), leaves_nothing(&cluster)).await.expect("it answers");
}
