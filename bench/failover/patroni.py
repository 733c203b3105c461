"""Patroni with one etcd and HAProxy, as its documentation sets them up."""

import json
import pathlib
import subprocess
import urllib.error
import urllib.request

import machine
from contender import Contender

VERSION = "4.1.5"
SCOPE = "bench"
# `tight` is the lowest that Patroni accepts (ttl 20, loop_wait 1, retry_timeout 3), failing over instead of restarting
# in place, and HAProxy checking twice a second.
TIMING = {
    "default": {"ttl": 30, "loop_wait": 10, "retry_timeout": 10},
    "tight": {"ttl": 20, "loop_wait": 1, "retry_timeout": 3, "primary_start_timeout": 0},
}
CHECKS = {"default": "inter 3s fall 3 rise 2", "tight": "inter 500ms fall 1 rise 1"}
SYNC = {"async": {}, "sync": {"synchronous_mode": True}, "quorum": {"synchronous_mode": "quorum"}}


class Patroni(Contender):
    name = "patroni"

    def __init__(self, folder: pathlib.Path, bins: pathlib.Path, timing: str, sync: str):
        super().__init__(folder, bins)
        self.settings = f"{timing}, {sync}"
        self.timing, self.mode = timing, sync
        self.sync = sync != "async"
        self.period = float(TIMING[timing]["loop_wait"])
        self.program = machine.cache_dir() / f"bench/patroni-{VERSION}/bin/patroni"
        if not self.program.exists():
            machine.fail("Patroni is not installed; run scripts/install-deps --bench")
        self.rest = {member: machine.free_port() for member in self.members}
        self.etcd = machine.free_port()
        self.router = machine.free_port()

    def start(self) -> None:
        machine.start_etcd(self.folder / "etcd", self.etcd)
        for member in self.members:
            self.write_config(member)
            self.start_node(member)
        self.start_haproxy()

    def start_haproxy(self) -> None:
        home = machine.make_folder(self.folder / "haproxy")
        servers = "\n".join(
            f"    server {member} 127.0.0.1:{self.ports[member]} maxconn 100 check port {self.rest[member]}" for member in self.members
        )
        (home / "haproxy.cfg").write_text(
            f"""global
    maxconn 200
defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s
listen primary
    bind 127.0.0.1:{self.router}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server {CHECKS[self.timing]} on-marked-down shutdown-sessions
{servers}
"""
        )
        machine.start(["/usr/sbin/haproxy", "-db", "-f", home / "haproxy.cfg"], home)

    def write_config(self, member: str) -> None:
        home = machine.make_folder(self.home(member))
        port, user = self.ports[member], {"username": "postgres"}
        config = {
            "scope": SCOPE,
            "name": member,
            "restapi": {"listen": f"127.0.0.1:{self.rest[member]}", "connect_address": f"127.0.0.1:{self.rest[member]}"},
            "etcd3": {"host": f"127.0.0.1:{self.etcd}"},
            "bootstrap": {
                "dcs": {
                    **TIMING[self.timing],
                    **SYNC[self.mode],
                    "maximum_lag_on_failover": 1048576,
                    "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": {"shared_buffers": "64MB"}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{port}",
                "connect_address": f"127.0.0.1:{port}",
                "data_dir": str(self.data(member)),
                "bin_dir": str(self.bins),
                "pgpass": str(home / "pgpass"),
                "authentication": {"superuser": user, "replication": user, "rewind": user},
                "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                "parameters": {"unix_socket_directories": str(home)},
            },
        }
        # JSON is YAML, and the standard library writes it.
        (home / "patroni.yml").write_text(json.dumps(config, indent=2))

    def start_node(self, member: str) -> None:
        machine.start([self.program, self.home(member) / "patroni.yml"], self.home(member))

    def data(self, member: str) -> pathlib.Path:
        return self.home(member) / "data"

    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.router} user=postgres dbname=postgres"

    def leader(self) -> str | None:
        for member in self.members:
            cluster = self.get(f"http://127.0.0.1:{self.rest[member]}/cluster")
            for entry in (json.loads(cluster)["members"] if cluster else []):
                if entry["role"] == "leader" and entry["state"] == "running":
                    return entry["name"]
        return None

    def switchover(self, leader: str, candidate: str) -> None:
        body = json.dumps({"leader": leader, "candidate": candidate}).encode()
        url = f"http://127.0.0.1:{self.rest[leader]}/switchover"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=120) as answer:
            answer.read()

    @staticmethod
    def get(url: str) -> str | None:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, OSError):
            return None

    @staticmethod
    def version() -> str:
        haproxy = subprocess.run(["/usr/sbin/haproxy", "-v"], capture_output=True, text=True).stdout.split()[2]
        etcd = subprocess.run(["/usr/bin/etcd", "--version"], capture_output=True, text=True).stdout.split()[2]
        return f"Patroni {VERSION}, etcd {etcd}, HAProxy {haproxy}"
