"""pgBackRest, tuned: two processes, zstd 3 or lz4, page checksums on, WAL asynchronously."""

import pathlib
import shutil

import machine
import measure
import s3
from contender import Contender
from measure import Cost

LEVELS = {"zst": 3, "lz4": 1}


class PgBackRest(Contender):
    name = "pgbackrest"

    @staticmethod
    def missing() -> str | None:
        return None if shutil.which("pgbackrest") else "pgbackrest is not on PATH; run scripts/install-deps --bench"

    @property
    def config(self) -> pathlib.Path:
        return self.folder / f"{self.place}-{self.codec}.conf"

    def prepare(self) -> None:
        for name in ("log", "lock", "spool"):
            machine.make_folder(self.folder / name)
        common = {
            "compress-type": self.codec,
            "compress-level": LEVELS[self.codec],
            "process-max": 2,
            "start-fast": "y",
            "archive-async": "y",
            "log-level-console": "warn",
            "log-level-file": "off",
            "log-path": self.folder / "log",
            "lock-path": self.folder / "lock",
            "spool-path": self.folder / "spool",
            "repo1-retention-full": 9,
        }
        if self.place == "directory":
            where = {"repo1-path": machine.make_folder(self.repository)}
        else:
            where = {
                "repo1-type": "s3", "repo1-path": f"/{self.prefix}", "repo1-s3-bucket": s3.BUCKET, "repo1-s3-region": "us-east-1",
                "repo1-s3-endpoint": "127.0.0.1", "repo1-storage-port": self.store.port, "repo1-s3-uri-style": "path",
                "repo1-storage-ca-file": self.store.authority, "repo1-s3-key": s3.KEY, "repo1-s3-key-secret": s3.SECRET,
            }  # fmt: skip
        server = {"pg1-path": self.server.data, "pg1-port": self.server.port, "pg1-socket-path": self.server.folder, "pg1-user": "postgres"}
        lines = ["[global]", *(f"{key}={value}" for key, value in {**common, **where}.items()), "[main]"]
        self.config.write_text("\n".join([*lines, *(f"{key}={value}" for key, value in server.items()), ""]))
        measure.command(self.words("stanza-create"), self.folder)
        self.catch_up()
        self.server.ask("SELECT pg_switch_wal()")
        machine.wait_until("WAL is archived", lambda: self.server.waiting() == 0, 60)

    def words(self, *words) -> list:
        return ["/usr/bin/pgbackrest", f"--config={self.config}", "--stanza=main", *words]

    def backup(self, incremental: bool = False) -> Cost:
        return measure.run(self.words(f"--type={'incr' if incremental else 'full'}", "backup"), self.folder)

    def restore(self, target: pathlib.Path) -> Cost:
        machine.make_folder(target)
        return measure.run(self.words(f"--pg1-path={target}", "restore"), self.folder)

    def hold(self) -> None:
        # With an empty command PostgreSQL waits; with one that fails it would pause for a minute.
        self.server.configure(archive_command="")

    def catch_up(self) -> None:
        self.server.configure(archive_command=" ".join(map(str, self.words("archive-push", "%p"))))

    def push(self, name: str) -> list:
        return self.words("archive-push", self.server.data / "pg_wal" / name)

    def version(self) -> str:
        return measure.command(["/usr/bin/pgbackrest", "version"], self.folder).strip()
