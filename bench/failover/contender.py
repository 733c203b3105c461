"""What a contender must be able to do, what all of them share, and how a member's PostgreSQL is asked directly."""

import abc
import dataclasses
import json
import pathlib
import signal
import subprocess
import urllib.request

import hosts
import machine
from store import Etcd, Sqlite
from volumes import Volume

# How a commit is acknowledged: by any one replica (or the contender's own synchronous mode), by the first of a list, by nobody.
MODES = ("sync", "on", "async")
PASSWORD = "bench"


@dataclasses.dataclass
class Setup:
    """What one cluster is made of."""

    folder: pathlib.Path
    bins: pathlib.Path
    mode: str = "sync"
    settings: str = "default"
    store: str = "etcd"
    etcd_servers: int = 1
    etcd_program: pathlib.Path = pathlib.Path("/usr/bin/etcd")
    members: int = 3
    pooler: bool = False
    place: type = hosts.Local
    volumes: bool = False
    # Ours: the program. Peers are found by themselves.
    program: pathlib.Path = machine.ROOT / "target/release/matriarch"


class Contender(abc.ABC):
    """A cluster behind a router, in a folder of its own."""

    name: str
    # What it offers; the first of each is what it is known for.
    modes: tuple[str, ...] = MODES
    settings: tuple[str, ...] = ("default",)
    stores: tuple[str, ...] = ("etcd",)
    # A running agent can take over another program.
    upgrades = False
    # The longest sleep of its control loop in seconds: faults come at a random moment of it.
    period: float = 1.0

    def __init__(self, setup: Setup):
        self.setup = setup
        self.sync = setup.mode != "async"
        self.folder, self.bins = machine.make_folder(setup.folder), setup.bins
        self.members = [f"n{number}" for number in range(1, setup.members + 1)]
        self.ports = {member: machine.free_port() for member in self.members}
        self.router, self.behind = machine.free_port(), machine.free_port()
        self.agents: dict[str, subprocess.Popen] = {}
        self.volumes: dict[str, Volume] = {}
        self.prepare()
        try:
            for member in self.members if setup.volumes else []:
                machine.make_folder(self.home(member))
                self.volumes[member] = Volume(self.home(member) / "volume")
            # After the volumes: a host sees what was mounted before it was made, too.
            self.hosts = setup.place(self.folder / "hosts", self.members)
        except OSError:
            self.release()
            raise
        store = self.folder / "store"
        self.store = Sqlite(store) if setup.store == "sqlite" else Etcd(store, self.gateway, setup.etcd_servers, setup.etcd_program)

    # --- each contender's own ---------------------------------------------------------------------------------
    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here; None when it can."""
        return None

    def prepare(self) -> None:
        """What it needs before hosts are made."""

    @abc.abstractmethod
    def start(self) -> None:
        """Starts everything; returns when it has been asked for, not when it is ready."""

    @abc.abstractmethod
    def agent(self, member: str) -> list:
        """The command line of a member's agent."""

    @abc.abstractmethod
    def leader(self) -> str | None:
        """The member that the contender itself calls its leader."""

    @abc.abstractmethod
    def switchover(self, leader: str, candidate: str) -> None:
        """A planned move; returns when the contender says that it is done."""

    def phases(self, since: float) -> dict[str, float]:
        """When each step of a planned move after this moment was reached (seconds since the epoch), as far as it tells."""
        return {}

    @abc.abstractmethod
    def describe(self) -> str:
        """Its settings in words."""

    @abc.abstractmethod
    def version(self) -> str:
        """Its version, and those of the parts it needs."""

    # --- the same for all -------------------------------------------------------------------------------------
    def start_node(self, member: str) -> None:
        """Starts a member's agent, first or again."""
        self.agents[member] = machine.start(self.agent(member), self.home(member), entry=self.hosts.entry(member))

    def kill_agent(self, member: str) -> None:
        """Its agent alone: PostgreSQL goes on."""
        machine.send([self.agents[member].pid], signal.SIGKILL)
        self.agents[member].wait()

    def upgrade_agent(self, member: str) -> None:
        """Its agent's program is exchanged for the one that now lies at its path; PostgreSQL goes on."""
        raise NotImplementedError

    def home(self, member: str) -> pathlib.Path:
        """A member's own folder: every process of the node (agent and PostgreSQL) works in it or names it."""
        return self.folder / member

    def disk(self, member: str) -> pathlib.Path:
        """Where its data is: a volume of its own, if there are such."""
        return self.home(member) / "volume" if self.setup.volumes else self.home(member)

    def data(self, member: str) -> pathlib.Path:
        return self.disk(member) / "data"

    @property
    def gateway(self) -> str:
        """Where clients, routers and stores are."""
        return self.hosts.gateway

    def address(self, member: str) -> str:
        return self.hosts.address(member)

    def dsn(self) -> str:
        """The way of a client, through the router (and pooler), to the primary."""
        return f"host={self.gateway} port={self.router} user=postgres password={PASSWORD} dbname=postgres"

    def direct(self, member: str) -> str:
        return f"host={self.address(member)} port={self.ports[member]} user=postgres password={PASSWORD} dbname=postgres"

    def stop(self) -> None:
        """Ends all of it; the folder stays."""
        for volume in self.volumes.values():
            volume.thaw()
        machine.end_all(self.folder)
        self.hosts.end()
        self.release()

    def release(self) -> None:
        for volume in self.volumes.values():
            volume.end()

    def ask(self, member: str, query: str) -> str | None:
        """One value from a member's own port; None when it does not answer within 2 s."""
        command = [self.bins / "psql", "-XAtq", "-d", f"{self.direct(member)} connect_timeout=2", "-c", query]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=4)
        except subprocess.TimeoutExpired:
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    def get(self, member: str, port: int, path: str) -> dict | None:
        """A JSON page of a member's agent; None when it does not answer within 2 s."""
        try:
            with urllib.request.urlopen(f"http://{self.address(member)}:{port}{path}", timeout=2) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return None

    def healthy(self) -> bool:
        """One leader, all others streaming from it, and in synchronous modes somebody to acknowledge."""
        leader = self.leader()
        if leader is None or self.ask(leader, "select pg_is_in_recovery()") != "f":
            return False
        count = "count(*) filter (where state = 'streaming'), count(*) filter (where sync_state in ('sync', 'quorum'))"
        answer = self.ask(leader, f"select {count} from pg_stat_replication where application_name <> 'pg_basebackup'")
        streaming, acknowledging = map(int, (answer or "0|0").split("|"))
        return streaming == len(self.members) - 1 and (acknowledging > 0 or not self.sync)

    def timeline(self, leader: str) -> str | None:
        """It changes with every promotion."""
        return self.ask(leader, "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")

    def postmaster(self, member: str) -> int:
        return int((self.data(member) / "postmaster.pid").read_text().split()[0])
