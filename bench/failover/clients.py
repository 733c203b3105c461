"""Clients: the ledger that measures, and pgbench as load or as sessions that must not see an error."""

import contextlib
import json
import pathlib
import re
import subprocess
import tempfile
import threading
import time

# Longest silence of writes that still counts as steady (seconds).
STEADY = 0.3


class Ledger:
    """The ledger program, writing through the router; or elsewhere, with an `entry` into a host's namespaces."""

    def __init__(self, program: pathlib.Path, dsn: str, book: pathlib.Path, steady: float = STEADY, entry: list[str] | None = None):
        self.program, self.book, self.steady = program, book, steady
        options = ["--progress", "--until-input", "--json", "--out", book]
        self.process = subprocess.Popen(
            [*(entry or []), program, "run", "--dsn", dsn, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.now, self.silent, self.summary = 0.0, float("inf"), None
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        for line in self.process.stdout:
            values = json.loads(line)
            if "gap" in values:
                self.summary = values
            else:
                self.now, self.silent = values["seconds"], values["silent"]

    def wait_steady(self, seconds: float, limit: float) -> bool:
        """Waits until writes have come without a pause for so many seconds; False after `limit` seconds."""
        begun = steady_since = time.monotonic()
        while time.monotonic() - steady_since < seconds:
            if self.process.poll() is not None:
                raise RuntimeError("the ledger client has ended; its message is above")
            if time.monotonic() - begun > limit:
                return False
            if self.silent > self.steady:
                steady_since = time.monotonic()
            time.sleep(0.05)
        return True

    def finish(self) -> dict:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.reader.join(timeout=10)
        if self.summary is None:
            raise RuntimeError("the ledger client gave no summary; its message is above")
        return self.summary

    def last_acknowledged(self) -> float:
        """Seconds from its start to the last acknowledgement."""
        entries = json.loads(self.book.read_text())["entries"]
        return max((entry["ended"] for entry in entries if entry["outcome"] == "acknowledged"), default=0.0)

    def verify(self, dsn: str) -> dict:
        command = [self.program, "verify", "--dsn", dsn, "--file", self.book, "--json"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if not answer.stdout:
            raise RuntimeError(f"the ledger could not be verified: {answer.stderr.strip()}")
        return json.loads(answer.stdout)


class Pgbench:
    """pgbench's simple update (three statements and a commit) through the router."""

    SCALE = 10

    def __init__(self, bins: pathlib.Path, dsn: str):
        self.program, self.dsn = bins / "pgbench", dsn

    def fill(self) -> None:
        """Makes its tables; the router may need a moment more than the cluster."""
        deadline = time.monotonic() + 60
        while True:
            done = subprocess.run([self.program, "-i", "-q", "-s", str(self.SCALE), self.dsn], capture_output=True, text=True)
            if done.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"pgbench could not make its tables: {done.stderr.strip()}")
            time.sleep(1)

    def start(self, clients: int, seconds: int, output=subprocess.DEVNULL, rate: int | None = None) -> subprocess.Popen:
        """`rate`: transactions a second of all together; none: as many as they can."""
        how = ["-n", "-b", "simple-update", "-c", str(clients), "-j", "2", "-T", str(seconds), *(["-R", str(rate)] if rate else [])]
        return subprocess.Popen([self.program, *how, self.dsn], stdout=output, stderr=output, text=True)


class Load:
    """pgbench on both cores for as long as it is wanted: in pieces, since its clients end at the first error, and wait for
    ever on a server that says nothing."""

    PIECE = 5

    def __init__(self, pgbench: Pgbench, clients: int):
        self.pgbench, self.clients, self.wanted = pgbench, clients, True
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self) -> None:
        while self.wanted:
            piece, deadline = self.pgbench.start(self.clients, self.PIECE), time.monotonic() + self.PIECE + 2
            while piece.poll() is None and self.wanted and time.monotonic() < deadline:
                time.sleep(0.05)
            if piece.poll() is None:
                piece.kill()
            if piece.wait() != 0:
                time.sleep(0.2)

    def end(self) -> None:
        self.wanted = False
        self.thread.join(timeout=20)


class Sessions:
    """So many pgbench clients over a fault, and how many of them saw an error: one ends at its first."""

    def __init__(self, pgbench: Pgbench, clients: int, seconds: int, rate: int | None = None):
        self.output = tempfile.TemporaryFile("w+")
        self.process = pgbench.start(clients, seconds, self.output, rate)
        self.clients, self.deadline = clients, time.monotonic() + seconds + 30

    def finish(self) -> dict:
        try:
            self.process.wait(timeout=max(1.0, self.deadline - time.monotonic()))
            hung = 0
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            hung = 1
        self.output.seek(0)
        text = self.output.read()
        self.output.close()
        done = re.search(r"transactions actually processed: (\d+)", text)
        aborted = len(re.findall(r"client \d+ .*aborted", text))
        said = [line for line in text.splitlines() if re.search(r"error|aborted|FATAL|closed", line)]
        if not done and not hung and not aborted:
            raise RuntimeError(f"pgbench said nothing of use: {text.strip()[-300:]}")
        return {"sessions": self.clients, "session_errors": aborted, "session_hung": hung, "session_messages": said[:10], "transactions": int(done[1]) if done else 0}
