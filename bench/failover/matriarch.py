"""Matriarch with its defaults: three agents, the SQLite store (or etcd) and its proxy, each a process of its own."""

import json
import pathlib
import shutil
import subprocess
import urllib.request

import machine
from contender import Contender

BINARY = machine.ROOT / "target/release/matriarch"
SCOPE, PASSWORD, TOKEN = "bench", "bench", "bench"


class Matriarch(Contender):
    name = "matriarch"
    settings = "defaults: quorum of 1 of 2, lease of 5 s"
    # Nothing in it sleeps for long; a lease is renewed every third of its life.
    period = 5 / 3
    sync = True

    def __init__(self, folder: pathlib.Path, bins: pathlib.Path, store: str = "sqlite"):
        super().__init__(folder, bins)
        if store != "sqlite":
            self.name, self.settings = f"matriarch-{store}", f"{self.settings}, {store}"
        if not BINARY.exists():
            machine.fail(f"{BINARY} is missing; cargo build --release -p matriarch")
        # The unprivileged user may not be able to reach the checkout.
        self.program = shutil.copy(BINARY, machine.make_folder(self.folder / "bin") / "matriarch")
        machine.forget_cached(self.program)
        self.rest = {member: machine.free_port() for member in self.members}
        self.router = machine.free_port()
        # Not within a folder that names a member: a node's processes are found by its folder.
        self.store = machine.make_folder(self.folder / "store") / "store.db"
        self.etcd = machine.free_port() if store == "etcd" else None

    # --- configuration and commands: the only places that know Matriarch's own words -------------------------
    def agent_config(self, member: str) -> dict:
        role = {"password": PASSWORD}
        return {
            "scope": SCOPE,
            "name": member,
            "log": {"postgresql": str(self.home(member) / "postgresql.log")},
            "restapi": {"listen": f"127.0.0.1:{self.rest[member]}", "token": TOKEN},
            **({"etcd3": {"host": f"127.0.0.1:{self.etcd}"}} if self.etcd else {"sqlite": {"path": str(self.store)}}),
            "bootstrap": {"dcs": {"postgresql": {"parameters": {"shared_buffers": "64MB"}}}},
            "postgresql": {
                "listen": f"127.0.0.1:{self.ports[member]}",
                "data_dir": str(self.data(member)),
                "bin_dir": str(self.bins),
                "authentication": {"superuser": role, "replication": role, "rewind": role},
            },
        }

    def address(self) -> str:
        return f"etcd:127.0.0.1:{self.etcd}" if self.etcd else f"sqlite:{self.store}"

    def start_proxy(self) -> None:
        which = ["--store", self.address(), "--scope", SCOPE]
        home = machine.make_folder(self.folder / "proxy")
        machine.start([self.program, "proxy", *which, "--read-write", f"127.0.0.1:{self.router}"], home)

    def command(self, *verb: str) -> subprocess.CompletedProcess:
        which = ["--store", self.address(), "--scope", SCOPE, "--token", TOKEN]
        return subprocess.run([self.program, *verb, *which], capture_output=True, text=True, timeout=120)

    # ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        if self.etcd:
            machine.start_etcd(self.folder / "etcd", self.etcd)
        for member in self.members:
            home = machine.make_folder(self.home(member))
            # JSON is YAML, and the standard library writes it.
            (home / "matriarch.yml").write_text(json.dumps(self.agent_config(member), indent=2))
            self.start_node(member)
        # The proxy makes no store: the first agent does.
        if not self.etcd:
            machine.wait_until("a store", self.store.exists, 30)
        self.start_proxy()

    def start_node(self, member: str) -> None:
        machine.start([self.program, "agent", "--config", self.home(member) / "matriarch.yml"], self.home(member))

    def data(self, member: str) -> pathlib.Path:
        return self.home(member) / "data"

    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.router} user=postgres password={PASSWORD} dbname=postgres"

    def direct(self, member: str) -> str:
        return f"{super().direct(member)} password={PASSWORD}"

    def leader(self) -> str | None:
        for member in self.members:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.rest[member]}/cluster", timeout=2) as answer:
                    cluster = json.load(answer)
            except OSError:
                continue
            for entry in cluster["members"]:
                if entry["role"] == "leader" and entry["state"] == "running":
                    return entry["name"]
        return None

    def switchover(self, leader: str, candidate: str) -> None:
        answer = self.command("switchover", "--leader", leader, "--candidate", candidate, "--force")
        if answer.returncode != 0:
            raise RuntimeError(f"switchover failed: {answer.stderr.strip() or answer.stdout.strip()}")

    def version(self) -> str:
        return subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout.strip()
