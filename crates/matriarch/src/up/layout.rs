//! The directory of a cluster: made once, read again at every later start.
//!
//! ```text
//! cluster.json   what it consists of, with the token for commands (0600)
//! secrets.json   passwords (0600)
//! pgpass         the same for psql (0600)
//! store.db       the store
//! archive/       the repository: WAL and backups
//! a/ b/ c/       one folder a member: agent.yaml, data/, data.run/ (socket), agent.log, postgresql.log
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use matriarch_archive::repository::{CreateBy, Location, Repository, Settings};
use matriarch_config::{Document, LocalConfig, to_yaml};
use matriarch_postgres::{Binaries, Owner, owner};
use rand::Rng;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::UpArgs;
use crate::cluster::{self, LocalCluster, LocalMember};
use crate::store::StoreAddress;

/// Where data goes that root's home is too private for.
const OPEN_PLACE: &str = "/var/lib/matriarch";
/// Where a search for free ports begins.
const FIRST_PORT: u16 = 5432;
/// How long the processes of an earlier run may take to leave its ports.
const LEAVING: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
struct Secrets {
    superuser: String,
    replication: String,
    rewind: String,
}

/// The directory in use: the named one, or [`cluster::DEFAULT_DIR`] below the current one.
///
/// PostgreSQL never runs as root, and whom it runs as cannot enter root's home. A checkout there is the first thing that
/// a newcomer on a fresh machine has, so the default is then a link to a place that is open.
pub fn choose_dir(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let dir = std::path::absolute(named.unwrap_or(Path::new(cluster::DEFAULT_DIR)))?;
    let Some(owner) = Owner::choose(None)? else { return Ok(dir) };
    // A link is followed: what counts is where the data lies.
    let place = dir.canonicalize().unwrap_or_else(|_| dir.clone());
    match owner::check_reachable(&place, &owner) {
        Ok(()) => Ok(place),
        Err(_) if named.is_none() && !dir.exists() => link_to_open_place(&dir),
        Err(error) => Err(error).context(format!("choose another place with --dir, {OPEN_PLACE}/demo for instance")),
    }
}

fn link_to_open_place(link: &Path) -> anyhow::Result<PathBuf> {
    if link.is_symlink() {
        bail!("{} is a link that leads nowhere; put back what it leads to, or remove it to start anew", link.display());
    }
    let place = Path::new(OPEN_PLACE).join(format!("up-{:08x}", rand::random::<u32>()));
    fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
    symlink(&place, link).with_context(|| format!("cannot make the link {}", link.display()))?;
    eprintln!("PostgreSQL cannot run as root, and its user cannot enter {}:", link.display());
    eprintln!("the data goes to {}, to which it is now a link", place.display());
    Ok(place)
}

/// Makes the directory or reads it, and locks it against a second `up`.
pub fn prepare(dir: &Path, args: &UpArgs, store: Option<&StoreAddress>) -> anyhow::Result<(LocalCluster, File)> {
    let binaries = Binaries::find(args.bin_dir.as_deref(), None)?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let lock = lock(dir)?;
    let cluster = if dir.join(cluster::FILE).exists() {
        let known = LocalCluster::read(dir)?;
        let patience = Instant::now() + LEAVING;
        for (what, port) in ports(&known) {
            until_free(port, patience).with_context(|| {
                format!(
                    "this cluster's {what} port is taken: free it, or move the cluster by editing {}",
                    dir.join(cluster::FILE).display()
                )
            })?;
        }
        LocalCluster { bin_dir: known_bin_dir(&known, &binaries, args), ..known }
    } else {
        check_archive(args)?;
        let store = store.map(StoreAddress::section).map(|(name, section)| json!({name: section}));
        LocalCluster { store, ..new_cluster(dir, args, &binaries)? }
    };
    write_files(&cluster, args)?;
    Ok((cluster, lock))
}

/// Data of one major version needs programs of the same.
fn known_bin_dir(known: &LocalCluster, found: &Binaries, args: &UpArgs) -> PathBuf {
    if args.bin_dir.is_none() && known.bin_dir.join("postgres").exists() {
        known.bin_dir.clone()
    } else {
        found.dir().to_owned()
    }
}

fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("up.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("a `matriarch up` already runs in {}; stop it first (Ctrl-C there), or use another --dir", dir.display());
    }
    Ok(file)
}

fn ports(cluster: &LocalCluster) -> Vec<(String, u16)> {
    let mut ports = vec![("read-write".to_owned(), cluster.read_write), ("read-only".to_owned(), cluster.read_only)];
    for member in &cluster.members {
        ports.push((format!("API ({})", member.name), member.api));
        // One that still runs is taken over by its new agent.
        if !is_running(&cluster.member_dir(&member.name).join("data")) {
            ports.push((format!("PostgreSQL ({})", member.name), member.postgres));
        }
    }
    ports
}

