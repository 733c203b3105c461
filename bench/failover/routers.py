"""HAProxy and PgBouncer, as peers use them in front of PostgreSQL."""

import pathlib

import machine

HAPROXY, PGBOUNCER = pathlib.Path("/usr/sbin/haproxy"), pathlib.Path("/usr/sbin/pgbouncer")


def haproxy(home: pathlib.Path, listen: str, servers: list[tuple[str, str, int]], checks: str) -> None:
    """Sessions go to the one server (name, address, port of its health check) that says it is the primary."""
    lines = "\n".join(f"    server {name} {address} maxconn 100 check port {port}" for name, address, port in servers)
    (machine.make_folder(home) / "haproxy.cfg").write_text(
        f"""global
    maxconn 400
defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s
listen primary
    bind {listen}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server {checks} on-marked-down shutdown-sessions
{lines}
"""
    )
    machine.start([HAPROXY, "-db", "-f", home / "haproxy.cfg"], home)


def pgbouncer(home: pathlib.Path, address: str, port: int, server: int, password: str) -> None:
    """Transaction pooling in front of a router of the same address. A failed connect is tried again at once, as ours does:
    PgBouncer's own 15 s would be its figure and not the contender's."""
    machine.make_folder(home)
    (home / "users.txt").write_text(f'"postgres" "{password}"\n')
    (home / "pgbouncer.ini").write_text(
        f"""[databases]
* = host={address} port={server}
[pgbouncer]
listen_addr = {address}
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {home}/users.txt
pool_mode = transaction
default_pool_size = 20
max_client_conn = 1000
server_login_retry = 0.1
server_connect_timeout = 2
ignore_startup_parameters = extra_float_digits,options
log_connections = 0
log_disconnections = 0
"""
    )
    machine.start([PGBOUNCER, home / "pgbouncer.ini"], home)
