//! What can happen to a cluster, one thing at a time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use matriarch_testkit::{disk, faults, process::eventually};
use rustix::process::Signal;

use super::{Cluster, PATIENCE, health};

/// A fault. Where it needs a victim it finds the leader or a replica itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the leader's postmaster.
    KillPostmaster,
    /// SIGKILL to a replica's postmaster.
    KillReplica,
    /// SIGKILL to one process of the leader's PostgreSQL, as the kernel does when memory is short.
    KillChild,
    /// SIGKILL to a replica's walreceiver, and to the first startup process after that.
    KillRecovery,
    /// SIGKILL to the leader's agent.
    KillAgent,
    /// SIGKILL to the leader's agent, guard and postmaster.
    KillTrio,
    /// SIGKILL to every process of the leader's node.
    KillNode,
    /// SIGKILL to every process of every node.
    KillAll,
    /// SIGSTOP to every process of the leader's node, SIGCONT 12 s later.
    FreezeNode,
    /// A replica's data directory is deleted while it runs.
    DeleteReplica,
    /// The leader's data directory is deleted while it runs.
    DeleteLeader,
    /// Garbage in a replica's control file, and its postmaster killed.
    SpoilControl,
    /// Garbage in a replica's tables, and its postmaster killed.
    SpoilTables,
    /// A planned switchover.
    Switchover,
    /// SIGTERM to the leader's agent: it stops PostgreSQL, hands over and is started again.
    RestartAgent,
    /// The store takes nothing for 8 s, longer than a lease lives.
    StallStore,
}

/// What was struck.
#[derive(Debug)]
pub struct Struck {
    /// The member.
    pub victim: String,
    /// Processes (a member's folder or data directory, and a pid) that must be replaced for the fault to be over.
    gone: Vec<(PathBuf, i32, Kind)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Agent,
    Postmaster,
}

