//! What can happen to hosts and the network between them, with a beginning and an end.

use std::time::Duration;

use matriarch_testkit::faults;
use matriarch_testkit::lab::{Node, Silence};

use super::storage::{Disk, Disks};
use super::{Hosts, PATIENCE, Subject, Witness, health};

/// A trouble. Where it needs a victim it finds the primary or a replica itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trouble {
    /// The primary's host hears nobody and reaches nobody: packets vanish.
    PrimaryCutOff,
    /// The same, and everybody is told at once that there is no route.
    PrimaryUnreachable,
    /// The primary's host and the other members' hosts do not hear each other.
    PrimaryFromMembers,
    /// The primary's host hears the other members no more; they hear it.
    PrimaryDeaf,
    /// The other members hear the primary's host no more; it hears them.
    PrimaryMute,
    /// The primary and one replica do not hear each other; both hear everybody else.
    PrimaryFromOne,
    /// Clients' proxy and the primary do not hear each other.
    PrimaryFromProxy,
    /// The primary and the store do not hear each other.
    PrimaryFromStore,
    /// The primary and one store node are on one side, everybody else is on the other.
    PrimaryWithMinority,
    /// A replica's host hears nobody and reaches nobody.
    ReplicaCutOff,
    /// All of the primary's host stands still, its kernel answers; later it goes on.
    PrimaryFrozen,
    /// All of a replica's host stands still; later it goes on.
    ReplicaFrozen,
    /// The primary's host loses its power, and has it again later.
    PrimaryPowerCut,
    /// A replica's host loses its power, and has it again later.
    ReplicaPowerCut,
    /// All hosts of members lose their power at one moment.
    AllPowerCut,
    /// One server of the store is killed.
    StoreNodeKilled,
    /// The servers of the store do not hear each other.
    StoreSplit,
    /// All servers of the store are killed at one moment.
    StoreDown,
    /// SIGKILL to the primary's postmaster.
    KillPostmaster,
    /// SIGKILL to the primary's agent.
    KillAgent,
    /// A planned switchover.
    Switchover,
    /// The primary's disk is full.
    PrimaryDiskFull,
    /// A replica's disk is full.
    ReplicaDiskFull,
    /// Writes to the primary's disk hang.
    PrimaryDiskStalls,
    /// Writes to the primary's write-ahead log hang.
    PrimaryWalStalls,
    /// Writes to a replica's disk hang.
    ReplicaDiskStalls,
    /// Syncs of the primary's write-ahead log answer with an I/O error.
    PrimarySyncFails,
    /// Syncs of a replica's write-ahead log answer with an I/O error.
    ReplicaSyncFails,
}

/// What must hold between the beginning and the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// Writes go on, or come back, before the end.
    Writes,
    /// Nobody can write before the end.
    Nothing,
}

impl Trouble {
    pub const ALL: [Trouble; 28] = [
        Trouble::PrimaryCutOff,
        Trouble::PrimaryUnreachable,
        Trouble::PrimaryFromMembers,
        Trouble::PrimaryDeaf,
        Trouble::PrimaryMute,
        Trouble::PrimaryFromOne,
        Trouble::PrimaryFromProxy,
        Trouble::PrimaryFromStore,
        Trouble::PrimaryWithMinority,
        Trouble::ReplicaCutOff,
        Trouble::PrimaryFrozen,
        Trouble::ReplicaFrozen,
        Trouble::PrimaryPowerCut,
        Trouble::ReplicaPowerCut,
        Trouble::AllPowerCut,
        Trouble::StoreNodeKilled,
        Trouble::StoreSplit,
        Trouble::StoreDown,
        Trouble::KillPostmaster,
        Trouble::KillAgent,
        Trouble::Switchover,
        Trouble::PrimaryDiskFull,
        Trouble::ReplicaDiskFull,
        Trouble::PrimaryDiskStalls,
        Trouble::PrimaryWalStalls,
        Trouble::ReplicaDiskStalls,
        Trouble::PrimarySyncFails,
        Trouble::ReplicaSyncFails,
    ];

