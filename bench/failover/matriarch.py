"""Matriarch with its defaults: agents, its proxy (or a PgBouncer that it runs), etcd or the SQLite store."""

import json
import pathlib
import shutil
import signal
import subprocess

import machine
import phases
from contender import PASSWORD, Contender

SCOPE, TOKEN = "bench", "bench"
# What differs from its defaults.
SYNC = {"sync": {}, "on": {"synchronous_mode": "on"}, "async": {"synchronous_mode": "off"}}


class Matriarch(Contender):
    name = "matriarch"
    stores = ("etcd", "sqlite")
    upgrades = True
    # Nothing in it sleeps for long; a lease is renewed every third of its life.
    period = 5 / 3

    def prepare(self) -> None:
        if not self.setup.program.exists():
            machine.fail(f"{self.setup.program} is missing; cargo build --release -p matriarch")
        # The unprivileged user may not be able to reach the checkout.
        self.program = pathlib.Path(shutil.copy(self.setup.program, machine.make_folder(self.folder / "bin") / "matriarch"))
        machine.forget_cached(self.program)
        self.rest = {member: machine.free_port() for member in self.members}

    # --- configuration and commands: the only places that know Matriarch's own words -------------------------
    def agent_config(self, member: str) -> dict:
        role = {"password": PASSWORD}
        etcd = self.setup.store == "etcd"
        return {
            "scope": SCOPE,
            "name": member,
            "log": {"postgresql": str(self.home(member) / "postgresql.log")},
            "restapi": {"listen": f"{self.address(member)}:{self.rest[member]}", "token": TOKEN},
            **({"etcd3": {"hosts": self.store.endpoints}} if etcd else {"sqlite": {"path": str(self.store.path)}}),
            "bootstrap": {"dcs": {**SYNC[self.setup.mode], "postgresql": {"parameters": {"shared_buffers": "64MB"}}}},
            "postgresql": {
                "listen": f"{self.address(member)}:{self.ports[member]}",
                "data_dir": str(self.data(member)),
                "bin_dir": str(self.bins),
                "authentication": {"superuser": role, "replication": role, "rewind": role},
            },
        }

    def which(self) -> list[str]:
        etcd = self.setup.store == "etcd"
        address = f"etcd:{','.join(self.store.endpoints)}" if etcd else f"sqlite:{self.store.path}"
        return ["--store", address, "--scope", SCOPE]

    def start_proxy(self) -> None:
        home, listen = machine.make_folder(self.folder / "proxy"), f"{self.gateway}:{self.router}"
        front = ["--read-write", listen]
        if self.setup.pooler:
            (home / "password").write_text(PASSWORD)
            role = ["--pooler-role", "postgres", "--pooler-role-password-file", home / "password"]
            front = ["--pooler", listen, "--pooler-dir", machine.make_folder(home / "pooler"), *role]
        machine.start([self.program, "proxy", *self.which(), *front], home)

    def describe(self) -> str:
        mode = {"sync": "quorum of 1", "on": "first 1", "async": "asynchronous"}[self.setup.mode]
        return f"{mode}, all else default, {self.setup.store}"

    def agent(self, member: str) -> list:
        return [self.program, "agent", "--config", self.home(member) / "matriarch.yml"]

    def upgrade_agent(self, member: str) -> None:
        # As an installation does it: another file under the same name.
        new = self.program.with_suffix(".new")
        shutil.copy(self.program, new)
        new.replace(self.program)
        machine.send([self.agents[member].pid], signal.SIGUSR2)

    def switchover(self, leader: str, candidate: str) -> None:
        verb = ["switchover", "--leader", leader, "--candidate", candidate, "--force", "--token", TOKEN]
        answer = subprocess.run([self.program, *verb, *self.which()], capture_output=True, text=True, timeout=120)
        if answer.returncode != 0:
            raise RuntimeError(f"switchover failed: {answer.stderr.strip() or answer.stdout.strip()}")

    def phases(self, since: float) -> dict[str, float]:
        homes = [*(self.home(member) for member in self.members), self.folder / "proxy"]
        return phases.read([home / "matriarch.log" for home in homes], since)

    # ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        self.store.start()
        for member in self.members:
            home = machine.make_folder(self.home(member))
            # JSON is YAML, and the standard library writes it.
            (home / "matriarch.yml").write_text(json.dumps(self.agent_config(member), indent=2))
            self.start_node(member)
        # The proxy makes no store: the first agent does.
        if self.setup.store == "sqlite":
            machine.wait_until("a store", self.store.path.exists, 30)
        self.start_proxy()

    def leader(self) -> str | None:
        for member in self.members:
            for entry in (self.get(member, self.rest[member], "/cluster") or {"members": []})["members"]:
                if entry["role"] == "leader" and entry["state"] == "running":
                    return entry["name"]
        return None

    def version(self) -> str:
        said = subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout.strip()
        return f"{said}, {self.store.version()}"
