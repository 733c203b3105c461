"""Matriarch: three agents, the SQLite store and its proxy, each a process of its own."""

import json
import pathlib
import subprocess

import machine
from contender import Contender

BINARY = machine.ROOT / "target/release/matriarch"
SCOPE = "bench"
TRUST = ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]


class Matriarch(Contender):
    name = "matriarch"
    period = 1.0

    def __init__(self, folder: pathlib.Path, bins: pathlib.Path, mode: str):
        super().__init__(folder, bins)
        if not BINARY.exists():
            machine.fail(f"{BINARY} is missing; cargo build --release -p matriarch")
        self.settings = f"default, {mode}"
        self.mode = mode
        self.sync = mode != "async"
        self.rest = {member: machine.free_port() for member in self.members}
        self.router = machine.free_port()
        self.store = self.folder / "store" / "matriarch.db"
        # Without a folder above the members' that names them: a node is found by its own folder.
        machine.make_folder(self.store.parent)

    # --- configuration and commands: the only places that know Matriarch's own words -------------------------
    def agent_config(self, member: str) -> dict:
        home = self.home(member)
        return {
            "scope": SCOPE,
            "name": member,
            "restapi": {"listen": f"127.0.0.1:{self.rest[member]}"},
            "sqlite": {"path": str(self.store)},
            "bootstrap": {
                "dcs": {
                    "synchronous_mode": {"quorum": "quorum", "async": "off"}[self.mode],
                    "postgresql": {"parameters": {"shared_buffers": "64MB"}, "pg_hba": TRUST},
                }
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.ports[member]}",
                "data_dir": str(self.data(member)),
                "bin_dir": str(self.bins),
                "run_dir": str(home),
            },
        }

    def agent_command(self, member: str) -> list:
        return [BINARY, "agent", "--config", self.home(member) / "matriarch.yml"]

    def proxy_config(self) -> dict:
        return {
            "scope": SCOPE,
            "sqlite": {"path": str(self.store)},
            "proxy": {"read_write": f"127.0.0.1:{self.router}"},
        }

    def proxy_command(self, config: pathlib.Path) -> list:
        return [BINARY, "proxy", "--config", config]

    def command(self, *verb: str) -> subprocess.CompletedProcess:
        arguments = [BINARY, *verb, "--config", self.home("n1") / "matriarch.yml"]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=120)

    # ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        for member in self.members:
            home = machine.make_folder(self.home(member))
            # JSON is YAML, and the standard library writes it.
            (home / "matriarch.yml").write_text(json.dumps(self.agent_config(member), indent=2))
            self.start_node(member)
        home = machine.make_folder(self.folder / "proxy")
        (home / "proxy.yml").write_text(json.dumps(self.proxy_config(), indent=2))
        machine.start(self.proxy_command(home / "proxy.yml"), home)

    def start_node(self, member: str) -> None:
        machine.start(self.agent_command(member), self.home(member))

    def data(self, member: str) -> pathlib.Path:
        return self.home(member) / "data"

    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.router} user=postgres dbname=postgres"

    def leader(self) -> str | None:
        answer = self.command("list", "-o", "json")
        if answer.returncode != 0:
            return None
        members = json.loads(answer.stdout)
        members = members["members"] if isinstance(members, dict) else members
        for entry in members:
            if entry["role"] in ("leader", "primary") and entry["state"] == "running":
                return entry.get("name") or entry.get("member")
        return None

    def switchover(self, leader: str, candidate: str) -> None:
        answer = self.command("switchover", "--leader", leader, "--candidate", candidate, "--force")
        if answer.returncode != 0:
            raise RuntimeError(f"switchover failed: {answer.stderr.strip() or answer.stdout.strip()}")

    @staticmethod
    def version() -> str:
        return subprocess.run([BINARY, "--version"], capture_output=True, text=True).stdout.strip()
