//! PgBouncer beside the agent.

use super::*;

#[test]
fn a_pooler_beside_the_agent() {
    let role = "superuser: {password: hunter2-super}\n    pooler: {password: hunter2-pooler}";
    let section = "proxy:\n  pooler: {read_write: '*:6432', settings: {default_pool_size: 40, so_keepalive: true}, \
                   addresses: ['p1:6432/app,b'], admin: {username: boss, password: hunter2-admin}}\ntags:";
    let text = GOOD.replace("superuser: {password: hunter2-super}", role).replace("tags:", section);
    let config = load(text, &[]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.postgresql.authentication.pooler.as_ref().unwrap().username, "matriarch_pooler");
    let pooler = config.proxy.as_ref().and_then(|proxy| proxy.pooler.as_ref()).unwrap();
    assert_eq!(config.postgresql.pooler_dir(pooler), Path::new("/data/db1.pooler"));
    assert_eq!(pooler.settings, BTreeMap::from([("default_pool_size", "40"), ("so_keepalive", "1")].map(texts)));
    assert_eq!((pooler.addresses[0].address.port, pooler.addresses[0].databases.len()), (6432, 2));
}

fn texts((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn what_is_wrong_with_a_pooler_is_told() {
    for (section, wanted) in [
        ("{read_write: '*:6432'}", "proxy.pooler: it must know the roles' passwords; add a role for it"),
        ("{auth_file: /users}", "proxy.pooler: there is no PgBouncer; add `read_write: 0.0.0.0:6432`"),
        ("{addresses: ['p1:6432']}", "proxy.pooler.admin: required with `addresses`"),
        ("{admin: {username: a, password: b}, auth_file: /u, read_only: '*:1'}", "proxy.pooler.admin: there are no"),
        ("{addresses: ['p1']}", "'p1' is no address of a PgBouncer (the port is missing"),
        (
            "{read_write: '*:5432', auth_file: /u}",
            "proxy.pooler.read_write: 5432 is also the port of postgresql.listen",
        ),
        ("{read_write: '*:6432', auth_file: /data/db1/u}", "proxy.pooler.auth_file: it lies in the data directory"),
        (
            "{read_write: '*:6432', auth_file: /u, setings: {}}",
            "proxy.pooler.setings: unknown key; did you mean 'settings'?",
        ),
        (
            "{read_write: '*:6432', auth_file: /u, settings: {auth_query: x}}",
            "proxy.pooler.settings.auth_query: PgBouncer's auth_query belongs to Matriarch; Matriarch keeps",
        ),
        ("{read_write: '*:6432', auth_file: /u, settings: {a: [1]}}", "proxy.pooler.settings.a: expected text"),
    ] {
        let problems = problems("tags:", &format!("proxy: {{pooler: {section}}}\ntags:"));
        assert!(problems.iter().any(|problem| problem.contains(wanted)), "{section}: {problems:?}");
    }
    let role = "superuser: {password: x}\n    pooler: {username: postgres, password: x}";
    let found = problems("superuser: {password: hunter2-super}", role);
    assert!(
        found.iter().any(|problem| problem.contains("pooler.username: it is also the role `superuser`")),
        "{found:?}"
    );
}
