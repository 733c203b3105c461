//! What can happen to a Consul, and what a handle makes of it. Real servers.

use std::time::{Duration, Instant, SystemTime};

use matriarch_dcs::consul::{ConsulOptions, Endpoint, TlsFiles, Token};
use matriarch_dcs::store::LeaseId;
use matriarch_dcs::{Committed, ConsulStore, Revision, Snapshot, Store, StoreError, Txn};
use matriarch_testkit::certificates::Authority;
use matriarch_testkit::consul::{ConsulCluster, ConsulNode, ConsulSettings};
use matriarch_testkit::dir::TestDir;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;

const LIMIT: Duration = Duration::from_secs(60);

fn at(node: &ConsulNode) -> Endpoint {
    Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: node.port() }
}

fn open(nodes: &[&ConsulNode]) -> ConsulStore {
    let endpoints = nodes.iter().map(|node| at(node)).collect();
    ConsulStore::open(ConsulOptions { endpoints, ..ConsulOptions::default() }, "/service/demo/").expect("an address")
}

fn start(dir: &TestDir, count: usize) -> ConsulCluster {
    let settings = ConsulSettings { session_ttl_min: Some("500ms".to_owned()), ..ConsulSettings::default() };
    ConsulCluster::start(dir, count, &settings).expect("the servers start")
}

async fn put(store: &ConsulStore, key: &str, value: &str) -> Revision {
    store.commit(Txn::new().put(key, value)).await.expect("a put").applied().expect("it compares nothing")
}