/// Whether a postmaster works in a data directory.
fn is_running(data: &Path) -> bool {
    let pid = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let cwd = fs::read_link(format!("/proc/{}/cwd", pid.lines().next().unwrap_or_default().trim()));
    cwd.is_ok_and(|cwd| fs::canonicalize(data).is_ok_and(|data| cwd == data))
}

/// Waits for the processes of an `up` that was killed: they notice, stop PostgreSQL and go. Nothing tells of a port that
/// becomes free, so it is tried.
fn until_free(port: u16, patience: Instant) -> anyhow::Result<()> {
    loop {
        match check_free(port) {
            Err(_) if Instant::now() < patience => std::thread::sleep(Duration::from_millis(50)),
            checked => return checked,
        }
    }
}

fn check_free(port: u16) -> anyhow::Result<()> {
    TcpListener::bind(("127.0.0.1", port)).map(|_| ()).with_context(|| {
        format!("port {port} on 127.0.0.1 is used by another program (find it with `ss -ltnp 'sport = :{port}'`)")
    })
}

fn new_cluster(dir: &Path, args: &UpArgs, binaries: &Binaries) -> anyhow::Result<LocalCluster> {
    let mut taken = Vec::new();
    let read_write = match args.port {
        Some(port) => {
            check_free(port).context("choose another --port")?;
            check_free(port.saturating_add(1))
                .context("the port after --port is the read-only one; choose another --port")?;
            port
        }
        None => pair_from(FIRST_PORT)?,
    };
    taken.extend([read_write, read_write + 1]);
    let mut members = Vec::new();
    for index in 0..args.members {
        let postgres = free_from(args.member_port, &taken)?;
        taken.push(postgres);
        let api = free_from(args.api_port, &taken)?;
        taken.push(api);
        members.push(LocalMember { name: char::from(b'a' + index).to_string(), postgres, api });
    }
    Ok(LocalCluster {
        scope: args.name.clone(),
        dir: dir.to_owned(),
        members,
        read_write,
        read_only: read_write + 1,
        superuser: "postgres".to_owned(),
        bin_dir: binaries.dir().to_owned(),
        token: random_text(),
        store: None,
        archive: !args.no_archive,
    })
}

/// Who archives by other means does not want ours.
fn check_archive(args: &UpArgs) -> anyhow::Result<()> {
    let own = args.parameters.iter().find(|text| {
        let name = text.split('=').next().unwrap_or_default();
        ["archive_mode", "archive_command", "archive_library"].iter().any(|one| name.eq_ignore_ascii_case(one))
    });
    match own {
        Some(text) if !args.no_archive => {
            bail!(
                "--set {text}: this cluster archives into a directory of its own; add --no-archive to archive by other means"
            )
        }
        _ => Ok(()),
    }
}

/// By itself an agent makes a repository for a database only while that is young, and one that was restored is not.
pub async fn begin_repository(cluster: &LocalCluster) -> anyhow::Result<()> {
    let settings = Settings { location: Location::Directory(cluster.repository()), patience: LEAVING };
    let begun = Repository::init(&settings, CreateBy::Condition).await;
    begun.map(drop).with_context(|| format!("{} cannot be used as a repository", cluster.repository().display()))
}

/// The cluster's repository is a directory that exists; whoever restores from it is PostgreSQL's user.
fn make_repository(cluster: &LocalCluster) -> anyhow::Result<()> {
    let place = cluster.repository();
    let make = || -> std::io::Result<()> {
        fs::create_dir_all(&place)?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700))
    };
    make().with_context(|| format!("cannot create {}", place.display()))?;
    if let Some(owner) = Owner::choose(None)? {
        std::os::unix::fs::chown(&place, Some(owner.uid), Some(owner.gid))
            .with_context(|| format!("cannot give {} to {}", place.display(), owner.name))?;
    }
    Ok(())
}

fn free_from(first: u16, taken: &[u16]) -> anyhow::Result<u16> {
    let is_free = |port: &u16| !taken.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..first.saturating_add(500)).find(is_free).with_context(|| format!("no free port from {first} up"))
}

fn pair_from(first: u16) -> anyhow::Result<u16> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (first..first + 500)
        .step_by(2)
        .find(|port| is_free(*port) && is_free(port + 1))
        .with_context(|| format!("no two free ports from {first} up; name one with --port"))
}

