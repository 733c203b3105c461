//! How the archive of a cluster stands.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Cluster, PATIENCE};

/// The page of `archive status`.
pub async fn status(cluster: &Cluster) -> Value {
    cluster.verb(&["archive", "status", "-o", "json"]).await.json()
}

/// Waits until it fits.
pub async fn until(cluster: &Cluster, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let page = status(cluster).await;
        if fits(&page) {
            return page;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {page:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
