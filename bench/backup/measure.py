"""What one command costs: time, CPU of everything that it starts, and the most memory that it holds at a time."""

import dataclasses
import os
import pathlib
import subprocess
import threading
import time

import machine

PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclasses.dataclass
class Cost:
    """Seconds, CPU seconds (user and system), MiB."""

    seconds: float
    cpu: float
    peak_mib: float


class Session(threading.Thread):
    """Sums the resident memory of all processes of a session, every 20 ms, and keeps the highest sum."""

    def __init__(self, leader: int):
        super().__init__(daemon=True)
        self.leader, self.peak, self.over = leader, 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.peak = max(self.peak, sum(map(resident, self.members())))

    def members(self) -> list[int]:
        pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
        return [pid for pid in pids if (stat := machine.read_stat(pid)) and int(stat[3]) == self.leader]

    def end(self) -> float:
        self.over.set()
        self.join()
        return self.peak


def resident(pid: int) -> float:
    """What is shared with others counts in full: the pages of programs are, and are few."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MIB
    except (OSError, IndexError):
        return 0.0


def run(arguments: list, folder: pathlib.Path, environment: dict[str, str] | None = None) -> Cost:
    """Runs it to its end as the unprivileged user; what it prints goes to a file in the folder.

    Raises RuntimeError with the end of its output when it fails.
    """
    log = folder / f"{pathlib.Path(arguments[0]).name}.log"
    start = log.stat().st_size if log.exists() else 0
    began = time.monotonic()
    child = machine.start(arguments, folder, environment)
    session = Session(child.pid)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - began
    peak = session.end()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        said = log.read_bytes()[start:][-2000:].decode(errors="replace")
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with {child.returncode}:\n{said}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss / 1024))


def command(arguments: list, folder: pathlib.Path, environment: dict[str, str] | None = None) -> str:
    """Runs it likewise, unmeasured; what it printed."""
    user = machine.account()
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    done = subprocess.run(
        list(map(str, arguments)), cwd=folder, capture_output=True, text=True, env={**os.environ, "HOME": str(folder), **(environment or {})}, **identity
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


# Started by a small process of its own, since a large one forks slowly.
EACH = """
import os, statistics, sys, time
times = []
for _ in range(int(sys.argv[1])):
    began = time.monotonic()
    pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"{sys.argv[2:]} failed")
    times.append(time.monotonic() - began)
print(statistics.median(times) * 1000)
"""


def median_ms(times: int, arguments: list, folder: pathlib.Path) -> float:
    """The median of so many calls of a program, from its start to its end, in milliseconds."""
    python = "/usr/bin/python3"
    return float(command([python, "-c", EACH, times, *arguments], folder).splitlines()[-1])


def size_mib(folder: pathlib.Path) -> float:
    files = (pathlib.Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files) / 2**20
