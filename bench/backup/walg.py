"""WAL-G, when its binary is on PATH: no package registry has it. Written from its documentation; it has not been run."""

import os
import pathlib
import shutil

import machine
import measure
import s3
from contender import Contender
from measure import Cost

CODECS = {"zst": "zstd", "lz4": "lz4"}


class WalG(Contender):
    name = "wal-g"

    @staticmethod
    def missing() -> str | None:
        return None if shutil.which("wal-g") else "wal-g is not on PATH"

    @property
    def environment(self) -> dict[str, str]:
        server = {"PGHOST": "127.0.0.1", "PGPORT": str(self.server.port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
        work = {"WALG_COMPRESSION_METHOD": CODECS[self.codec], "WALG_UPLOAD_DISK_CONCURRENCY": "2", "WALG_DELTA_MAX_STEPS": "0"}
        if self.place == "directory":
            return {**server, **work, "WALG_FILE_PREFIX": str(self.repository)}
        keys = {"AWS_ACCESS_KEY_ID": s3.KEY, "AWS_SECRET_ACCESS_KEY": s3.SECRET, "AWS_REGION": "us-east-1"}
        where = {"WALG_S3_PREFIX": f"s3://{s3.BUCKET}/{self.prefix}", "AWS_ENDPOINT": self.store.endpoint, "AWS_S3_FORCE_PATH_STYLE": "true"}
        return {**server, **work, **keys, **where, "WALG_S3_CA_CERT_FILE": str(self.store.authority)}

    @property
    def wrapper(self) -> pathlib.Path:
        """The program with its settings: PostgreSQL hands on only its own environment."""
        path = self.folder / f"wal-g-{self.place}-{self.codec}"
        settings = [f"export {name}='{value}'" for name, value in self.environment.items()]
        path.write_text("\n".join(["#!/bin/sh", *settings, f'exec {shutil.which("wal-g")} "$@"', ""]))
        os.chmod(path, 0o755)
        return path

    def prepare(self) -> None:
        if self.place == "directory":
            machine.make_folder(self.repository)
        self.catch_up()
        self.server.ask("SELECT pg_switch_wal()")
        machine.wait_until("WAL is archived", lambda: self.server.waiting() == 0, 60)

    def backup(self, incremental: bool = False) -> Cost:
        steps = {"WALG_DELTA_MAX_STEPS": "1"} if incremental else {}
        return measure.run(["wal-g", "backup-push", self.server.data], self.folder, {**self.environment, **steps})

    def restore(self, target: pathlib.Path) -> Cost:
        machine.make_folder(target)
        cost = measure.run(["wal-g", "backup-fetch", target, "LATEST"], self.folder, self.environment)
        with open(target / "postgresql.auto.conf", "a") as file:
            file.write(f"restore_command = '{self.wrapper} wal-fetch %f %p'\n")
        (target / "recovery.signal").touch()
        return cost

    def hold(self) -> None:
        self.server.configure(archive_command="")

    def catch_up(self) -> None:
        self.server.configure(archive_command=f"{self.wrapper} wal-push %p")

    def push(self, name: str) -> list:
        return [self.wrapper, "wal-push", self.server.data / "pg_wal" / name]

    def version(self) -> str:
        return measure.command(["wal-g", "--version"], self.folder).strip()
