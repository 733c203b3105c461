"""Stolon with etcd and its own proxy, from its documented options, when its programs are on PATH.

No package registry has them, so this contender was written from the documentation alone. A keeper runs on each member's
host; two sentinels and the proxy run where the routers of the others do, so that a node's fault kills the same for all.
"""

import json
import shutil
import subprocess
import time

import machine
import routers
from contender import PASSWORD, Contender

PROGRAMS = ("stolon-keeper", "stolon-sentinel", "stolon-proxy", "stolonctl")
CLUSTER = "bench"


def timing(interval: str, request: str, fail: str, check: str, proxy: str) -> dict:
    names = ("sleepInterval", "requestTimeout", "failInterval", "proxyCheckInterval", "proxyTimeout")
    return dict(zip(names, (interval, request, fail, check, proxy), strict=True))


TIMING = {
    "default": {},
    "tight": timing("1s", "1s", "3s", "1s", "3s"),
    "tightest": timing("200ms", "500ms", "1s", "200ms", "1s"),
}


class Stolon(Contender):
    name = "stolon"
    modes = ("sync", "async")
    settings = tuple(TIMING)
    period = 5.0

    @staticmethod
    def missing() -> str | None:
        absent = [program for program in PROGRAMS if not shutil.which(program)]
        return f"not on PATH: {', '.join(absent)} (no package registry has them)" if absent else None

    def prepare(self) -> None:
        self.period = {"default": 5.0, "tight": 1.0, "tightest": 0.2}[self.setup.settings]

    def which(self) -> list[str]:
        endpoints = ",".join(f"http://{endpoint}" for endpoint in self.store.endpoints)
        return ["--cluster-name", CLUSTER, "--store-backend", "etcdv3", "--store-endpoints", endpoints]

    def control(self, *verb: str) -> subprocess.CompletedProcess:
        return subprocess.run(["stolonctl", *self.which(), *verb], capture_output=True, text=True, timeout=30)

    def start(self) -> None:
        self.store.start()
        spec = {
            "initMode": "new",
            "usePgrewind": True,
            "synchronousReplication": self.sync,
            "pgParameters": {"shared_buffers": "64MB"},
            **TIMING[self.setup.settings],
        }
        answer = self.control("init", "--yes", json.dumps(spec))
        if answer.returncode:
            raise RuntimeError(f"stolonctl init failed: {answer.stderr.strip()}")
        for number in (1, 2):
            machine.start([shutil.which("stolon-sentinel"), *self.which()], machine.make_folder(self.folder / f"sentinel{number}"))
        for member in self.members:
            machine.make_folder(self.home(member))
            self.start_node(member)
        front = self.behind if self.setup.pooler else self.router
        listen = ["--listen-address", self.gateway, "--port", str(front)]
        machine.start([shutil.which("stolon-proxy"), *self.which(), *listen], machine.make_folder(self.folder / "proxy"))
        if self.setup.pooler:
            routers.pgbouncer(self.folder / "pgbouncer", self.gateway, self.router, front, PASSWORD)

    def agent(self, member: str) -> list:
        listen = ["--pg-listen-address", self.address(member), "--pg-port", self.ports[member]]
        users = ["--pg-su-username", "postgres", "--pg-su-password", PASSWORD]
        users += ["--pg-repl-username", "replicator", "--pg-repl-password", PASSWORD]
        where = ["--uid", member, "--data-dir", self.disk(member) / "keeper", "--pg-bin-path", self.bins]
        return [shutil.which("stolon-keeper"), *self.which(), *where, *listen, *users]

    def data(self, member: str):
        return self.disk(member) / "keeper/postgres"

    def describe(self) -> str:
        words = ", ".join(f"{key} {value}" for key, value in TIMING[self.setup.settings].items()) or "default timings"
        return f"{'synchronousReplication' if self.sync else 'asynchronous'}, {words}"

    def leader(self) -> str | None:
        answer = self.control("clusterdata", "read")
        try:
            view = json.loads(answer.stdout)
            database = view["dbs"][view["cluster"]["status"]["master"]]
            return database["spec"]["keeperUID"] if database["status"]["healthy"] else None
        except (ValueError, KeyError, TypeError):
            return None

    def switchover(self, leader: str, candidate: str) -> None:
        """Its documentation's way; the sentinel chooses the new one."""
        answer = self.control("failkeeper", leader)
        if answer.returncode:
            raise RuntimeError(f"stolonctl failkeeper failed: {answer.stderr.strip()}")
        deadline = time.monotonic() + 90
        while self.leader() in (leader, None) and time.monotonic() < deadline:
            time.sleep(0.2)

    def version(self) -> str:
        said = self.control("version").stdout.strip() or "of an unknown version"
        return f"Stolon {said}, {self.store.version()}"
