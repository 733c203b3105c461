//! A cluster of scripted agents behind real listeners, and a person who answers as told.
// Each test binary uses a part of this; a panic is how a test reports.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use matriarch_api::*;
use matriarch_cli::*;
use matriarch_tls::PeerTls;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const TOKEN: &str = "a-token-for-tests";

/// What all scripted agents share: the store, as it were.
pub struct World {
    pub cluster: Mutex<ClusterStatus>,
    pub config: Mutex<Value>,
    pub asked: Mutex<Vec<(String, Command)>>,
    pub fail: Mutex<Option<CommandError>>,
    /// How often somebody has asked for the cluster's state.
    looks: AtomicU64,
}

struct Agent {
    name: String,
    world: Arc<World>,
}

#[async_trait]
impl Backend for Agent {
    fn status(&self) -> Arc<MemberStatus> {
        let cluster = self.world.cluster.lock().unwrap().clone();
        let leads = cluster.matriarch.leader.as_ref() == Some(&self.name);
        let mut status = MemberStatus {
            state: "running".into(),
            role: if leads { "primary" } else { "replica" }.into(),
            server_version: Some(150020),
            pause: cluster.pause,
            patroni: Identity { version: "4.1.5".into(), scope: cluster.scope, name: self.name.clone() },
            ..MemberStatus::default()
        };
        status.matriarch.version = "0.1.0".into();
        status.matriarch.leader = leads;
        status.matriarch.store_reachable = true;
        if leads {
            details(&mut status);
        }
        Arc::new(status)
    }
    fn cluster(&self) -> Arc<ClusterStatus> {
        let seen = self.world.cluster.lock().unwrap();
        self.world.looks.fetch_add(1, Ordering::SeqCst);
        let mut cluster = seen.clone();
        cluster.matriarch.seen_by.clone_from(&self.name);
        Arc::new(cluster)
    }
    fn live(&self) -> Live {
        let leads = self.world.cluster.lock().unwrap().matriarch.leader.as_ref() == Some(&self.name);
        Live { loop_age: Duration::ZERO, lease_remaining: leads.then_some(Duration::from_millis(4200)) }
    }
    fn config(&self) -> Option<Value> {
        Some(self.world.config.lock().unwrap().clone())
    }
    fn history(&self) -> Vec<HistoryLine> {
        vec![HistoryLine(1, 50331976, "switchover".into(), "2026-11-21T10:00:00Z".into(), "a".into())]
    }
    async fn command(&self, command: Command) -> Result<CommandDone, CommandError> {
        self.world.asked.lock().unwrap().push((self.name.clone(), command.clone()));
        if let Some(error) = self.world.fail.lock().unwrap().clone() {
            return Err(error);
        }
        match command {
            Command::Switchover { candidate, .. } => Ok(self.hand_over(candidate.unwrap_or_else(|| "b".into())).await),
            Command::Failover { candidate, .. } => Ok(self.hand_over(candidate).await),
            Command::PatchConfig(patch) => {
                let mut config = self.world.config.lock().unwrap();
                *config = matriarch_config::patch(&config, &patch);
                self.world.cluster.lock().unwrap().pause = config.get("pause") == Some(&json!(true));
                Ok(CommandDone::config(config.clone()))
            }
            _ => Ok(CommandDone::done("done")),
        }
    }
}

impl Agent {
    async fn hand_over(&self, to: String) -> CommandDone {
        self.change(|cluster| cluster.matriarch.handover = true).await;
        self.change(|cluster| {
            cluster.matriarch.handover = false;
            cluster.matriarch.epoch += 5;
            cluster.matriarch.leader = Some(to.clone());
            for row in &mut cluster.members {
                row.role = if row.name == to { "leader" } else { "replica" }.into();
            }
        })
        .await;
        CommandDone::done(format!("Successfully switched over to \"{to}\""))
    }

