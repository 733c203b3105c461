"""One fault at a time: the client at work, the fault, the way back, the reckoning."""

import json
import pathlib
import random
import signal
import statistics
import subprocess
import threading
import time

import machine
from contender import Contender

# A fault with no write for this long is given up (seconds); the gap counted so far is reported, and marked.
GIVE_UP = 120.0


class Client:
    """The ledger program, writing through the router."""

    def __init__(self, program: pathlib.Path, dsn: str, book: pathlib.Path):
        self.program, self.book = program, book
        options = ["--progress", "--until-input", "--json", "--out", book]
        self.process = subprocess.Popen(
            [program, "run", "--dsn", dsn, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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

    def wait_steady(self, seconds: float) -> bool:
        """Waits until writes have come without a pause for so many seconds; False when given up."""
        deadline = time.monotonic() + GIVE_UP
        steady_since = time.monotonic()
        while time.monotonic() - steady_since < seconds:
            if self.process.poll() is not None:
                raise RuntimeError("the ledger client has ended; its message is above")
            if time.monotonic() > deadline:
                return False
            if self.silent > 0.3:
                steady_since = time.monotonic()
            time.sleep(0.05)
        return True

    def finish(self) -> dict:
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.reader.join(timeout=10)
        return self.summary

    def verify(self, dsn: str) -> dict:
        command = [self.program, "verify", "--dsn", dsn, "--file", self.book, "--json"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if not answer.stdout:
            raise RuntimeError(f"the ledger could not be verified: {answer.stderr.strip()}")
        return json.loads(answer.stdout)


class Fault:
    """What to do to the leader, and how to undo it once writes are back."""

    def __init__(self, contender: Contender, leader: str):
        self.contender, self.leader = contender, leader

    def strike(self) -> None:
        raise NotImplementedError

    def heal(self) -> None:
        pass


class PostmasterKilled(Fault):
    name = "postmaster killed"

    def strike(self) -> None:
        machine.send([self.contender.postmaster(self.leader)], signal.SIGKILL)


class NodeKilled(Fault):
    name = "node killed"

    def strike(self) -> None:
        machine.end_all(self.contender.home(self.leader))

    def heal(self) -> None:
        self.contender.start_node(self.leader)


class NodeStopped(Fault):
    name = "node stopped"

    def strike(self) -> None:
        self.pids = machine.processes_of(self.contender.home(self.leader))
        machine.send(self.pids, signal.SIGSTOP)

    def heal(self) -> None:
        machine.send(self.pids, signal.SIGCONT)


class Switchover(Fault):
    name = "planned switchover"

    def strike(self) -> None:
        candidate = random.choice([member for member in self.contender.members if member != self.leader])
        self.contender.switchover(self.leader, candidate)


FAULTS = {"postmaster": PostmasterKilled, "node": NodeKilled, "stop": NodeStopped, "switchover": Switchover}


def one_run(contender: Contender, kind: type[Fault], ledger: pathlib.Path, book: pathlib.Path) -> dict:
    """One fault under load; the figures of the run."""
    machine.wait_until("a leader with two streaming replicas", contender.healthy, 240, 0.5)
    client = Client(ledger, contender.dsn(), book)
    try:
        client.wait_steady(2.0)
        time.sleep(random.uniform(0, contender.period))
        before = contender.leader()
        fault, struck = kind(contender, before), client.now
        try:
            fault.strike()
            # The router may serve the old primary for a moment yet: let the fault begin before asking whether it is over.
            time.sleep(1.0)
            back = client.wait_steady(2.0)
            after = contender.leader()
        finally:
            fault.heal()
        # What a healed member does to the others belongs to the fault.
        time.sleep(3.0)
        client.wait_steady(1.0)
    finally:
        summary = client.finish()
    machine.wait_until("the victim back as a replica", contender.healthy, 240, 0.5)
    verdict = client.verify(contender.dsn())
    return {
        "fault": kind.name,
        "gap": summary["gap"]["seconds"],
        "gap_after_strike": round(summary["gap"]["from"] - struck, 3),
        "back": back,
        "moved": before != after,
        "errors": summary["connect_errors"] + summary["refused"] + summary["unknown"],
        "connect_errors": summary["connect_errors"],
        "statement_errors": summary["refused"] + summary["unknown"],
        "messages": summary["errors"],
        "acknowledged": summary["acknowledged"],
        "lost": len(verdict["lost"]),
        "duplicates": len(verdict["duplicates"]),
    }


def condense(runs: list[dict]) -> dict:
    """Min, median and max of one contender's runs of one fault."""
    gaps, errors = [run["gap"] for run in runs], [run["errors"] for run in runs]
    return {
        "fault": runs[0]["fault"],
        "runs": len(runs),
        "gap": {"median": statistics.median(gaps), "min": min(gaps), "max": max(gaps)},
        "errors": {"median": statistics.median(errors), "min": min(errors), "max": max(errors)},
        "lost": sum(run["lost"] for run in runs),
        "acknowledged": sum(run["acknowledged"] for run in runs),
        "moved": sum(run["moved"] for run in runs),
        "given_up": sum(not run["back"] for run in runs),
    }
