//! The log of a real server, entry by entry.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{LONG, Lab, majors};
use matriarch_postgres::server_log::{Entry, Follower};

async fn find(log: &mut Follower, what: &str, fits: impl Fn(&Entry) -> bool) -> Entry {
    let search = async {
        loop {
            if let Some(found) = log.next().await.unwrap().into_iter().find(|entry| fits(entry)) {
                return found;
            }
        }
    };
    tokio::time::timeout(LONG, search).await.unwrap_or_else(|_| panic!("{what} was not logged"))
}

#[tokio::test]
async fn entries_come_as_they_are_written() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut node = lab.node("a");
        node.settings.log_for_program = true;
        let mut log = Follower::from_end(&node.instance, &node.log).unwrap();
        let (postmaster, sql) = node.bootstrap().await;
        let ready = find(&mut log, "readiness", |entry| entry.message.contains("ready to accept connections")).await;
        assert_eq!((ready.severity.as_str(), ready.backend.as_deref()), ("LOG", Some("postmaster")));
        assert_eq!(ready.pid, Some(postmaster.pid()));
        assert!(!ready.time.is_empty() && ready.user.is_none(), "{ready:?}");

        sql.query("fail", "SELECT 1 / 0 AS \"two\nlines\"", LONG).await.unwrap_err();
        let error = find(&mut log, "an error", |entry| entry.severity == "ERROR").await;
        assert_eq!((error.message.as_str(), error.state.as_deref()), ("division by zero", Some("22012")));
        assert_eq!((error.user.as_deref(), error.database.as_deref()), (Some("postgres"), Some("postgres")));
        assert_eq!(error.application.as_deref(), Some("matriarch"));
        assert_eq!(error.statement.as_deref(), Some("SELECT 1 / 0 AS \"two\nlines\""));

        // More than is kept: it goes once it was read, and nothing of it is missing.
        let flood = "DO $$ BEGIN FOR i IN 1..1500 LOOP RAISE LOG 'line % %', i, repeat('x', 4000); END LOOP; END $$";
        sql.query("flood", flood, LONG).await.unwrap();
        let mut seen = 0;
        while seen < 1500 {
            let entries = tokio::time::timeout(LONG, log.next()).await.unwrap().unwrap();
            for entry in entries.iter().filter(|entry| entry.message.starts_with("line ")) {
                seen += 1;
                assert!(entry.message.starts_with(&format!("line {seen} ")), "after {seen}: {}", &entry.message[..20]);
            }
        }
        let size = std::fs::metadata(&node.log).unwrap().len();
        assert!(size < 5 * 1024 * 1024, "{size} bytes are kept");

        std::fs::remove_file(&node.log).unwrap();
        let mut next = Follower::from_end(&node.instance, &node.log).unwrap();
        drop(sql);
        matriarch_postgres::process::kill_tree_async(&node.instance.data_dir, LONG).await.unwrap();
        let (_postmaster, _sql) = node.start(matriarch_postgres::StartAs::Primary).await;
        find(&mut next, "the crash", |entry| entry.message.contains("was interrupted")).await;
    }
}