    /// What clients may expect.
    pub fn meanwhile(self, hosts: &Hosts) -> Meanwhile {
        match self {
            // The lead does not move for a proxy; and where every member reaches the store whatever happens to its network,
            // a primary that is cut off keeps its lease.
            Trouble::PrimaryFromProxy | Trouble::AllPowerCut => Meanwhile::Nothing,
            // The primary's lease cannot be renewed, and nobody else can take one.
            Trouble::StoreSplit | Trouble::StoreDown => Meanwhile::Nothing,
            Trouble::PrimaryCutOff | Trouble::PrimaryUnreachable if !hosts.store_by_network() => Meanwhile::Nothing,
            _ => Meanwhile::Writes,
        }
    }

    fn strikes_replica(self) -> bool {
        matches!(
            self,
            Trouble::ReplicaCutOff
                | Trouble::ReplicaFrozen
                | Trouble::ReplicaPowerCut
                | Trouble::ReplicaDiskFull
                | Trouble::ReplicaDiskStalls
                | Trouble::ReplicaSyncFails
        )
    }

    /// What it does to the victim's disk, if it is about that.
    fn of_disk(self) -> Option<fn(&mut Disk)> {
        Some(match self {
            Trouble::PrimaryDiskFull | Trouble::ReplicaDiskFull => Disk::fill,
            Trouble::PrimaryDiskStalls | Trouble::ReplicaDiskStalls => Disk::stall,
            Trouble::PrimaryWalStalls => Disk::stall_wal,
            Trouble::PrimarySyncFails | Trouble::ReplicaSyncFails => Disk::fail_wal_syncs,
            _ => return None,
        })
    }