/// Reads until it works.
async fn read_again(store: &ConsulStore) -> Snapshot {
    let deadline = Instant::now() + LIMIT;
    loop {
        match store.read().await {
            Ok(snapshot) => return snapshot,
            Err(error) => assert!(Instant::now() < deadline, "still {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn woken(news: &mut Receiver<Revision>, what: &str) {
    let changed = tokio::time::timeout(LIMIT, news.changed()).await;
    assert!(changed.is_ok(), "not woken: {what}");
}

fn session_of(node: &ConsulNode) -> String {
    let (_, body) = node.http("GET", "/v1/session/list", "").expect("the server answers");
    let sessions: Value = serde_json::from_str(&body).expect("a list");
    sessions[0]["ID"].as_str().expect("there is a session").to_owned()
}

/// Adds one to a number until `count` additions are known to be done; gives how many may have happened.
async fn increments(store: &ConsulStore, count: u64) -> (u64, u64) {
    let (mut sure, mut unsure) = (0, 0);
    while sure < count {
        let seen = read_again(store).await;
        let entry = seen.get("count").expect("the counter is there");
        let next = entry.value.parse::<u64>().expect("a number") + 1;
        match store.commit(Txn::new().revision("count", entry.revision).put("count", next.to_string())).await {
            Ok(Committed::Applied { .. }) => sure += 1,
            Ok(Committed::Refused { .. }) => {}
            Err(error) if error.may_have_applied() => unsure += 1,
            Err(_) => {}
        }
    }
    (sure, unsure)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_of_three_is_killed_and_nothing_acknowledged_is_lost() {
    let dir = TestDir::new("consul");
    let mut cluster = start(&dir, 3);
    let leader = cluster.leader();
    // The leader is the first address, so both the address and the leader go.
    let others: Vec<&ConsulNode> = (1..3).map(|n| &cluster.nodes[(leader + n) % 3]).collect();
    let store = std::sync::Arc::new(open(&[&cluster.nodes[leader], others[0], others[1]]));
    put(&store, "count", "0").await;
    let lease = store.grant(Duration::from_secs(120)).await.expect("a lease");
    store.commit(Txn::new().put_leased("leader", "a", lease)).await.expect("a put");
    let adding = tokio::spawn({
        let store = store.clone();
        async move { increments(&store, 200).await }
    });
    while read_again(&store).await.value("count") == Some("0") {}
    cluster.nodes[leader].kill();
    let (sure, unsure) = adding.await.expect("it did not panic");
    let found = read_again(&store).await.value("count").expect("it is there").parse::<u64>().expect("a number");
    assert!((sure..=sure + unsure).contains(&found), "{sure} sure, {unsure} unsure, {found} found");
    // The lease has lived through it.
    store.keep_alive(lease).await.expect("a lease outlives Consul's leader");
    assert_eq!(read_again(&store).await.value("leader"), Some("a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_address_is_left_for_the_next() {
    let dir = TestDir::new("consul");
    let cluster = start(&dir, 3);
    let leader = cluster.leader();
    let (frozen, other) = (&cluster.nodes[(leader + 1) % 3], &cluster.nodes[(leader + 2) % 3]);
    let stores = [open(&[frozen, other]), open(&[frozen, other]), open(&[frozen, other])];
    for store in &stores {
        put(store, "a", "1").await;
    }
    frozen.freeze();
    // A read in time for a caller that waits three seconds (one late time may be the machine's), and a write then goes to
    // the same place.
    let mut took = Vec::new();
    for store in &stores {
        let since = Instant::now();
        assert_eq!(store.read().await.expect("the other address answers").value("a"), Some("1"));
        took.push(since.elapsed());
    }
    took.sort();
    assert!(took[1] < Duration::from_secs(3), "{took:?}");
    let store = &stores[0];
    put(store, "a", "2").await;
    // The watch moves over too.
    let mut news = store.watch();
    let revision = put(&open(&[other]), "a", "3").await;
    let heard = tokio::time::timeout(LIMIT, news.wait_for(|known| *known >= revision)).await;
    assert!(heard.is_ok(), "no news after {LIMIT:?}");
    frozen.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_is_told_to_the_watch_and_forgets_nothing() {
    let dir = TestDir::new("consul");
    let mut cluster = start(&dir, 1);
    let store = open(&[&cluster.nodes[0]]);
    let lease = store.grant(Duration::from_secs(120)).await.expect("a lease");
    store.commit(Txn::new().put_leased("leader", "a", lease).put("config", "{}")).await.expect("a put");
    let before = store.read().await.expect("a read");
    let mut news = store.watch();
    cluster.nodes[0].kill();
    woken(&mut news, "the store is lost").await;
    let refused = store.commit(Txn::new().put("config", "x")).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "nobody listens, so nothing was sent: {refused:?}");
    assert!(matches!(store.read().await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(store.grant(Duration::from_secs(1)).await, Err(StoreError::Unavailable { .. })));
    cluster.nodes[0].start().expect("it starts again");
    cluster.wait_ready().expect("it gets ready");
    assert_eq!(read_again(&store).await, before);
    store.keep_alive(lease).await.expect("the lease is still there");
    let revision = put(&open(&[&cluster.nodes[0]]), "config", "y").await;
    let heard = tokio::time::timeout(LIMIT, news.wait_for(|known| *known >= revision)).await;
    assert!(heard.is_ok(), "the watch does not follow any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_snapshot_is_seen_at_its_lower_revision() {
    let dir = TestDir::new("consul");
    let cluster = start(&dir, 1);
    let node = &cluster.nodes[0];
    let store = open(&[node]);
    let old = put(&store, "sync", "old").await;
    put(&store, "gone", "not yet").await;
    let file = dir.create("copies").join("old.snap");
    let file = file.to_str().expect("a path of letters");
    node.consul(&["snapshot", "save", file]).expect("a snapshot");
    let new = put(&store, "sync", "new").await;
    store.commit(Txn::new().delete("gone").put("late", "x")).await.expect("a commit");
    let before = store.read().await.expect("a read");
    let mut news = store.watch();
    news.wait_for(|known| *known >= before.revision).await.expect("the handle lives");
    node.consul(&["snapshot", "restore", file]).expect("it is restored");
    woken(&mut news, "the store went back").await;
    let after = read_again(&store).await;
    assert_eq!((after.value("sync"), after.value("gone"), after.get("late")), (Some("old"), Some("not yet"), None));
    assert!(after.revision < before.revision, "{} after {}", after.revision, before.revision);
    assert_eq!(after.get("sync").map(|entry| entry.revision), Some(old));
    // What was compared with the lost history does not hold.
    let said = store.commit(Txn::new().revision("sync", new).put("sync", "x")).await.expect("an answer");
    assert_eq!(said, Committed::Refused { key: "sync".to_owned() });
    // And life goes on.
    let next = put(&store, "sync", "again").await;
    assert!(store.read().await.expect("a read").revision >= next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_store_is_seen_as_empty_at_a_lower_revision() {
    let dir = TestDir::new("consul");
    let mut cluster = start(&dir, 1);
    let store = open(&[&cluster.nodes[0]]);
    for n in 0..200 {
        put(&store, "sync", &n.to_string()).await;
    }
    let lease = store.grant(Duration::from_secs(120)).await.expect("a lease");
    let before = store.read().await.expect("a read");
    cluster.nodes[0].kill();
    cluster.nodes[0].wipe().expect("its data can be removed");
    cluster.nodes[0].start().expect("it starts anew");
    cluster.wait_ready().expect("it gets ready");
    let after = read_again(&store).await;
    assert_eq!(after.entries.len(), 0);
    assert!(after.revision < before.revision, "{} after {}", after.revision, before.revision);
    let said = store.keep_alive(lease).await;
    assert!(matches!(said, Err(StoreError::LeaseGone { .. })), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_destroyed_by_hand_ends_the_lease_at_once() {
    let dir = TestDir::new("consul");
    let cluster = start(&dir, 1);
    let (holder, other) = (open(&[&cluster.nodes[0]]), open(&[&cluster.nodes[0]]));
    let lease = holder.grant(Duration::from_secs(600)).await.expect("a lease");
    let put = holder.commit(Txn::new().put_leased("leader", "a", lease)).await.expect("a put");
    let mut news = other.watch();
    let revision = put.applied().expect("it compares nothing");
    news.wait_for(|known| *known >= revision).await.expect("the handle lives");
    let session = session_of(&cluster.nodes[0]);
    cluster.nodes[0].http("PUT", &format!("/v1/session/destroy/{session}"), "").expect("it is destroyed");
    woken(&mut news, "the key is gone").await;
    assert_eq!(other.read().await.expect("a read").get("leader"), None);
    let said = holder.keep_alive(lease).await;
    assert!(matches!(said, Err(StoreError::LeaseGone { .. })), "{said:?}");
    // No lock-delay keeps the next one from it.
    let next = other.grant(Duration::from_secs(600)).await.expect("a lease");
    let taken = other.commit(Txn::new().absent("leader").put_leased("leader", "b", next)).await.expect("an answer");
    assert!(taken.applied().is_some(), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_needs_no_end_of_the_old_session() {
    let dir = TestDir::new("consul");
    let cluster = start(&dir, 1);
    let (old, new) = (open(&[&cluster.nodes[0]]), open(&[&cluster.nodes[0]]));
    let (theirs, ours) = (lease(&old).await, lease(&new).await);
    let put = old.commit(Txn::new().absent("leader").put_leased("leader", "a", theirs)).await.expect("a put");
    let epoch = put.applied().expect("it was absent");
    let txn = Txn::new().revision("leader", epoch).put_leased("leader", "b", ours).put("sync", "2");
    let taken = new.commit(txn.clone()).await.expect("an answer").applied().expect("the epoch was right");
    let again = new.commit(txn).await.expect("an answer");
    assert_eq!(again, Committed::Refused { key: "leader".to_owned() }, "the epoch has changed");
    // The old leader still has its session, and its end takes nothing along.
    old.keep_alive(theirs).await.expect("the old session lives");
    old.revoke(theirs).await.expect("it can be given up");
    let seen = new.read().await.expect("a read");
    let entry = seen.get("leader").expect("it is there");
    assert_eq!((entry.value.as_str(), entry.lease, entry.revision), ("b", Some(ours), taken));
}

async fn lease(store: &ConsulStore) -> LeaseId {
    store.grant(Duration::from_secs(600)).await.expect("a lease")
}

/// A tool of somebody else may leave a lock-delay behind. It is no indeterminate failure, and it passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_lock_delay_is_an_error_that_passes() {
    let dir = TestDir::new("consul");
    let cluster = start(&dir, 1);
    let node = &cluster.nodes[0];
    let body = json!({ "TTL": "600s", "LockDelay": "3s", "Behavior": "delete" }).to_string();
    let (_, made) = node.http("PUT", "/v1/session/create", &body).expect("a session");
    let made: Value = serde_json::from_str(&made).expect("an object");
    let session = made["ID"].as_str().expect("an id");
    node.http("PUT", &format!("/v1/kv/service/demo/leader?acquire={session}"), "x").expect("a lock");
    node.http("PUT", &format!("/v1/session/destroy/{session}"), "").expect("it is destroyed");
    let store = open(&[node]);
    let ours = lease(&store).await;
    let said = store.commit(Txn::new().absent("leader").put_leased("leader", "a", ours)).await;
    assert!(matches!(&said, Err(StoreError::Unavailable { reason, .. }) if reason.contains("lock delay")), "{said:?}");
    let deadline = Instant::now() + LIMIT;
    while store.commit(Txn::new().absent("leader").put_leased("leader", "a", ours)).await.is_err() {
        assert!(Instant::now() < deadline, "the lock-delay does not pass");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a member needs: its prefix, and sessions.
const POLICY: &str = r#"key_prefix "service/demo/" { policy = "write" } session_prefix "" { policy = "write" }"#;
const SECRET: &str = "5d0e9b1a-7f8e-4b59-9f3e-2f6f5d3c8a11";

fn give_token(node: &ConsulNode) {
    node.consul(&["acl", "token", "create", "-secret", SECRET, "-policy-name", "member"]).expect("a token is made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_revoked_is_an_error_never_an_empty_store_and_works_again_when_given_back() {
    let dir = TestDir::new("consul");
    let settings = ConsulSettings {
        initial_token: Some("b1gs33cr-3t00-4000-8000-000000000000".to_owned()),
        ..ConsulSettings::default()
    };
    let cluster = ConsulCluster::start(&dir, 1, &settings).expect("a server starts");
    let node = &cluster.nodes[0];
    node.consul(&["acl", "policy", "create", "-name", "member", "-rules", POLICY]).expect("a policy is made");
    give_token(node);
    let file = dir.join("token");
    std::fs::write(&file, format!("{SECRET}\n")).expect("the folder is ours");
    let with = |token: Option<Token>| {
        let options = ConsulOptions { token, ..ConsulOptions::at(at(node)) };
        ConsulStore::open(options, "/service/demo/").expect("an address")
    };
    let store = with(Some(Token::Text(SECRET.to_owned())));
    put(&store, "config", "{}").await;
    let from_file = with(Some(Token::File(file.clone())));
    assert_eq!(from_file.read().await.expect("the file holds the token").value("config"), Some("{}"));
    std::fs::remove_file(&file).expect("it is there");
    let error = from_file.read().await.expect_err("the file is read for each request");
    assert!(error.to_string().contains("token"), "the file is to be named: {error}");
    let ours = lease(&store).await;
    store.commit(Txn::new().put_leased("leader", "a", ours)).await.expect("it may");
    let denied = |error: StoreError| {
        assert!(!error.may_have_applied(), "{error}");
        assert!(error.to_string().contains("token"), "the remedy is missing: {error}");
    };
    // Nobody in particular: Consul hides every key, and says so only if one asks for a single one.
    let nobody = with(None);
    denied(nobody.read().await.expect_err("a listing without a token"));
    denied(nobody.commit(Txn::new().put("config", "x")).await.expect_err("a write without a token"));

    let token = token_id(node);
    node.consul(&["acl", "token", "delete", "-id", &token]).expect("it is deleted");
    denied(until_err(|| store.read()).await);
    denied(store.commit(Txn::new().put("config", "x")).await.expect_err("a write with a dead token"));
    denied(store.keep_alive(ours).await.expect_err("a renewal with a dead token"));
    give_token(node);
    let seen = read_again(&store).await;
    assert_eq!(seen.value("config"), Some("{}"));
    store.keep_alive(ours).await.expect("the lease lived on");

    // Without its rights the token is still one, and Consul answers with an empty list.
    let rules = r#"session_prefix "" { policy = "write" }"#;
    node.consul(&["acl", "policy", "update", "-name", "member", "-rules", rules]).expect("the rules are changed");
    denied(until_err(|| store.read()).await);
    denied(store.commit(Txn::new().absent("initialize").put("initialize", "")).await.expect_err("a write"));
    node.consul(&["acl", "policy", "update", "-name", "member", "-rules", POLICY]).expect("the rules are changed");
    assert_eq!(read_again(&store).await.value("config"), Some("{}"));
}

fn token_id(node: &ConsulNode) -> String {
    let list = node.consul(&["acl", "token", "list", "-format=json"]).expect("the tokens are listed");
    let tokens: Value = serde_json::from_str(&list).expect("a list");
    let ours = tokens.as_array().expect("a list").iter().find(|token| token["SecretID"] == SECRET);
    ours.expect("it is there")["AccessorID"].as_str().expect("an id").to_owned()
}

/// Consul caches what tokens may do for a moment.
async fn until_err<T, F: Future<Output = Result<T, StoreError>>>(mut call: impl FnMut() -> F) -> StoreError {
    let deadline = Instant::now() + LIMIT;
    loop {
        match call().await {
            Err(error) => return error,
            Ok(_) => assert!(Instant::now() < deadline, "it goes on working"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_is_a_certain_refusal() {
    let dir = TestDir::new("consul");
    let limits =
        json!({ "limits": { "request_limits": { "mode": "enforcing", "write_rate": 5.0, "read_rate": 1000.0 } } });
    let settings = ConsulSettings { more: Some(limits), ..ConsulSettings::default() };
    let cluster = ConsulCluster::start(&dir, 1, &settings).expect("a server starts");
    let store = open(&[&cluster.nodes[0]]);
    let (mut applied, mut refused) = (0, 0);
    for n in 0..200 {
        match store.commit(Txn::new().put(format!("many/{n}"), "")).await {
            Ok(_) => applied += 1,
            Err(StoreError::Unavailable { reason, .. }) => {
                assert!(reason.contains("rate limit"), "{reason}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0, "the limit was never reached");
    let seen = read_again(&store).await;
    assert_eq!(seen.entries.len(), applied, "of {refused} refused writes some were applied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_for_one_transaction_is_refused_with_its_reason() {
    let dir = TestDir::new("consul");
    let cluster = start(&dir, 1);
    let store = open(&[&cluster.nodes[0]]);
    let many = (0..40).fold(Txn::new(), |txn, n| txn.put(format!("many/{n}"), ""));
    let said = store.commit(many).await;
    assert!(matches!(&said, Err(StoreError::Invalid { why, .. }) if why.contains("64")), "{said:?}");
    // Each value is allowed, both together are more than Consul takes in one request.
    let value = "x".repeat(matriarch_dcs::store::MAX_VALUE_BYTES);
    put(&store, "big", &value).await;
    let said = store.commit(Txn::new().put("big/a", &value).put("big/b", &value)).await;
    assert!(matches!(&said, Err(error) if !error.may_have_applied()), "{said:?}");
    assert_eq!(store.read().await.expect("a read").entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_without_enterprise_is_told_in_consuls_words() {
    let dir = TestDir::new("consul");
    let cluster = start(&dir, 1);
    let options = ConsulOptions { namespace: Some("team".to_owned()), ..ConsulOptions::at(at(&cluster.nodes[0])) };
    let store = ConsulStore::open(options, "/service/demo/").expect("an address");
    let said = store.read().await.expect_err("this is no Consul Enterprise");
    assert!(said.to_string().contains("Enterprise"), "{said}");
    let options =
        ConsulOptions { datacenter: Some("elsewhere".to_owned()), ..ConsulOptions::at(at(&cluster.nodes[0])) };
    let store = ConsulStore::open(options, "/service/demo/").expect("an address");
    let said = store.read().await.expect_err("there is no such datacenter");
    assert!(said.to_string().contains("datacenter"), "{said}");
}

/// Servers that speak TLS only with those who show a certificate of their authority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_expire_and_renewed_ones_count_at_once() {
    let dir = TestDir::new("consul");
    let folder = dir.create("certificates");
    let authority = Authority::new(&folder);
    authority.issue("server", DAY);
    authority.issue("client", DAY);
    let tls = json!({
        "ports": { "https": true },
        "tls": { "https": {
            "ca_file": authority.ca(), "cert_file": authority.cert("server"), "key_file": authority.key("server"),
            "verify_incoming": true,
        } },
    });
    let settings = ConsulSettings { more: Some(tls), ..ConsulSettings::default() };
    let cluster = ConsulCluster::start(&dir, 1, &settings).expect("a server starts");
    let node = &cluster.nodes[0];
    let with = |tls: TlsFiles| {
        let endpoint = Endpoint::Tcp { host: "localhost".to_owned(), port: node.https_port() };
        ConsulStore::open(ConsulOptions { tls: Some(tls), ..ConsulOptions::at(endpoint) }, "/service/demo/")
    };
    let files = TlsFiles {
        ca_file: Some(authority.ca()),
        cert_file: Some(authority.cert("client")),
        key_file: Some(authority.key("client")),
    };
    let store = with(files.clone()).expect("the files are there");
    put(&store, "a", "1").await;

    // Somebody without a certificate, and somebody who trusts another authority.
    let nobody = with(TlsFiles { cert_file: None, key_file: None, ..files.clone() }).expect("an authority is enough");
    nobody.read().await.expect_err("the server wants a certificate");
    let stranger = Authority::new(&dir.create("stranger"));
    let suspicious = with(TlsFiles { ca_file: Some(stranger.ca()), ..files.clone() }).expect("the files are there");
    let said = suspicious.commit(Txn::new().put("a", "x")).await;
    assert!(matches!(&said, Err(StoreError::Unavailable { .. })), "nothing was sent: {said:?}");
    let missing = with(TlsFiles { ca_file: Some(folder.join("none.pem")), ..files.clone() }).err();
    assert!(missing.is_some_and(|error| error.to_string().contains("none.pem")), "the file is to be named");

    // Ours has expired: new connections are refused, and work again once it is renewed, without a restart.
    authority.issue_until("client", SystemTime::now() - Duration::from_secs(60));
    let expired = with(files.clone()).expect("the files are there");
    let error = expired.read().await.expect_err("the certificate has expired");
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    authority.issue("client", DAY);
    assert_eq!(read_again(&expired).await.value("a"), Some("1"));

    // The server's has expired.
    authority.issue_until("server", SystemTime::now() - Duration::from_secs(60));
    node.consul(&["reload"]).expect("it reloads");
    let error = until_err(async || with(files.clone()).expect("the files are there").read().await).await;
    assert!(error.to_string().to_lowercase().contains("expired"), "{error}");
    authority.issue("server", DAY);
    node.consul(&["reload"]).expect("it reloads");
    assert_eq!(read_again(&expired).await.value("a"), Some("1"));
}

const DAY: Duration = Duration::from_secs(86_400);
