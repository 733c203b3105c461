//! What the API shows, written by the loop and read by anybody without waiting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use matriarch_api::{ClusterStatus, DrillLog, HistoryLine, Live, MemberStatus};
use matriarch_dcs::{Store, boot_clock_ms};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::archive::Board;
use crate::event::{Event, Reply, Request};
use crate::heartbeat::Heartbeats;

/// One frozen view for the API.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// This member.
    pub member: Arc<MemberStatus>,
    /// The cluster.
    pub cluster: Arc<ClusterStatus>,
    /// Dynamic configuration as it stands in the store, with its revision.
    pub config: Option<(Arc<Value>, u64)>,
    /// Past timelines.
    pub history: Arc<Vec<HistoryLine>>,
    /// Drills that were done.
    pub drills: Arc<DrillLog>,
}

/// The place where loop and API meet.
pub struct Shared {
    shown: watch::Sender<Shown>,
    mailbox: Mutex<Option<UnboundedSender<Event>>>,
    round_at: AtomicU64,
    lease_until: AtomicU64,
    decisions: Mutex<BTreeMap<&'static str, u64>>,
    store_error: RwLock<Option<String>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) heartbeats: Arc<Heartbeats>,
    pub(crate) archive: Arc<Board>,
}

impl Shared {
    /// An empty one.
    pub fn new(store: Arc<dyn Store>, heartbeats: Arc<Heartbeats>) -> Arc<Shared> {
        Arc::new(Shared {
            shown: watch::channel(Shown::default()).0,
            mailbox: Mutex::new(None),
            round_at: AtomicU64::new(boot_clock_ms()),
            lease_until: AtomicU64::new(0),
            decisions: Mutex::new(BTreeMap::new()),
            store_error: RwLock::new(None),
            store,
            heartbeats,
            archive: Arc::default(),
        })
    }

    pub(crate) fn set_mailbox(&self, sender: UnboundedSender<Event>) {
        *self.mailbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }

    /// Asks the agent to stop.
    pub fn stop(&self) {
        self.send(Event::Stop);
    }

    /// Asks the agent to make way for another program as soon as nothing is under way.
    pub fn upgrade(&self) {
        self.send(Event::Upgrade);
    }

    /// Has the agent read its configuration file again, as on SIGHUP; how it went is logged.
    pub async fn reload(&self) {
        match self.ask(Request::Reload).await {
            Ok(done) => tracing::info!("{done}"),
            Err(failure) => tracing::error!("the configuration was not loaded again: {failure}"),
        }
    }

    fn send(&self, event: Event) -> bool {
        let mailbox = self.mailbox.lock().unwrap_or_else(PoisonError::into_inner);
        mailbox.as_ref().is_some_and(|mailbox| mailbox.send(event).is_ok())
    }

    /// Has the loop do something and waits for its answer.
    pub(crate) async fn ask(&self, request: Request) -> Result<String, String> {
        let (reply, answer) = Reply::new();
        self.send(Event::Command(request, reply));
        answer.await.unwrap_or_else(|_| Err("the agent is stopping".to_owned()))
    }

    pub(crate) fn count_decision(&self, why: &'static str) {
        self.round_at.store(boot_clock_ms(), Ordering::Relaxed);
        *self.decisions.lock().unwrap_or_else(PoisonError::into_inner).entry(why).or_default() += 1;
    }

    pub(crate) fn decisions(&self) -> BTreeMap<String, u64> {
        let decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        decisions.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect()
    }

    pub(crate) fn store_seen(&self, error: Option<String>) {
        *self.store_error.write().unwrap_or_else(PoisonError::into_inner) = error;
    }

    pub(crate) fn store_error(&self) -> Option<String> {
        self.store_error.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn show(&self, shown: Shown, lease_until: u64) {
        self.lease_until.store(lease_until, Ordering::Relaxed);
        self.shown.send_replace(shown);
    }

    /// What is shown now.
    pub fn shown(&self) -> Shown {
        self.shown.borrow().clone()
    }

    /// Tells when what is shown changes.
    pub fn watch(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    pub(crate) fn live(&self) -> Live {
        let now = boot_clock_ms();
        let until = self.lease_until.load(Ordering::Relaxed);
        Live {
            loop_age: Duration::from_millis(now.saturating_sub(self.round_at.load(Ordering::Relaxed))),
            lease_remaining: (until > 0).then(|| Duration::from_millis(until.saturating_sub(now))),
        }
    }
}
