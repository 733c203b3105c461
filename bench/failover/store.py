"""Where a contender keeps its records: real etcd servers, one or three, or (ours alone) a SQLite file."""

import pathlib
import signal
import subprocess
import urllib.request

import machine


class Etcd:
    """Servers on the machine itself, in a folder that no member's fault reaches."""

    kind = "etcd"

    def __init__(self, folder: pathlib.Path, address: str, servers: int, program: pathlib.Path):
        self.folder, self.address, self.program = machine.make_folder(folder), address, program
        if not program.exists():
            machine.fail(f"{program} is missing; run scripts/install-deps --bench, or name one with --etcd")
        self.names = [f"etcd{number}" for number in range(1, servers + 1)]
        self.clients = {name: machine.free_port() for name in self.names}
        self.peers = {name: machine.free_port() for name in self.names}

    @property
    def endpoints(self) -> list[str]:
        return [f"{self.address}:{self.clients[name]}" for name in self.names]

    def start(self) -> None:
        """Starts all servers, first or again; what they know stays."""
        everybody = ",".join(f"{name}=http://{self.address}:{self.peers[name]}" for name in self.names)
        for name in self.names:
            home = machine.make_folder(self.folder / name)
            client, peer = (f"http://{self.address}:{ports[name]}" for ports in (self.clients, self.peers))
            urls = ["--listen-client-urls", client, "--advertise-client-urls", client]
            urls += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            which = ["--name", name, "--data-dir", home / "data", "--initial-cluster", everybody]
            machine.start([self.program, *which, *urls], home)
        machine.wait_until("etcd answers", self.answers, 60)

    def answers(self) -> bool:
        try:
            for endpoint in self.endpoints:
                with urllib.request.urlopen(f"http://{endpoint}/health", timeout=2) as answer:
                    if b'"true"' not in answer.read():
                        return False
        except OSError:
            return False
        return True

    def kill(self) -> None:
        machine.end_all(self.folder)

    def freeze(self) -> None:
        machine.send(machine.processes_of(self.folder), signal.SIGSTOP)

    def thaw(self) -> None:
        machine.send(machine.processes_of(self.folder), signal.SIGCONT)

    def version(self) -> str:
        said = subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout.split()[2]
        return f"etcd {said}" + (f" x {len(self.names)}" if len(self.names) > 1 else "")


class Sqlite:
    """A file that all members share: one machine only, and nothing that could be cut off or stopped."""

    kind = "sqlite"

    def __init__(self, folder: pathlib.Path):
        self.path = machine.make_folder(folder) / "store.db"

    def start(self) -> None:
        """Nothing to start: the first agent makes the file."""

    def version(self) -> str:
        return "SQLite"
