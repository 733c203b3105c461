//! etcd's servers found by SRV records: a name server of our own, real servers behind the names.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use matriarch_dcs::etcd::{EtcdOptions, Servers};
use matriarch_dcs::{EtcdStore, Store, StoreError, Txn};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::etcd::{self, Plan};
use matriarch_tls::TlsFiles;

/// How long anything that must come by itself may take, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
const SRV: u16 = 33;
/// A name that every machine knows.
const HOST: &str = "localhost";

/// Ports of [`HOST`] by the name of a record, in the order of their priority.
type Records = BTreeMap<String, Vec<u16>>;

/// A name server that knows nothing but SRV records.
struct Names {
    records: Arc<Mutex<Records>>,
    asked: Arc<Mutex<Vec<String>>>,
    resolv_conf: PathBuf,
}

impl Names {
    fn start(dir: &TestDir) -> Names {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        let resolv_conf = dir.join("resolv.conf");
        let server = socket.local_addr().expect("it is bound");
        std::fs::write(&resolv_conf, format!("# ours\nnameserver {server}\n")).expect("the folder is ours");
        let (records, asked) = <(Arc<Mutex<Records>>, Arc<Mutex<Vec<String>>>)>::default();
        let (known, heard) = (records.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            // Until the process ends.
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let (name, end) = asked_for(&buffer[..length]);
                let answer = answer(&buffer[..end], known.lock().expect("nobody panics with it").get(&name));
                heard.lock().expect("nobody panics with it").push(name);
                let _ = socket.send_to(&answer, client);
            }
        });
        Names { records, asked, resolv_conf }
    }

    fn set(&self, name: &str, ports: &[u16]) {
        self.records.lock().expect("nobody panics with it").insert(name.to_owned(), ports.to_vec());
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("nobody panics with it"))
    }

    fn open(&self, domain: &str, suffix: Option<&str>, tls: TlsFiles) -> EtcdStore {
        let servers = Servers::Srv { domain: domain.to_owned(), suffix: suffix.map(str::to_owned) };
        let options = EtcdOptions { resolv_conf: self.resolv_conf.clone(), tls, ..EtcdOptions::new(servers) };
        EtcdStore::open(options, "/service/demo/").expect("its files can be read")
    }
}

/// The name in a question, and where the question ends.
fn asked_for(question: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while question[at] > 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).into_owned());
        at = end;
    }
    (labels.join("."), at + 5)
}

/// RFC 1035 and 2782, written by hand: the question again, and a record for each port; or that there is no such name.
fn answer(question: &[u8], ports: Option<&Vec<u16>>) -> Vec<u8> {
    let ports = ports.map(Vec::as_slice).unwrap_or_default();
    let count = u16::try_from(ports.len()).expect("a few");
    let code = if ports.is_empty() { 3 } else { 0 };
    let mut out = [&question[..2], &[0x81, 0x80 | code, 0, 1]].concat();
    out.extend(count.to_be_bytes());
    out.extend([0; 4]);
    out.extend(&question[12..]);
    // The one of highest priority comes last: its place says nothing.
    for (priority, port) in (10..=u16::MAX).zip(ports).collect::<Vec<_>>().into_iter().rev() {
        let target = [&[u8::try_from(HOST.len()).expect("short")], HOST.as_bytes(), &[0]].concat();
        let data = [&u16::to_be_bytes(priority)[..], &[0, 5], &port.to_be_bytes(), &target].concat();
        out.extend([0xc0, 12]);
        out.extend([SRV.to_be_bytes(), [0, 1]].concat());
        out.extend(60_u32.to_be_bytes());
        out.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
        out.extend(data);
    }
    out
}

async fn put(store: &EtcdStore, value: &str) {
    let begun = Instant::now();
    while let Err(error) = store.commit(Txn::new().put("a", value)).await {
        assert!(begun.elapsed() < PATIENCE, "put {value}: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.read().await.expect("it was just there").value("a"), Some(value));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_found_by_their_records_and_looked_up_again_at_each_connect() {
    let dir = TestDir::new("etcd-srv");
    let mut cluster = Plan::new(etcd::current()).nodes(3).start(&dir);
    let names = Names::start(&dir);
    let (name, ports) = ("_etcd-client._tcp.example.test", cluster.ports());
    names.set(name, &ports[..1]);
    let store = names.open("example.test", None, TlsFiles::default());
    put(&store, "1").await;
    assert_eq!(names.asked()[..2], ["_etcd-client-ssl._tcp.example.test", name], "TLS is looked for first");
    let mut news = store.watch();

    // The only one that was named dies, and the domain names others from then on.
    names.set(name, &ports[1..]);
    cluster.kill(0);
    put(&store, "2").await;
    news.mark_unchanged();
    put(&names.open("example.test", None, TlsFiles::default()), "3").await;
    tokio::time::timeout(PATIENCE, news.changed()).await.expect("it is followed too").expect("the handle lives");
    assert!(names.asked().iter().any(|asked| asked == name), "it was looked up again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_servers_with_tls_win_and_a_suffix_tells_clusters_apart() {
    let dir = TestDir::new("etcd-srv");
    let cluster = Plan::new(etcd::current()).tls().start(&dir);
    let names = Names::start(&dir);
    // Nobody listens there.
    names.set("_etcd-client-blue._tcp.example.test", &[1]);
    names.set("_etcd-client-ssl._tcp.example.test", &[1]);
    names.set("_etcd-client-ssl-blue._tcp.example.test", &cluster.ports());
    let authority = cluster.authority();
    let tls = TlsFiles {
        ca_file: Some(authority.ca()),
        cert_file: Some(authority.cert("client")),
        key_file: Some(authority.key("client")),
    };
    put(&names.open("example.test", Some("blue"), tls), "1").await;

    for (domain, words) in [
        ("nowhere.test", "the domain nowhere.test has no SRV records _etcd-client-ssl._tcp or _etcd-client._tcp"),
        ("a..b", "is not a domain name"),
    ] {
        let error = names.open(domain, None, TlsFiles::default()).read().await.expect_err("nothing is there");
        assert!(matches!(&error, StoreError::Unavailable { reason, .. } if reason.contains(words)), "{error}");
    }
    std::fs::write(&names.resolv_conf, "search example.test\n").expect("the folder is ours");
    let error = names.open("example.test", None, TlsFiles::default()).read().await.expect_err("nobody is asked");
    assert!(error.to_string().contains("no name server is known"), "{error}");
}
