use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use matriarch_api::{Auth, Reads};
use matriarch_core::decide::Evidence;
use matriarch_dcs::MemoryStore;
use matriarch_tls::ServerTls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::{AgentBackend, Shared};

const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: &str = "s3cret";

mod tls;

fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

fn member(text: &str) -> Arc<Heartbeats> {
    member_with(text, PeerTls::default())
}

fn member_with(text: &str, peers: PeerTls) -> Arc<Heartbeats> {
    Heartbeats::new("demo".to_owned(), name(text), matriarch_api::authorization(Some(TOKEN), None), peers)
}

fn says(stance: Stance) -> Said {
    Said { stance, incarnation: Some(Incarnation::from_bits(7)), serial: 3, asks: false }
}

/// The API of a member, behind the real listener.
struct Agent {
    hub: Arc<Heartbeats>,
    address: SocketAddr,
}

impl Agent {
    async fn start(hub: Arc<Heartbeats>, auth: Auth) -> Agent {
        Agent::start_tls(hub, auth, None).await
    }

    async fn start_tls(hub: Arc<Heartbeats>, auth: Auth, tls: Option<Arc<ServerTls>>) -> Agent {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared::new(Arc::new(MemoryStore::new()), hub.clone());
        let router = matriarch_api::router(Arc::new(AgentBackend::new(shared)), auth);
        tokio::spawn(matriarch_api::serve(listener, router, tls, std::future::pending()));
        Agent { hub, address }
    }

    fn target(&self, epoch: u64, postgres: &str) -> Target {
        let (name, agent, postgres) = (self.hub.name.clone(), self.address.to_string(), postgres.to_owned());
        Target { name, epoch, agent, tls: false, postgres }
    }

    /// Sends an HTTP request and returns the start of what comes back, and the connection.
    async fn request(&self, headers: &str) -> (String, TcpStream) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET /heartbeat HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let count = timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
        (String::from_utf8_lossy(&answer[..count]).into_owned(), stream)
    }
}

/// An agent on a thread of its own: sending a receiver stops it until the other end of that is dropped; dropping the sender
/// ends it.
fn on_a_thread(hub: Arc<Heartbeats>, postgres: String) -> (Target, Sender<Receiver<()>>) {
    let (give, take) = std::sync::mpsc::channel();
    let (halt, halted) = std::sync::mpsc::channel::<Receiver<()>>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let agent = Agent::start(hub, Auth::token(TOKEN)).await;
            give.send(agent.target(5, &postgres)).unwrap();
            loop {
                match halted.try_recv() {
                    Ok(resume) => drop(resume.recv()),
                    Err(TryRecvError::Disconnected) => return,
                    Err(TryRecvError::Empty) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
                // A round of its loop.
                let said = agent.hub.state().said.clone();
                agent.hub.say(said);
            }
        });
    });
    (take.recv().unwrap(), halt)
}

