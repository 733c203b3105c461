use matriarch_config::LocalConfig;
use serde_json::{Value, json};

use super::*;

fn config(value: Value) -> DynamicConfig {
    DynamicConfig::from_json(&value).unwrap()
}

fn options(tags: Value) -> Options {
    let value = json!({
        "scope": "main", "name": "a", "sqlite": {"path": "/s/store.db"}, "tags": tags,
        "postgresql": {"listen": "127.0.0.1:5432", "data_dir": "/d/data"},
    });
    let local = LocalConfig::from_json(&value).unwrap();
    let user = || matriarch_postgres::Credentials { username: "u".into(), password: String::new() };
    Options {
        scope: local.scope.clone(),
        instance: matriarch_postgres::Instance {
            binaries: matriarch_postgres::Binaries::find(None, None).unwrap(),
            data_dir: "/d/data".into(),
            run_dir: "/d/run".into(),
            port: 5432,
            listen_addresses: Vec::new(),
            owner: None,
            passfile: None,
            name: local.name.clone(),
            superuser: user(),
            replication: user(),
            rewind: user(),
            pooler: None,
        },
        postgres_address: "127.0.0.1:5432".into(),
        api_url: "http://127.0.0.1:8008".into(),
        api_tls: None,
        postgres_log: "/d/log".into(),
        stream_postgres_log: false,
        libpq: BTreeMap::new(),
        rewind_libpq: BTreeMap::new(),
        parameters: BTreeMap::new(),
        pg_hba: None,
        pg_ident: None,
        tls: None,
        virtual_ip: None,
        watchdog: local.watchdog.clone(),
        tags: local.tags.to_json().into_iter().collect(),
        initdb: matriarch_postgres::bootstrap::InitdbOptions::default(),
        restore: None,
        dump: None,
        bootstrap_config: None,
        program: "/bin/true".into(),
        guard_socket: "/d/guard".into(),
        archive_socket: "/d/a'b.archive".into(),
        host_id: "h".into(),
        require_tls: false,
        supervised: false,
        config_file: None,
    }
}

#[test]
fn defaults_fail_over_and_clone_again() {
    let policy = policy(&options(json!({})), &config(json!({})));
    assert_eq!((policy.crash, policy.ttl, policy.start_timeout), (CrashPolicy::Failover, 5_000, 300_000));
    assert!(policy.use_rewind && policy.clone_after_rewind && policy.clone_diverged && policy.may_lead);
    assert_eq!((policy.synchronous.needed, policy.synchronous.from_members), (1, 3));
}

#[test]
fn every_key_arrives() {
    let wanted = config(json!({
        "crash": "restart", "primary_start_timeout": 7, "ttl": 9, "shrink_delay": 1.5, "pause": true,
        "synchronous_mode_strict": true, "synchronous_node_count": 2, "maximum_lag_on_failover": 5,
        "postgresql": {
            "use_pg_rewind": false, "remove_data_directory_on_rewind_failure": false,
            "remove_data_directory_on_diverged_timelines": false,
        },
    }));
    let policy = policy(&options(json!({})), &wanted);
    assert_eq!((policy.crash, policy.ttl, policy.start_timeout), (CrashPolicy::Restart, 9_000, 7_000));
    assert_eq!((policy.shrink_delay, policy.paused, policy.maximum_lag_on_failover), (1_500, true, 5));
    assert!(policy.synchronous.strict && policy.synchronous.needed == 2);
    assert!(!policy.use_rewind && !policy.clone_after_rewind && !policy.clone_diverged);
}

#[test]
fn no_time_to_start_is_no_start_in_place() {
    let wanted = config(json!({"crash": "restart", "primary_start_timeout": 0}));
    let policy = policy(&options(json!({})), &wanted);
    assert_eq!((policy.crash, policy.start_timeout), (CrashPolicy::Failover, 300_000));
}

#[test]
fn tags_say_who_may_lead() {
    let may_lead = |tags: Value| policy(&options(tags), &config(json!({}))).may_lead;
    assert!(may_lead(json!({"failover_priority": 3})));
    assert!(!may_lead(json!({"failover_priority": 0})) && !may_lead(json!({"nofailover": true})));
}

#[test]
fn slots_have_a_bound_unless_a_parameter_says_so() {
    assert_eq!(parameters(&config(json!({})))["max_slot_wal_keep_size"], "16384MB");
    let own = config(json!({"postgresql": {"max_slot_wal_keep_size": "64MB"}}));
    assert_eq!(parameters(&own)["max_slot_wal_keep_size"], "64MB");
    let own = config(json!({"postgresql": {"parameters": {"max_slot_wal_keep_size": "-1"}}}));
    assert_eq!(parameters(&own)["max_slot_wal_keep_size"], "-1");
    assert!(!sync_slots(&config(json!({"slots": {"p": {"type": "physical"}}}))));
    assert!(sync_slots(&config(json!({"slots": {"l": {"database": "d", "plugin": "pgoutput"}}}))));
}

#[test]
fn a_reload_takes_what_it_can_and_names_the_rest() {
    let local = |change: Value| {
        let mut value = json!({
            "scope": "main", "name": "a", "sqlite": {"path": "/s/store.db"},
            "postgresql": {"listen": "127.0.0.1:5432", "data_dir": "/d/data"},
        });
        for (key, change) in change.as_object().unwrap() {
            value["postgresql"][key] = change.clone();
        }
        LocalConfig::from_json(&value).unwrap()
    };
    let mut options = options(json!({}));
    let rules = json!({"pg_hba": ["local all all trust"], "parameters": {"work_mem": "1MB"}, "listen": "127.0.0.1:9"});
    assert_eq!(options.reload(&local(json!({})), &local(rules)), ["postgresql.listen", "postgresql.connect_address"]);
    assert_eq!(options.pg_hba.as_deref(), Some(&["local all all trust".to_owned()][..]));
    assert_eq!(options.parameters["work_mem"], "1MB");
    assert!(options.reload(&local(json!({})), &local(json!({}))).is_empty() && options.pg_hba.is_none());
}

#[test]
fn what_people_have_set_in_any_case_is_no_default() {
    let mut parameters = BTreeMap::from([("Summarize_WAL".to_owned(), "off".to_owned())]);
    default(&mut parameters, "summarize_wal", "on");
    default(&mut parameters, "restore_command", "fetch");
    assert_eq!(parameters.keys().collect::<Vec<_>>(), ["Summarize_WAL", "restore_command"]);
}
