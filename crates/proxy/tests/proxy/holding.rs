//! New connections while there is nobody to send them to.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use matriarch_proxy::ProxyConfig;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::postgres;
use matriarch_testkit::server::Server;
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;

use crate::router::{Router, backend, becomes, value};
use crate::wire::{Fake, error, exactly, greeting, message, opening, quiet, refusal, rest, send, startup};

const KEY: [u8; 8] = [7; 8];
/// Where a server starts again, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_primary_is_only_a_pause_for_new_connections() {
    let dir = TestDir::new("proxy-gap");
    let mut primary = Server::create(postgres::any(), &dir, "primary", "").await.unwrap();
    let router = Router::start(ProxyConfig { hold_timeout: PATIENCE, ..ProxyConfig::default() }).await;
    router.primary(backend("a", primary.port()));
    primary.stop(Signal::INT);
    let port = router.rw.port();
    let waiting = tokio::spawn(async move { value(&crate::router::connect(port).await.unwrap(), "select 42").await });
    becomes(&router.stats.read_write.held, 1).await;
    primary.start().await.unwrap();
    assert_eq!(waiting.await.unwrap(), "42");
    assert_eq!(router.stats.read_write.held.load(Relaxed), 0);
    assert_eq!(router.stats.read_write.held_total.load(Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_keep_coming_during_restarts_see_no_error() {
    let dir = TestDir::new("proxy-storm");
    let mut primary = Server::create(postgres::any(), &dir, "primary", "").await.unwrap();
    let router = Router::start(ProxyConfig { hold_timeout: PATIENCE, ..ProxyConfig::default() }).await;
    router.primary(backend("a", primary.port()));
    let stop = tokio_util::sync::CancellationToken::new();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, port) = (stop.clone(), router.rw.port());
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.is_cancelled() {
                    drop(crate::router::connect(port).await.expect("a new connection failed"));
                    done += 1;
                }
                done
            })
        })
        .collect();
    for signal in [Signal::INT, Signal::QUIT, Signal::INT] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        primary = tokio::task::spawn_blocking(move || {
            primary.stop(signal);
            primary
        })
        .await
        .unwrap();
        primary.start().await.unwrap();
    }
    stop.cancel();
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_or_stops_is_asked_again() {
    let router = Router::start(ProxyConfig::default()).await;
    let fake = Fake::start(|n, mut stream| async move {
        if n == 0 {
            return;
        }
        opening(&mut stream).await;
        let answer = match n {
            1 => error("57P03", "the database system is starting up"),
            2 => [message(b'R', &[0; 4]), error("57P01", "terminating connection")].concat(),
            3 => vec![],
            _ => greeting(&KEY),
        };
        stream.write_all(&answer).await.unwrap();
        if n > 3 {
            std::future::pending::<()>().await;
        }
    })
    .await;
    router.primary(backend("a", fake.port()));
    let mut client = send(router.rw, &startup()).await;
    assert_eq!(exactly(&mut client, greeting(&KEY).len()).await, greeting(&KEY));
    assert_eq!(fake.count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_session_goes_to_the_next_replica_at_once() {
    let router = Router::start(ProxyConfig::default()).await;
    let (good, _cancels) = Fake::greeting(KEY.to_vec()).await;
    let starting = Fake::start(|_, mut stream| async move {
        opening(&mut stream).await;
        stream.write_all(&error("57P03", "starting up")).await.unwrap();
    })
    .await;
    router.route(|r| r.replicas = vec![backend("a", starting.port()), backend("b", good.port())]);
    let mut client = send(router.ro, &startup()).await;
    exactly(&mut client, greeting(&KEY).len()).await;
    assert_eq!(router.stats.read_only.held_total.load(Relaxed), 0);
    assert_eq!(starting.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_member_is_left_when_the_routes_change() {
    let router = Router::start(ProxyConfig::default()).await;
    let frozen = Fake::start(|_, stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let (good, _cancels) = Fake::greeting(KEY.to_vec()).await;
    router.primary(backend("a", frozen.port()));
    let mut client = send(router.rw, &startup()).await;
    while frozen.count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    router.primary(backend("b", good.port()));
    exactly(&mut client, greeting(&KEY).len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_are_held_and_all_of_them_served() {
    let router = Router::start(ProxyConfig { hold_timeout: PATIENCE, ..ProxyConfig::default() }).await;
    let (fake, _cancels) = Fake::greeting(KEY.to_vec()).await;
    let mut clients = Vec::new();
    for _ in 0..1000 {
        clients.push(send(router.rw, &startup()).await);
    }
    becomes(&router.stats.read_write.held, 1000).await;
    router.route(|r| r.hold = true);
    router.primary(backend("a", fake.port()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((fake.count(), router.stats.read_write.held.load(Relaxed)), (0, 1000), "held during a switchover");
    router.route(|r| r.hold = false);
    for client in &mut clients {
        exactly(client, greeting(&KEY).len()).await;
    }
    becomes(&router.stats.read_write.active, 1000).await;
    drop(clients);
    becomes(&router.stats.read_write.active, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holding_is_bounded_in_time_and_number() {
    let config = ProxyConfig { hold_timeout: Duration::from_secs(5), hold_limit: 2, ..ProxyConfig::default() };
    let router = Router::start(config).await;
    let (mut one, mut two) = (send(router.rw, &startup()).await, send(router.ro, &startup()).await);
    becomes(&router.stats.read_write.held, 1).await;
    becomes(&router.stats.read_only.held, 1).await;
    let text = refusal(&rest(&mut send(router.rw, &startup()).await).await, "53300");
    assert!(text.contains("wait for a primary (limit 2)"), "{text}");
    let text = refusal(&rest(&mut one).await, "57P03");
    assert!(text.contains("no primary took the connection within 5s"), "{text}");
    let text = refusal(&rest(&mut two).await, "57P03");
    assert!(text.contains("no replica took the connection"), "{text}");

    assert_eq!(router.stats.read_write.refused.load(Relaxed), 2);

    // The last obstacle is named.
    let config = ProxyConfig { hold_timeout: Duration::from_millis(500), ..ProxyConfig::default() };
    let router = Router::start(config).await;
    router.primary(backend("a", 1));
    let text = refusal(&rest(&mut send(router.rw, &startup()).await).await, "57P03");
    assert!(text.contains("last tried a at 127.0.0.1:1: Connection refused"), "{text}");
    let frozen = Fake::start(|_, stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    router.primary(backend("b", frozen.port()));
    let text = refusal(&rest(&mut send(router.rw, &startup()).await).await, "57P03");
    assert!(text.contains("it did not answer"), "{text}");
    assert_eq!(router.stats.read_write.refused.load(Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gives_up_is_forgotten() {
    let router = Router::start(ProxyConfig::default()).await;
    let client = send(router.rw, &startup()).await;
    becomes(&router.stats.read_write.held, 1).await;
    drop(client);
    becomes(&router.stats.read_write.held, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_only_port_falls_back_only_when_told() {
    let config = ProxyConfig { read_only_falls_back_to_primary: true, ..ProxyConfig::default() };
    let router = Router::start(config).await;
    let (fake, _cancels) = Fake::greeting(KEY.to_vec()).await;
    router.primary(backend("a", fake.port()));
    let mut client = send(router.ro, &startup()).await;
    exactly(&mut client, greeting(&KEY).len()).await;
    router.route(|r| r.replicas.push(backend("b", 1)));
    assert!(quiet(&client).await, "not cut");
    router.route(|r| r.generation += 1);
    refusal(&rest(&mut client).await, "57P01");
}
