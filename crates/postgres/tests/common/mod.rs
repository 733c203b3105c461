//! Real PostgreSQL instances in temporary directories.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use matriarch_core::Incarnation;
use matriarch_postgres::bootstrap::{InitdbOptions, initdb};
use matriarch_postgres::clone::{CloneOptions, CloneProgress, clone_from};
use matriarch_postgres::conf::{self, Settings, Upstream};
use matriarch_postgres::{
    Binaries, Credentials, Instance, Owner, Postmaster, Source, Sql, StartAs, binaries, hba, incarnation, process,
    roles,
};
use matriarch_testkit::ports::Port;

pub mod stream;

pub const LONG: Duration = Duration::from_secs(60);

/// Every PostgreSQL to test with: the default one and those in `MATRIARCH_POSTGRES_DIRS`, one per major.
pub fn majors() -> Vec<Binaries> {
    let mut found = BTreeMap::new();
    let dirs = std::env::var_os(binaries::DIRS_VARIABLE);
    for dir in dirs.iter().flat_map(std::env::split_paths) {
        let one = Binaries::at(&dir).unwrap();
        found.insert(one.version().major, one);
    }
    for major in binaries::SUPPORTED {
        if let Ok(one) = Binaries::find(None, Some(major)) {
            found.entry(major).or_insert(one);
        }
    }
    assert!(!found.is_empty(), "no PostgreSQL installed");
    found.into_values().collect()
}

/// A directory that the server's user can reach; nothing of PostgreSQL is left in it when dropped.
pub struct Lab {
    dir: tempfile::TempDir,
    binaries: Binaries,
}

impl Lab {
    pub fn new(binaries: &Binaries) -> Lab {
        let dir = tempfile::Builder::new().prefix("mpg-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Lab { dir, binaries: binaries.clone() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn node(&self, name: &str) -> Node {
        self.node_in(name, &self.dir.path().join(name).join("data"))
    }

    pub fn node_in(&self, name: &str, data_dir: &Path) -> Node {
        let user = |name: &str| Credentials { username: name.into(), password: format!("{name}'s: \\secret") };
        let base = self.dir.path().join(name);
        std::fs::create_dir_all(&base).unwrap();
        let port = Port::reserve();
        let instance = Instance {
            binaries: self.binaries.clone(),
            data_dir: data_dir.to_owned(),
            run_dir: base.join("run"),
            port: port.number(),
            listen_addresses: vec!["127.0.0.1".into()],
            owner: Owner::choose(None).unwrap(),
            passfile: None,
            name: name.parse().unwrap(),
            superuser: user("postgres"),
            replication: user("replicator"),
            rewind: user("rewinder"),
            pooler: Some(user("pooler")),
        };
        Node { instance, log: base.join("postgresql.log"), settings: Settings::default(), _port: port }
    }
}

pub struct Node {
    pub instance: Instance,
    pub log: PathBuf,
    pub settings: Settings,
    _port: Port,
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- log of {}:\n{log}", self.instance.name);
        }
        process::kill_tree(&self.instance.data_dir, LONG).unwrap();
    }
}

impl Node {
    pub fn data(&self, name: &str) -> PathBuf {
        self.instance.data_dir.join(name)
    }

    pub fn source(&self) -> Source {
        Source::new("127.0.0.1", self.instance.port)
    }

    pub fn incarnation(&self) -> Incarnation {
        incarnation::read(&self.instance).unwrap().unwrap()
    }

    pub fn application_name(&self) -> String {
        conf::application_name(&self.instance, Some(&self.incarnation()))
    }

    pub fn write_files(&mut self) {
        self.settings.incarnation = incarnation::read(&self.instance).unwrap();
        let mut effective = conf::effective(&self.instance, &self.settings).unwrap();
        // The tests' servers are small and need not survive a power cut.
        effective.insert("fsync".into(), "off".into());
        effective.insert("shared_buffers".into(), "16MB".into());
        conf::write(&self.instance, &effective).unwrap();
        hba::write(&self.instance, &hba::Rules::default()).unwrap();
    }

    pub async fn start(&mut self, start_as: StartAs) -> (Postmaster, Sql) {
        self.write_files();
        let postmaster = matriarch_postgres::start(&self.instance, start_as, &self.log).await.unwrap();
        let sql = tokio::time::timeout(LONG, postmaster.wait_ready(&self.instance)).await.unwrap().unwrap();
        (postmaster, sql)
    }

    pub async fn bootstrap_only(&self) {
        let options = InitdbOptions { extra: vec!["--no-sync".into()], ..InitdbOptions::default() };
        initdb(&self.instance, &options).await.unwrap();
    }

    /// initdb, start, roles.
    pub async fn bootstrap(&mut self) -> (Postmaster, Sql) {
        self.bootstrap_only().await;
        let (postmaster, sql) = self.start(StartAs::Primary).await;
        roles::create_roles(&sql, &self.instance).await.unwrap();
        (postmaster, sql)
    }

    pub fn follow(&mut self, leader: &Node) {
        let slot = Some(self.instance.name.slot());
        self.settings.upstream = Some(Upstream { source: leader.source(), slot });
    }

    /// Clones from the leader (creating the slot there) and streams.
    pub async fn join(&mut self, leader: &Node, leader_sql: &Sql) -> (Postmaster, Sql) {
        leader_sql.create_slot(&self.instance.name.slot()).await.unwrap();
        let (progress, watch) = tokio::sync::watch::channel(CloneProgress::default());
        let options = CloneOptions {
            slot: Some(self.instance.name.slot()),
            extra: vec!["--no-sync".into()],
            ..CloneOptions::default()
        };
        clone_from(&self.instance, &leader.source(), &options, &progress).await.unwrap();
        assert!(watch.borrow().total > 0, "no progress was reported");
        self.follow(leader);
        self.start(StartAs::Standby).await
    }
}

/// Waits until the standby has flushed and replayed everything the leader has flushed.
pub async fn caught_up(leader: &Sql, standby: &Sql) {
    let wanted = leader.probe(LONG).await.unwrap().position();
    until("the standby has caught up", async || {
        let probe = standby.probe(LONG).await.unwrap();
        probe.receiver.is_some() && probe.replay_lsn >= Some(wanted)
    })
    .await;
}

pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + LONG;
    while !condition().await {
        assert!(tokio::time::Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn value(sql: &Sql, query: &str) -> String {
    sql.query("answer a test", query, LONG).await.unwrap()[0][0].clone().unwrap_or_default()
}
