//! Counters that a metrics page can read at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::routes::Port;

/// Counters of both ports. All only grow, except `active`, `opening` and `held`.
#[derive(Debug, Default)]
pub struct Stats {
    /// The read-write port.
    pub read_write: PortStats,
    /// The read-only port.
    pub read_only: PortStats,
}

/// Counters of one port.
#[derive(Debug, Default)]
pub struct PortStats {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Sessions that are connected to a member now.
    pub active: AtomicU64,
    /// Sessions that are being opened with a primary now, up to the end of their authentication; not those that are encrypted
    /// end to end.
    pub opening: AtomicU64,
    /// Connections that wait for a member now.
    pub held: AtomicU64,
    /// Connections that ever had to wait.
    pub held_total: AtomicU64,
    /// Connections refused with an error of the proxy's own.
    pub refused: AtomicU64,
    /// Sessions cut because their route ended or the proxy stopped.
    pub cut: AtomicU64,
    /// Bytes moved from clients to members.
    pub bytes_to_server: AtomicU64,
    /// Bytes moved from members to clients.
    pub bytes_to_client: AtomicU64,
    /// Cancel requests received.
    pub cancels: AtomicU64,
}

impl Stats {
    /// Sessions on both ports that are being opened with a primary.
    pub fn opening(&self) -> u64 {
        self.read_write.opening.load(Relaxed) + self.read_only.opening.load(Relaxed)
    }

    /// The counters of one port.
    pub fn of(&self, port: Port) -> &PortStats {
        match port {
            Port::ReadWrite => &self.read_write,
            Port::ReadOnly => &self.read_only,
        }
    }
}

/// Which gauge a [`Counted`] keeps up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Gauge {
    Active,
    Opening,
    Held,
}

/// One unit of a gauge; dropping it counts down.
#[derive(Debug)]
pub(crate) struct Counted {
    stats: Arc<Stats>,
    port: Port,
    gauge: Gauge,
}

impl Counted {
    pub fn new(stats: &Arc<Stats>, port: Port, gauge: Gauge) -> Self {
        let counted = Self { stats: Arc::clone(stats), port, gauge };
        counted.gauge().fetch_add(1, Relaxed);
        counted
    }

    fn gauge(&self) -> &AtomicU64 {
        let port = self.stats.of(self.port);
        match self.gauge {
            Gauge::Active => &port.active,
            Gauge::Opening => &port.opening,
            Gauge::Held => &port.held,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge().fetch_sub(1, Relaxed);
    }
}
