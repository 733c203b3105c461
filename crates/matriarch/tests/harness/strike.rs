//! How each trouble of [`super::trouble`] is made, and unmade.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matriarch_testkit::faults::{self, Process};
use matriarch_testkit::lab::{Node, Silence};
use matriarch_testkit::process::eventually;
use rustix::process::Signal;

use super::fault::{delete, kill_recovery, names_in, server_process, spoil};
use super::storage::Disk;
use super::trouble::Trouble;
use super::{Hosts, PATIENCE, Subject, health};

/// A postmaster that stood still long enough to be ended is dead by then.
const NOTICED: Duration = Duration::from_secs(3);

/// A trouble under way.
#[derive(Debug)]
pub struct Begun {
    trouble: Trouble,
    pub victim: String,
    /// Which store node was struck.
    chosen: usize,
    /// Processes that stand still until the end.
    stopped: Vec<i32>,
    /// Data directories and postmasters, members and agents, that must be replaced for the trouble to be over: what is
    /// shown of a cluster means nothing before somebody has noticed that they are gone.
    postmasters: Vec<(PathBuf, i32)>,
    agents: Vec<(String, i32)>,
    /// An agent's process that must have begun anew with another program: how often it had begun before.
    upgraded: Option<(String, i32, usize)>,
    /// What was asked for was called off, and nothing happened.
    pub called_off: bool,
}

impl Trouble {
    /// What it does to the victim's disk, if it is about that.
    pub fn of_disk(self) -> Option<fn(&mut Disk)> {
        Some(match self {
            Trouble::PrimaryDiskFull | Trouble::ReplicaDiskFull => Disk::fill,
            Trouble::PrimaryDiskStalls | Trouble::ReplicaDiskStalls => Disk::stall,
            Trouble::PrimaryWalStalls => Disk::stall_wal,
            Trouble::PrimarySyncFails | Trouble::ReplicaSyncFails => Disk::fail_wal_syncs,
            Trouble::PrimaryReadsFail | Trouble::ReplicaReadsFail => Disk::fail_reads,
            Trouble::PrimaryDataWritesFail | Trouble::ReplicaDataWritesFail => Disk::fail_writes,
            Trouble::PrimaryDataSyncFails | Trouble::ReplicaDataSyncFails => Disk::fail_syncs,
            _ => return None,
        })
    }

    /// Lets it begin. `seed` chooses among equals.
    pub async fn begin(self, hosts: &mut Hosts, seed: u64) -> Begun {
        let leader = health::leader(hosts).await;
        let others = hosts.others(&leader);
        let replica = others[usize::try_from(seed % others.len() as u64).expect("less than the length")].clone();
        let victim = if self.strikes_replica() { replica.clone() } else { leader };
        let chosen = usize::try_from(seed % 3).expect("less than three");
        let mut begun = Begun {
            trouble: self,
            victim,
            chosen,
            stopped: Vec::new(),
            postmasters: Vec::new(),
            agents: Vec::new(),
            upgraded: None,
            called_off: false,
        };
        begun.remember(hosts);
        if let Some(strike) = self.of_disk() {
            strike(hosts.disk(&begun.victim));
            self.use_disk(hosts, &begun.victim).await;
            return begun;
        }
        let done = match self.cut(hosts, &begun, &others, &replica) {
            Some(done) => done,
            None => {
                self.strike(hosts, &mut begun, &replica, seed).await;
                Ok(())
            }
        };
        done.unwrap_or_else(|error| panic!("{self:?} of {}: {error:#}", begun.victim));
        begun
    }

    /// Has the victim do what its disk now refuses: errors of tables that it has in memory would be met much later.
    async fn use_disk(self, hosts: &Hosts, victim: &str) {
        match self {
            Trouble::PrimaryReadsFail | Trouble::ReplicaReadsFail => {
                faults::kill(&[server_process(&hosts.data(victim), "checkpointer")]);
            }
            Trouble::PrimaryDataWritesFail
            | Trouble::ReplicaDataWritesFail
            | Trouble::PrimaryDataSyncFails
            | Trouble::ReplicaDataSyncFails => fail_checkpoint(hosts, victim, self.strikes_replica()).await,
            _ => {}
        }
    }

