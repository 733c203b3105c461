"""barman-cloud, to S3 with lz4: it knows no directories, and no zstd for backups."""

import pathlib

import machine
import measure
import s3
from contender import Contender
from measure import Cost


class Barman(Contender):
    name = "barman"
    places = ("s3",)
    codecs = ("lz4",)
    works = ("full", "restore", "drain", "load")

    @staticmethod
    def programs() -> pathlib.Path | None:
        found = sorted(machine.cache_dir().glob("bench/barman-*/.complete"))
        return found[-1].parent / "bin" if found else None

    @staticmethod
    def missing() -> str | None:
        return None if Barman.programs() else "barman-cloud is not in the cache; run scripts/install-deps --bench"

    @property
    def environment(self) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": s3.KEY, "AWS_SECRET_ACCESS_KEY": s3.SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
        return {**keys, "AWS_CA_BUNDLE": str(self.store.authority)}

    def words(self, verb: str, *options) -> list:
        return [self.programs() / f"barman-cloud-{verb}", "--endpoint-url", self.store.endpoint, "--addressing-style", "path", *options]

    @property
    def where(self) -> list[str]:
        return [f"s3://{s3.BUCKET}/{self.prefix}", "main"]

    def prepare(self) -> None:
        self.catch_up()
        self.server.ask("SELECT pg_switch_wal()")
        machine.wait_until("WAL is archived", lambda: self.server.waiting() == 0, 60)

    def backup(self, incremental: bool = False) -> Cost:
        server = ["-h", "127.0.0.1", "-p", self.server.port, "-U", "postgres"]
        return measure.run(self.words("backup", "--lz4", "-J", "2", "--immediate-checkpoint", *server, *self.where), self.folder, self.environment)

    def restore(self, target: pathlib.Path) -> Cost:
        machine.make_folder(target)
        listed = measure.command(self.words("backup-list", *self.where), self.folder, self.environment).splitlines()
        newest = sorted(line.split()[0] for line in listed if line[:1].isdigit())[-1]
        cost = measure.run(self.words("restore", *self.where, newest, target), self.folder, self.environment)
        with open(target / "postgresql.auto.conf", "a") as file:
            file.write(f"restore_command = '{self.script('wal-restore')} %f %p'\n")
        (target / "recovery.signal").touch()
        return cost

    def script(self, verb: str) -> pathlib.Path:
        """A command with its settings around two names: PostgreSQL hands on only its own environment."""
        path = self.folder / f"{verb}.sh"
        settings = [f"export {name}='{value}'" for name, value in self.environment.items()]
        call = " ".join(map(str, [*self.words(verb), *(["--gzip"] if verb == "wal-archive" else []), *self.where]))
        path.write_text("\n".join(["#!/bin/sh", *settings, f'exec {call} "$@"', ""]))
        path.chmod(0o755)
        return path

    def hold(self) -> None:
        self.server.configure(archive_command="")

    def catch_up(self) -> None:
        self.server.configure(archive_command=f"{self.script('wal-archive')} %p")

    def version(self) -> str:
        said = measure.command(self.words("backup", "--version")[:1] + ["--version"], self.folder)
        return said.split()[-1]