impl Struck {
    /// Waits until whoever was killed is there anew: only then does what `list` shows mean anything.
    pub fn replaced(&self) {
        for (member, old, kind) in &self.gone {
            let find = || match kind {
                Kind::Agent => verb_process(member, "agent"),
                Kind::Postmaster => faults::postmaster(&member.join("data")),
            };
            let what = format!("another {kind:?} than {old} in {}", member.display());
            eventually(&what, PATIENCE, || find().is_some_and(|pid| pid != *old));
        }
    }
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 16] = [
        Fault::KillPostmaster,
        Fault::KillReplica,
        Fault::KillChild,
        Fault::KillRecovery,
        Fault::KillAgent,
        Fault::KillTrio,
        Fault::KillNode,
        Fault::KillAll,
        Fault::FreezeNode,
        Fault::DeleteReplica,
        Fault::DeleteLeader,
        Fault::SpoilControl,
        Fault::SpoilTables,
        Fault::Switchover,
        Fault::RestartAgent,
        Fault::StallStore,
    ];

    /// Makes it happen. `seed` chooses among equals.
    pub async fn strike(self, cluster: &Cluster, seed: u64) -> Struck {
        let leader = health::leader(cluster).await;
        let replicas = health::replicas(cluster).await;
        let replica = replicas[usize::try_from(seed % replicas.len() as u64).expect("less than the length")].clone();
        let victim = match self {
            Fault::KillReplica
            | Fault::KillRecovery
            | Fault::DeleteReplica
            | Fault::SpoilControl
            | Fault::SpoilTables => replica,
            _ => leader,
        };
        let data = cluster.data(&victim);
        let gone = self.will_end(cluster, &victim);
        match self {
            Fault::KillPostmaster | Fault::KillReplica => faults::kill(&[postmaster(&data)]),
            Fault::KillChild => faults::kill(&[server_process(&data, "checkpointer")]),
            Fault::KillRecovery => kill_recovery(&data),
            Fault::KillAgent => faults::kill(&[agent(cluster, &victim)]),
            Fault::KillTrio => {
                faults::kill(&[agent(cluster, &victim), guard(cluster, &victim), postmaster(&data)]);
            }
            Fault::KillNode => faults::kill(&faults::node_processes(&cluster.member(&victim))),
            Fault::KillAll => {
                let all = cluster.names().into_iter().flat_map(|name| faults::node_processes(&cluster.member(&name)));
                faults::kill(&all.collect::<Vec<i32>>());
            }
            Fault::FreezeNode => {
                let old = agent(cluster, &victim);
                freeze(&cluster.member(&victim), Duration::from_secs(12)).await;
                assert_eq!(
                    agent(cluster, &victim),
                    old,
                    "nothing but signals to stop was sent, yet the agent has ended"
                );
            }
            Fault::DeleteReplica | Fault::DeleteLeader => delete(&data),
            Fault::SpoilControl => {
                let global = data.join("global");
                let others = names_in(&global, |name| name != "pg_control");
                spoil(&data, &global, seed, &others.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Fault::SpoilTables => spoil(&data, &data.join("base"), seed, &["PG_VERSION", "pg_filenode.map"]),
            Fault::Switchover => {
                cluster.be_patient().await;
                cluster.verb(&["switchover", "--force"]).await.ok();
            }
            Fault::RestartAgent => assert!(faults::signal(agent(cluster, &victim), Signal::TERM), "it runs"),
            Fault::StallStore => stall(&cluster.path().join("store.db"), Duration::from_secs(8)).await,
        }
        Struck { victim, gone }
    }

    /// Holds the store's write lock for a time.
    pub async fn stall_store(cluster: &Cluster, time: Duration) {
        stall(&cluster.path().join("store.db"), time).await;
    }

    fn will_end(self, cluster: &Cluster, victim: &str) -> Vec<(PathBuf, i32, Kind)> {
        let (agents, postmasters) = match self {
            Fault::StallStore => (false, false),
            Fault::KillAgent => (true, false),
            Fault::KillTrio | Fault::KillNode | Fault::KillAll | Fault::RestartAgent => (true, true),
            _ => (false, true),
        };
        let names = if self == Fault::KillAll { cluster.names() } else { vec![victim.to_owned()] };
        let mut found = Vec::new();
        for name in names {
            if agents {
                found.push((cluster.member(&name), agent(cluster, &name), Kind::Agent));
            }
            if postmasters {
                found.push((cluster.member(&name), postmaster(&cluster.data(&name)), Kind::Postmaster));
            }
        }
        found
    }
}

/// A member's postmaster.
pub fn postmaster(data: &Path) -> i32 {
    let mut found = None;
    eventually(&format!("a postmaster in {}", data.display()), PATIENCE, || {
        found = faults::postmaster(data);
        found.is_some()
    });
    found.expect("it was found")
}

/// A process of a member's PostgreSQL, by what it calls itself.
pub fn server_process(data: &Path, title: &str) -> i32 {
    let mut found = None;
    eventually(&format!("a {title} in {}", data.display()), PATIENCE, || {
        found = faults::server_process(data, title);
        found.is_some()
    });
    found.expect("it was found")
}

/// The recovery after a crash crashes too, before it has begun to replay. PostgreSQL 18 would then wait for ever.
pub fn kill_recovery(data: &Path) {
    let before = server_process(data, "startup");
    faults::kill(&[server_process(data, "walreceiver")]);
    let mut next = None;
    eventually(&format!("another startup process in {}", data.display()), PATIENCE, || {
        next = faults::server_process(data, "startup").filter(|pid| *pid != before);
        next.is_some()
    });
    faults::kill(&[next.expect("it was found")]);
}

/// A member's agent.
pub fn agent(cluster: &Cluster, name: &str) -> i32 {
    process(cluster, name, "agent")
}

/// A member's guard.
pub fn guard(cluster: &Cluster, name: &str) -> i32 {
    process(cluster, name, "guard")
}

fn process(cluster: &Cluster, name: &str, verb: &str) -> i32 {
    let mut found = None;
    eventually(&format!("the {verb} of {name}"), PATIENCE, || {
        found = verb_process(&cluster.member(name), verb);
        found.is_some()
    });
    found.expect("it was found")
}

fn verb_process(member: &Path, verb: &str) -> Option<i32> {
    let all = faults::processes_of(member);
    all.iter().find(|process| process.arguments.get(1).is_some_and(|word| word == verb)).map(|process| process.pid)
}

/// SIGSTOP to all of a node, SIGCONT after `time`.
async fn freeze(member: &Path, time: Duration) {
    stand_still(member);
    tokio::time::sleep(time).await;
    faults::thaw(&faults::node_processes(member));
}

/// SIGSTOP to all of a node until nothing new appears.
pub fn stand_still(member: &Path) {
    let awake = || faults::processes_of(member).into_iter().filter(|process| process.state != 'T');
    let deadline = std::time::Instant::now() + PATIENCE;
    // A process may be born between look and signal.
    loop {
        let pids: Vec<i32> = awake().map(|process| process.pid).collect();
        if pids.is_empty() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "it cannot be frozen: {:?}", awake().collect::<Vec<_>>());
        faults::freeze(&pids);
    }
}

/// Deletes a directory that somebody may be writing into.
pub fn delete(dir: &Path) {
    eventually(&format!("{} deleted", dir.display()), PATIENCE, || {
        let _ = std::fs::remove_dir_all(dir);
        // Whoever lives there may already have begun to make it anew.
        !dir.join("PG_VERSION").exists()
    });
}

pub fn names_in(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("the folder is there").flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| wanted(name)).collect()
}

pub fn spoil(data: &Path, folder: &Path, seed: u64, keep: &[&str]) {
    let postmaster = postmaster(data);
    // A server that runs may remove a file while it is being spoiled.
    while disk::scribble(folder, seed, keep).is_err() && folder.exists() {}
    faults::kill(&[postmaster]);
}

/// Holds the store's write lock.
async fn stall(store: &Path, time: Duration) {
    let connection = rusqlite::Connection::open(store).expect("the store can be opened");
    connection.busy_timeout(PATIENCE).expect("it can be set");
    connection.execute_batch("BEGIN IMMEDIATE").expect("the lock is to be had");
    tokio::time::sleep(time).await;
    connection.execute_batch("ROLLBACK").expect("nothing was written");
}
