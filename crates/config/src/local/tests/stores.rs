//! etcd and Consul, in all the ways that people name them.

use super::*;

/// The store of the good file with another section in the place of `sqlite`.
fn etcd(section: &str, variables: &[(&str, &str)]) -> Etcd {
    let text = GOOD.replace("sqlite: {path: /var/lib/matriarch/store.db}", section);
    match load(text, variables).unwrap_or_else(|error| panic!("{section}: {error}")).store {
        Store::Etcd(etcd) => etcd,
        other => panic!("{section}: {other:?}"),
    }
}

fn hosts(etcd: &Etcd) -> Vec<String> {
    etcd.hosts.iter().map(ToString::to_string).collect()
}

#[test]
fn etcd_is_named_in_all_the_ways_that_patroni_knows() {
    for section in [
        "etcd3: {hosts: [a:2379, 'b:12379']}",
        "etcd3: {hosts: 'a:2379, b:12379'}",
        "etcd: {hosts: [a, 'b:12379'], protocol: http}",
    ] {
        let etcd = etcd(section, &[]);
        assert_eq!((hosts(&etcd), etcd.tls), (vec!["a:2379".to_owned(), "b:12379".to_owned()], false), "{section}");
    }
    for section in [
        "etcd3: {host: 'a:1', protocol: https}",
        "etcd3: {url: 'https://a:1/'}",
        "etcd3: {url: 'https://a:1', cacert: /ca}",
    ] {
        let etcd = etcd(section, &[]);
        assert_eq!((hosts(&etcd), etcd.tls), (vec!["a:1".to_owned()], true), "{section}");
    }
    let found = etcd("etcd3: {srv: example.org, srv_suffix: blue, cacert: /ca, username: u, password_file: /p}", &[]);
    assert!(found.hosts.is_empty());
    assert_eq!((found.srv.as_deref(), found.srv_suffix.as_deref()), (Some("example.org"), Some("blue")));
}

#[test]
fn etcd_is_overridden_by_the_environment() {
    let variables = [("MATRIARCH_ETCD3_HOSTS", "c:1,d:2"), ("MATRIARCH_ETCD3_PASSWORD", "hunter2")];
    let found = etcd("etcd3: {hosts: a, username: u}", &variables);
    assert_eq!(hosts(&found), ["c:1", "d:2"]);
    assert!(!format!("{found:?}").contains("hunter2"));
    assert_eq!(hosts(&etcd("# none in the file", &[("MATRIARCH_ETCD_HOST", "e:3")])), ["e:3"]);
}

#[test]
fn what_is_wrong_with_etcd_is_told() {
    for (section, wanted) in [
        ("etcd3: {}", "etcd3: no server is named; add `hosts`"),
        ("etcd3: {hosts: a, srv: example.org}", "etcd3.srv: `hosts` is given too; keep one of them"),
        ("etcd3: {hosts: []}", "etcd3.hosts: expected a list of HOST:PORT, or text with commas"),
        ("etcd3: {hosts: ['a b']}", "etcd3.hosts: 'a b' is not an address"),
        (
            "etcd3: {hosts: a, cacert: /ca}",
            "etcd3.cacert: the servers are spoken to without TLS; add `protocol: https`",
        ),
        ("etcd3: {url: 'a:1'}", "etcd3.url: 'a:1' is not a URL: it must begin with http:// or https://"),
        ("etcd3: {url: 'http://a:1', protocol: https}", "etcd3.protocol: the URL says http; make them the same"),
        ("etcd3: {hosts: a, username: u}", "etcd3.password: required with `username`"),
        ("etcd3: {hosts: a, password: p}", "etcd3.username: required with a password"),
        ("etcd3: {hosts: a, host: 'b:1'}", "etcd3.host: `hosts` is given too"),
        ("etcd3: {hosts: a, srv_suffix: x}", "etcd3.srv_suffix: there is no `srv`"),
        ("etcd3: {hosts: a, protocol: https, key: /k}", "etcd3.key: there is no `cert`"),
        ("etcd3: {hosts: a, passwort: p}", "etcd3.passwort: unknown key; did you mean 'password'?"),
    ] {
        let problems = problems("sqlite: {path: /var/lib/matriarch/store.db}", section);
        assert!(problems.iter().any(|problem| problem.contains(wanted)), "{section}: {problems:?}");
    }
}

