"""The PostgreSQL that a contender backs up: each has one of its own with the same content, archived its own way."""

import pathlib
import subprocess

import machine
import measure

SETTINGS = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    # Nothing but what is measured.
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
}


class Server:
    """One PostgreSQL without anything around it."""

    def __init__(self, folder: pathlib.Path, bins: pathlib.Path):
        self.folder, self.bins = machine.make_folder(folder), bins
        self.data, self.port = folder / "data", machine.free_port()

    def start(self, settings: dict[str, str] | None = None) -> None:
        measure.command([self.bins / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-k", "-N"], self.folder)
        own = {**SETTINGS, "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder, "archive_mode": "on"}
        with open(self.data / "postgresql.conf", "a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in {**own, **(settings or {})}.items())
        machine.start([self.bins / "postgres", "-D", self.data], self.folder)
        self.wait()

    def wait(self) -> None:
        machine.wait_until(f"PostgreSQL answers on {self.port}", self.answers, 120)

    def answers(self) -> bool:
        ready = [self.bins / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready).returncode == 0

    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"

    def ask(self, *statements: str) -> str:
        words = [word for statement in statements for word in ("-c", statement)]
        return measure.command([self.bins / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(), *words], self.folder).strip()

    def configure(self, **settings: str) -> None:
        """Settings that a reload brings."""
        self.ask(*(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in settings.items()), "SELECT pg_reload_conf()")

    def pgbench(self, *words) -> str:
        address = ["-h", "127.0.0.1", "-p", self.port, "-U", "postgres"]
        return measure.command([self.bins / "pgbench", *address, *words, "postgres"], self.folder)

    def fill(self, mib: float) -> None:
        """pgbench's tables (15 MiB a unit), which compress, and a table of noise, which does not: one part in four."""
        self.pgbench("-i", "-q", "-s", max(1, round(mib * 0.75 / 15)))
        rows = round(mib * 0.25 * 2**20 / 2048)
        noise = "string_agg(decode(md5(random()::text), 'hex'), '')"
        self.ask(
            "CREATE TABLE noise (id int, bytes bytea)",
            "ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL",
            f"INSERT INTO noise SELECT n, (SELECT {noise} FROM generate_series(1, 112 + 0 * n)) FROM generate_series(1, {rows}) n",
            "VACUUM FREEZE",
            "CHECKPOINT",
        )

    def change(self, share: float) -> None:
        """Changes a row of so many of the pages of pgbench's largest table, spread over all of it."""
        every = max(1, round(1 / share))
        page = "(ctid::text::point)[0]::bigint"
        self.ask(f"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE {page} % {every} = 0 AND (ctid::text::point)[1] = 1", "CHECKPOINT")

    def waiting(self) -> int:
        """Segments that are not archived yet."""
        return len(list((self.data / "pg_wal/archive_status").glob("*.ready")))

    def write_segments(self, count: int) -> None:
        """So many whole segments of what inserts leave."""
        self.ask("CREATE TABLE IF NOT EXISTS filler (id bigint, text text)")
        for _ in range(count):
            self.ask("INSERT INTO filler SELECT n, md5(n::text) || md5(random()::text) FROM generate_series(1, 115000) n", "SELECT pg_switch_wal()")
        self.ask("TRUNCATE filler")

    def archived(self) -> str:
        """The newest segment that is in the archive."""
        return self.ask("SELECT last_archived_wal FROM pg_stat_archiver")