async fn until(what: &str, hub: &Heartbeats, mut so: impl FnMut(&Heartbeats) -> bool) {
    let reached = async {
        while !so(hub) {
            hub.woken().await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{what}: {:?} {:?}", hub.pulse(), hub.support()));
}

/// A port that refuses.
async fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: matriarch-heartbeat\r\n";

#[tokio::test]
async fn a_leader_is_heard_and_hears_who_stands_by_it() {
    let postgres = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let leader = member("a");
    let (target, running) = on_a_thread(leader.clone(), postgres.local_addr().unwrap().to_string());
    let follower = member("b");
    follower.say(says(Stance::Follows { epoch: 5 }));
    tokio::spawn(follow(follower.clone()));
    follower.listen_to(Some(target));
    // Somebody who does not lead is no leader that lives.
    let before = boot_clock_ms();
    until("support", &leader, |hub| hub.support().contains_key(&name("b"))).await;
    assert_eq!(follower.pulse(), Pulse::Unknown);
    leader.say(says(Stance::Leads { epoch: 5 }));
    until("the leader lives", &follower, |hub| hub.pulse() == Pulse::Alive { epoch: 5 }).await;
    let support = leader.support()[&name("b")].clone();
    assert_eq!((support.epoch, &support.incarnation), (5, &Incarnation::from_bits(7)));
    assert!(support.heard >= before && support.heard <= boot_clock_ms() && support.promised_until.is_none());

    // A promise is asked for, given, and given once for that question.
    leader.say(Said { asks: true, ..says(Stance::Leads { epoch: 5 }) });
    until("the question", &follower, |hub| hub.asked().is_some()).await;
    let asked = follower.asked().unwrap();
    assert_eq!(asked.epoch, 5);
    follower.promise(asked, 4000);
    assert_eq!(follower.asked(), None);
    until("the promise", &leader, |hub| hub.support()[&name("b")].promised_until == Some(asked.clock + 4000)).await;

    // Who is about to pledge stands by nobody; what was promised stays so.
    follower.say(says(Stance::Neutral));
    until("the change", &leader, |hub| hub.support()[&name("b")].epoch == 0).await;
    assert_eq!(leader.support()[&name("b")].promised_until, Some(asked.clock + 4000));

    // The agent alone is gone; then PostgreSQL is, too.
    drop(running);
    until("the agent is away", &follower, |hub| hub.pulse() == Pulse::Unknown).await;
    drop(postgres);
    until("both are gone", &follower, |hub| {
        matches!(hub.pulse(), Pulse::Suspected { evidence: Evidence::Refused, .. })
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_stands_still_is_silent_until_it_speaks_again() {
    let leader = member("a");
    leader.say(says(Stance::Leads { epoch: 5 }));
    let (target, halt) = on_a_thread(leader, closed().await);
    let follower = member("b");
    follower.suspect_after(400);
    tokio::spawn(follow(follower.clone()));
    follower.listen_to(Some(target));
    until("heard", &follower, |hub| hub.pulse() == Pulse::Alive { epoch: 5 }).await;
    let (resume, resumed) = std::sync::mpsc::channel();
    halt.send(resumed).unwrap();
    until("silent", &follower, |hub| matches!(hub.pulse(), Pulse::Suspected { evidence: Evidence::Silent, .. })).await;
    drop(resume);
    until("heard again", &follower, |hub| hub.pulse() == Pulse::Alive { epoch: 5 }).await;
}

#[tokio::test]
async fn strangers_are_told_why_they_are_not_wanted() {
    let agent = Agent::start(member("a"), Auth::token(TOKEN)).await;
    let right = format!("Authorization: Bearer {TOKEN}\r\n{UPGRADE}");
    let scope = "matriarch-scope: demo\r\n";
    for (headers, status, text) in [
        (format!("{UPGRADE}{scope}matriarch-member: b\r\n"), "401", "authorization"),
        (format!("Authorization: Bearer {TOKEN}\r\n{scope}matriarch-member: b\r\n"), "426", "other members"),
        (right.clone(), "400", "matriarch-scope"),
        (format!("{right}matriarch-scope: other\r\nmatriarch-member: b\r\n"), "409", "cluster 'demo', not of 'other'"),
        (format!("{right}{scope}matriarch-member: a\r\n"), "409", "same name"),
        (format!("{right}{scope}matriarch-member: b c\r\n"), "409", "'b c' cannot be a member name"),
    ] {
        let (answer, _) = agent.request(&headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{headers}\n{answer}");
        assert!(answer.to_lowercase().contains(&text.to_lowercase()), "{headers}\n{answer}");
    }
    assert!(agent.hub.support().is_empty());
}

#[tokio::test]
async fn garbage_ends_its_own_connection_and_nothing_else() {
    let agent = Agent::start(member("a"), Auth::accept(Vec::new(), None, Reads::Open)).await;
    let hello = format!("{UPGRADE}matriarch-scope: demo\r\nmatriarch-member: b\r\n");
    let future = boot_clock_ms() + 3_600_000;
    let garbage: [Vec<u8>; 5] = [
        vec![0xFF; 10_000],
        b"hello\n".to_vec(),
        b"beat follows:1 - x -\n".to_vec(),
        // Neither the future nor what was said before the connection can have been heard over it.
        format!("beat follows:1 00c0ffee {future} -\n").into_bytes(),
        b"beat follows:1 00c0ffee 1 -\n".to_vec(),
    ];
    for bytes in garbage {
        let (answer, mut stream) = agent.request(&hello).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        let _ = stream.write_all(&bytes).await;
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{bytes:?}");
        assert!(!rest.starts_with(b"live"), "{bytes:?}");
    }
    // A promise from before the connection is not believed, and breaks nothing.
    let (_, mut stream) = agent.request(&hello).await;
    stream.write_all(b"beat neutral - - 5000@1\n").await.unwrap();
    let mut answer = [0; 64];
    let count = timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
    let live = Live::parse(std::str::from_utf8(&answer[..count]).unwrap()).unwrap();
    assert_eq!(live.leads, None);
    stream.write_all(format!("beat follows:1 00c0ffee {} 5000@1\n", live.clock).as_bytes()).await.unwrap();
    until("support", &agent.hub, |hub| hub.support().contains_key(&name("b"))).await;
    assert_eq!(agent.hub.support()[&name("b")].promised_until, None);
    assert!(timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap() > 0);

    // The newest connection of a member is the one that counts.
    let (_, mut newer) = agent.request(&hello).await;
    newer.write_all(b"beat neutral - - -\n").await.unwrap();
    assert!(timeout(PATIENCE, newer.read(&mut answer)).await.unwrap().unwrap() > 0);
    stream.write_all(b"beat neutral - - -\n").await.unwrap();
    assert_eq!(timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn another_epoch_and_another_leader_are_heard_anew() {
    let first = Agent::start(member("a"), Auth::token(TOKEN)).await;
    let second = Agent::start(member("c"), Auth::token(TOKEN)).await;
    first.hub.say(says(Stance::Leads { epoch: 5 }));
    second.hub.say(says(Stance::Leads { epoch: 7 }));
    let follower = member("b");
    tokio::spawn(follow(follower.clone()));
    let postgres = closed().await;
    follower.listen_to(Some(first.target(5, &postgres)));
    until("the first", &follower, |hub| hub.pulse() == Pulse::Alive { epoch: 5 }).await;
    follower.listen_to(Some(first.target(6, &postgres)));
    assert_eq!(follower.pulse(), Pulse::Unknown, "what was heard before says nothing of this epoch");
    first.hub.say(says(Stance::Leads { epoch: 6 }));
    until("the first again", &follower, |hub| hub.pulse() == Pulse::Alive { epoch: 6 }).await;
    follower.listen_to(Some(second.target(7, &postgres)));
    until("the second", &follower, |hub| hub.pulse() == Pulse::Alive { epoch: 7 }).await;
    follower.listen_to(None);
    assert_eq!(follower.pulse(), Pulse::Unknown);
}
