//! The dynamic configuration: what it becomes, and the exact words for what is wrong.

use std::time::Duration;

use matriarch_config::{
    Archive, ArchiveLocation, ArchiveRepository, CloneMembers, Compression, Crash, Document, DumpFormat, Durability,
    DynamicConfig, Retention, ServerSideEncryption, Slot, SlotKind, SynchronousMode, to_yaml, validate,
};
use serde_json::{Value, json};

fn read(value: Value) -> DynamicConfig {
    DynamicConfig::from_json(&value).unwrap_or_else(|problems| panic!("{value}: {problems}"))
}

/// Each problem as it is shown.
fn shown(value: &Value) -> Vec<String> {
    validate(value).iter().map(ToString::to_string).collect()
}

#[test]
fn defaults_are_ours() {
    let config = DynamicConfig::default();
    assert_eq!(config.ttl, Duration::from_secs(5));
    assert_eq!(config.synchronous_mode, SynchronousMode::Quorum);
    assert_eq!((config.voters_needed(), config.synchronous_min_members), (1, 3));
    assert_eq!(config.crash, Crash::Failover);
    assert_eq!(config.shrink_delay, Duration::from_secs(2));
    assert_eq!(config.maximum_lag_on_failover, 1 << 20);
    assert_eq!(config.stop_timeout(), Some(Duration::from_secs(30)));
    assert_eq!(config.postgresql.max_slot_wal_keep_size, 16 << 30);
    assert!(config.postgresql.use_pg_rewind && config.postgresql.use_slots && !config.pause);
}

#[test]
fn slots_are_done_without_only_where_one_voter_is_enough() {
    let slots = |more: serde_json::Value| {
        let mut config = json!({"postgresql": {"use_slots": false}});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        read(config).member_slots()
    };
    assert!(DynamicConfig::default().member_slots());
    assert!(!slots(json!({})));
    assert!(slots(json!({"synchronous_node_count": 2})));
    assert!(!slots(json!({"synchronous_node_count": 2, "synchronous_mode": "off"})));
    let archive = |durability| json!({"archive": {"repositories": [{"location": "/a"}], "durability": durability}});
    assert!(slots(archive("preferred")) && !slots(archive("none")));
}

#[test]
fn a_configuration_from_patroni_is_understood() {
    let config = read(json!({
        "ttl": 30, "loop_wait": 10, "retry_timeout": "10s", "maximum_lag_on_failover": "1MB", "maximum_lag_on_syncnode": -1,
        "max_timelines_history": 0, "primary_start_timeout": 300, "primary_stop_timeout": 0, "synchronous_mode": true,
        "synchronous_mode_strict": "off", "synchronous_node_count": "2", "failsafe_mode": false, "check_timeline": true,
        "member_slots_ttl": "30min", "slots": {"a": {"type": "physical"}, "b": {"database": "d", "plugin": "pgoutput"}},
        "ignore_slots": [{"plugin": "wal2json", "type": "logical"}],
        "postgresql": {
            "use_pg_rewind": true, "use_slots": "yes",
            "parameters": {"wal_level": "replica", "hot_standby": "on", "max_connections": 100, "jit": false,
                           "pg_stat_statements.max": 5000, "random_page_cost": 1.1, "work_mem": null},
            "pg_hba": ["local all all peer", "host all all 0.0.0.0/0 md5"], "pg_ident": ["m a b"]
        }
    }));
    assert_eq!(config.synchronous_mode, SynchronousMode::On);
    assert_eq!((config.voters_needed(), config.synchronous_min_members), (2, 0));
    assert_eq!(config.stop_timeout(), None);
    assert_eq!(config.slots["a"], Slot::Physical);
    assert_eq!(config.slots["b"], Slot::Logical { database: "d".into(), plugin: "pgoutput".into() });
    assert!(config.ignore_slots[0].covers("x", SlotKind::Logical, Some("d"), Some("wal2json")));
    assert!(!config.ignore_slots[0].covers("x", SlotKind::Physical, None, None));
    let parameters: Vec<String> =
        config.postgresql.parameters.iter().map(|(name, text)| format!("{name}={text}")).collect();
    assert_eq!(
        parameters,
        ["jit=off", "max_connections=100", "pg_stat_statements.max=5000", "random_page_cost=1.1", "wal_level=replica"]
    );
    assert_eq!(DynamicConfig::from_json(&config.to_json()).unwrap(), config);
}

