//! What can happen to hosts and the network between them, with a beginning and an end.

use std::time::{Duration, Instant};

use super::storage::Disks;
pub use super::strike::Begun;
use super::{Hosts, Witness, health};

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
    /// One server of the store stands still; later it goes on.
    StoreNodeFrozen,
    /// All servers of the store stand still; later they go on.
    StoreFrozen,
    /// Every record of the cluster is deleted from the store.
    StoreWiped,
    /// All of the primary's host is killed; its kernel lives and refuses connections. Later it is started again.
    PrimaryNodeKilled,
    /// SIGKILL to the primary's postmaster.
    KillPostmaster,
    /// SIGKILL to a replica's postmaster.
    KillReplica,
    /// SIGKILL to one process of the primary's PostgreSQL, as the kernel does when memory is short.
    KillChild,
    /// SIGKILL to a replica's walreceiver, and to the first startup process after that.
    KillRecovery,
    /// SIGKILL to the primary's agent.
    KillAgent,
    /// SIGKILL to the primary's guard.
    KillGuard,
    /// SIGKILL to the primary's agent, guard and postmaster.
    KillTrio,
    /// The primary's agent stands still, its PostgreSQL goes on; later it goes on.
    AgentFrozen,
    /// The primary's postmaster stands still: it lets nobody in, while its sessions go on.
    PostmasterHangs,
    /// SIGTERM to the primary's agent: it stops PostgreSQL, hands over and is started again.
    RestartAgent,
    /// The primary's data directory is deleted while it runs.
    PrimaryDeleted,
    /// A replica's data directory is deleted while it runs.
    ReplicaDeleted,
    /// Garbage in a replica's control file, and its postmaster killed.
    ReplicaControlSpoiled,
    /// Garbage in a replica's tables, and its postmaster killed.
    ReplicaTablesSpoiled,
    /// The startup process of a replica stands still, later it goes on: nothing is replayed, WAL is received.
    ReplayStops,
    /// SIGUSR2 to the primary's agent: another program, here the same one, takes over its process.
    AgentUpgraded,
    /// A planned switchover.
    Switchover,
    /// The walreceiver of a replica stands still, and the primary is switched over to another one.
    SwitchoverBesideStuck,
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
    /// Reads of the primary's tables answer with an I/O error, and a process of its PostgreSQL dies, so that it must read.
    PrimaryReadsFail,
    /// The same of a replica.
    ReplicaReadsFail,
    /// Writes to the primary's data answer with an I/O error, those of its write-ahead log do not, and there is a checkpoint.
    PrimaryDataWritesFail,
    /// The same of a replica.
    ReplicaDataWritesFail,
    /// Syncs of the primary's data answer with an I/O error, those of its write-ahead log do not, and there is a checkpoint:
    /// PostgreSQL ends itself.
    PrimaryDataSyncFails,
    /// The same of a replica.
    ReplicaDataSyncFails,
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
    pub const ALL: [Trouble; 53] = [
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
        Trouble::StoreNodeFrozen,
        Trouble::StoreFrozen,
        Trouble::StoreWiped,
        Trouble::PrimaryNodeKilled,
        Trouble::KillPostmaster,
        Trouble::KillReplica,
        Trouble::KillChild,
        Trouble::KillRecovery,
        Trouble::KillAgent,
        Trouble::KillGuard,
        Trouble::KillTrio,
        Trouble::AgentFrozen,
        Trouble::PostmasterHangs,
        Trouble::RestartAgent,
        Trouble::PrimaryDeleted,
        Trouble::ReplicaDeleted,
        Trouble::ReplicaControlSpoiled,
        Trouble::ReplicaTablesSpoiled,
        Trouble::ReplayStops,
        Trouble::AgentUpgraded,
        Trouble::Switchover,
        Trouble::SwitchoverBesideStuck,
        Trouble::PrimaryDiskFull,
        Trouble::ReplicaDiskFull,
        Trouble::PrimaryDiskStalls,
        Trouble::PrimaryWalStalls,
        Trouble::ReplicaDiskStalls,
        Trouble::PrimarySyncFails,
        Trouble::ReplicaSyncFails,
        Trouble::PrimaryReadsFail,
        Trouble::ReplicaReadsFail,
        Trouble::PrimaryDataWritesFail,
        Trouble::ReplicaDataWritesFail,
        Trouble::PrimaryDataSyncFails,
        Trouble::ReplicaDataSyncFails,
    ];

    /// What clients may expect.
    pub fn meanwhile(self, hosts: &Hosts) -> Meanwhile {
        match self {
            // The lead does not move for a proxy; and where every member reaches the store whatever happens to its network,
            // a primary that is cut off keeps its lease.
            Trouble::PrimaryFromProxy | Trouble::AllPowerCut => Meanwhile::Nothing,
            Trouble::PrimaryCutOff | Trouble::PrimaryUnreachable if !hosts.store_by_network() => Meanwhile::Nothing,
            _ => Meanwhile::Writes,
        }
    }

    /// Whether its victim is a replica.
    pub fn strikes_replica(self) -> bool {
        matches!(
            self,
            Trouble::ReplicaCutOff
                | Trouble::ReplicaFrozen
                | Trouble::ReplicaPowerCut
                | Trouble::ReplicaDiskFull
                | Trouble::ReplicaDiskStalls
                | Trouble::ReplicaSyncFails
                | Trouble::ReplicaReadsFail
                | Trouble::ReplicaDataWritesFail
                | Trouble::ReplicaDataSyncFails
                | Trouble::KillReplica
                | Trouble::KillRecovery
                | Trouble::ReplayStops
                | Trouble::ReplicaDeleted
                | Trouble::ReplicaControlSpoiled
                | Trouble::ReplicaTablesSpoiled
        )
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
                | Trouble::StoreNodeFrozen
                | Trouble::StoreFrozen
                | Trouble::StoreWiped
        )
    };
    let fits = |trouble: &Trouble| {
        (hosts.store_by_network() || !of_store(trouble))
            && (hosts.disks() == Disks::Faulty || trouble.of_disk().is_none())
    };
    Trouble::ALL.into_iter().filter(fits).collect()
}

