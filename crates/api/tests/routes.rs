//! What the routes answer: shapes, credentials, commands and mistakes.

mod common;

use std::time::Duration;

use common::*;
use matriarch_api::*;
use serde_json::{Value, json};

#[tokio::test]
async fn pages_have_patronis_fields() {
    let server = start().await;
    let page = |body: String| serde_json::from_str::<Value>(&body).unwrap();
    let member = page(server.http("GET", "/patroni", "", "").await.2);
    for (pointer, expected) in [
        ("/state", json!("running")),
        ("/role", json!("primary")),
        ("/server_version", json!(150020)),
        ("/xlog", json!({"location": 67108864})),
        ("/timeline", json!(2)),
        ("/replication/0/sync_state", json!("quorum")),
        ("/patroni", json!({"version": "4.1.5", "scope": "demo", "name": "a"})),
        ("/database_system_identifier", json!("7300000000000000001")),
        ("/dcs_last_seen", json!(1795255200)),
        ("/tags/fast", json!(true)),
    ] {
        assert_eq!(member.pointer(pointer), Some(&expected), "{pointer}");
    }
    for absent in ["pause", "cluster_unlocked", "sync_standby", "pending_restart", "scheduled_restart"] {
        assert!(member.get(absent).is_none(), "{absent} is written although it is not so");
    }
    let cluster = page(server.http("GET", "/cluster", "", "").await.2);
    assert_eq!(cluster["members"][0]["role"], "leader");
    assert!(cluster["members"][0].get("lag").is_none());
    assert_eq!(cluster["members"][1]["lag"], 0);
    assert_eq!(cluster["members"][1]["receive_lag"], "unknown");
    assert_eq!(cluster["scope"], "demo");
    let history = page(server.http("GET", "/history", "", "").await.2);
    assert_eq!(history[0][4], "b");
    let status = page(server.http("GET", "/status", "", "").await.2);
    assert_eq!(status["cluster"]["matriarch"]["rule"]["needed"], 1);
    assert_eq!(status["lease_remaining_ms"], 4000);
}

#[tokio::test]
async fn the_client_reads_what_the_routes_write() {
    let server = start().await;
    let client = server.client();
    assert_eq!(client.member().await.unwrap(), primary());
    assert_eq!(client.cluster().await.unwrap(), cluster());
    assert_eq!(client.history().await.unwrap()[0].4, "b");
    assert_eq!(client.status().await.unwrap().member, primary());
    assert_eq!(client.config().await.unwrap(), json!({"ttl": 5}));
    assert!(client.health("/primary").await.unwrap() && !client.health("/replica").await.unwrap());
    assert!(client.metrics().await.unwrap().ends_with("# EOF\n"));
    assert!(client.openapi().await.unwrap()["paths"].is_object());
    assert!(matches!(client.failsafe().await, Err(ClientError::Refused { status: 502, .. })));
    *server.script.config.lock().unwrap() = None;
    assert!(matches!(client.config().await, Err(ClientError::Refused { status: 502, .. })));

    server.script.answers.lock().unwrap().push_back(Ok(CommandDone::config(json!({"ttl": 6}))));
    assert_eq!(client.patch_config(&json!({"ttl": 6, "pause": null})).await.unwrap(), json!({"ttl": 6}));
    assert_eq!(server.asked(), [Command::PatchConfig(json!({"ttl": 6, "pause": null}))]);
    let body = SwitchoverBody { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at: None };
    assert_eq!(client.switchover(&body).await.unwrap(), Reply { status: 200, text: "done".into() });
    let expected = Command::Switchover { leader: "a".into(), candidate: Some("b".into()), scheduled_at: None };
    assert_eq!(server.asked(), [expected]);
    assert_eq!(client.reload().await.unwrap().status, 202);
    assert_eq!(client.stop().await.unwrap().status, 202);
    assert_eq!(server.asked(), [Command::Reload, Command::Stop]);
}