    /// Cuts between hosts, and hosts that stand still: `None` when it is something else.
    fn cut(self, hosts: &Hosts, begun: &Begun, others: &[String], replica: &str) -> Option<anyhow::Result<()>> {
        let node = hosts.node(&begun.victim);
        let addresses = |names: &[String]| names.iter().map(|name| hosts.node(name).address().to_owned()).collect();
        let each = |far: Vec<String>, cut: &dyn Fn(&Node, &str) -> anyhow::Result<()>| {
            far.iter().try_for_each(|address| cut(node, address))
        };
        let apart = |node: &Node, address: &str| node.cut(address, Silence::Dropped);
        let store = || hosts.store_nodes().iter().map(|node| node.address().to_owned()).collect();
        Some(match self {
            Trouble::PrimaryCutOff | Trouble::ReplicaCutOff => node.isolate(Silence::Dropped),
            Trouble::PrimaryUnreachable => node.isolate(Silence::Unreachable),
            Trouble::PrimaryFromMembers => each(addresses(others), &apart),
            Trouble::PrimaryDeaf => each(addresses(others), &Node::deafen),
            Trouble::PrimaryMute => each(addresses(others), &Node::mute),
            Trouble::PrimaryFromOne => each(addresses(&[replica.to_owned()]), &apart),
            Trouble::PrimaryFromProxy => each(vec![hosts.router().address().to_owned()], &apart),
            Trouble::PrimaryFromStore => each(store(), &apart),
            Trouble::PrimaryWithMinority => with_minority(hosts, node, begun.chosen),
            Trouble::PrimaryFrozen | Trouble::ReplicaFrozen => node.freeze(),
            Trouble::StoreSplit => split(&hosts.store_nodes()),
            Trouble::StoreNodeFrozen => hosts.store_nodes()[begun.chosen].freeze(),
            Trouble::StoreFrozen => hosts.store_nodes().iter().try_for_each(|node| node.freeze()),
            _ => return None,
        })
    }

