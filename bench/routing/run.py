#!/usr/bin/env python3
"""How much of PostgreSQL's throughput is left behind a router.

Starts one PostgreSQL, and in front of it HAProxy (TCP mode), PgBouncer (transaction pool) and Matriarch's
proxy (to the Unix socket, and over TCP). Runs pgbench select-only through each in turn, round after round,
so that a noisy machine disturbs all of them alike, and prints each one's throughput as a share of the
direct connection *in the same round*, with the CPU time the router itself took per transaction.

Needs Debian's postgresql, haproxy and pgbouncer, and a built proxy:
    cargo build --release -p matriarch-proxy --example static_proxy
"""

import argparse
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


def newest_bindir():
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=lambda p: int(p.parts[4]))
    if not found:
        sys.exit("no PostgreSQL found under /usr/lib/postgresql; install postgresql, or name its programs with --bindir")
    return found[-1].parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Bench:
    """The programs of one run, all under one temporary folder."""

    def __init__(self, args):
        self.args = args
        self.bin = pathlib.Path(args.bindir) if args.bindir else newest_bindir()
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="routing-", dir="/tmp"))
        self.user = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.dir, owner.pw_uid, owner.pw_gid)
            self.user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self.children = {}
        self.port = free_port()

    def run(self, *command):
        done = subprocess.run(list(map(str, command)), cwd=self.dir, capture_output=True, text=True, **self.user)
        if done.returncode:
            sys.exit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self, name, port, *command):
        log = open(self.dir / f"{name}.log", "w")
        child = subprocess.Popen(list(map(str, command)), cwd=self.dir, stdout=log, stderr=log, **self.user)
        self.children[name] = child
        for _ in range(200):
            if child.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit(f"{name} did not start:\n{(self.dir / f'{name}.log').read_text()}")

    def postgres(self):
        data = self.dir / "data"
        self.run(self.bin / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
        with open(data / "postgresql.auto.conf", "a") as f:
            f.write(
                f"port={self.port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories='{self.dir}'\n"
                "max_connections=200\nshared_buffers='512MB'\nfsync=off\nautovacuum=off\nmax_wal_size='4GB'\n"
            )
        self.start("postgres", self.port, self.bin / "postgres", "-D", data)
        for _ in range(100):
            ready = subprocess.run([self.bin / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port)], capture_output=True)
            if ready.returncode == 0:
                break
            time.sleep(0.1)
        self.run(self.bin / "pgbench", "-h", "127.0.0.1", "-p", self.port, "-U", "postgres", "-i", "-q", "-s",
                 self.args.scale, "postgres")

    def contenders(self):
        """Names and ports, the direct connection first."""
        ways = {"direct": self.port}
        if shutil.which("haproxy"):
            ways["haproxy"] = self.haproxy()
        if shutil.which("pgbouncer"):
            ways["pgbouncer"] = self.pgbouncer()
        for name, extra in (("matriarch", ["--socket", self.dir / f".s.PGSQL.{self.port}"]), ("matriarch-tcp", [])):
            port = free_port()
            self.start(name, port, *self.args.proxy.split(), "--read-write", f"127.0.0.1:{port}", "--primary",
                       f"127.0.0.1:{self.port}", *extra)
            ways[name] = port
        wanted = ["direct", *self.args.only.split(",")] if self.args.only else list(ways)
        return {name: port for name, port in ways.items() if name in wanted}

    def haproxy(self):
        port, config = free_port(), self.dir / "haproxy.cfg"
        config.write_text(
            "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1h\n"
            f"  timeout server 1h\nlisten pg\n  bind 127.0.0.1:{port}\n  server pg 127.0.0.1:{self.port}\n"
        )
        self.start("haproxy", port, shutil.which("haproxy"), "-db", "-f", config)
        return port

    def pgbouncer(self):
        port, config = free_port(), self.dir / "pgbouncer.ini"
        (self.dir / "users.txt").write_text('"postgres" ""\n')
        config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self.port}\n[pgbouncer]\nlisten_addr=127.0.0.1\n"
            f"listen_port={port}\nunix_socket_dir=\nauth_type=trust\nauth_file={self.dir}/users.txt\n"
            "pool_mode=transaction\ndefault_pool_size=100\nmax_client_conn=1000\nlog_connections=0\nlog_disconnections=0\n"
        )
        self.start("pgbouncer", port, shutil.which("pgbouncer"), config)
        return port

    def cpu(self, name):
        child = self.children.get(name)
        if child is None:
            return 0.0
        fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def measure(self, name, port, mode, seconds):
        before = self.cpu(name)
        out = self.run(self.bin / "pgbench", "-h", "127.0.0.1", "-p", port, "-U", "postgres", "-n", "-S", "-M", mode,
                       "-c", self.args.clients, "-j", self.args.jobs, "-T", seconds, "postgres")
        spent = self.cpu(name) - before
        tps = float(re.search(r"tps = ([\d.]+)", out).group(1))
        done = int(re.search(r"actually processed: (\d+)", out).group(1))
        return {"tps": tps, "router_us": spent / max(done, 1) * 1e6}

    def stop(self):
        for name, child in reversed(self.children.items()):
            child.send_signal(signal.SIGINT)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def report(mode, ways, rounds):
    rows = {}
    print(f"\npgbench -S -M {mode}: share of the direct connection in the same round ({len(rounds)} rounds)")
    print(f"{'':16}{'median':>8}{'min':>8}{'max':>8}{'median tps':>13}{'router CPU us/tx':>18}")
    for name in ways:
        share = summary([r[name]["tps"] / r["direct"]["tps"] for r in rounds])
        tps = summary([r[name]["tps"] for r in rounds])
        cpu = summary([r[name]["router_us"] for r in rounds])
        rows[name] = {"share_of_direct": share, "tps": tps, "router_cpu_us": cpu}
        print(f"{name:16}{share['median']:8.3f}{share['min']:8.3f}{share['max']:8.3f}{tps['median']:13.0f}{cpu['median']:18.2f}")
    if "haproxy" in ways and "matriarch" in ways:
        against = summary([r["matriarch"]["tps"] / r["haproxy"]["tps"] for r in rounds])
        rows["matriarch"]["share_of_haproxy"] = against
        print(f"matriarch against haproxy: {against['median']:.3f} ({against['min']:.3f} to {against['max']:.3f})")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--modes", default="simple,prepared")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--scale", type=int, default=10)
    parser.add_argument("--bindir", help="folder of postgres and pgbench")
    parser.add_argument("--only", help="comma-separated contenders to run besides direct")
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument("--proxy", default=str(ROOT / "target/release/examples/static_proxy"),
                        help="command of our proxy; it is given --read-write, --primary and --socket")
    args = parser.parse_args()
    if not shutil.which(args.proxy.split()[0]):
        sys.exit(f"{args.proxy} is missing; build it with `cargo build --release -p matriarch-proxy --example static_proxy`")
    bench = Bench(args)
    try:
        # The proxy must be reachable for the unprivileged user, wherever the checkout is.
        if bench.user:
            copy = shutil.copy(args.proxy.split()[0], bench.dir / "proxy")
            os.chmod(copy, 0o755)
            args.proxy = " ".join([str(copy), *args.proxy.split()[1:]])
        bench.postgres()
        ways = bench.contenders()
        figures = {"clients": args.clients, "seconds": args.seconds, "cores": os.cpu_count(), "modes": {}}
        for mode in args.modes.split(","):
            for name, port in ways.items():
                bench.measure(name, port, mode, 2)
            rounds = []
            for n in range(args.rounds):
                rounds.append({name: bench.measure(name, port, mode, args.seconds) for name, port in ways.items()})
                line = "  ".join(f"{name} {r['tps']:.0f}" for name, r in rounds[-1].items())
                print(f"{mode} round {n + 1}: {line}", file=sys.stderr, flush=True)
            figures["modes"][mode] = report(mode, ways, rounds)
        text = json.dumps(figures, indent=2)
        if args.json:
            pathlib.Path(args.json).write_text(text + "\n")
        else:
            print(text)
    finally:
        bench.stop()


if __name__ == "__main__":
    main()
