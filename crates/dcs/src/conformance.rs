//! What every engine must do. Each function is one case; [`crate::conformance_tests!`] makes tests of all.
//!
//! A case opens as many handles to the same store as it needs, keeps to keys under its own name, and
//! panics when the engine is wrong, so that an engine whose store outlives the test can run it too.

mod changes;
mod leases;
mod races;
mod watching;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use changes::{
    atomic_many_keys, big_values, compare_and_set, delete_prefix, later_handles_see_it, odd_keys, read_your_writes,
    refused_changes_nothing, unusable_keys,
};
pub use leases::{
    dead_lease_refused, expiry_deletes, foreign_put_frees, keep_alive_after_expiry, keep_alive_extends,
    keep_alive_is_no_change, revoke_deletes,
};
pub use races::{counter_is_exact, one_revision_snapshots, one_winner, revision_grows};
pub use watching::{watch_hears_expiry, watch_hears_others, watch_hears_own};

use crate::store::{Committed, Revision, Snapshot, Store, Txn};

/// How fast the engine is, so that the cases wait long enough and no longer.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A lease that it keeps exactly; longer than a busy machine may stand still.
    pub ttl: Duration,
    /// How long after its end a lease may still be there.
    pub expiry: Duration,
    /// How long news may take to another handle, most of the time.
    pub news: Duration,
}

/// How long anything that must come may take, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A handle, as the cases open it.
pub type Handle = Arc<dyn Store>;

/// Makes a tokio test of each case. `$fixture` is evaluated once per case and gives a
/// `Fn() -> impl Future<Output = Arc<dyn Store>>` that opens one more handle to the same store.
#[macro_export]
macro_rules! conformance_tests {
    ($pace:expr, $fixture:expr) => {
        $crate::conformance_cases! { conformance_tests @cases $pace, $fixture; }
    };
    (@cases $pace:expr, $fixture:expr; $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let open = $fixture;
                $crate::conformance::$case(&open, $pace).await;
            }
        )*
    };
}

/// Runs every case at the same time on one store, for engines whose servers take long to start. `$fixture` is a
/// `Fn(&'static str) -> impl Fn() -> impl Future<Output = Arc<dyn Store>>`: it is given the name of the case, which is
/// to have keys of its own. Evaluates to a future that panics, naming them, if cases have failed.
#[macro_export]
macro_rules! conformance_together {
    ($pace:expr, $fixture:expr) => {
        $crate::conformance_cases!(conformance_together @cases $pace, $fixture;)
    };
    (@cases $pace:expr, $fixture:expr; $($case:ident)*) => {
        async {
            let (pace, fixture) = ($pace, $fixture);
            let mut cases = ::std::vec::Vec::new();
            $(
                let open = fixture(stringify!($case));
                let running = ::tokio::spawn(async move { $crate::conformance::$case(&open, pace).await });
                cases.push((stringify!($case), running));
            )*
            let mut failed = ::std::vec::Vec::new();
            for (name, running) in cases {
                if running.await.is_err() {
                    failed.push(name);
                }
            }
            assert!(failed.is_empty(), "failed: {failed:?}; their messages are above");
        }
    };
}

/// Hands the names of all cases to another macro.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($to:ident $($before:tt)*) => {
        $crate::$to! { $($before)*
            read_your_writes later_handles_see_it compare_and_set refused_changes_nothing atomic_many_keys
            delete_prefix big_values odd_keys unusable_keys
            expiry_deletes keep_alive_extends keep_alive_is_no_change keep_alive_after_expiry dead_lease_refused
            revoke_deletes foreign_put_frees
            watch_hears_own watch_hears_others watch_hears_expiry
            one_winner counter_is_exact one_revision_snapshots revision_grows
        }
    };
}

async fn read(store: &Handle) -> Snapshot {
    store.read().await.expect("the store under test can be read")
}

async fn commit(store: &Handle, txn: Txn) -> Committed {
    store.commit(txn).await.expect("the store under test takes transactions")
}

/// Commits what must be applied; gives its revision.
async fn apply(store: &Handle, txn: Txn) -> Revision {
    let said = format!("{txn:?}");
    commit(store, txn).await.applied().unwrap_or_else(|| panic!("refused, though every compare holds: {said}"))
}

async fn refused(store: &Handle, txn: Txn, key: &str) {
    let said = format!("{txn:?}");
    assert_eq!(commit(store, txn).await, Committed::Refused { key: key.to_owned() }, "{said}");
}

/// Waits until the receiver knows a revision of at least `revision`; gives how long that took.
async fn hears(news: &mut watch::Receiver<Revision>, revision: Revision) -> Duration {
    let since = Instant::now();
    let heard = tokio::time::timeout(PATIENCE, news.wait_for(|known| *known >= revision)).await.is_ok();
    let known = *news.borrow();
    assert!(heard, "no news of revision {revision} within {PATIENCE:?}; the handle knows {known}");
    since.elapsed()
}
