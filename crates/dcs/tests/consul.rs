//! The Consul engine against the suite, on real servers.

use std::sync::Arc;
use std::time::Duration;

use matriarch_dcs::conformance::{Handle, Pace};
use matriarch_dcs::consul::{Consistency, ConsulOptions, Endpoint};
use matriarch_dcs::{ConsulStore, Store as _};
use matriarch_testkit::consul::{ConsulCluster, ConsulSettings};
use matriarch_testkit::dir::TestDir;

fn at(port: u16) -> Endpoint {
    Endpoint::Tcp { host: "127.0.0.1".to_owned(), port }
}

/// Handles that take turns in asking the given addresses, in a folder of their own.
fn handles(
    folder: &'static str,
    options: ConsulOptions,
    endpoints: Vec<Endpoint>,
) -> impl Fn(&'static str) -> Box<dyn Open> {
    move |case| {
        let (endpoints, options) = (endpoints.clone(), options.clone());
        let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        Box::new(move || {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let endpoints = vec![endpoints[number % endpoints.len()].clone()];
            let options = ConsulOptions { endpoints, ..options.clone() };
            let store = ConsulStore::open(options, &format!("/{folder}/{case}/")).expect("it has an address");
            Arc::new(store) as Handle
        })
    }
}

trait Open: Fn() -> Handle + Send + Sync {}
impl<F: Fn() -> Handle + Send + Sync> Open for F {}

/// One server as it comes: no session under 10 s, and each lives twice as long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_with_consuls_own_limits() {
    let dir = TestDir::new("consul");
    let cluster = ConsulCluster::start(&dir, 1, &ConsulSettings::default()).expect("a server starts");
    let pace =
        Pace { ttl: Duration::from_secs(10), expiry: Duration::from_secs(14), news: Duration::from_millis(2_000) };
    let node = &cluster.nodes[0];
    // Over TCP and over the Unix socket in turn.
    let open = handles("service", ConsulOptions::default(), vec![at(node.port()), Endpoint::Unix(node.socket())]);
    matriarch_dcs::conformance_together!(pace, |case| {
        let open = open(case);
        move || std::future::ready(open())
    })
    .await;
}

/// Three servers, each handle at another one, with the floor of the sessions lowered: with the datacenter named, and however fresh
/// the answers to the watch are to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_with_short_sessions() {
    let dir = TestDir::new("consul");
    let settings = ConsulSettings { session_ttl_min: Some("500ms".to_owned()), ..ConsulSettings::default() };
    let cluster = ConsulCluster::start(&dir, 3, &settings).expect("three servers start");
    let pace = Pace { ttl: Duration::from_secs(2), expiry: Duration::from_secs(5), news: Duration::from_millis(2_000) };
    let endpoints: Vec<Endpoint> = cluster.nodes.iter().map(|node| at(node.port())).collect();
    let suite = |folder, consistency| {
        let options = ConsulOptions { datacenter: Some("dc1".to_owned()), consistency, ..ConsulOptions::default() };
        let open = handles(folder, options, endpoints.clone());
        async move {
            matriarch_dcs::conformance_together!(pace, |case| {
                let open = open(case);
                move || std::future::ready(open())
            })
            .await;
        }
    };
    tokio::join!(
        suite("default", Consistency::Default),
        suite("consistent", Consistency::Consistent),
        suite("stale", Consistency::Stale),
    );

    let datacenter = Some("nowhere".to_owned());
    let elsewhere = ConsulOptions { datacenter, endpoints, ..ConsulOptions::default() };
    let error = ConsulStore::open(elsewhere, "/service/demo/").expect("it has an address").read().await.unwrap_err();
    assert!(error.to_string().contains("datacenter"), "the name is sent along: {error}");
}