#[test]
fn nothing_set_is_the_default() {
    for value in [json!({}), json!({"ttl": null, "postgresql": null}), Value::Null, DynamicConfig::default().to_json()]
    {
        assert_eq!(read(value), DynamicConfig::default());
    }
}

#[test]
fn fractions_of_seconds_survive() {
    let config = read(json!({"ttl": 2.5, "shrink_delay": "100ms", "synchronous_mode": "off"}));
    assert_eq!((config.ttl, config.shrink_delay), (Duration::from_millis(2500), Duration::from_millis(100)));
    assert_eq!(config.voters_needed(), 0);
    assert_eq!(read(config.to_json()), config);
}

#[test]
fn bad_keys_and_values_are_named() {
    let mut wrong = Vec::new();
    for (value, expected) in [
        (json!({"tll": 5}), "tll: unknown key; did you mean 'ttl'?"),
        (json!({"synchronus_mode": "on"}), "synchronus_mode: unknown key; did you mean 'synchronous_mode'?"),
        (json!({"pizza": 5}), "pizza: unknown key; remove it, or see docs/configuration.md for the known keys"),
        (json!({"ttl": 1}), "ttl: 1 seconds is out of range; choose 2 to 3600 seconds"),
        (json!({"ttl": -5}), "ttl: -5 seconds is out of range; choose 2 to 3600 seconds"),
        (
            json!({"ttl": "soon"}),
            "ttl: expected a number of seconds (or text with a unit: ms, s, min, h, d, w), found 'soon'; change the value",
        ),
        (
            json!({"ttl": [5]}),
            "ttl: expected a number of seconds (or text with a unit: ms, s, min, h, d, w), found a list; change the value",
        ),
        (json!({"pause": "maybe"}), "pause: expected true or false, found 'maybe'; change the value"),
        (json!({"pause": 1}), "pause: expected true or false, found 1; change the value"),
        (json!({"synchronous_node_count": 0}), "synchronous_node_count: 0 is out of range; choose 1 to 64"),
        (
            json!({"synchronous_node_count": 1.5}),
            "synchronous_node_count: expected a whole number from 1 to 64, found 1.5; change the value",
        ),
        (
            json!({"synchronous_mode": "qourum"}),
            "synchronous_mode: expected one of off, on, quorum, found 'qourum'; did you mean 'quorum'?",
        ),
        (
            json!({"maximum_lag_on_failover": "1 mile"}),
            "maximum_lag_on_failover: expected a number of bytes (or text with a unit: B, kB, MB, GB, TB), found '1 mile'; change the value",
        ),
        (
            json!({"standby_cluster": {"host": "a"}}),
            "standby_cluster: standby clusters are not supported yet; remove it",
        ),
        (
            json!({"failsafe_mode": true}),
            "failsafe_mode: going on without the store is not supported yet; remove it, or set it to false",
        ),
        (
            json!({"master_start_timeout": 5}),
            "master_start_timeout: this is the old name of primary_start_timeout; rename it",
        ),
        (
            json!({"postgresql": []}),
            "postgresql: expected a section with keys, found a list; write it as `key: value` lines",
        ),
        (json!({"postgresql": {"use_slot": true}}), "postgresql.use_slot: unknown key; did you mean 'use_slots'?"),
        (json!([]), "expected a section with keys, found a list; write it as `key: value` lines"),
        (
            json!({"slots": {"A b": {"type": "physical"}}}),
            "slots.A b: 'A b' is not a slot name: PostgreSQL allows 1 to 63 of a-z, 0-9 and '_'; choose another name",
        ),
        (
            json!({"slots": {"a": {"type": "logical", "plugin": "pgoutput"}}}),
            "slots.a.database: a logical slot needs it; add it, as in `database: app` and `plugin: pgoutput`",
        ),
        (
            json!({"slots": {"a": {"type": "physical", "database": "d"}}}),
            "slots.a.database: a physical slot has none; remove it, or set `type: logical`",
        ),
        (json!({"ignore_slots": [{"nam": "x"}]}), "ignore_slots[0].nam: unknown key; did you mean 'name'?"),
        (
            json!({"postgresql": {"pg_hba": ["host all all trust"]}}),
            "postgresql.pg_hba[0]: this is not a line of pg_hba.conf: it has 4 fields, expected TYPE DATABASE USER ADDRESS METHOD; correct the line",
        ),
        (
            json!({"postgresql": {"pg_hba": "local all all trust"}}),
            "postgresql.pg_hba: expected a list of texts, found text; write each line as `- …`",
        ),
        (
            json!({"postgresql": {"max_slot_wal_keep_size": "1GB", "parameters": {"max_slot_wal_keep_size": "2GB"}}}),
            "postgresql.parameters.max_slot_wal_keep_size: it is given twice: here and as postgresql.max_slot_wal_keep_size; keep one of them",
        ),
    ] {
        let found = shown(&value);
        if found != [expected] {
            wrong.push(format!("{value}:\n  found    {found:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn parameters_that_cannot_be_set_are_named() {
    let mut wrong = Vec::new();
    for (name, value, expected) in [
        (
            "wal_level",
            json!("minimal"),
            "expected one of replica, logical, found 'minimal'; replication needs 'replica' or more",
        ),
        ("max_wal_senders", json!(1), "1 is out of range; choose 3 to 262143: two replicas and a clone"),
        ("max_connections", json!("many"), "expected a whole number, found 'many'; choose 10 to 262143"),
        (
            "port",
            json!(1),
            "'port' belongs to Matriarch: it differs from member to member; remove it; use `postgresql.listen` of the local configuration",
        ),
        (
            "Primary_ConnInfo",
            json!("host=x password=hunter2"),
            "'primary_conninfo' belongs to Matriarch: Matriarch points each replica at the current primary; remove it; credentials go to `postgresql.authentication.replication` of the local configuration",
        ),
        (
            "hot_standby",
            json!("off"),
            "'hot_standby' belongs to Matriarch: replicas must answer queries, or the agent cannot watch them; remove it",
        ),
        (
            "recovery_target_lsn",
            json!("0/1"),
            "'recovery_target_lsn' belongs to Matriarch: a member that stops replay at a target cannot follow the primary; remove it; restoring to a point in time comes with a later release",
        ),
        (
            "fsync",
            json!(false),
            "'fsync' belongs to Matriarch: without it a power failure loses commits that were acknowledged, and can corrupt the data; remove it; for a fast scratch cluster use `synchronous_commit: \"off\"` and `synchronous_mode: \"off\"`",
        ),
        (
            "work mem",
            json!("1MB"),
            "this cannot be the name of a parameter: it may have letters, digits and '_', and a '.' between an extension and its parameter; correct the name",
        ),
        (
            "work_mem",
            json!(["1MB"]),
            "expected text, a number, true or false, found a list; write lists as one text, separated by commas",
        ),
        (
            "work_mem",
            json!("1MB\nfsync = off"),
            "it has a line break or another control character; write it on one line",
        ),
        (
            "synchronous_commit",
            json!("local"),
            "'local' does not wait until a voter has flushed, as synchronous_mode promises; remove it (roles and sessions can still choose it for themselves), or set `synchronous_mode: \"off\"`",
        ),
        (
            "recovery_min_apply_delay",
            json!("1h"),
            "a delay on every replica would make every takeover wait for it; set it in the local configuration of one replica",
        ),
        (
            "superuser_reserved_connections",
            json!(0),
            "the agent must be able to connect to a full server; choose at least 1",
        ),
    ] {
        let value = json!({"postgresql": {"parameters": {name: value}}});
        let found = shown(&value);
        if found != [format!("postgresql.parameters.{name}: {expected}")] {
            wrong.push(format!("{value}:\n  found    {found:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn harmless_values_of_owned_parameters_are_dropped() {
    for (name, value) in [
        ("hot_standby", json!(true)),
        ("fsync", json!("on")),
        ("full_page_writes", json!("yes")),
        ("recovery_target_timeline", json!("latest")),
        ("port", Value::Null),
    ] {
        let config = read(json!({"postgresql": {"parameters": {name: value}}}));
        assert!(config.postgresql.parameters.is_empty(), "{name}");
    }
}

#[test]
fn contradictions_across_keys_are_found() {
    let reserved = json!({"postgresql": {"parameters": {"max_connections": 10, "superuser_reserved_connections": 10}}});
    assert_eq!(
        shown(&reserved),
        [
            "postgresql.parameters.max_connections: 10 connections leave none beside the 10 reserved ones; raise it, or lower superuser_reserved_connections"
        ]
    );
    let twice = json!({"postgresql": {"parameters": {"work_mem": 1, "WORK_MEM": 2}}});
    assert_eq!(
        shown(&twice),
        ["postgresql.parameters.WORK_MEM: it is the same parameter as 'work_mem'; keep one of them"]
    );
    read(json!({"synchronous_mode": false, "postgresql": {"parameters": {"synchronous_commit": "local"}}}));
}

#[test]
fn all_problems_are_reported_at_once() {
    let problems =
        DynamicConfig::from_json(&json!({"tll": 1, "pause": 2, "postgresql": {"parameters": {"port": 3}, "x": 4}}));
    let text = problems.unwrap_err().to_string();
    assert_eq!(
        text,
        "the configuration has 4 problems:\n  \
         - tll: unknown key; did you mean 'ttl'?\n  \
         - pause: expected true or false, found 2; change the value\n  \
         - postgresql.x: unknown key; known here: parameters, pg_hba, pg_ident, use_pg_rewind, use_slots, \
         max_slot_wal_keep_size, remove_data_directory_on_rewind_failure, remove_data_directory_on_diverged_timelines\n  \
         - postgresql.parameters.port: 'port' belongs to Matriarch: it differs from member to member; remove it; use \
         `postgresql.listen` of the local configuration"
    );
}

#[test]
fn yaml_and_back_is_the_same() {
    let config = read(json!({
        "postgresql": {"pg_hba": ["host all all ::/0 scram-sha-256", "# a: b", "local all \"x y\" peer map=m"],
                       "parameters": {"log_file_mode": "0640", "ssl": "on", "a.b": "yes", "log_line_prefix": "%m [%p] ",
                                      "search_path": "\"$user\", public", "x": "", "y": "1e5", "z": "null"}}
    }));
    let text = to_yaml(&config.to_json());
    let document = Document::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(document.value, config.to_json(), "{text}");
    // An unquoted file mode keeps its leading zero, without which PostgreSQL would read it as decimal.
    let typed = Document::parse("postgresql: {parameters: {log_file_mode: 0640}}").unwrap();
    assert_eq!(read(typed.value).postgresql.parameters["log_file_mode"], "0640");
}

#[test]
fn an_archive_is_understood() {
    let age = format!("age1{}", "q".repeat(58));
    let config = read(json!({"archive": {
        "repositories": [
            {"location": "/srv/archive"},
            {"location": "s3://bucket/a/b/", "endpoint": "http://127.0.0.1:8333", "allow_http": "yes", "path_style": false},
            {"location": "gs://bucket", "credentials": "/etc/key.json"},
            {"location": "azure://account/container/x"}
        ],
        "compression": "zstd:9", "encryption": {"recipients": [age]}, "tail": "250ms"
    }}));
    assert_eq!(DynamicConfig::from_json(&config.to_json()).unwrap(), config);
    let archive = config.archive.unwrap();
    let s3 = &archive.repositories[1];
    assert_eq!(s3.location, ArchiveLocation::S3 { bucket: "bucket".into(), prefix: "a/b".into() });
    assert!(archive.repositories[0].path_style && !s3.path_style);
    assert_eq!(archive.repositories[2].location.to_string(), "gs://bucket");
    assert_eq!((archive.compression, archive.tail), (Compression::Zstd(9), Duration::from_millis(250)));
    assert_eq!(read(json!({"archive": null})).archive, None);
    let least = read(json!({"archive": {"repositories": [{"location": "/a"}]}})).archive.unwrap();
    assert_eq!((least.compression, least.tail), (Compression::Zstd(3), Duration::from_secs(1)));
    assert!(least.encryption.recipients.is_empty());
    assert_eq!((least.schedule, least.retention), (None, Retention::default()));
    assert_eq!((least.clone, least.clone_max_age), (CloneMembers::Never, Duration::from_secs(8 * 86_400)));
    // As a version without these keys has kept it.
    let mut older = serde_json::to_value(&archive).unwrap();
    older.as_object_mut().unwrap().retain(|key, _| !key.starts_with("clone") && !key.starts_with("durability"));
    let older: Archive = serde_json::from_value(older).unwrap();
    assert_eq!((older.clone, older.clone_max_age), (least.clone, least.clone_max_age));
    assert_eq!((older.durability, older.durability_timeout), (Durability::None, Duration::from_secs(3)));
    assert_eq!((least.durability, least.durability_timeout), (Durability::None, Duration::from_secs(3)));
    let one = json!({"repositories": [{"location": "/a"}], "clone": "when_possible", "clone_max_age": "36h"});
    let one = read(json!({ "archive": one })).archive.unwrap();
    assert_eq!((one.clone, one.clone_max_age), (CloneMembers::WhenPossible, Duration::from_secs(36 * 3600)));
}

#[test]
fn commits_can_wait_for_an_archive_that_has_a_tail() {
    let section = |more: Value| {
        let mut section = json!({"repositories": [{"location": "/a"}]});
        section.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        section
    };
    let one = section(json!({"durability": "required", "durability_timeout": "500ms"}));
    let config = read(json!({"synchronous_mode": false, "archive": one}));
    assert_eq!(DynamicConfig::from_json(&config.to_json()).unwrap(), config);
    let archive = config.archive.unwrap();
    assert_eq!((archive.durability, archive.durability_timeout), (Durability::Required, Duration::from_millis(500)));
    let without = section(json!({"durability": "preferred", "tail": 0}));
    assert_eq!(
        shown(&json!({"archive": without})),
        [
            "archive.durability: commits would wait for the tail, which is switched off; remove `tail: 0`, or set `durability: none`"
        ]
    );
    let archive = section(json!({"durability": "preferred"}));
    let local = json!({"synchronous_mode": false, "archive": archive, "postgresql": {"parameters": {"synchronous_commit": "local"}}});
    assert_eq!(
        shown(&local),
        [
            "postgresql.parameters.synchronous_commit: 'local' does not wait until the archive holds the commit, as archive.durability promises; \
             remove it (roles and sessions can still choose it for themselves), or set `archive.durability: none`"
        ]
    );
}

#[test]
fn what_a_store_is_told_is_understood_and_must_fit() {
    let one = |more: Value| {
        let mut repository = json!({"location": "s3://bucket"});
        for (key, value) in more.as_object().unwrap() {
            repository[key] = value.clone();
        }
        DynamicConfig::from_json(&json!({"archive": {"repositories": [repository]}}))
    };
    let config = one(json!({
        "storage_class": "STANDARD_IA", "server_side_encryption": "sse-kms", "kms_key": "arn:aws:kms:x", "upload_limit": "20MB",
        "download_limit": "1GB", "connect_timeout": "2s", "request_timeout": 10, "retry_for": "1min"
    }));
    let config = config.unwrap();
    assert_eq!(DynamicConfig::from_json(&config.to_json()).unwrap(), config);
    let repository = config.archive.unwrap().repositories.remove(0);
    assert_eq!(repository.server_side_encryption, Some(ServerSideEncryption::SseKms));
    assert_eq!((repository.upload_limit, repository.download_limit), (Some(20 << 20), Some(1 << 30)));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let times = (repository.connect_timeout, repository.request_timeout, repository.retry_for);
    assert_eq!(times, (seconds(2), seconds(10), seconds(60)));
    // A section that was written before there was any of it.
    let mut before = serde_json::to_value(one(json!({})).unwrap().archive.unwrap().repositories.remove(0)).unwrap();
    for key in ["storage_class", "server_side_encryption", "kms_key", "customer_key", "upload_limit", "connect_timeout"]
    {
        before.as_object_mut().unwrap().remove(key);
    }
    assert!(serde_json::from_value::<ArchiveRepository>(before).is_ok());
    for (more, told) in [
        (json!({"storage_class": "GLACIER"}), "takes hours"),
        (json!({"storage_class": "two words"}), "a word such as"),
        (json!({"server_side_encryption": "sse-c"}), "openssl rand"),
        (json!({"customer_key": "/k"}), "nothing is encrypted with it"),
        (json!({"kms_key": "k"}), "no key service is asked for"),
        (json!({"upload_limit": "1kB"}), "upload_limit"),
        (json!({"location": "gs://b", "server_side_encryption": "sse-s3"}), "means nothing for gs://b"),
        (json!({"location": "/srv/a", "storage_class": "STANDARD_IA"}), "means nothing for /srv/a"),
        (json!({"location": "/srv/a", "retry_for": 3}), "means nothing for /srv/a"),
        (json!({"location": "azure://a/b", "region": "x"}), "means nothing for azure://a/b"),
        (json!({"location": "gs://b", "endpoint": "http://h:1"}), "not encrypted on its way"),
        (json!({"location": "azure://a/b", "endpoint": "http://h:1"}), "not encrypted on its way"),
    ] {
        let problems = one(more.clone()).unwrap_err().to_string();
        assert!(problems.contains(told), "{more}: {problems}");
    }
}

#[test]
fn a_schedule_and_a_retention_are_understood() {
    let section = |schedule: Value, retention: Value| json!({"archive": {"repositories": [{"location": "/a"}], "schedule": schedule, "retention": retention}});
    let config = read(section(
        json!({"full": "30 2 * * mon-fri", "time_zone": "Europe/Berlin"}),
        json!({"keep": 7, "window": "4w"}),
    ));
    assert_eq!(DynamicConfig::from_json(&config.to_json()).unwrap(), config);
    let archive = config.archive.unwrap();
    let schedule = archive.schedule.unwrap();
    assert_eq!(schedule.to_string(), "full 30 2 * * mon-fri Europe/Berlin");
    let friday = "2026-11-20T12:00:00Z".parse().unwrap();
    assert_eq!(schedule.next_full(friday).unwrap().to_string(), "2026-11-23T01:30:00Z");
    assert_eq!(schedule.next_incremental(friday), None);
    let both = json!({"full": "@weekly", "incremental": "15 * * * *", "time_zone": "Europe/Berlin"});
    let both = read(section(both, json!(null))).archive.unwrap().schedule.unwrap();
    assert_eq!(both.to_string(), "full @weekly incremental 15 * * * * Europe/Berlin");
    assert_eq!(both.next_incremental(friday).unwrap().to_string(), "2026-11-20T12:15:00Z");
    let four_weeks = Duration::from_secs(28 * 86_400);
    assert_eq!(archive.retention, Retention { keep: Some(7), window: Some(four_weeks) });
    let utc = read(section(json!({"full": "@daily"}), json!(null))).archive.unwrap();
    assert_eq!(utc.schedule.unwrap().time_zone.to_string(), "UTC");

    for (schedule, retention, told) in [
        (json!("@daily"), json!(null), "archive.schedule: expected a section with keys, found text"),
        (json!({"time_zone": "UTC"}), json!(null), "archive.schedule.full: required, but missing"),
        (
            json!({"full": "30 25 * * *"}),
            json!(null),
            "archive.schedule.full: '30 25 * * *' is not a schedule: hour: 25 is out of range; write a number from 0 to 23",
        ),
        (
            json!({"full": "@daily", "time_zone": "Europe/Berln"}),
            json!(null),
            "archive.schedule.time_zone: 'Europe/Berln' is not a time zone: write a name of the tz database, such as Europe/Berlin",
        ),
        (json!({"fulll": "@daily", "full": "@daily"}), json!(null), "fulll: unknown key; did you mean 'full'?"),
        (
            json!({"cron": "@daily"}),
            json!(null),
            "archive.schedule.cron: it says when, and not what is taken; rename it to `full`",
        ),
        (
            json!({"full": "@daily", "incremental": "hourly"}),
            json!(null),
            "archive.schedule.incremental: 'hourly' is not a schedule",
        ),
        (json!(null), json!({"keep": 0}), "archive.retention.keep: 0 is out of range; choose 1 to 4294967295"),
        (
            json!(null),
            json!({"window": "14 days"}),
            "archive.retention.window: expected a number of seconds (or text with a unit",
        ),
    ] {
        let found = shown(&section(schedule, retention));
        assert!(found.iter().any(|problem| problem.contains(told)), "{told}: {found:#?}");
    }
}

#[test]
fn dumps_by_a_schedule_are_understood() {
    let section = |dumps: Value| json!({"archive": {"repositories": [{"location": "/a"}], "dumps": dumps}});
    let given = json!({"schedule": "30 3 * * sun", "time_zone": "Europe/Berlin", "databases": ["shop", "we ird\"="],
        "format": "directory", "jobs": 4, "scratch": "/srv/scratch", "keep": 4, "keep_for": "4w"});
    let config = read(section(given));
    assert_eq!(DynamicConfig::from_json(&config.to_json()).unwrap(), config);
    let dumps = config.archive.unwrap().dumps.unwrap();
    assert_eq!(dumps.to_string(), "30 3 * * sun Europe/Berlin");
    assert_eq!(dumps.next("2026-11-20T12:00:00Z".parse().unwrap()).unwrap().to_string(), "2026-11-22T02:30:00Z");
    assert_eq!((dumps.format, dumps.jobs, dumps.keep), (DumpFormat::Directory, 4, Some(4)));
    assert_eq!(dumps.keep_for, Some(Duration::from_secs(28 * 86_400)));
    let least = read(section(json!({"schedule": "@daily"}))).archive.unwrap().dumps.unwrap();
    assert_eq!((least.format, least.jobs, least.databases.len(), least.keep), (DumpFormat::Custom, 1, 0, None));
    assert_eq!(read(section(json!(null))).archive.unwrap().dumps, None);
    for (dumps, told) in [
        (json!({}), "archive.dumps.schedule: required, but missing"),
        (json!({"schedule": "@hourlyish"}), "archive.dumps.schedule: '@hourlyish' is not a schedule"),
        (
            json!({"schedule": "@daily", "jobs": 2}),
            "archive.dumps.jobs: several sessions write the directory format alone",
        ),
        (json!({"schedule": "@daily", "keep": 0}), "archive.dumps.keep: 0 is out of range"),
        (json!({"full": "@daily"}), "archive.dumps.full: a dump is always a whole one; rename it to `schedule`"),
    ] {
        let found = shown(&section(dumps));
        assert!(found.iter().any(|problem| problem.contains(told)), "{told}: {found:#?}");
    }
}

#[test]
fn what_is_wrong_with_an_archive_is_named() {
    let archive = |section: Value| shown(&json!({ "archive": section }));
    let one = |repository: Value| archive(json!({ "repositories": [repository] }));
    for (found, told) in [
        (archive(json!({})), "archive.repositories: required, but missing; add it to the file"),
        (
            archive(json!({"repositories": []})),
            "archive.repositories: an archive without a repository keeps nothing; name one, or remove `archive`",
        ),
        (one(json!({"locaton": "/a", "location": "/a"})), "locaton: unknown key; did you mean 'location'?"),
        (one(json!({"location": "a"})), "'a' is not the location of a repository: it must begin with '/', s3://"),
        (one(json!({"location": "s4://a"})), "there is no s4://; did you mean s3://?"),
        (one(json!({"location": "azure://a"})), "it needs a container, as in azure://account/container"),
        (one(json!({"location": "s3://a/../b"})), "a part of its path is empty, '.' or '..'"),
        (
            one(json!({"location": "s3://a", "endpoint": "http://h"})),
            "archive.repositories[0].endpoint: it is not encrypted on its way; use https://, or set `allow_http: true`",
        ),
        (one(json!({"location": "s3://a", "endpoint": "h:1"})), "it must begin with https:// or http://"),
        (
            one(json!({"location": "/a", "region": "x"})),
            "archive.repositories[0].region: it means nothing for /a; remove it",
        ),
        (one(json!({"location": "s3://a", "bucket": "a"})), "bucket: it belongs to the location; write"),
        (one(json!({"location": "s3://a", "access_key": "k"})), "access_key: secrets do not belong in the store"),
        (
            archive(json!({"repositories": [{"location": "/a"}, {"location": "/a"}]})),
            "archive.repositories[1].location: '/a' is named twice; keep one of them",
        ),
        (
            archive(json!({"repositories": [{"location": "/a"}], "compression": "zstd:20"})),
            "'zstd:20' is not a compression: known are zstd, zstd:1 to zstd:19, lz4 and none",
        ),
        (
            archive(json!({
                "repositories": [{"location": "/a"}], "schedule": {"full": "@weekly", "incremental": "@daily"},
                "encryption": {"recipients": [format!("age1{}", "q".repeat(58))]}
            })),
            "archive.schedule.incremental: it needs the manifest of the backup before it, which is encrypted; name \
             `encryption.identity_file`, a file on every member, or remove it",
        ),
        (
            archive(json!({"repositories": [{"location": "/a"}], "encryption": {"recipients": ["AGE-SECRET-KEY-1X"]}})),
            "this is a private key, which must not be in the store; write its public half (age1…)",
        ),
        (
            shown(&json!({"archive": {"repositories": [{"location": "/a"}]},
                "postgresql": {"parameters": {"archive_mode": "on", "ARCHIVE_COMMAND": "true", "restore_command": "x"}}})),
            "postgresql.parameters.archive_mode: with `archive`, PostgreSQL archives through Matriarch",
        ),
    ] {
        assert!(found.iter().any(|problem| problem.contains(told)), "{told}: {found:#?}");
        assert!(!found.iter().any(|problem| problem.contains("restore_command")), "it stays free: {found:#?}");
    }
}
