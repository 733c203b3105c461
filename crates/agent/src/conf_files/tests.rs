//! With a real PostgreSQL: what is refused is left out, at a start and while it runs.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use matriarch_postgres::bootstrap::{InitdbOptions, initdb};
use matriarch_postgres::postmaster::{Postmaster, StartError};
use matriarch_postgres::{Binaries, Credentials, Owner, StartAs, postmaster, process};
use matriarch_testkit::ports::Port;

use super::*;

const LONG: Duration = Duration::from_secs(60);

struct Lab {
    dir: tempfile::TempDir,
    instance: Arc<Instance>,
    _port: Port,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log:\n{}", std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
        }
        process::kill_tree(&self.instance.data_dir, LONG).unwrap();
    }
}

impl Lab {
    async fn new() -> Lab {
        let dir = tempfile::Builder::new().prefix("mag-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let port = Port::reserve();
        let user = |name: &str| Credentials { username: name.into(), password: "secret".into() };
        let instance = Arc::new(Instance {
            binaries: Binaries::find(None, None).unwrap(),
            data_dir: dir.path().join("data"),
            run_dir: dir.path().join("run"),
            port: port.number(),
            listen_addresses: vec!["127.0.0.1".into()],
            owner: Owner::choose(None).unwrap(),
            passfile: None,
            name: "a".parse().unwrap(),
            superuser: user("postgres"),
            replication: user("replicator"),
            rewind: user("rewinder"),
            pooler: None,
        });
        initdb(&instance, &InitdbOptions { extra: vec!["--no-sync".into()], ..InitdbOptions::default() })
            .await
            .unwrap();
        Lab { dir, instance, _port: port }
    }

    async fn start(&self) -> Result<(Postmaster, Sql), StartError> {
        let started = postmaster::start(&self.instance, StartAs::Primary, &self.dir.path().join("log")).await?;
        let sql = tokio::time::timeout(LONG, started.wait_ready(&self.instance)).await.unwrap()?;
        Ok((started, sql))
    }
}

fn settings(parameters: &[(&str, &str)]) -> Settings {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Settings { parameters, ..Settings::default() }
}

fn rules(line: &str) -> Rules {
    Rules { lines: vec![line.to_owned()], ..Rules::default() }
}

async fn show(sql: &Sql, name: &str) -> String {
    sql.settings(&[name]).await.unwrap().remove(name).unwrap()
}

#[tokio::test]
async fn a_start_does_without_what_is_wrong() {
    let lab = Lab::new().await;
    let files = ConfFiles::new(lab.instance.clone());
    let (wanted, bad) =
        (settings(&[("work_mem", "12 cows"), ("shared_buffers", "16MB")]), rules("host all all nowhere"));
    files.write_for_start(&wanted, &bad, false).await.unwrap();
    let mut mended = 0;
    let (_postmaster, sql) = loop {
        match lab.start().await {
            Ok(started) => break started,
            Err(StartError::Exited { log, .. }) if mended < 3 => {
                mended += 1;
                assert!(files.mend(&log, &wanted, &bad, false).await.unwrap(), "nothing to mend in: {log}");
            }
            Err(error) => panic!("{error}"),
        }
    };
    files.started(&wanted).await;
    assert_eq!(mended, 2);
    assert_eq!((show(&sql, "work_mem").await.as_str(), show(&sql, "shared_buffers").await.as_str()), ("4MB", "16MB"));
    let problem = files.problem().unwrap();
    assert!(problem.contains("work_mem") && problem.contains("matriarch_hba.conf.refused"), "{problem}");

    // Asked for again, they are not even tried.
    files.load(&wanted, &bad, None, &sql).await.unwrap();
    assert!(files.problem().unwrap().contains("work_mem"));
    files.write_for_start(&wanted, &bad, false).await.unwrap();
    assert_eq!(sql.hba_errors().await.unwrap(), []);

    let (wanted, good) = (settings(&[("work_mem", "12MB")]), rules("host all all all scram-sha-256"));
    files.load(&wanted, &good, None, &sql).await.unwrap();
    assert_eq!(files.problem(), None);
    wait_for(&sql, "work_mem", "12MB").await;
}

async fn wait_for(sql: &Sql, name: &str, value: &str) {
    let end = tokio::time::Instant::now() + LONG;
    while show(sql, name).await != value {
        assert!(tokio::time::Instant::now() < end, "{name} has not become {value}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_running_server_keeps_what_it_had() {
    let lab = Lab::new().await;
    let files = ConfFiles::new(lab.instance.clone());
    let good = rules("host all all all scram-sha-256");
    files.write_for_start(&settings(&[]), &good, false).await.unwrap();
    let (_postmaster, sql) = lab.start().await.unwrap();
    files.started(&settings(&[])).await;
    let wanted = settings(&[("work_mem", "7MB"), ("max_connections", "none"), ("nonsense", "1")]);
    files.load(&wanted, &rules("host all all all scram-sha-257"), None, &sql).await.unwrap();
    wait_for(&sql, "work_mem", "7MB").await;
    let problem = files.problem().unwrap();
    for part in ["max_connections", "nonsense", "scram-sha-257", "line"] {
        assert!(problem.contains(part), "no {part} in: {problem}");
    }
    assert_eq!(sql.configuration_errors().await.unwrap(), []);
    assert_eq!(sql.hba_errors().await.unwrap(), []);
    files.load(&settings(&[]), &good, None, &sql).await.unwrap();
    assert_eq!(files.problem(), None);
}
