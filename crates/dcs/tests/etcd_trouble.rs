//! The etcd engine while etcd is in trouble: what it says then, and that it goes on by itself afterwards.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use matriarch_dcs::etcd::{Endpoint, EtcdOptions, Password, Servers, User};
use matriarch_dcs::{Committed, EtcdStore, Revision, Store, StoreError, Txn};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::etcd::{self, EtcdCluster, Plan};
use matriarch_tls::TlsFiles;

/// How long anything that must come by itself may take, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn options(cluster: &EtcdCluster, tls: bool) -> EtcdOptions {
    let endpoint = |port| Endpoint { host: "127.0.0.1".to_owned(), port, tls };
    EtcdOptions::new(Servers::Listed(cluster.ports().into_iter().map(endpoint).collect()))
}

fn open(cluster: &EtcdCluster) -> Arc<EtcdStore> {
    Arc::new(EtcdStore::open(options(cluster, false), "/service/demo/").expect("nothing to be refused"))
}

/// Asks until the answer is good; gives it and how long it took.
async fn until<T, Fut>(what: &str, mut ask: impl FnMut() -> Fut) -> T
where
    Fut: Future<Output = Result<T, StoreError>>,
{
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => {
                if begun.elapsed() > Duration::from_millis(100) {
                    eprintln!("{what}: after {:.2} s", begun.elapsed().as_secs_f64());
                }
                return answer;
            }
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asks until it fails in the expected way.
async fn until_error<T, Fut>(
    what: &str,
    mut ask: impl FnMut() -> Fut,
    wanted: impl Fn(&StoreError) -> bool,
) -> StoreError
where
    Fut: Future<Output = Result<T, StoreError>>,
{
    let begun = Instant::now();
    let mut last = None;
    while begun.elapsed() < PATIENCE {
        match ask().await {
            Err(error) if wanted(&error) => return error,
            Err(error) => last = Some(error),
            Ok(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within {PATIENCE:?}; the last error was {last:?}");
}

async fn put(store: &EtcdStore, key: &str, value: &str) -> Revision {
    let put = || store.commit(Txn::new().put(key, value));
    until(&format!("put {key}"), put).await.applied().expect("nothing was compared")
}

async fn changed(news: &mut tokio::sync::watch::Receiver<Revision>, what: &str) {
    tokio::time::timeout(PATIENCE, news.changed())
        .await
        .unwrap_or_else(|_| panic!("no news: {what}"))
        .expect("the handle lives");
}

async fn heard(news: &mut tokio::sync::watch::Receiver<Revision>, revision: Revision) {
    let heard = tokio::time::timeout(PATIENCE, news.wait_for(|known| *known >= revision)).await.is_ok();
    assert!(heard, "no news of revision {revision}, only of {}", *news.borrow());
}

/// Adds one as often as it can; what was acknowledged, and what may have happened.
async fn count(store: Arc<EtcdStore>, mut stop: tokio::sync::watch::Receiver<bool>) -> (u64, u64) {
    let (mut sure, mut open) = (0, 0);
    while !*stop.borrow_and_update() {
        let Ok(seen) = store.read().await else { continue };
        let entry = seen.get("count").expect("it was put");
        let next = entry.value.parse::<u64>().expect("it is a number") + 1;
        match store.commit(Txn::new().revision("count", entry.revision).put("count", next.to_string())).await {
            Ok(Committed::Applied { .. }) => sure += 1,
            Ok(Committed::Refused { .. }) => {}
            Err(error) => open += u64::from(error.may_have_applied()),
        }
    }
    (sure, open)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_frozen_servers_lose_nothing_and_count_nothing_twice() {
    let dir = TestDir::new("etcd-trouble");
    let mut cluster = Plan::new(etcd::current()).nodes(3).start(&dir);
    let stores = [open(&cluster), open(&cluster), open(&cluster)];
    let lease = stores[0].grant(PATIENCE).await.unwrap();
    stores[0].commit(Txn::new().put("count", "0").put_leased("held", "x", lease)).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let counters: Vec<_> = stores.iter().map(|store| tokio::spawn(count(store.clone(), stopped.clone()))).collect();

    for round in 0..2 {
        let leader = cluster.leader();
        cluster.kill(leader);
        until(&format!("round {round}: a write after the leader's end"), || stores[1].commit(Txn::new().put("a", "1")))
            .await;
        until("the lease goes on", || stores[0].keep_alive(lease)).await;
        cluster.start(leader);
    }
    for node in 0..3 {
        cluster.freeze(node);
        for (n, store) in stores.iter().enumerate() {
            until(&format!("handle {n} reads while node {node} is frozen"), || store.read()).await;
        }
        let revision = put(&stores[0], "frozen", &node.to_string()).await;
        for store in &stores {
            heard(&mut store.watch(), revision).await;
        }
        until("the lease goes on", || stores[0].keep_alive(lease)).await;
        cluster.thaw(node);
    }
    stop.send(true).unwrap();
    let (mut sure, mut unsure) = (0, 0);
    for counter in counters {
        let (added, open) = counter.await.unwrap();
        sure += added;
        unsure += open;
    }
    let total: u64 = stores[0].read().await.unwrap().value("count").unwrap().parse().unwrap();
    eprintln!("{sure} acknowledged, {unsure} unknown, {total} counted");
    assert!((sure..=sure + unsure).contains(&total), "{sure} acknowledged, {unsure} unknown, {total} counted");
    assert_eq!(stores[1].read().await.unwrap().value("held"), Some("x"), "the lease was renewed throughout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_happens_and_that_is_certain() {
    let dir = TestDir::new("etcd-trouble");
    let mut cluster = Plan::new(etcd::current()).nodes(3).start(&dir);
    let store = open(&cluster);
    put(&store, "a", "1").await;
    cluster.kill(0);
    cluster.kill(1);
    // Once the one that is left has noticed, it refuses at once, so nothing is left in doubt.
    let sure =
        |error: &StoreError| matches!(error, StoreError::Unavailable { reason, .. } if reason.contains("no leader"));
    until_error("a refusal", || store.commit(Txn::new().put("a", "2")), sure).await;
    assert!(matches!(store.read().await, Err(StoreError::Unavailable { .. })));
    cluster.start_all();
    put(&store, "a", "3").await;
    assert_eq!(store.read().await.unwrap().value("a"), Some("3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_lost_is_told_once_and_followed_again() {
    let dir = TestDir::new("etcd-trouble");
    let mut cluster = Plan::new(etcd::current()).start(&dir);
    let (store, other) = (open(&cluster), open(&cluster));
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    store.commit(Txn::new().put_leased("held", "x", lease)).await.unwrap();
    let mut news = store.watch();
    heard(&mut news, put(&other, "a", "1").await).await;
    news.mark_unchanged();

    cluster.kill_all();
    changed(&mut news, "of the loss").await;
    for _ in 0..3 {
        let error = store.read().await.unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable { reason, .. } if reason.contains("refused")), "{error}");
        let error = store.commit(Txn::new().put("a", "2")).await.unwrap_err();
        assert!(!error.may_have_applied(), "nobody was there to apply it: {error}");
    }
    assert!(!news.has_changed().unwrap(), "the loss was told again");

    cluster.start_all();
    changed(&mut news, "of its return").await;
    assert_eq!(store.read().await.unwrap().value("a"), Some("1"));
    heard(&mut news, put(&other, "a", "3").await).await;
    store.keep_alive(lease).await.expect("leases outlive a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_hides_nothing_from_a_watch() {
    let dir = TestDir::new("etcd-trouble");
    let mut cluster = Plan::new(etcd::current()).start(&dir);
    let (store, other) = (open(&cluster), open(&cluster));
    let mut news = store.watch();
    for round in 0..3 {
        let mut revision = 0;
        for n in 0..10 {
            revision = put(&other, "a", &n.to_string()).await;
        }
        cluster.must(&["compact", &revision.to_string()]);
        heard(&mut news, put(&other, "b", "x").await).await;
        if round == 1 {
            // Whatever a watch had not delivered when it was cut is compacted before it comes back.
            cluster.kill_all();
            cluster.start_all();
            let revision = put(&other, "a", "cut").await;
            cluster.must(&["compact", &revision.to_string()]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_went_back_in_time_is_seen_by_its_revision() {
    let dir = TestDir::new("etcd-trouble");
    for nodes in [1, 3] {
        let mut cluster = Plan::new(etcd::current()).nodes(nodes).start(&dir);
        let store = open(&cluster);
        put(&store, "a", "old").await;
        let file = dir.join(format!("saved-{nodes}"));
        cluster.save(&file);
        for n in 0..20 {
            put(&store, "a", &n.to_string()).await;
        }
        let lease = store.grant(Duration::from_secs(600)).await.unwrap();
        let newest = put(&store, "b", "only later").await;
        let mut news = store.watch();
        heard(&mut news, newest).await;

        cluster.restore(Some(&file));
        let seen = until("a read of the old copy", || store.read()).await;
        assert_eq!((seen.value("a"), seen.value("b")), (Some("old"), None));
        assert!(seen.revision < newest, "{} is not below {newest}", seen.revision);
        assert!(*news.borrow_and_update() < newest, "watchers are told of the lower revision");
        let gone =
            until_error("a renewal", || store.keep_alive(lease), |error| matches!(error, StoreError::LeaseGone { .. }));
        gone.await;
        // What rests on the lost future is refused, and news goes on from here.
        let late = store.commit(Txn::new().revision("a", newest - 1).put("a", "late")).await.unwrap();
        assert_eq!(late, Committed::Refused { key: "a".to_owned() });
        let revision = put(&store, "a", "new").await;
        assert!(revision < newest);
        heard(&mut news, revision).await;

        // Wiped: the same, from nothing.
        let newest = put(&store, "a", "newer").await;
        cluster.restore(None);
        let seen = until("a read of nothing", || store.read()).await;
        assert!(seen.revision < newest && seen.entries.is_empty(), "{seen:?}");
        let made = store.commit(Txn::new().absent("a").put("a", "again")).await.unwrap();
        assert!(made.applied().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_says_so_and_goes_on_reading_and_renewing() {
    let dir = TestDir::new("etcd-trouble");
    let cluster = Plan::new(etcd::current()).argument("--quota-backend-bytes=16777216").start(&dir);
    let store = open(&cluster);
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    store.commit(Txn::new().put_leased("held", "x", lease)).await.unwrap();
    let big = "x".repeat(matriarch_dcs::store::MAX_VALUE_BYTES);
    let full = |error: &StoreError| matches!(error, StoreError::Full { .. });
    let said = until_error("fullness", || store.commit(Txn::new().put("big", big.clone())), full).await.to_string();
    assert!(said.contains("NOSPACE") && said.contains("alarm disarm"), "{said}");
    let refused = store.commit(Txn::new().put("small", "x")).await;
    assert!(refused.is_err_and(|error| full(&error) && error.is_transient() && !error.may_have_applied()));
    assert!(store.grant(Duration::from_secs(20)).await.is_err_and(|error| full(&error)));
    assert_eq!(store.read().await.unwrap().value("held"), Some("x"));
    store.keep_alive(lease).await.expect("renewing needs no space");
    store.commit(Txn::new().delete("big")).await.expect("deleting needs no space");

    let revision = store.read().await.unwrap().revision;
    cluster.must(&["compact", &revision.to_string()]);
    cluster.must(&["defrag"]);
    cluster.must(&["alarm", "disarm"]);
    put(&store, "small", "x").await;
}

fn secure(cluster: &EtcdCluster, user: Option<User>, certificate: &str) -> EtcdOptions {
    let authority = cluster.authority();
    let (cert, key) = (authority.cert(certificate), authority.key(certificate));
    let tls = TlsFiles { ca_file: Some(authority.ca()), cert_file: Some(cert), key_file: Some(key) };
    EtcdOptions { tls, user, ..options(cluster, true) }
}

fn with_password(cluster: &EtcdCluster, file: PathBuf) -> Arc<EtcdStore> {
    let user = User { name: "agents".to_owned(), password: Password::File(file) };
    let options = EtcdOptions { user: Some(user), ..options(cluster, false) };
    Arc::new(EtcdStore::open(options, "/service/demo/").expect("nothing to be refused"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_revoked_and_given_back() {
    let dir = TestDir::new("etcd-trouble");
    let mut installations = vec![etcd::current()];
    installations.extend(etcd::distribution());
    for installation in installations {
        let mut cluster = Plan::new(installation).start(&dir);
        for command in [
            &["user", "add", "root:secret"][..],
            &["user", "grant-role", "root", "root"],
            &["user", "add", "agents:first"],
            &["role", "add", "clusters"],
            &["role", "grant-permission", "clusters", "--prefix=true", "readwrite", "/service/"],
            &["user", "grant-role", "agents", "clusters"],
        ] {
            cluster.must(command);
        }
        let file = dir.join("password");
        std::fs::write(&file, "first\n").unwrap();
        let (store, nobody) = (with_password(&cluster, file.clone()), open(&cluster));
        // A user is configured before etcd asks for one: both ways round must work.
        put(&store, "a", "1").await;
        cluster.must(&["auth", "enable"]);
        let root = |command: &[&str]| cluster.must(&[&["--user=root:secret"], command].concat());
        let denied = |error: &StoreError| matches!(error, StoreError::Denied { .. });
        assert!(nobody.read().await.is_err_and(|error| denied(&error)), "nobody may read");
        let lease = until("a lease", || store.grant(Duration::from_secs(60))).await;
        until("a put", || store.commit(Txn::new().put_leased("b", "1", lease))).await;
        let mut news = store.watch();

        root(&["user", "revoke-role", "agents", "clusters"]);
        let error = until_error("denial", || store.commit(Txn::new().put("a", "2")), denied).await;
        assert!(error.to_string().contains("permission denied"), "{error}");
        assert!(!error.may_have_applied());
        root(&["user", "grant-role", "agents", "clusters"]);
        put(&store, "a", "3").await;

        root(&["user", "delete", "agents"]);
        until_error("denial of a deleted user", || store.commit(Txn::new().put("a", "4")), denied).await;
        root(&["user", "add", "agents:second"]);
        root(&["user", "grant-role", "agents", "clusters"]);
        until_error("denial of the old password", || store.read(), denied).await;
        std::fs::write(&file, "second\n").unwrap();
        let revision = put(&store, "a", "5").await;
        heard(&mut news, revision).await;
        until("renewing", || store.keep_alive(lease)).await;

        // Sessions die with the server that keeps them.
        cluster.kill_all();
        cluster.spawn(0);
        let revision = put(&store, "a", "6").await;
        heard(&mut news, revision).await;
        assert_eq!(store.read().await.unwrap().value("a"), Some("6"));
    }
}

/// As on a busy machine: the hash of the password takes longer than a question may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_login_outlives_the_calls_that_need_it() {
    let dir = TestDir::new("etcd-trouble");
    let cluster = Plan::new(etcd::current()).argument("--bcrypt-cost=15").start(&dir);
    for command in [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]] {
        cluster.must(command);
    }
    let user = User { name: "root".to_owned(), password: Password::Text("secret".to_owned()) };
    let hasty = Duration::from_millis(200);
    let options =
        EtcdOptions { user: Some(user), attempt_timeout: hasty, request_timeout: hasty, ..options(&cluster, false) };
    let store = Arc::new(EtcdStore::open(options, "/service/demo/").expect("nothing to be refused"));
    let early = store.read().await.unwrap_err();
    assert!(early.to_string().contains("logging in"), "{early}");
    assert!(!early.may_have_applied());
    let revision = put(&store, "a", "1").await;
    heard(&mut store.watch(), revision).await;
}

/// Calls that begin at any moment, some of which wait for the login and some for a connection when the server goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_during_a_login_holds_nobody_up() {
    let dir = TestDir::new("etcd-trouble");
    let mut cluster = Plan::new(etcd::current()).nodes(3).argument("--bcrypt-cost=14").start(&dir);
    for command in [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]] {
        cluster.must(command);
    }
    let user = User { name: "root".to_owned(), password: Password::Text("secret".to_owned()) };
    let hasty = Duration::from_millis(10);
    let options = EtcdOptions { user: Some(user), request_timeout: hasty, ..options(&cluster, false) };
    for node in 0..3 {
        let store = Arc::new(EtcdStore::open(options.clone(), "/service/demo/").expect("nothing to be refused"));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let ask = |store: Arc<EtcdStore>, stopped: tokio::sync::watch::Receiver<bool>| async move {
            while !*stopped.borrow() {
                let answer = tokio::time::timeout(PATIENCE, store.read()).await;
                drop(answer.expect("a call ends, whatever it says"));
                tokio::time::sleep(rand::random_range(0..50) * Duration::from_millis(1)).await;
            }
        };
        let all: Vec<_> = (0..64).map(|_| tokio::spawn(ask(Arc::clone(&store), stopped.clone()))).collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.kill(node);
        tokio::time::sleep(Duration::from_millis(2000)).await;
        stop.send(true).unwrap();
        for one in all {
            one.await.unwrap_or_else(|error| panic!("since node {node} died: {error}"));
        }
        until("reading", || store.read()).await;
        cluster.spawn(node);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_expire_and_are_renewed() {
    let dir = TestDir::new("etcd-trouble");
    let mut cluster = Plan::new(etcd::current()).tls().start(&dir);
    cluster.authority().issue_until("agent", SystemTime::now() - DAY);
    let open = |name| EtcdStore::open(secure(&cluster, None, name), "/service/demo/").unwrap();
    let store = open("agent");
    let error = store.read().await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    cluster.authority().issue("agent", DAY);
    put(&store, "a", "1").await;
    let mut news = store.watch();
    heard(&mut news, put(&open("client"), "a", "2").await).await;

    // etcd reads its own files again too; connections that are open go on until they are cut.
    cluster.authority().issue_until("server", SystemTime::now() - DAY);
    let late = open("client");
    let expired = |error: &StoreError| error.to_string().contains("expired");
    until_error("expiry of the server's", || late.read(), expired).await;
    assert_eq!(store.read().await.unwrap().value("a"), Some("2"), "an open connection goes on");
    cluster.authority().issue("server", DAY);
    until("the renewed one", || late.read()).await;
    put(&store, "a", "3").await;

    // Someone else's authority, no certificate, no TLS at all.
    let other = matriarch_testkit::certificates::Authority::new(&dir.create("other"));
    other.issue("stranger", DAY);
    let right = secure(&cluster, None, "client");
    let files = |ca: PathBuf, cert: PathBuf, key: PathBuf| TlsFiles {
        ca_file: Some(ca),
        cert_file: Some(cert),
        key_file: Some(key),
    };
    let (ca, strange) = (
        cluster.authority().ca(),
        files(other.ca(), cluster.authority().cert("client"), cluster.authority().key("client")),
    );
    for (wrong, what) in [
        (EtcdOptions { tls: strange, ..right.clone() }, "certificate"),
        (
            EtcdOptions { tls: files(ca.clone(), other.cert("stranger"), other.key("stranger")), ..right.clone() },
            "certificate",
        ),
        (EtcdOptions { tls: TlsFiles { ca_file: Some(ca), ..TlsFiles::default() }, ..right.clone() }, "certificate"),
        (options(&cluster, false), "want tls"),
    ] {
        let error = EtcdStore::open(wrong, "/service/demo/").unwrap().read().await.unwrap_err();
        eprintln!("{error}");
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(error.to_string().to_lowercase().contains(what), "{error}");
    }
    let missing = TlsFiles { ca_file: Some("/nowhere/ca.pem".into()), ..TlsFiles::default() };
    let error = EtcdStore::open(EtcdOptions { tls: missing, ..right }, "/service/demo/").err().unwrap();
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    cluster.stop(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_for_seconds_is_waited_for() {
    let dir = TestDir::new("etcd-trouble");
    let cluster = Plan::new(etcd::current()).start(&dir);
    let (store, other) = (open(&cluster), open(&cluster));
    let lease = store.grant(Duration::from_secs(120)).await.unwrap();
    store.commit(Txn::new().put_leased("held", "x", lease).put("a", "0")).await.unwrap();
    for round in 1..=3 {
        let value = round.to_string();
        cluster.freeze(0);
        let frozen = store.commit(Txn::new().put("a", value.clone())).await;
        let error = frozen.expect_err("nobody answers");
        assert!(matches!(error, StoreError::Unavailable { .. } | StoreError::Indeterminate { .. }), "{error}");
        let again = store.commit(Txn::new().put("a", value.clone())).await.expect_err("nobody answers");
        let read = store.read().await.expect_err("nobody answers");
        assert!(!read.may_have_applied());
        cluster.thaw(0);
        let seen = until("a read after the thaw", || store.read()).await;
        let (seen, before) = (seen.value("a").unwrap().to_owned(), (round - 1).to_string());
        assert!(seen == value || seen == before, "{seen}");
        if !error.may_have_applied() && !again.may_have_applied() {
            assert_eq!(seen, before, "said not to be applied");
        }
        let revision = put(&other, "a", &value).await;
        heard(&mut store.watch(), revision).await;
    }
    until("the lease goes on", || store.keep_alive(lease)).await;
}