/// The store of the good file with a section `consul` in the place of `sqlite`.
fn consul(section: &str, variables: &[(&str, &str)]) -> Consul {
    let text = GOOD.replace("sqlite: {path: /var/lib/matriarch/store.db}", section);
    match load(text, variables).unwrap_or_else(|error| panic!("{section}: {error}")).store {
        Store::Consul(consul) => consul,
        other => panic!("{section}: {other:?}"),
    }
}

#[test]
fn consul_is_named_in_all_the_ways_that_patroni_knows() {
    for (section, hosts, tls) in [
        ("consul: {}", "127.0.0.1:8500", false),
        ("consul: {host: a}", "a:8500", false),
        ("consul: {host: 'a:1'}", "a:1", false),
        ("consul: {host: a, port: 1}", "a:1", false),
        ("consul: {port: 1}", "127.0.0.1:1", false),
        ("consul: {host: a, scheme: https, verify: true}", "a:8500", true),
        ("consul: {url: 'https://a'}", "a:8500", true),
        ("consul: {url: 'http://a:1/'}", "a:1", false),
        ("consul: {hosts: [a, 'b:1']}", "a:8500,b:1", false),
        ("consul: {hosts: 'a,b:1'}", "a:8500,b:1", false),
        ("consul: {host: '[::1]'}", "[::1]:8500", false),
        ("consul: {socket: /run/consul.sock}", "", false),
    ] {
        let found = consul(section, &[]);
        let named: Vec<String> = found.hosts.iter().map(ToString::to_string).collect();
        assert_eq!((named.join(",").as_str(), found.tls), (hosts, tls), "{section}");
    }
    let section = "consul: {register_service: on, service_tags: [x, y], service_check_interval: 10s, checks: serfHealth, \
                   consistency: stale, token: hunter2}";
    let found = consul(section, &[("MATRIARCH_CONSUL_SERVICE_TAGS", "z")]);
    assert!(found.register_service && !format!("{found:?}").contains("hunter2"));
    assert_eq!((found.service_tags, found.checks), (vec!["z".to_owned()], vec!["serfHealth".to_owned()]));
    assert_eq!(found.service_check_interval, std::time::Duration::from_secs(10));
    assert_eq!(found.consistency, ConsulConsistency::Stale);
}

#[test]
fn what_is_wrong_with_consul_is_told() {
    for (section, wanted) in [
        ("consul: {host: a, hosts: b}", "consul.hosts: `host` is given too; keep one of them"),
        ("consul: {socket: consul.sock}", "consul.socket"),
        ("consul: {socket: /s, scheme: https}", "consul.scheme: a socket is spoken to without TLS"),
        ("consul: {hosts: []}", "consul.hosts: no server is named"),
        ("consul: {hosts: ['a b']}", "consul.hosts: 'a b' is not an address"),
        ("consul: {url: 'a:1'}", "consul.url: 'a:1' is not a URL: it must begin with http:// or https://"),
        ("consul: {url: 'http://a:1', scheme: https}", "consul.scheme: the URL says http; make them the same"),
        ("consul: {url: 'http://a:1', port: 2}", "consul.port: `url` says where the agent is; remove it"),
        ("consul: {host: 'a:1', port: 2}", "consul.port: `host` has a port too"),
        ("consul: {host: a, cacert: /ca}", "consul.cacert: the agent is spoken to without TLS; add `scheme: https`"),
        ("consul: {scheme: https, key: /k}", "consul.key: there is no `cert`"),
        ("consul: {token: t, token_file: /t}", "consul.token_file: `token` is given too"),
        ("consul: {verify: false}", "consul.verify: the agent's certificate is always verified"),
        ("consul: {consistency: eventual}", "consul.consistency"),
        ("consul: {service_tag: x}", "consul.service_tag: unknown key; did you mean 'service_tags'?"),
    ] {
        let problems = problems("sqlite: {path: /var/lib/matriarch/store.db}", section);
        assert!(problems.iter().any(|problem| problem.contains(wanted)), "{section}: {problems:?}");
    }
}
