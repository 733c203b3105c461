//! Counters that a metrics page can read at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::routes::Port;

/// Counters of both ports. All only grow, except `active` and `held`.
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
            Gauge::Held => &port.held,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge().fetch_sub(1, Relaxed);
    }
}