    /// Lets it begin. `seed` chooses among equals.
    pub async fn begin(self, hosts: &mut Hosts, seed: u64) -> Begun {
        let leader = health::leader(hosts).await;
        let others = hosts.others(&leader);
        let replica = others[usize::try_from(seed % others.len() as u64).expect("less than the length")].clone();
        let victim = if self.strikes_replica() { replica.clone() } else { leader };
        if let Some(strike) = self.of_disk() {
            strike(hosts.disk(&victim));
            return Begun { trouble: self, victim, chosen: 0 };
        }
        let node = hosts.node(&victim);
        let addresses = |names: &[String]| names.iter().map(|name| hosts.node(name).address().to_owned()).collect();
        let store: Vec<String> = hosts.store_nodes().iter().map(|node| node.address().to_owned()).collect();
        let each = |far: Vec<String>, cut: &dyn Fn(&Node, &str) -> anyhow::Result<()>| {
            far.iter().try_for_each(|address| cut(node, address))
        };
        let apart = |node: &Node, address: &str| node.cut(address, Silence::Dropped);
        let chosen = usize::try_from(seed % 3).expect("less than three");
        let done = match self {
            Trouble::PrimaryCutOff | Trouble::ReplicaCutOff => node.isolate(Silence::Dropped),
            Trouble::PrimaryUnreachable => node.isolate(Silence::Unreachable),
            Trouble::PrimaryFromMembers => each(addresses(&others), &apart),
            Trouble::PrimaryDeaf => each(addresses(&others), &Node::deafen),
            Trouble::PrimaryMute => each(addresses(&others), &Node::mute),
            Trouble::PrimaryFromOne => each(addresses(&[replica]), &apart),
            Trouble::PrimaryFromProxy => each(vec![hosts.router().address().to_owned()], &apart),
            Trouble::PrimaryFromStore => each(store, &apart),
            Trouble::PrimaryWithMinority => with_minority(hosts, node, chosen),
            Trouble::PrimaryFrozen | Trouble::ReplicaFrozen => node.freeze(),
            Trouble::StoreSplit => split(&hosts.store_nodes()),
            Trouble::StoreNodeKilled => {
                hosts.kill_store(chosen);
                Ok(())
            }
            Trouble::StoreDown => {
                (0..store.len()).for_each(|number| hosts.kill_store(number));
                Ok(())
            }
            Trouble::PrimaryPowerCut | Trouble::ReplicaPowerCut => {
                hosts.power_cut(std::slice::from_ref(&victim), seed);
                Ok(())
            }
            Trouble::AllPowerCut => {
                let all = hosts.names();
                hosts.power_cut(&all, seed);
                Ok(())
            }
            Trouble::KillPostmaster => {
                faults::kill(&[faults::postmaster(&hosts.data(&victim)).expect("the primary runs")]);
                Ok(())
            }
            Trouble::KillAgent => {
                faults::kill(&[hosts.agent(&victim).expect("the primary's agent runs")]);
                Ok(())
            }
            Trouble::Switchover => {
                hosts.verb(&["switchover", "--force"]).await.ok();
                Ok(())
            }
            _ => unreachable!("faults of disks are dealt with above"),
        };
        done.unwrap_or_else(|error| panic!("{self:?} of {victim}: {error:#}"));
        Begun { trouble: self, victim, chosen }
    }
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

/// A trouble under way.
#[derive(Debug)]
pub struct Begun {
    trouble: Trouble,
    pub victim: String,
    /// Which store node was struck.
    chosen: usize,
}

impl Begun {
    /// Ends it: everything is as before, as far as it lies with the hosts.
    pub fn end(&self, hosts: &mut Hosts) {
        match self.trouble {
            Trouble::PrimaryFrozen | Trouble::ReplicaFrozen => {
                hosts.node(&self.victim).thaw().expect("it can be thawed")
            }
            Trouble::PrimaryPowerCut | Trouble::ReplicaPowerCut => hosts.boot(&self.victim),
            Trouble::AllPowerCut => {
                for name in hosts.names() {
                    hosts.boot(&name);
                }
            }
            trouble if trouble.of_disk().is_some() => hosts.disk(&self.victim).mend(),
            Trouble::KillPostmaster | Trouble::KillAgent | Trouble::Switchover => {}
            Trouble::StoreNodeKilled => hosts.boot_store(self.chosen),
            Trouble::StoreDown => (0..hosts.store_nodes().len()).for_each(|number| hosts.boot_store(number)),
            _ => hosts.nodes().for_each(|node| node.heal().expect("it can be healed")),
        }
    }
}

/// Those that can happen here: some need a store on hosts of its own, some need disks that fail at will.
pub fn possible(hosts: &Hosts) -> Vec<Trouble> {
    let of_store = |trouble: &Trouble| {
        matches!(
            trouble,
            Trouble::PrimaryFromStore
                | Trouble::PrimaryWithMinority
                | Trouble::StoreNodeKilled
                | Trouble::StoreSplit
                | Trouble::StoreDown
        )
    };
    let fits = |trouble: &Trouble| {
        (hosts.store_by_network() || !of_store(trouble))
            && (hosts.disks() == Disks::Faulty || trouble.of_disk().is_none())
    };
    Trouble::ALL.into_iter().filter(fits).collect()
}

/// Strikes once, from a healthy cluster to a healthy cluster. Gives back the longest pause of writes in seconds.
///
/// # Panics
/// When writes do not come back, or a member does not get well by itself.
pub async fn endure(hosts: &mut Hosts, witness: &Witness, trouble: Trouble, hold: Duration, seed: u64) -> f64 {
    let from = witness.now();
    let begun = trouble.begin(hosts, seed).await;
    let what = format!("{trouble:?} of {} (seed {seed})", begun.victim);
    // The trouble must last a while to be one, whoever notices it.
    tokio::time::sleep(hold).await;
    if trouble.meanwhile(hosts) == Meanwhile::Writes {
        witness.writes_again(&what).await;
    }
    begun.end(hosts);
    witness.writes_again(&format!("the end of {what}")).await;
    health::well(hosts, PATIENCE).await;
    let pause = witness.longest_pause_since(from);
    eprintln!("{what}: writes paused {pause:.2} s");
    pause
}