#[tokio::test]
async fn drills_are_asked_for_and_kept() {
    let server = start().await;
    let client = server.client();
    let body = BlowBody { blow: Blow::Instance, epoch: 17, spare_voters: 0 };
    client.drill(&body).await.unwrap();
    let record = DrillRecord { at: "2026-11-21T10:00:00Z".into(), gap_seconds: 0.25, ..DrillRecord::default() };
    client.keep_drill(&record).await.unwrap();
    assert_eq!(server.asked(), [Command::Blow(body), Command::KeepDrill(Box::new(record.clone()))]);
    assert_eq!(client.drills().await.unwrap(), DrillLog::default());
    for (path, body, status, words) in [
        ("/drill", "{}", 400, "epoch"),
        ("/drill", r#"{"epoch": 1, "blow": "axe"}"#, 400, "postgres"),
        ("/drill", r#"{"epoch": 1, "kind": "postgres"}"#, 400, "unknown field"),
        ("/drills", r#"{"at": "yesterday"}"#, 422, "RFC 3339"),
        ("/drills", r#"{"at": "2026-11-21T10:00:00Z", "gap_seconds": -1}"#, 422, "gap_seconds"),
        ("/drills", r#"{"result": "so-so"}"#, 400, "lost_writes"),
        ("/drills", r#"{"at": "2026-11-21T10:00:00Z", "restore": {"seconds": {"wal": -1}}}"#, 422, "negative"),
    ] {
        let (actual, text) = server.write("POST", path, body).await;
        assert!(actual == status && text.contains(words), "{path} {body}: {actual} {text}");
    }
    assert_eq!(server.asked(), []);
    let mut log = DrillLog::default();
    log.add(DrillRecord { lost_writes: Some(0), result: DrillResult::Passed, ..record.clone() });
    let seconds = RestoreSeconds { files: 1.5, ..RestoreSeconds::default() };
    let restore = Some(RestoreFigures { seconds, ..RestoreFigures::default() });
    log.add(DrillRecord { kind: DrillKind::Restore, restore, ..record });
    let archive = ArchiveStatus::default();
    let text = metrics::render(&primary(), &cluster(), &log, &archive, leading(), None);
    assert!(!text.contains("matriarch_archive"), "none is configured:\n{text}");
    for line in [
        "matriarch_drills_total{scope=\"demo\",name=\"a\",kind=\"failover\",result=\"passed\"} 1\n",
        "matriarch_drill_last_gap_seconds{scope=\"demo\",name=\"a\",kind=\"failover\"} 0.25\n",
        "matriarch_drill_last_timestamp_seconds{scope=\"demo\",name=\"a\",kind=\"failover\"} 1795255200\n",
        "matriarch_drill_last_lost_writes{scope=\"demo\",name=\"a\",kind=\"failover\"} 0\n",
        "matriarch_drills_total{scope=\"demo\",name=\"a\",kind=\"restore\",result=\"failed\"} 1\n",
        "matriarch_drill_last_timestamp_seconds{scope=\"demo\",name=\"a\",kind=\"restore\"} 1795255200\n",
        "matriarch_drill_last_restore_passed{scope=\"demo\",name=\"a\"} 0\n",
        "matriarch_drill_last_restore_seconds{scope=\"demo\",name=\"a\",step=\"files\"} 1.5\n",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
}

#[tokio::test]
async fn the_archive_is_shown_checked_and_counted() {
    let server = start().await;
    let client = server.client();
    assert_eq!(client.archive().await.unwrap(), ArchiveStatus::default());
    let rows =
        vec![ArchiveCheckRow { name: "/srv/a".into(), ok: true, took_ms: Some(3), ..ArchiveCheckRow::default() }];
    for _ in 0..2 {
        server.script.answers.lock().unwrap().push_back(Ok(CommandDone::config(json!(rows))));
    }
    assert_eq!(client.check_archive().await.unwrap(), rows);
    assert_eq!(client.init_archive().await.unwrap(), rows);
    assert_eq!(server.asked(), [Command::CheckArchive, Command::InitArchive]);
    let file = ArchivedFile { file: "00000002.history".into(), at: "2026-11-21T10:00:00Z".into() };
    let ending = |at: &str| ArchiveEnding { at: at.into(), ..ArchiveEnding::default() };
    let archive = ArchiveStatus {
        configured: true,
        repositories: vec![ArchiveRepositoryRow {
            name: "/srv/a".into(),
            open: true,
            problem: None,
            tail: Some(ArchiveTail {
                timeline: 1,
                stored: "0/3000148".into(),
                behind: 12,
                awaited: true,
                problem: None,
            }),
            ends: vec![ending("2026-11-22T10:00:00Z"), ending("2026-11-21T10:00:00Z")],
        }],
        durability: Some(ArchiveDurability { mode: "preferred".into(), holds: true, problem: None }),
        archived: 7,
        last_archived: Some(file.clone()),
        failures: 2,
        waiting: 3,
        oldest_waiting: Some(file),
        backups: Some(ScheduledBackups {
            next: Some("2026-11-21T10:00:00Z".into()),
            running: Some(BackupRun::default()),
            failures: 4,
            ..ScheduledBackups::default()
        }),
        dumps: Some(ScheduledDumps {
            last: Some(ScheduledDump { ended: "2026-11-21T10:00:00Z".into(), ..ScheduledDump::default() }),
            failures: 1,
            ..ScheduledDumps::default()
        }),
        ..ArchiveStatus::default()
    };
    let text = metrics::render(&primary(), &cluster(), &DrillLog::default(), &archive, leading(), None);
    for line in [
        "matriarch_archive_repository_open{scope=\"demo\",name=\"a\",repository=\"/srv/a\"} 1\n",
        "matriarch_archive_tail_behind_bytes{scope=\"demo\",name=\"a\",repository=\"/srv/a\"} 12\n",
        "matriarch_archive_credentials_end_timestamp_seconds{scope=\"demo\",name=\"a\",repository=\"/srv/a\"} 1795255200\n",
        "matriarch_archive_durable{scope=\"demo\",name=\"a\"} 1\n",
        "matriarch_archived_files_total{scope=\"demo\",name=\"a\"} 7\n",
        "matriarch_archive_failures_total{scope=\"demo\",name=\"a\"} 2\n",
        "matriarch_archive_last_timestamp_seconds{scope=\"demo\",name=\"a\"} 1795255200\n",
        "matriarch_backup_last_timestamp_seconds{scope=\"demo\",name=\"a\"} 0\n",
        "matriarch_backup_next_timestamp_seconds{scope=\"demo\",name=\"a\"} 1795255200\n",
        "matriarch_backup_running{scope=\"demo\",name=\"a\"} 1\n",
        "matriarch_backup_failures{scope=\"demo\",name=\"a\"} 4\n",
        "matriarch_dump_last_timestamp_seconds{scope=\"demo\",name=\"a\"} 1795255200\n",
        "matriarch_dump_next_timestamp_seconds{scope=\"demo\",name=\"a\"} 0\n",
        "matriarch_dump_running{scope=\"demo\",name=\"a\"} 0\n",
        "matriarch_dump_failures{scope=\"demo\",name=\"a\"} 1\n",
        "matriarch_archive_waiting_files{scope=\"demo\",name=\"a\"} 3\n",
        "matriarch_archive_oldest_waiting_timestamp_seconds{scope=\"demo\",name=\"a\"} 1795255200\n",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
}

#[tokio::test]
async fn changes_need_credentials() {
    let server = start().await;
    let writes = [
        ("PATCH", "/config"),
        ("PUT", "/config"),
        ("POST", "/reload"),
        ("POST", "/restart"),
        ("DELETE", "/restart"),
        ("POST", "/reinitialize"),
        ("POST", "/switchover"),
        ("DELETE", "/switchover"),
        ("POST", "/failover"),
        ("POST", "/drill"),
        ("POST", "/drills"),
        ("POST", "/failsafe"),
        ("POST", "/sigterm"),
        ("POST", "/nothing"),
        ("BREW", "/primary"),
    ];
    for (method, path) in writes {
        for headers in
            ["", "Authorization: Bearer nope\r\n", "Authorization: Basic bm86cGU=\r\n", "Authorization: \r\n"]
        {
            let (status, head, body) = server.http(method, path, headers, "{}").await;
            assert_eq!(status, 401, "{method} {path} with {headers:?}");
            let head = head.to_lowercase();
            assert!(head.contains("www-authenticate: bearer") && head.contains("www-authenticate: basic"), "{head}");
            assert!(body.contains("remedy"), "{body}");
        }
    }
    assert_eq!(server.asked(), []);
    let client = Client::new(&format!("http://{}", server.address), None).unwrap();
    let error = client.reload().await.unwrap_err().to_string();
    assert!(error.contains("/reload") && error.contains("token"), "{error}");
}

#[tokio::test]
async fn reads_can_be_closed() {
    let server = start_with(Auth::accept(vec![TOKEN.into()], None, Reads::Closed), Limits::default()).await;
    assert_eq!(server.get("/cluster").await, 401);
    assert_eq!(server.get("/primary").await, 401);
    assert!(server.client().cluster().await.is_ok());
}

#[tokio::test]
async fn commands_answer_with_patronis_codes() {
    let server = start().await;
    let soon = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).to_string();
    let answers: Vec<(&str, &str, String, u16, &str)> = vec![
        ("POST", "/switchover", "{}".into(), 400, "specific leader"),
        ("POST", "/switchover", r#"{"leader":"a","candidate":"a"}"#.into(), 400, "same"),
        ("POST", "/switchover", r#"{"leader":"b"}"#.into(), 412, "'a' leads"),
        ("POST", "/switchover", r#"{"leader":"a","candidate":"z"}"#.into(), 412, "choose one of: b"),
        ("POST", "/switchover", r#"{"leader":"a","scheduled_at":"2020-01-01T00:00:00Z"}"#.into(), 422, "past"),
        ("POST", "/switchover", r#"{"leader":"a","scheduled_at":"2030-01-01T00:00:00"}"#.into(), 400, "Timezone"),
        ("POST", "/switchover", r#"{"leader":"a","scheduled_at":"soon"}"#.into(), 422, "ISO 8601"),
        ("POST", "/failover", r#"{"leader":null}"#.into(), 400, "specific candidate"),
        ("POST", "/failover", r#"{"candidate":"a"}"#.into(), 412, "leads already"),
        ("POST", "/failover", format!(r#"{{"candidate":"b","scheduled_at":"{soon}"}}"#), 400, "can't be scheduled"),
        ("POST", "/restart", r#"{"role":"boss"}"#.into(), 400, "'boss'"),
        ("POST", "/restart", r#"{"postgres_version":"new"}"#.into(), 400, "15.2"),
        ("POST", "/restart", r#"{"timeout":-1}"#.into(), 400, "positive"),
        ("POST", "/failsafe", "{}".into(), 502, "failsafe"),
    ];
    for (method, path, body, expected, text) in answers {
        let (status, answer) = server.write(method, path, &body).await;
        assert_eq!(status, expected, "{method} {path} {body}: {answer}");
        assert!(answer.contains(text), "{method} {path} {body}: {answer}");
    }
    assert_eq!(server.asked(), [], "nothing reached the agent");

    let script = &server.script;
    for (error, code) in [
        (CommandError::Invalid("x".into()), 400),
        (CommandError::Absent("no restarts are scheduled".into()), 404),
        (CommandError::Conflict("x".into()), 409),
        (CommandError::Impossible("x".into()), 412),
        (CommandError::Unacceptable("x".into()), 422),
        (CommandError::Failed("x".into()), 503),
        (CommandError::StoreAway("x".into()), 503),
    ] {
        script.answers.lock().unwrap().push_back(Err(error));
        assert_eq!(server.write("DELETE", "/restart", "").await.0, code);
    }
    script.answers.lock().unwrap().push_back(Ok(CommandDone::scheduled("Switchover scheduled")));
    let (status, text) =
        server.write("POST", "/switchover", &format!(r#"{{"leader":"a","member":"b","scheduled_at":"{soon}"}}"#)).await;
    assert_eq!((status, text.as_str()), (202, "Switchover scheduled"));
    server.asked();
    server.write("POST", "/failover", r#"{"leader":"a","candidate":"b"}"#).await;
    assert!(matches!(&server.asked()[..], [Command::Switchover { .. }]), "with a leader it is a switchover");
    server.write("POST", "/restart", r#"{"timeout":"2min","restart_pending":true,"postgres_version":"15.2"}"#).await;
    server.write("POST", "/restart", "").await;
    let checked = RestartRequest {
        timeout: Some(Duration::from_secs(120)),
        only_pending: true,
        older_than: Some(150002),
        ..RestartRequest::default()
    };
    assert_eq!(server.asked(), [Command::Restart(checked), Command::Restart(RestartRequest::default())]);

    script.cluster.lock().unwrap().pause = true;
    for (path, body, code) in [
        ("/switchover", r#"{"leader":"a"}"#.to_owned(), 400),
        ("/switchover", format!(r#"{{"leader":"a","candidate":"b","scheduled_at":"{soon}"}}"#), 400),
        ("/restart", format!(r#"{{"schedule":"{soon}"}}"#), 500),
        ("/switchover", r#"{"leader":"a","candidate":"b"}"#.to_owned(), 200),
    ] {
        assert_eq!(server.write("POST", path, &body).await.0, code, "{path} {body} in pause");
    }
}

#[tokio::test]
async fn a_command_that_hangs_is_given_up() {
    let limits = Limits { command: Duration::from_millis(200), ..Limits::default() };
    let server = start_with(Auth::token(TOKEN), limits).await;
    *server.script.hang.lock().unwrap() = true;
    let (status, text) = server.write("POST", "/switchover", r#"{"leader":"a"}"#).await;
    assert_eq!(status, 503);
    assert!(text.contains("status unknown"), "{text}");
}

#[tokio::test]
async fn mistakes_are_explained() {
    let server = start().await;
    for (method, path, body, expected, text) in [
        ("GET", "/pirmary", "", 404, "did you mean /primary?"),
        ("GET", "/clusters", "", 404, "did you mean /cluster?"),
        ("GET", "/wp-login.php", "", 404, "openapi.json"),
        ("POST", "/cluster", "", 405, "GET"),
        ("DELETE", "/primary", "", 405, "GET"),
        ("GET", "/switchover", "", 405, "POST"),
        ("POST", "/switchover", "", 400, "empty"),
        ("POST", "/switchover", "[1", 400, "not as expected"),
        ("POST", "/switchover", r#"{"leader":5}"#, 400, "'leader'"),
        ("POST", "/switchover", r#"{"lader":"a"}"#, 400, "expected"),
        ("POST", "/switchover", r#"{"leader":"a"} x"#, 400, "trailing"),
        ("POST", "/reinitialize", r#"{"force":"maybe"}"#, 400, "'force'"),
        ("PATCH", "/config", "null", 400, "JSON object"),
        ("PUT", "/config", "{}", 400, "at least one key"),
        ("PUT", "/config", "[]", 400, "JSON object"),
    ] {
        let (status, answer) = server.write(method, path, body).await;
        assert_eq!(status, expected, "{method} {path} {body}: {answer}");
        assert!(answer.contains(text), "{method} {path} {body}: {answer}");
        assert!(serde_json::from_str::<ErrorBody>(&answer).is_ok(), "{answer}");
    }
    let (_, head, _) = server.http("GET", "/switchover", "", "").await;
    assert!(head.to_lowercase().contains("allow: "), "{head}");
    let large = format!(r#"{{"leader":"{}"}}"#, "x".repeat(2 << 20));
    assert_eq!(server.write("POST", "/switchover", &large).await.0, 413);
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn openapi_has_every_path_and_has_not_drifted() {
    let server = start().await;
    let text = server.http("GET", "/openapi.json", "", "").await.2;
    let document: Value = serde_json::from_str(&text).unwrap();
    for path in health::CHECKS.iter().map(|(path, ..)| *path).chain(OTHER_PATHS.iter().copied()) {
        assert!(document["paths"].get(path).is_some(), "{path} is not described");
    }
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(kept, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(kept).unwrap_or_default() == text,
        "openapi.json has drifted from the code; run the tests once with UPDATE_SNAPSHOTS=1 and look at the difference"
    );
}

#[tokio::test]
async fn metrics_parse_and_keep_patronis_names() {
    let server = start().await;
    let (status, head, text) = server.http("GET", "/metrics", "", "").await;
    assert_eq!(status, 200);
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(text.ends_with("# EOF\n"));
    let mut families = std::collections::BTreeMap::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is described twice");
        } else if !line.starts_with("# HELP ") {
            let (name, rest) = line.split_once('{').unwrap();
            let (labels, value) = rest.rsplit_once("} ").unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(labels.starts_with(r#"scope="demo",name="a""#), "{line}");
            let known = |suffix: &str, kind: &str| {
                name.strip_suffix(suffix).is_some_and(|family| families.get(family).is_some_and(|known| known == kind))
            };
            assert!(known("", "gauge") || known("_total", "counter") || known("_info", "info"), "{line}");
        }
    }
    for name in [
        "version",
        "postgres_running",
        "postmaster_start_time",
        "primary",
        "xlog_location",
        "standby_leader",
        "replica",
        "sync_standby",
        "quorum_standby",
        "xlog_received_location",
        "xlog_replayed_location",
        "xlog_replayed_timestamp",
        "xlog_paused",
        "postgres_streaming",
        "postgres_in_archive_recovery",
        "postgres_server_version",
        "cluster_unlocked",
        "failsafe_mode_is_active",
        "failsafe_mode_enabled",
        "postgres_timeline",
        "dcs_last_seen",
        "pending_restart",
        "is_paused",
        "postgres_state",
        "failover_priority",
    ] {
        assert!(families.contains_key(&format!("patroni_{name}")), "patroni_{name} is missing");
    }
    let labels = r#"{scope="demo",name="a"}"#;
    for line in [
        format!("patroni_version{labels} 40105"),
        format!("patroni_postmaster_start_time{labels} 1795255200.5"),
        format!("patroni_postgres_state{labels} 5"),
        format!("matriarch_lease_remaining_seconds{labels} 4"),
        format!("matriarch_rule_needed{labels} 1"),
        r#"matriarch_decisions_total{scope="demo",name="a",why="odd \"why\"\n"} 1"#.to_owned(),
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is missing in\n{text}");
    }
}