    /// Everything else.
    async fn strike(self, hosts: &mut Hosts, begun: &mut Begun, replica: &str, seed: u64) {
        let victim = begun.victim.clone();
        let data = hosts.data(&victim);
        match self {
            Trouble::StoreNodeKilled => hosts.kill_store(begun.chosen),
            Trouble::StoreDown => (0..hosts.store_nodes().len()).for_each(|number| hosts.kill_store(number)),
            Trouble::StoreWiped => hosts.wipe_store(),
            Trouble::PrimaryPowerCut | Trouble::ReplicaPowerCut => hosts.power_cut(&[victim], seed),
            Trouble::AllPowerCut => {
                let all = hosts.names();
                hosts.power_cut(&all, seed);
            }
            Trouble::PrimaryNodeKilled => hosts.kill(&victim),
            Trouble::KillPostmaster | Trouble::KillReplica => faults::kill(&[postmaster(&data)]),
            Trouble::KillChild => faults::kill(&[server_process(&data, "checkpointer")]),
            Trouble::KillRecovery => kill_recovery(&data),
            Trouble::KillAgent => faults::kill(&[process(hosts, &victim, "agent")]),
            Trouble::KillGuard => faults::kill(&[process(hosts, &victim, "guard")]),
            Trouble::KillTrio => {
                let [agent, guard] = ["agent", "guard"].map(|verb| process(hosts, &victim, verb));
                faults::kill(&[agent, guard, postmaster(&data)]);
            }
            Trouble::AgentFrozen => begun.stop(&[process(hosts, &victim, "agent")]),
            Trouble::PostmasterHangs => begun.stop(&[postmaster(&data)]),
            Trouble::RestartAgent => {
                assert!(faults::signal(process(hosts, &victim, "agent"), Signal::TERM), "it runs");
            }
            Trouble::PrimaryDeleted | Trouble::ReplicaDeleted => delete(&data),
            Trouble::ReplicaControlSpoiled => {
                let global = data.join("global");
                let others = names_in(&global, |name| name != "pg_control");
                spoil(&data, &global, seed, &others.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Trouble::ReplicaTablesSpoiled => {
                spoil(&data, &data.join("base"), seed, &["PG_VERSION", "pg_filenode.map"]);
            }
            Trouble::ReplayStops => begun.stop(&[server_process(&data, "startup")]),
            Trouble::SwitchoverBesideStuck => {
                begun.stop(&[server_process(&hosts.data(replica), "walreceiver")]);
                let to = hosts.others(&victim).into_iter().find(|name| name != replica).expect("three members");
                begun.called_off = !switch_over(hosts, &["--candidate", &to]).await;
            }
            Trouble::Switchover => begun.called_off = !switch_over(hosts, &[]).await,
            Trouble::AgentUpgraded => {
                assert!(faults::signal(process(hosts, &victim, "agent"), Signal::USR2), "it runs");
            }
            _ => unreachable!("cuts and disks are dealt with before"),
        }
    }
}

fn postmaster(data: &Path) -> i32 {
    super::fault::postmaster(data)
}

/// A process of a member, by its verb.
fn process(hosts: &Hosts, name: &str, verb: &str) -> i32 {
    let all = hosts.node(name).processes().into_iter().filter_map(Process::read);
    let mut found = all.filter(|process| process.arguments.get(1).is_some_and(|word| word == verb));
    found.next().unwrap_or_else(|| panic!("the {verb} of {name} does not run")).pid
}

/// Asks for a switchover; whether it came to pass. One that is called off, as on a machine too busy for its bounds, changes
/// nothing.
async fn switch_over(hosts: &Hosts, arguments: &[&str]) -> bool {
    let all = [&["switchover", "--force"], arguments].concat();
    let outcome = hosts.verb(&all).await;
    if outcome.code != 0 {
        eprintln!("not switched over: {outcome}");
    }
    outcome.code == 0
}

/// Checkpoints until one of the victim's fails.
///
/// # Panics
/// When none does: then its disk has not been used.
async fn fail_checkpoint(hosts: &Hosts, victim: &str, is_replica: bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if is_replica {
            // It has something to do only once it has replayed one of the primary's.
            hosts.ask("checkpoint").await.expect("the primary's disk is well");
        }
        match super::wire::ask(&hosts.direct(victim), "checkpoint").await {
            Err(error) => return eprintln!("the disk of {victim} fails: {error:#}"),
            Ok(_) => assert!(Instant::now() < deadline, "checkpoints of {victim} go on"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How often an agent has begun.
fn beginnings(hosts: &Hosts, name: &str) -> usize {
    hosts.log(name).matches("agent of member").count()
}

/// Cuts a host and one store node off from everybody but each other. The outside, where verbs run, stays reachable.
fn with_minority(hosts: &Hosts, node: &Node, chosen: usize) -> anyhow::Result<()> {
    let companion = hosts.store_nodes()[chosen].name().to_owned();
    let (near, far): (Vec<&Node>, Vec<&Node>) =
        hosts.nodes().partition(|other| other.name() == companion || other.name() == node.name());
    for one in near {
        for other in &far {
            one.cut(other.address(), Silence::Dropped)?;
        }
    }
    Ok(())
}

fn split(nodes: &[&Node]) -> anyhow::Result<()> {
    for one in nodes {
        for other in nodes.iter().filter(|other| other.name() != one.name()) {
            one.cut(other.address(), Silence::Dropped)?;
        }
    }
    Ok(())
}

impl Begun {
    /// Notes who must be replaced, before it is too late.
    fn remember(&mut self, hosts: &Hosts) {
        let (agent, server) = match self.trouble {
            Trouble::KillAgent => (true, false),
            Trouble::KillTrio | Trouble::RestartAgent => (true, true),
            Trouble::KillPostmaster
            | Trouble::KillReplica
            | Trouble::KillChild
            | Trouble::KillRecovery
            | Trouble::PostmasterHangs
            | Trouble::PrimaryReadsFail
            | Trouble::ReplicaReadsFail
            | Trouble::PrimaryDataSyncFails
            | Trouble::ReplicaDataSyncFails
            | Trouble::PrimaryDeleted
            | Trouble::ReplicaDeleted
            | Trouble::ReplicaControlSpoiled
            | Trouble::ReplicaTablesSpoiled => (false, true),
            _ => (false, false),
        };
        if self.trouble == Trouble::AgentUpgraded {
            let pid = process(hosts, &self.victim, "agent");
            self.upgraded = Some((self.victim.clone(), pid, beginnings(hosts, &self.victim)));
        }
        if agent {
            self.agents.push((self.victim.clone(), process(hosts, &self.victim, "agent")));
        }
        if server {
            let data = hosts.data(&self.victim);
            let pid = postmaster(&data);
            self.postmasters.push((data, pid));
        }
    }

    fn stop(&mut self, pids: &[i32]) {
        faults::freeze(pids);
        self.stopped.extend_from_slice(pids);
    }

    /// Ends it: everything is as before, as far as it lies with the hosts.
    pub fn end(&self, hosts: &mut Hosts) {
        faults::thaw(&self.stopped);
        match self.trouble {
            Trouble::PrimaryFrozen | Trouble::ReplicaFrozen => {
                hosts.node(&self.victim).thaw().expect("it can be thawed");
            }
            Trouble::StoreNodeFrozen | Trouble::StoreFrozen => {
                hosts.store_nodes().iter().for_each(|node| node.thaw().expect("it can be thawed"));
            }
            Trouble::PrimaryPowerCut | Trouble::ReplicaPowerCut | Trouble::PrimaryNodeKilled => {
                hosts.boot(&self.victim);
            }
            Trouble::AllPowerCut => {
                for name in hosts.names() {
                    hosts.boot(&name);
                }
            }
            trouble if trouble.of_disk().is_some() => hosts.disk(&self.victim).mend(),
            Trouble::StoreNodeKilled => hosts.boot_store(self.chosen),
            Trouble::StoreDown => (0..hosts.store_nodes().len()).for_each(|number| hosts.boot_store(number)),
            _ => hosts.nodes().for_each(|node| node.heal().expect("it can be healed")),
        }
    }

    /// Waits until whoever was killed is there anew.
    ///
    /// # Panics
    /// When that takes longer than anything may.
    pub async fn replaced(&self, hosts: &Hosts) {
        let deadline = Instant::now() + PATIENCE;
        let server = |(data, old): &(PathBuf, i32)| faults::postmaster(data).is_some_and(|pid| pid != *old);
        let agent = |(name, old): &(String, i32)| hosts.agent(name).is_some_and(|pid| pid != *old);
        let program = |(name, pid, before): &(String, i32, usize)| {
            // In the middle of it there is none with a command line.
            assert!(hosts.agent(name).is_none_or(|now| now == *pid), "the process stays when its program is exchanged");
            beginnings(hosts, name) > *before
        };
        while !(self.postmasters.iter().all(server)
            && self.agents.iter().all(agent)
            && self.upgraded.iter().all(program))
        {
            // Who stood still for less than anybody waits for goes on as it was.
            if self.trouble == Trouble::PostmasterHangs && Instant::now() > deadline - PATIENCE + NOTICED {
                return;
            }
            assert!(Instant::now() < deadline, "not replaced after {PATIENCE:?}: {self:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
