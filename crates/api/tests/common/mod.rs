//! A scripted agent behind a real listener, and a socket to speak plain HTTP with it.
// Each test binary uses a part of this; a panic is how a test reports.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use matriarch_api::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const TOKEN: &str = "a-token-for-tests";
/// For what must come, on a machine that is busy with other tests.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Script {
    pub member: Mutex<MemberStatus>,
    pub cluster: Mutex<ClusterStatus>,
    pub live: Mutex<Live>,
    pub config: Mutex<Option<Value>>,
    pub answers: Mutex<VecDeque<Result<CommandDone, CommandError>>>,
    pub asked: Mutex<Vec<Command>>,
    pub hang: Mutex<bool>,
}

#[async_trait]
impl Backend for Script {
    fn status(&self) -> Arc<MemberStatus> {
        Arc::new(self.member.lock().unwrap().clone())
    }
    fn cluster(&self) -> Arc<ClusterStatus> {
        Arc::new(self.cluster.lock().unwrap().clone())
    }
    fn live(&self) -> Live {
        *self.live.lock().unwrap()
    }
    fn config(&self) -> Option<Value> {
        self.config.lock().unwrap().clone()
    }
    fn history(&self) -> Vec<HistoryLine> {
        vec![HistoryLine(
            1,
            50331976,
            "no recovery target specified".into(),
            "2026-11-21T10:00:00+00:00".into(),
            "b".into(),
        )]
    }
    async fn command(&self, command: Command) -> Result<CommandDone, CommandError> {
        self.asked.lock().unwrap().push(command);
        if *self.hang.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        self.answers.lock().unwrap().pop_front().unwrap_or_else(|| Ok(CommandDone::done("done")))
    }
}

pub fn primary() -> MemberStatus {
    MemberStatus {
        state: "running".into(),
        role: "primary".into(),
        postmaster_start_time: Some("2026-11-21 10:00:00.500000+00:00".into()),
        server_version: Some(150020),
        xlog: Some(Xlog { location: Some(67108864), ..Xlog::default() }),
        timeline: Some(2),
        replication: vec![ReplicationRow {
            usename: "replicator".into(),
            application_name: "b:1a2b3c4d".into(),
            client_addr: Some("127.0.0.1".into()),
            state: "streaming".into(),
            sync_state: "quorum".into(),
            sync_priority: 1,
            flush_lag: Some(0),
            ..ReplicationRow::default()
        }],
        dcs_last_seen: 1795255200,
        tags: BTreeMap::from([("zone".into(), json!("x")), ("fast".into(), json!(true))]),
        database_system_identifier: "7300000000000000001".into(),
        patroni: Identity { version: "4.1.5".into(), scope: "demo".into(), name: "a".into() },
        matriarch: MemberDetail {
            version: "0.1.0".into(),
            leader: true,
            store_reachable: true,
            epoch: 17,
            ttl_ms: 5000,
            leader_lsn: Some(67108864),
            maximum_lag_on_failover: 1 << 20,
            decisions: BTreeMap::from([("lead".into(), 12), ("odd \"why\"\n".into(), 1)]),
            ..MemberDetail::default()
        },
        ..MemberStatus::default()
    }
}

pub fn replica() -> MemberStatus {
    let mut member = primary();
    member.role = "replica".into();
    member.replication.clear();
    member.replication_state = Some("streaming".into());
    member.xlog =
        Some(Xlog { received_location: Some(67108864), replayed_location: Some(67108864 - 1000), ..Xlog::default() });
    member.patroni.name = "b".into();
    member.matriarch.leader = false;
    member
}

pub fn cluster() -> ClusterStatus {
    let row = |name: &str, role: &str| MemberRow {
        name: name.into(),
        role: role.into(),
        state: "running".into(),
        api_url: format!("http://127.0.0.1:1/{name}"),
        host: Some("127.0.0.1".into()),
        port: Some(5432),
        timeline: Some(2),
        ..MemberRow::default()
    };
    let mut b = row("b", "quorum_standby");
    b.state = "streaming".into();
    (b.lsn, b.lag) = (Some("0/4000000".into()), Some(Lag::Bytes(0)));
    (b.receive_lsn, b.receive_lag) = (Some("unknown".into()), Some(Lag::UNKNOWN));
    ClusterStatus {
        members: vec![row("a", "leader"), b],
        scope: "demo".into(),
        matriarch: ClusterDetail {
            leader: Some("a".into()),
            epoch: 17,
            rule: Some(RuleView { voters: vec!["b".into()], needed: 1, established: true, previous: None }),
            seen_by: "a".into(),
            ..ClusterDetail::default()
        },
        ..ClusterStatus::default()
    }
}

pub fn leading() -> Live {
    Live { loop_age: Duration::from_millis(10), lease_remaining: Some(Duration::from_secs(4)) }
}

pub fn following() -> Live {
    Live { loop_age: Duration::from_millis(10), lease_remaining: None }
}

pub struct Server {
    pub script: Arc<Script>,
    pub address: SocketAddr,
    pub stop: tokio::sync::oneshot::Sender<()>,
    pub ended: tokio::task::JoinHandle<std::io::Result<()>>,
}

pub async fn start() -> Server {
    start_with(Auth::token(TOKEN), Limits::default()).await
}

pub async fn start_with(auth: Auth, limits: Limits) -> Server {
    start_tls(auth, limits, None).await
}

pub async fn start_tls(auth: Auth, limits: Limits, tls: Option<Arc<matriarch_tls::ServerTls>>) -> Server {
    let script = Arc::new(Script {
        member: Mutex::new(primary()),
        cluster: Mutex::new(cluster()),
        live: Mutex::new(leading()),
        config: Mutex::new(Some(json!({"ttl": 5}))),
        answers: Mutex::default(),
        asked: Mutex::default(),
        hang: Mutex::new(false),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let router = router_with(script.clone(), auth, limits);
    let ended = tokio::spawn(serve_with(
        listener,
        router,
        tls,
        async {
            let _ = stopped.await;
        },
        limits,
    ));
    Server { script, address, stop, ended }
}

impl Server {
    pub fn client(&self) -> Client {
        Client::new(&format!("http://{}", self.address), matriarch_api::authorization(Some(TOKEN), None)).unwrap()
    }

    /// Sends bytes and returns everything until the server closes, or what came within the limit.
    pub async fn raw(&self, bytes: &[u8], limit: Duration) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// One HTTP/1.0 request, as load balancers send it; returns status, headers and body.
    pub async fn http(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{method} {path} HTTP/1.0\r\n{headers}{length}\r\n{body}");
        let answer = self.raw(request.as_bytes(), LIMIT).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{head}"));
        (status, head.to_owned(), body.to_owned())
    }

    pub async fn get(&self, path: &str) -> u16 {
        self.http("GET", path, "", "").await.0
    }

    pub async fn write(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, _, body) = self.http(method, path, &format!("Authorization: Bearer {TOKEN}\r\n"), body).await;
        (status, body)
    }

    pub fn asked(&self) -> Vec<Command> {
        std::mem::take(&mut self.script.asked.lock().unwrap())
    }
}