    /// Changes what is seen, and waits until it was: who asks a second time has read the first answer.
    async fn change(&self, change: impl FnOnce(&mut ClusterStatus)) {
        let before = {
            let mut cluster = self.world.cluster.lock().unwrap();
            change(&mut cluster);
            self.world.looks.load(Ordering::SeqCst)
        };
        while self.world.looks.load(Ordering::SeqCst) < before + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn details(status: &mut MemberStatus) {
    status.replication = vec![ReplicationRow {
        application_name: "b:1a2b3c4d".into(),
        client_addr: Some("127.0.0.1".into()),
        state: "streaming".into(),
        sync_state: "quorum".into(),
        flush_lag: Some(0),
        replay_lag: Some(1536),
        replay_lag_ms: Some(3),
        ..ReplicationRow::default()
    }];
    status.matriarch.slots = vec![SlotRow {
        name: "b".into(),
        kind: "physical".into(),
        active: true,
        restart_lsn: Some("0/4000000".into()),
        retained: Some(16 << 20),
        wal_status: Some("reserved".into()),
    }];
    status.matriarch.certificates = vec![CertificateRow {
        purpose: "server".into(),
        path: "/etc/server.crt".into(),
        subject: "CN=a".into(),
        not_after: "2026-11-30T00:00:00Z".into(),
        days_left: 9,
    }];
}

pub fn row(name: &str, role: &str, api_url: &str) -> MemberRow {
    MemberRow {
        name: name.into(),
        role: role.into(),
        state: if role == "leader" { "running" } else { "streaming" }.into(),
        api_url: api_url.into(),
        host: Some("127.0.0.1".into()),
        port: Some(5432 + u16::from(name.as_bytes()[0] - b'a')),
        timeline: Some(2),
        ..MemberRow::default()
    }
}

/// Three members; `c` has an agent that is stopped: its port accepts and stays silent.
pub struct Cluster {
    pub world: Arc<World>,
    pub target: Target,
    _silent: TcpListener,
}

pub async fn cluster() -> Cluster {
    let world = Arc::new(World {
        cluster: Mutex::default(),
        config: Mutex::new(json!({"postgresql": {"parameters": {"work_mem": "4MB"}}})),
        asked: Mutex::default(),
        fail: Mutex::default(),
        looks: AtomicU64::default(),
    });
    let mut members = Vec::new();
    for name in ["a", "b"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api_url = format!("http://{}/patroni", listener.local_addr().unwrap());
        let agent = Arc::new(Agent { name: name.into(), world: world.clone() });
        tokio::spawn(serve(listener, router(agent, Auth::token(TOKEN)), None, std::future::pending()));
        members.push(Endpoint { name: name.into(), api_url });
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/patroni", silent.local_addr().unwrap());
    *world.cluster.lock().unwrap() = sample(&members[0].api_url, &members[1].api_url, &url);
    let connection = Connection { superuser: "postgres".into(), ..Connection::default() };
    let target = Target {
        cluster: "demo".into(),
        members,
        authorization: matriarch_api::authorization(Some(TOKEN), None),
        tls: PeerTls::default(),
        connection,
    };
    Cluster { world, target, _silent: silent }
}

fn sample(a: &str, b: &str, c: &str) -> ClusterStatus {
    let (mut second, mut third) = (row("b", "quorum_standby", b), row("c", "replica", c));
    (second.lag, second.replay_lag) = (Some(Lag::Bytes(0)), Some(Lag::Bytes(1536)));
    (third.lag, third.replay_lag) = (Some(Lag::UNKNOWN), Some(Lag::UNKNOWN));
    third.pending_restart = true;
    let change = PendingChange { old_value: "100".into(), new_value: "200".into() };
    third.pending_restart_reason = BTreeMap::from([("max_connections".into(), change)]);
    ClusterStatus {
        members: vec![row("a", "leader", a), second, third],
        scope: "demo".into(),
        matriarch: ClusterDetail {
            leader: Some("a".into()),
            epoch: 17,
            rule: Some(RuleView { voters: vec!["b".into(), "c".into()], needed: 1, established: true, previous: None }),
            routers: vec![
                RouterRow {
                    id: "web1-5432".into(),
                    kind: "proxy".into(),
                    address: "web1:5432".into(),
                    ..RouterRow::default()
                },
                RouterRow {
                    id: "web1-77-pool:6432".into(),
                    kind: "pooler".into(),
                    address: "pool:6432".into(),
                    holds: false,
                    problem: Some("it refuses the password of its admin user 'admin'".into()),
                },
            ],
            system_identifier: Some("7300000000000000001".into()),
            store: Some(StoreView {
                engine: "sqlite".into(),
                address: "demo/store.db".into(),
                reachable: true,
                revision: 42,
                problem: None,
            }),
            ..ClusterDetail::default()
        },
        ..ClusterStatus::default()
    }
}

impl Cluster {
    pub fn asked(&self) -> Vec<(String, Command)> {
        std::mem::take(&mut self.world.asked.lock().unwrap())
    }

    /// Runs a command line; answers what it printed, what it noted, and the exit code.
    pub async fn run(&self, line: &str, person: Person) -> (String, String, u8) {
        let words = std::iter::once("matriarch").chain(line.split_whitespace());
        let cli = <TestCli as clap::Parser>::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let (out, err) = (Buffer::default(), Buffer::default());
        let mut ui = Ui::new(Box::new(out.clone()), Box::new(err.clone()), cli.output.output, Box::new(person));
        let result = run(cli.verb, &self.target, &mut ui).await;
        let code = result.as_ref().map_or_else(exit_code, |()| 0);
        if let Err(error) = result {
            ui.note(&format!("error: {error:#}"));
        }
        (out.text(), err.text(), code)
    }

    pub async fn ok(&self, line: &str) -> String {
        let (out, err, code) = self.run(line, Person::absent()).await;
        assert_eq!(code, 0, "{line}: {err}");
        out
    }
}

#[derive(clap::Parser)]
pub struct TestCli {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Somebody who answers as told, or nobody.
#[derive(Default)]
pub struct Person {
    present: bool,
    answers: VecDeque<usize>,
    words: VecDeque<String>,
}

impl Person {
    pub fn absent() -> Self {
        Person::default()
    }
    /// Answers in order; 1 is yes.
    pub fn answering(answers: &[usize]) -> Self {
        Person { present: true, answers: answers.iter().copied().collect(), words: VecDeque::new() }
    }
    /// Types these.
    pub fn typing(words: &[&str]) -> Self {
        Person { present: true, answers: VecDeque::new(), words: words.iter().map(|word| (*word).to_owned()).collect() }
    }
}

impl Prompt for Person {
    fn interactive(&self) -> bool {
        self.present
    }
    fn choose(&mut self, question: &str, options: &[String]) -> io::Result<usize> {
        let answer = self.answers.pop_front().unwrap_or_else(|| panic!("not expected: {question} {options:?}"));
        assert!(answer < options.len(), "{question}: {options:?}");
        Ok(answer)
    }
    fn answer(&mut self, question: &str) -> io::Result<String> {
        Ok(self.words.pop_front().unwrap_or_else(|| panic!("not expected: {question}")))
    }
    fn confirm(&mut self, question: &str) -> io::Result<bool> {
        Ok(self.answers.pop_front().unwrap_or_else(|| panic!("not expected: {question}")) == 1)
    }
}

#[derive(Clone, Default)]
pub struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