/// What a trouble came to, and where the time went.
#[derive(Debug, Clone)]
pub struct Endured {
    /// Who was struck.
    pub victim: String,
    /// The longest pause of writes, in seconds.
    pub gap: f64,
    /// A switchover that did not come to pass.
    pub called_off: bool,
    /// Seconds from one step to the next.
    pub steps: Vec<(&'static str, f64)>,
}

/// Strikes once, from a healthy cluster to a healthy cluster.
///
/// # Panics
/// When writes do not come back, or a member does not get well by itself.
pub async fn endure(hosts: &mut Hosts, witness: &Witness, trouble: Trouble, hold: Duration, seed: u64) -> Endured {
    let from = witness.now();
    let mut watch = Stopwatch::default();
    let begun = trouble.begin(hosts, seed).await;
    watch.lap("strike");
    let what = format!("{trouble:?} of {} (seed {seed})", begun.victim);
    // The trouble must last a while to be one, whoever notices it.
    tokio::time::sleep(hold).await;
    watch.lap("hold");
    if trouble.meanwhile(hosts) == Meanwhile::Writes {
        witness.writes_again(&what).await;
        watch.lap("meanwhile");
    }
    begun.end(hosts);
    witness.writes_again(&format!("the end of {what}")).await;
    watch.lap("writes");
    begun.replaced(hosts).await;
    watch.lap("replaced");
    health::well(hosts, hosts.patience()).await;
    watch.lap("well");
    let gap = witness.longest_pause_since(from);
    eprintln!("{what}: writes paused {gap:.2} s");
    Endured { victim: begun.victim, gap, called_off: begun.called_off, steps: watch.laps }
}

/// Where the time goes.
#[derive(Debug)]
pub struct Stopwatch {
    since: Instant,
    /// Seconds of each step.
    pub laps: Vec<(&'static str, f64)>,
}

impl Default for Stopwatch {
    fn default() -> Stopwatch {
        Stopwatch { since: Instant::now(), laps: Vec::new() }
    }
}

impl Stopwatch {
    /// A step is over.
    pub fn lap(&mut self, step: &'static str) {
        self.laps.push((step, self.since.elapsed().as_secs_f64()));
        self.since = Instant::now();
    }
}
