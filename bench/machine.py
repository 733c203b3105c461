"""What the benchmarks share: processes by the folder they live in, ports, an unprivileged user, starting programs.

Standard library only. Nothing here ends a process that the benchmark did not start: processes are found by their
folder inside the benchmark's own temporary one.
"""

import contextlib
import os
import pathlib
import pwd
import random
import re
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def fail(message: str) -> None:
    sys.exit(f"error: {message}")


def read_stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the program's name: state, parent, ...; None when there is no such process."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def processes_of(folder: pathlib.Path) -> list[int]:
    """Living processes that work in the folder or name it on their command line, and their descendants."""
    folder = folder.resolve()
    named = re.compile(re.escape(str(folder)) + r"(?![\w.-])")
    parents, chosen = {}, set()
    for entry in os.listdir("/proc"):
        stat = read_stat(int(entry)) if entry.isdigit() else None
        if stat is None or stat[0] == "Z":
            continue
        pid = int(entry)
        parents[pid] = int(stat[1])
        with contextlib.suppress(OSError):
            arguments = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            cwd = pathlib.Path(os.readlink(f"/proc/{pid}/cwd"))
            if named.search(arguments) or cwd == folder or folder in cwd.parents:
                chosen.add(pid)
    ours, pid = set(), os.getpid()
    while pid:
        ours.add(pid)
        pid = parents.get(pid, 0)
    chosen -= ours
    while more := {pid for pid, parent in parents.items() if parent in chosen and pid not in chosen | ours}:
        chosen |= more
    return sorted(chosen)


def send(pids: list[int], what: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)


def end_all(folder: pathlib.Path) -> None:
    """Kills everything that lives in the folder, until nothing does."""
    deadline = time.monotonic() + 15
    while (pids := processes_of(folder)) and time.monotonic() < deadline:
        send(pids, signal.SIGKILL)
        time.sleep(0.02)


def free_port() -> int:
    """A port below the kernel's range for outgoing connections, so that nobody takes it while its server is down."""
    for _ in range(5000):
        port = random.randint(12000, 31999)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    fail("no free port between 12000 and 31999")


def account() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as: None for the caller itself when that is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    fail("root has no unprivileged user to run PostgreSQL as: neither postgres nor nobody exists")


def make_folder(path: pathlib.Path) -> pathlib.Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)
    if user := account():
        os.chown(path, user.pw_uid, user.pw_gid)
    return path


def forget_cached(path: pathlib.Path) -> None:
    """Has a file's pages read from the disk again, as an installed program's are.

    A file that was just written lies in the page cache in larger pieces, and the kernel counts a piece as the memory of
    everybody who touches one page of it.
    """
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start(
    arguments: list, folder: pathlib.Path, environment: dict[str, str] | None = None, entry: list[str] | None = None
) -> subprocess.Popen:
    """Starts a program in the folder as the unprivileged user; its output goes to FOLDER/NAME.log.

    `entry` is a command that leads into a host's namespaces: it needs root, so the user is changed behind it.
    """
    user = account()
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user and not entry else {}
    home = {"HOME": str(folder)} if user else {}
    log = open(folder / f"{pathlib.Path(arguments[0]).name}.log", "ab")
    if entry:
        change = ["setpriv", "--clear-groups", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"] if user else []
        # Entering a mount namespace leaves the current directory.
        arguments = [*entry, *change, "env", "-C", folder, *arguments]
    with log:
        return subprocess.Popen(
            [str(argument) for argument in arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **home, **(environment or {})},
            **identity,
        )


def wait_until(what: str, condition, limit: float, every: float = 0.1):
    """The first true value of condition(); fails after `limit` seconds, naming what was awaited."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit:.0f} s: {what}")
        time.sleep(every)
    return value


def cache_dir() -> pathlib.Path:
    """The same place as scripts/lib.bash."""
    return pathlib.Path(subprocess.run(["bash", "-c", ". scripts/lib.bash; cache_dir"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip())


def postgres_bins(major: int | None) -> pathlib.Path:
    """The bin folder of one PostgreSQL: the given major, or the oldest one found."""
    listing = subprocess.run([ROOT / "scripts/postgres-dirs", "--list"], check=True, capture_output=True, text=True).stdout
    found = [line.split("\t") for line in listing.splitlines()]
    for number, folder in found:
        if major is None or int(number) == major:
            return pathlib.Path(folder)
    fail(f"PostgreSQL {major or ''} not found here (found: {[number for number, _ in found]}); run scripts/install-deps --test")
