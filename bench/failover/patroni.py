"""Patroni with etcd and HAProxy, as its documentation sets them up; PgBouncer in front of HAProxy, if wanted."""

import json
import subprocess
import urllib.request

import machine
import routers
from contender import PASSWORD, Contender

VERSION = "4.1.5"
SCOPE = "bench"
PROGRAM = machine.cache_dir() / f"bench/patroni-{VERSION}/bin/patroni"
# `tight` is the lowest that Patroni accepts (ttl 20, loop_wait 1, retry_timeout 3), failing over instead of restarting
# in place, and HAProxy checking twice a second. `failsafe` is what its documentation advises against store outages.
SLOW = {"ttl": 30, "loop_wait": 10, "retry_timeout": 10}
TIMING = {
    "default": SLOW,
    "tight": {"ttl": 20, "loop_wait": 1, "retry_timeout": 3, "primary_start_timeout": 0},
    "failsafe": {**SLOW, "failsafe_mode": True},
}
CHECKS = {"tight": "inter 500ms fall 1 rise 1"}
USUAL_CHECKS = "inter 3s fall 3 rise 2"
SYNC = {"sync": {"synchronous_mode": "quorum"}, "on": {"synchronous_mode": True}, "async": {}}


class Patroni(Contender):
    name = "patroni"
    settings = tuple(TIMING)

    @staticmethod
    def missing() -> str | None:
        return None if PROGRAM.exists() else "Patroni is not installed; run scripts/install-deps --bench"

    def prepare(self) -> None:
        self.rest = {member: machine.free_port() for member in self.members}
        self.period = float(TIMING[self.setup.settings]["loop_wait"])

    def start(self) -> None:
        self.store.start()
        for member in self.members:
            self.write_config(member)
            self.start_node(member)
        front = self.behind if self.setup.pooler else self.router
        servers = [(member, f"{self.address(member)}:{self.ports[member]}", self.rest[member]) for member in self.members]
        checks = CHECKS.get(self.setup.settings, USUAL_CHECKS)
        routers.haproxy(self.folder / "haproxy", f"{self.gateway}:{front}", servers, checks)
        if self.setup.pooler:
            routers.pgbouncer(self.folder / "pgbouncer", self.gateway, self.router, front, PASSWORD)

    def write_config(self, member: str) -> None:
        home = machine.make_folder(self.home(member))
        postgres, rest = f"{self.address(member)}:{self.ports[member]}", f"{self.address(member)}:{self.rest[member]}"
        user = {"username": "postgres", "password": PASSWORD}
        config = {
            "scope": SCOPE,
            "name": member,
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"hosts": self.store.endpoints},
            "bootstrap": {
                "dcs": {
                    **TIMING[self.setup.settings],
                    **SYNC[self.setup.mode],
                    "maximum_lag_on_failover": 1048576,
                    "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": {"shared_buffers": "64MB"}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": postgres,
                "connect_address": postgres,
                "data_dir": str(self.data(member)),
                "bin_dir": str(self.bins),
                "pgpass": str(home / "pgpass"),
                "authentication": {"superuser": user, "replication": user, "rewind": user},
                "pg_hba": ["local all all trust", "host all all 0.0.0.0/0 trust", "host replication all 0.0.0.0/0 trust"],
                "parameters": {"unix_socket_directories": str(home)},
            },
        }
        # JSON is YAML, and the standard library writes it.
        (home / "patroni.yml").write_text(json.dumps(config, indent=2))

    def agent(self, member: str) -> list:
        return [PROGRAM, self.home(member) / "patroni.yml"]

    def describe(self) -> str:
        timing = ", ".join(f"{key} {value}" for key, value in TIMING[self.setup.settings].items())
        mode = {"sync": "synchronous_mode quorum", "on": "synchronous_mode on", "async": "asynchronous"}[self.setup.mode]
        return f"{mode}, {timing}"

    def leader(self) -> str | None:
        for member in self.members:
            for entry in (self.get(member, self.rest[member], "/cluster") or {"members": []})["members"]:
                if entry["role"] == "leader" and entry["state"] == "running":
                    return entry["name"]
        return None

    def switchover(self, leader: str, candidate: str) -> None:
        # With synchronous_mode on it refuses every candidate but the synchronous one: that it chooses by itself.
        which = {"leader": leader} if self.setup.mode == "on" else {"leader": leader, "candidate": candidate}
        body = json.dumps(which).encode()
        url = f"http://{self.address(leader)}:{self.rest[leader]}/switchover"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=120) as answer:
            answer.read()

    def version(self) -> str:
        haproxy = subprocess.run([routers.HAPROXY, "-v"], capture_output=True, text=True).stdout.split()[2]
        return f"Patroni {VERSION}, {self.store.version()}, HAProxy {haproxy}"
