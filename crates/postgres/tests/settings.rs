//! Settings and rules that PostgreSQL would not accept never reach it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{LONG, Lab, majors, until, value};
use matriarch_postgres::stop::{StopMode, stop};
use matriarch_postgres::{Sql, StartAs, check, conf, hba};

#[tokio::test]
async fn wrong_settings_are_found_before_they_are_loaded() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut node = lab.node("a");
        for (name, text) in [
            ("work_mem", "12 cows"),
            ("wrk_mem", "1MB"),
            ("shared_buffers", "much"),
            ("max_worker_processes", "-5"),
            ("autovacuum", "perhaps"),
            ("maintenance_work_mem", "32MB"),
            ("my.own", "anything"),
        ] {
            node.settings.parameters.insert(name.into(), text.into());
        }
        let options =
            matriarch_postgres::bootstrap::InitdbOptions { extra: vec!["--no-sync".into()], ..Default::default() };
        matriarch_postgres::bootstrap::initdb(&node.instance, &options).await.unwrap();
        let mut effective = conf::effective(&node.instance, &node.settings).unwrap();
        let refused = check::take_out_refused(&node.instance, &mut effective).await.unwrap();
        let mut names: Vec<&str> = refused.iter().filter_map(|error| error.name.as_deref()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["autovacuum", "max_worker_processes", "shared_buffers", "work_mem", "wrk_mem"],
            "{refused:?}"
        );
        let said = refused.iter().find(|error| error.name.as_deref() == Some("work_mem")).unwrap().to_string();
        assert!(said.starts_with("invalid value for parameter \"work_mem\": \"12 cows\""), "{said}");
        assert_eq!(effective["maintenance_work_mem"], "32MB");

        // What is left starts; and the check does not mind a running server.
        node.settings.parameters = BTreeMap::from([("maintenance_work_mem".into(), "32MB".into())]);
        let (_postmaster, sql) = node.start(StartAs::Primary).await;
        assert_eq!(value(&sql, "SHOW maintenance_work_mem").await, "32MB");
        let mut effective = conf::effective(&node.instance, &node.settings).unwrap();
        assert_eq!(check::take_out_refused(&node.instance, &mut effective).await.unwrap(), []);
    }
}

async fn rules(sql: &Sql, like: &str) -> String {
    value(sql, &format!("SELECT count(*) FROM pg_hba_file_rules WHERE user_name::text LIKE '%{like}%'")).await
}

#[tokio::test]
async fn wrong_rules_are_put_aside() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut node = lab.node("a");
        let (postmaster, sql) = node.bootstrap().await;
        let instance = node.instance.clone();
        let with = |line: &str| hba::Rules {
            lines: vec![line.to_owned()],
            ident: vec!["m root postgres".into()],
            ..hba::Rules::default()
        };
        assert_eq!(hba::install(&instance, &with("host all alice all scram-sha-256"), &sql).await.unwrap(), []);
        assert_eq!(rules(&sql, "alice").await, "1");
        assert!(std::fs::read_to_string(instance.data(hba::IDENT_FILE)).unwrap().contains("m root postgres"));

        let found = hba::install(&instance, &with("host all bob all scram-sha-257"), &sql).await.unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].file.ends_with("matriarch_hba.conf.refused") && found[0].line > 0, "{found:?}");
        assert!(found[0].to_string().contains("scram-sha-257"), "{found:?}");
        let lines = std::fs::read_to_string(&found[0].file).unwrap();
        assert!(lines.lines().nth(found[0].line as usize - 1).unwrap().contains("bob"), "{lines}");
        assert_eq!((rules(&sql, "alice").await, rules(&sql, "bob").await), ("1".into(), "0".into()));

        // Nobody is locked out by rules that refuse everybody, since ours come first.
        assert_eq!(hba::install(&instance, &with("local all all reject"), &sql).await.unwrap(), []);
        sql.reload().await.unwrap();
        until("the rules are loaded", async || {
            Sql::connect(&instance).await.unwrap();
            !std::fs::read_to_string(&node.log).unwrap().contains("not reloaded")
        })
        .await;

        // Rules that became wrong behind our back keep a server from starting only once.
        drop(sql);
        stop(&postmaster, &instance.data_dir, None, StopMode::Immediate).await.unwrap();
        hba::remember(&instance).unwrap();
        hba::write(&instance, &with("host all bob all nonsense")).unwrap();
        let aside = hba::fall_back(&instance, hba::FILE).unwrap().unwrap();
        assert!(std::fs::read_to_string(aside).unwrap().contains("nonsense"));
        let postmaster = matriarch_postgres::start(&instance, StartAs::Primary, &node.log).await.unwrap();
        let sql = tokio::time::timeout(LONG, postmaster.wait_ready(&instance)).await.unwrap().unwrap();
        assert_eq!(
            value(&sql, "SELECT auth_method FROM pg_hba_file_rules WHERE auth_method = 'reject'").await,
            "reject"
        );
    }
}

/// The files of a data directory that is being deleted, or on a volume that fails, are not taken for empty ones.
#[tokio::test]
async fn a_reload_that_misses_our_file_changes_nothing() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut node = lab.node("a");
        node.settings.synchronous_standby_names = "ANY 1 (b)".to_owned();
        // A cluster of an earlier version: the line is replaced at the start.
        node.bootstrap_only().await;
        let path = node.data("postgresql.conf");
        let text = std::fs::read_to_string(&path).unwrap();
        let before = text.replace("include = 'matriarch.conf'", "include_if_exists = 'matriarch.conf'");
        assert_ne!(text, before);
        std::fs::write(&path, before).unwrap();
        let (_postmaster, sql) = node.start(StartAs::Primary).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(value(&sql, "SHOW synchronous_standby_names").await, "ANY 1 (b)");

        std::fs::remove_file(node.data(conf::FILE)).unwrap();
        sql.reload().await.unwrap();
        until("the postmaster has refused the reload", async || {
            std::fs::read_to_string(&node.log).unwrap().contains("contains errors")
        })
        .await;
        // New sessions have what the postmaster has, this one what it read itself.
        for sql in [&sql, &Sql::connect(&node.instance).await.unwrap()] {
            assert_eq!(value(sql, "SHOW synchronous_standby_names").await, "ANY 1 (b)");
        }

        node.settings.synchronous_standby_names = "ANY 1 (b, c)".to_owned();
        node.write_files();
        sql.reload().await.unwrap();
        until("the next reload is taken", async || {
            value(&sql, "SHOW synchronous_standby_names").await == "ANY 1 (b, c)"
        })
        .await;
    }
}
