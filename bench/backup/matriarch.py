"""Matriarch: one member with its agent; backups and restores by its verbs, without encryption, as the others are measured."""

import json
import pathlib
import shutil
import signal
import subprocess

import machine
import measure
import s3
from contender import Contender
from measure import Cost
from servers import SETTINGS

SCOPE, TOKEN = "bench", "bench"
CODECS = {"zst": "zstd:3", "lz4": "lz4"}


class Matriarch(Contender):
    name = "matriarch"
    program = machine.ROOT / "target/release/matriarch"

    @staticmethod
    def missing() -> str | None:
        return None if Matriarch.program.exists() else f"{Matriarch.program} is missing; cargo build --release -p matriarch"

    def start(self) -> None:
        self.own = pathlib.Path(shutil.copy(self.program, machine.make_folder(self.folder / "bin") / "matriarch"))
        self.rest, home = machine.free_port(), self.server.folder
        role = {"password": "bench"}
        config = {
            "scope": SCOPE,
            "name": "a",
            "log": {"postgresql": str(home / "postgresql.log")},
            "restapi": {"listen": f"127.0.0.1:{self.rest}", "token": TOKEN},
            "sqlite": {"path": str(home / "store.db")},
            # What else a server of the others may do, without a password.
            "bootstrap": {"dcs": {"postgresql": {"parameters": SETTINGS, "pg_hba": ["host all postgres 127.0.0.1/32 trust"]}}},
            "postgresql": {
                "listen": f"127.0.0.1:{self.server.port}",
                "data_dir": str(self.server.data),
                "bin_dir": str(self.bins),
                "authentication": {"superuser": role, "replication": role, "rewind": role},
            },
        }
        (home / "matriarch.yml").write_text(json.dumps(config, indent=2))
        self.agent = machine.start([self.own, "agent", "--config", home / "matriarch.yml"], home)
        self.server.wait()
        machine.wait_until("a leader", lambda: self.verb("list", "-o", "json") and "leader" in self.verb("list", "-o", "json"), 60)

    def verb(self, *words) -> str:
        return measure.command([self.own, *words, "--config", self.server.folder / "matriarch.yml"], self.folder)

    def section(self) -> dict:
        if self.place == "directory":
            where = {"location": str(machine.make_folder(self.repository))}
        else:
            keys = self.folder / "credentials"
            keys.write_text(f"[default]\naws_access_key_id = {s3.KEY}\naws_secret_access_key = {s3.SECRET}\n")
            where = {"location": f"s3://{s3.BUCKET}/{self.prefix}", "endpoint": self.store.endpoint, "region": "us-east-1"}
            where |= {"credentials": str(keys), "ca": str(self.store.authority)}
        return {"repositories": [where], "compression": CODECS[self.codec]}

    def prepare(self) -> None:
        self.verb("config", "set", f"archive={json.dumps(self.section())}")
        if self.server.ask("SHOW archive_mode") == "off":
            machine.wait_until("a restart is pending", lambda: '"pending_restart":true' in self.verb("list", "-o", "json").replace(" ", ""), 60)
            self.verb("restart", "--pending", "--force")
            self.server.wait()
        self.verb("archive", "init")
        self.server.ask("SELECT pg_switch_wal()")
        machine.wait_until("WAL is archived", lambda: self.server.waiting() == 0, 60)

    def backup(self, incremental: bool = False) -> Cost:
        kind = ["--incremental"] if incremental else []
        return measure.run([self.own, "backup", *kind, "--jobs", "2", "--config", self.server.folder / "matriarch.yml"], self.folder)

    def restore(self, target: pathlib.Path) -> Cost:
        return measure.run([self.own, "restore", target, "--place-wal", "--jobs", "2", "--config", self.server.folder / "matriarch.yml"], self.folder)

    def hold(self) -> None:
        # Paused it has no guard, which would end PostgreSQL for its silent agent.
        self.verb("pause", "--wait")
        machine.send([self.agent.pid], signal.SIGSTOP)

    def catch_up(self) -> None:
        machine.send([self.agent.pid], signal.SIGCONT)

    def resume(self) -> None:
        self.verb("resume", "--wait")

    def push(self, name: str) -> list:
        return [self.own, "wal-push", "--socket", f"{self.server.data}.run.archive", self.server.data / "pg_wal" / name]

    def version(self) -> str:
        return subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout.strip()
