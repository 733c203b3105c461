"""PostgreSQL and the routers in front of it, all under one temporary folder, and what they have used of the CPU."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import machine

TICKS = os.sysconf("SC_CLK_TCK")


class Servers:
    """The programs of one run."""

    def __init__(self, bins: pathlib.Path, proxy: list[str], scale: int):
        self.bin, self.proxy, self.scale = bins, proxy, scale
        self.dir = machine.make_folder(pathlib.Path(tempfile.mkdtemp(prefix="matriarch-routing-")))
        user = machine.account()
        self.user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        self.children = {}
        self.port = machine.free_port()

    def run(self, *command, output=subprocess.PIPE) -> str:
        """Runs a program to its end as the unprivileged user."""
        done = subprocess.run(
            list(map(str, command)), cwd=self.dir, stdout=output, stderr=subprocess.PIPE, text=True, **self.user
        )
        if done.returncode:
            machine.fail(f"{command[0]} failed:\n{done.stdout or ''}{done.stderr}")
        return done.stdout

    def start(self, name: str, port: int, *command) -> int:
        with open(self.dir / f"{name}.log", "w") as log:
            child = subprocess.Popen(list(map(str, command)), cwd=self.dir, stdout=log, stderr=log, **self.user)
        self.children[name] = child
        for _ in range(400):
            if child.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return port
            except OSError:
                time.sleep(0.05)
        machine.fail(f"{name} did not start:\n{(self.dir / f'{name}.log').read_text()}")

    def postgres(self) -> None:
        data = self.dir / "data"
        self.run(self.bin / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
        with open(data / "postgresql.auto.conf", "a") as f:
            f.write(
                f"port={self.port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories='{self.dir}'\n"
                "max_connections=200\nshared_buffers='512MB'\nfsync=off\nautovacuum=off\nmax_wal_size='4GB'\n"
            )
        self.start("postgres", self.port, self.bin / "postgres", "-D", data)
        ready = [self.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        machine.wait_until("PostgreSQL ready", lambda: subprocess.run(ready).returncode == 0, 30)
        self.run(self.bin / "pgbench", "-h", "127.0.0.1", "-p", self.port, "-U", "postgres", "-i", "-q", "-s", self.scale, "postgres")

    def ways(self, threads: list[str]) -> dict[str, int]:
        """Names and ports of the ways to PostgreSQL, the direct connection first; ours also with so many relay threads."""
        ways = {"direct": self.port}
        if program := shutil.which("haproxy"):
            ways["haproxy"] = self.haproxy(program)
        if program := shutil.which("pgbouncer"):
            ways["pgbouncer"] = self.pgbouncer(program)
        socket = ["--socket", self.dir / f".s.PGSQL.{self.port}"]
        ours = {"matriarch": socket, "matriarch-tcp": []} | {f"matriarch-{n}": [*socket, "--threads", n] for n in threads}
        for name, extra in ours.items():
            port = machine.free_port()
            fixed = ["--read-write", f"127.0.0.1:{port}", "--primary", f"127.0.0.1:{self.port}"]
            ways[name] = self.start(name, port, *self.proxy, *fixed, *extra)
        return ways

    def haproxy(self, program: str) -> int:
        port, config = machine.free_port(), self.dir / "haproxy.cfg"
        config.write_text(
            "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1h\n"
            f"  timeout server 1h\nlisten pg\n  bind 127.0.0.1:{port}\n  server pg 127.0.0.1:{self.port}\n"
        )
        return self.start("haproxy", port, program, "-db", "-f", config)

    def pgbouncer(self, program: str) -> int:
        """Transaction pooling, and a second name for a session pool: Debian 12's version needs that for prepared statements."""
        port, config = machine.free_port(), self.dir / "pgbouncer.ini"
        (self.dir / "users.txt").write_text('"postgres" ""\n')
        address = f"host=127.0.0.1 port={self.port} dbname=postgres"
        config.write_text(
            f"[databases]\npostgres = {address} pool_mode=transaction\nsession = {address} pool_mode=session\n"
            f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\nauth_type=trust\n"
            f"auth_file={self.dir}/users.txt\ndefault_pool_size=60\nmax_client_conn=1000\n"
            "log_connections=0\nlog_disconnections=0\n"
        )
        return self.start("pgbouncer", port, program, config)

    def cpu(self, name: str) -> float:
        """Seconds of a server's process and of all its children, those that have ended too."""
        child = self.children.get(name)
        if child is None:
            return 0.0
        living = pathlib.Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        stats = [machine.read_stat(pid) for pid in [child.pid, *living]]
        return sum(sum(map(int, stat[11:15])) for stat in stats if stat) / TICKS

    def idle(self, name: str, seconds: float) -> dict:
        """Resident memory and CPU time of a router that has nothing to do."""
        before = self.cpu(name)
        time.sleep(seconds)
        status = pathlib.Path(f"/proc/{self.children[name].pid}/status").read_text()
        rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024
        return {"rss_mib": round(rss, 1), "cpu_seconds_per_minute": round((self.cpu(name) - before) * 60 / seconds, 2)}

    def stop(self) -> None:
        for child in reversed(self.children.values()):
            child.send_signal(signal.SIGINT)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
