//! Whatever can be wrong in a file: what, where, and what to do.

use super::*;

#[test]
fn problems_say_where_they_are() {
    let mut wrong = Vec::new();
    for (from, to, expected) in [
        (
            "scope: main",
            "scoope: main",
            &[
                "line 1, column 1: scoope: unknown key; did you mean 'scope'?",
                "scope: required, but missing; add it to the file or set MATRIARCH_SCOPE",
            ][..],
        ),
        (
            "name: db1",
            "name: 'db 1'",
            &[
                "line 2, column 1: name: 'db 1' is not a member name: 'db 1' cannot be a member name: only a-z, A-Z, 0-9, '_', '.' and '-' are allowed; change the value",
            ],
        ),
        (
            "name: db1",
            "name: 1",
            &[
                "line 2, column 1: name: expected a member name, found 1; put the value in quotes if it is meant as text",
            ],
        ),
        (
            "sqlite: {path: /var/lib/matriarch/store.db}",
            "kubernetes: {namespace: default}",
            &["line 3, column 1: kubernetes: this store comes with a later release; use `etcd3`, `consul` or `sqlite`"],
        ),
        (
            "sqlite: {path: /var/lib/matriarch/store.db}",
            "sqlite: {path: /var/lib/matriarch/store.db}\netcd3: {hosts: [a:2379]}",
            &[
                "line 4, column 1: etcd3: `sqlite` is configured too, and a cluster has one store; keep the one that all members use",
            ],
        ),
        (
            "sqlite: {path: /var/lib/matriarch/store.db}\n",
            "",
            &[
                "line 1, column 1: no store is configured; add one, as in `etcd3: {hosts: [10.0.0.1:2379]}`, or for members on one host `sqlite: {path: /var/lib/matriarch/store.db}`",
            ],
        ),
        (
            "  connect_address: db1.example:5432\n",
            "",
            &[
                "line 6, column 1: postgresql.connect_address: required, since `listen` is a wildcard that others cannot connect to; add it, as in `connect_address: 10.0.0.1:5432`",
            ],
        ),
        (
            "db1.example:5432",
            "'*:5432'",
            &[
                "line 8, column 3: postgresql.connect_address: '*:5432' is not an address: others cannot connect to a wildcard; change the value",
            ],
        ),
        (
            "data_dir: /data/db1",
            "data_dir: data/db1",
            &[
                "line 9, column 3: postgresql.data_dir: 'data/db1' is not a path: it must begin with '/'; change the value",
            ],
        ),
        (
            "/var/lib/matriarch/store.db",
            "/data/db1/store.db",
            &[
                "line 3, column 10: sqlite.path: it lies in the data directory, which is emptied before a clone; choose another place",
            ],
        ),
        (
            "sslmode: require",
            "sslmode: verify-full",
            &[
                "line 12, column 5: postgresql.authentication.replication.sslrootcert: required by this sslmode; add the certificates that are trusted",
            ],
        ),
        (
            "nofailover: yes",
            "nofailver: yes",
            &["line 13, column 8: tags.nofailver: unknown key; did you mean 'nofailover'?"],
        ),
        (
            "rack: r1",
            "failover_priority: 2",
            &["line 13, column 25: tags.failover_priority: it contradicts `nofailover: true`; keep one of them"],
        ),
        (
            "rack: r1",
            "rack: [r1]",
            &["line 13, column 25: tags.rack: expected text, a number, true or false, found a list; change the value"],
        ),
        (
            "encoding: UTF8",
            "encodng: UTF8",
            &[
                "line 15, column 12: bootstrap.initdb[0].encodng: 'encodng' is not an option of initdb that can be set here; did you mean 'encoding'?",
            ],
        ),
        (
            "data-checksums",
            "pwfile: /x",
            &[
                "line 15, column 28: bootstrap.initdb[1].pwfile: 'pwfile' belongs to Matriarch; use postgresql.authentication.superuser.password",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  dcs: {tll: 5}\n",
            &["line 15, column 9: bootstrap.dcs.tll: unknown key; did you mean 'ttl'?"],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {to: latest}\n",
            &[
                "line 15, column 3: bootstrap.restore: it names no archive; add `archive: {repositories: [{location: …}]}` here or under `bootstrap.dcs`",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {scope: other, from: {tool: tar, location: /a}}\n",
            &[
                "line 15, column 34: bootstrap.restore.from.tool: expected one of pgbackrest, walg, barman, found 'tar'; change the value",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {from: {tool: walg, location: s3://a, endpoint: 'http://b'}}\n",
            &[
                "line 15, column 50: bootstrap.restore.from.endpoint: it is not encrypted on its way; use https://, or set `allow_http: true` for a store on this host or in a network of its own",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {scope: other, from: {tool: walg, location: /a}}\n",
            &[
                "line 15, column 13: bootstrap.restore.scope: it says nothing about another tool's repository; remove it, or `from`",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  dump: {name: x}\n  restore: {archive: {repositories: [{location: /a}]}}\n",
            &[
                "line 15, column 3: bootstrap.dump: it names no archive; add `archive: {repositories: [{location: …}]}` here or under `bootstrap.dcs`",
                "line 15, column 3: bootstrap.dump: a cluster is made from a backup or from a dump; remove it, or remove `restore`",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {to: yesterday, archive: {repositories: [{location: /a}]}}\n",
            &[
                "line 15, column 13: bootstrap.restore.to: 'yesterday' is not a target: expected latest, immediate, a time with its zone (2026-12-24T03:00:00+01:00), a position (0/3000148), xid=NUMBER or name=RESTORE_POINT; change the value",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {too: latest, tablespace: [x=y], archive: {repositories: [{location: /a}]}}\n",
            &[
                "line 15, column 13: bootstrap.restore.too: unknown key; did you mean 'to'?",
                "line 15, column 39: bootstrap.restore.tablespace[0]: this is not NAME=DIRECTORY: it must begin with '/'; correct the line",
            ],
        ),
        (
            "bootstrap:\n",
            "proxy: {read_write: '127.0.0.1:5432'}\nbootstrap:\n",
            &["line 14, column 9: proxy.read_write: 5432 is also the port of postgresql.listen; choose another port"],
        ),
        (
            "bootstrap:\n",
            "virtual_ip: {address: 10.0.0.5, interface: eth0}\nbootstrap:\n",
            &[
                "line 14, column 14: virtual_ip.address: '10.0.0.5' is not an address with its prefix: the length of the network's prefix is missing, as in 10.0.0.5/24 or 2001:db8::5/64; change the value",
            ],
        ),
        (
            "bootstrap:\n",
            "virtual_ip: {address: 10.0.0.5/33, interface: eth 0}\nbootstrap:\n",
            &[
                "line 14, column 14: virtual_ip.address: '10.0.0.5/33' is not an address with its prefix: what stands after '/' must be a number from 1 to 32; change the value",
                "line 14, column 36: virtual_ip.interface: 'eth 0' is not an interface: it must be the name of an interface as `ip link` shows it: 1 to 15 characters; change the value",
            ],
        ),
        (
            "bootstrap:\n",
            "virtual_ip: {address: 10.0.0.5/24, interface: eth0, label: web}\nbootstrap:\n",
            &[
                "line 14, column 53: virtual_ip.label: it must begin with 'eth0:' and have at most 15 characters; change it, as in `label: eth0:pg`, or remove it",
            ],
        ),
        (
            "bootstrap:\n",
            "virtual_ip: {address: '2001:db8::5/64', interface: eth0, label: 'eth0:pg'}\nbootstrap:\n",
            &["line 14, column 58: virtual_ip.label: addresses of IPv6 have no labels; remove it"],
        ),
        (
            "bootstrap:\n",
            "virtual_ip: {address: 127.0.0.1/8, interface: lo}\nbootstrap:\n",
            &[
                "line 14, column 14: virtual_ip.address: '127.0.0.1/8' is not an address with its prefix: it must be an address that one host of the network can have; change the value",
            ],
        ),
        (
            "postgresql:\n  listen: '*:5432'\n  connect_address: db1.example:5432\n",
            "virtual_ip: {address: 10.0.0.5/24, interface: eth0}\npostgresql:\n  listen: 10.0.0.1:5432\n",
            &[
                "line 8, column 3: postgresql.listen: 10.0.0.5 (virtual_ip.address) comes when this member leads, and PostgreSQL would not listen on it; write `listen: '*:5432'` and this host's own address in `connect_address`",
            ],
        ),
        (
            "postgresql:\n  listen: '*:5432'\n  connect_address: db1.example:5432\n",
            "virtual_ip: {address: 10.0.0.5/24, interface: eth0}\npostgresql:\n  listen: '*:5432'\n  connect_address: 10.0.0.5:5432\n",
            &[
                "line 9, column 3: postgresql.connect_address: it is virtual_ip.address, which is another member's as soon as that leads; give this host's own address",
            ],
        ),
        (
            "bootstrap:\n",
            "proxy: {}\nbootstrap:\n",
            &[
                "line 14, column 1: proxy: the proxy has no port; add `read_write`, `read_only` or both, as in `read_write: 127.0.0.1:5000`, or a PgBouncer as `pooler`",
            ],
        ),
        (
            "bootstrap:\n",
            "proxy: {read_only: db1:1}\nbootstrap:\n",
            &[
                "line 14, column 9: proxy.read_only: 'db1:1' is not an address: the host must be an IP address, 'localhost' or '*'; change the value",
            ],
        ),
        (
            "postgresql:\n",
            "postgresql:\n  parameters: {max_connections: 5}\n",
            &[
                "line 7, column 16: postgresql.parameters.max_connections: it must be the same on every member; set it in the dynamic configuration with `matriarch config set`",
            ],
        ),
        (
            "postgresql:\n",
            "postgresql:\n  callbacks: {on_start: /x}\n",
            &["line 7, column 3: postgresql.callbacks: callbacks are not supported yet; remove it"],
        ),
    ] {
        let found = problems(from, to);
        if found != expected {
            wrong.push(format!("{from:?} -> {to:?}:\n  found    {found:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