fn random_text() -> String {
    let mut rng = rand::rng();
    (0..32).map(|_| char::from(rng.sample(rand::distr::Alphanumeric))).collect()
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn write_files(cluster: &LocalCluster, args: &UpArgs) -> anyhow::Result<()> {
    let secrets = secrets(&cluster.dir)?;
    let mut stored = serde_json::to_value(cluster)?;
    // The directory may be moved; readers take it from where the file lies.
    stored["dir"] = json!(".");
    write_private(&cluster.dir.join(cluster::FILE), &serde_json::to_string_pretty(&stored)?)?;
    write_private(&cluster.passfile(), &format!("*:*:*:{}:{}\n", cluster.superuser, secrets.superuser))?;
    let parameters = parameters(args)?;
    let made_from = made_from(args)?;
    if cluster.archive {
        make_repository(cluster)?;
    }
    for member in &cluster.members {
        let folder = cluster.member_dir(&member.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut config = member_config(cluster, member, &secrets, &parameters, args);
        if let Some(MadeFrom { key, section, .. }) = &made_from {
            config["bootstrap"][*key] = section.clone();
        }
        let path = cluster.agent_config(&member.name);
        write_private(&path, &to_yaml(&config))?;
        if let (Some(MadeFrom { option, .. }), Err(error)) = (&made_from, LocalConfig::load(&path)) {
            bail!("{option}: {error}");
        }
    }
    Ok(())
}

/// What a new cluster is made from instead of nothing.
struct MadeFrom {
    /// The option and its file, for errors.
    option: String,
    /// Below `bootstrap`.
    key: &'static str,
    section: serde_json::Value,
}

/// The section of a file, or all of it.
fn made_from(args: &UpArgs) -> anyhow::Result<Option<MadeFrom>> {
    let (option, key, file) = match (&args.restore, &args.from_dump) {
        (Some(file), _) => ("--restore", "restore", file),
        (None, Some(file)) => ("--from-dump", "dump", file),
        (None, None) => return Ok(None),
    };
    let option = format!("{option} {}", file.display());
    let text = fs::read_to_string(file).with_context(|| option.clone())?;
    let value = Document::parse(&text).with_context(|| option.clone())?.value;
    let section = value.get(key).cloned().unwrap_or(value);
    Ok(Some(MadeFrom { option, key, section }))
}

/// The superuser's password.
pub fn superuser_password(dir: &Path) -> anyhow::Result<String> {
    Ok(secrets(dir)?.superuser)
}

fn secrets(dir: &Path) -> anyhow::Result<Secrets> {
    let path = dir.join("secrets.json");
    if path.exists() {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        return serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; it holds the passwords of this cluster's roles", path.display()));
    }
    let secrets = Secrets { superuser: random_text(), replication: random_text(), rewind: random_text() };
    write_private(&path, &serde_json::to_string_pretty(&secrets)?)?;
    Ok(secrets)
}

fn parameters(args: &UpArgs) -> anyhow::Result<BTreeMap<&str, &str>> {
    let pair = |text: &'_ String| {
        text.split_once('=')
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .with_context(|| format!("--set {text} is not NAME=VALUE"))
    };
    for text in &args.parameters {
        pair(text)?;
    }
    Ok(args.parameters.iter().filter_map(|text| text.split_once('=')).collect())
}

fn member_config(
    cluster: &LocalCluster,
    member: &LocalMember,
    secrets: &Secrets,
    parameters: &BTreeMap<&str, &str>,
    args: &UpArgs,
) -> serde_json::Value {
    let folder = cluster.member_dir(&member.name);
    let role = |name: &str, password: &str| json!({"username": name, "password": password});
    let mut initdb = vec![json!({"encoding": "UTF8"}), json!("data-checksums")];
    initdb.extend(args.locale.iter().map(|locale| json!({"locale": locale})));
    let mut dynamic = json!({"postgresql": {"parameters": parameters}});
    if cluster.archive {
        // Nobody looks after a trial: a backup a day lets go of WAL.
        dynamic["archive"] = json!({
            "repositories": [{"location": cluster.repository()}],
            "schedule": {"full": "@daily"},
            "retention": {"keep": 2},
        });
    }
    let mut config = json!({
        "scope": cluster.scope,
        "name": member.name,
        "log": {"postgresql": folder.join("postgresql.log")},
        "restapi": {"listen": format!("127.0.0.1:{}", member.api), "token": cluster.token},
        "bootstrap": {"dcs": dynamic, "initdb": initdb},
        "postgresql": {
            "listen": format!("127.0.0.1:{}", member.postgres),
            "data_dir": folder.join("data"),
            "bin_dir": cluster.bin_dir,
            "authentication": {
                "superuser": role(&cluster.superuser, &secrets.superuser),
                "replication": role("replicator", &secrets.replication),
                "rewind": role("rewinder", &secrets.rewind),
            },
        },
    });
    let file = || json!({"sqlite": {"path": cluster.store_file()}});
    let store = cluster.store.clone().unwrap_or_else(file);
    if let (Some(config), Some(store)) = (config.as_object_mut(), store.as_object()) {
        config.extend(store.clone());
    }
    config
}
