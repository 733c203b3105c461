"""What a contender must be able to do, and how a member's PostgreSQL is asked directly."""

import abc
import pathlib
import subprocess

import machine


class Contender(abc.ABC):
    """A cluster of three members behind a router, in a folder of its own."""

    name: str
    settings: str
    # The longest sleep of its control loop in seconds: faults come at a random moment of it.
    period: float = 1.0

    def __init__(self, folder: pathlib.Path, bins: pathlib.Path):
        self.folder = machine.make_folder(folder)
        self.bins = bins
        self.members = ["n1", "n2", "n3"]
        self.ports = {member: machine.free_port() for member in self.members}

    @abc.abstractmethod
    def start(self) -> None:
        """Starts everything; returns when it has been asked for, not when it is ready."""

    @abc.abstractmethod
    def start_node(self, member: str) -> None:
        """Starts a member's agent, first or again."""

    @abc.abstractmethod
    def leader(self) -> str | None:
        """The member that the contender itself calls its leader."""

    @abc.abstractmethod
    def dsn(self) -> str:
        """The way of a client, through the router, to the primary."""

    @abc.abstractmethod
    def switchover(self, leader: str, candidate: str) -> None:
        """A planned move; returns when the contender says that it is done."""

    @abc.abstractmethod
    def data(self, member: str) -> pathlib.Path:
        """A member's data directory."""

    def home(self, member: str) -> pathlib.Path:
        """A member's own folder: every process of the node works in it or names it."""
        return self.folder / member

    def stop(self) -> None:
        machine.end_all(self.folder)

    # --- the same for all -----------------------------------------------------------------------------------
    sync = False

    def ask(self, member: str, query: str) -> str | None:
        """One value from a member's own port; None when it does not answer within 2 s."""
        command = [self.bins / "psql", "-XAtq", "-d", f"{self.direct(member)} connect_timeout=2", "-c", query]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=4)
        except subprocess.TimeoutExpired:
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    def direct(self, member: str) -> str:
        return f"host=127.0.0.1 port={self.ports[member]} user=postgres dbname=postgres"

    def healthy(self) -> bool:
        """One leader, the two others streaming from it, and in synchronous modes somebody to acknowledge."""
        leader = self.leader()
        if leader is None or self.ask(leader, "select pg_is_in_recovery()") != "f":
            return False
        count = "count(*) filter (where state = 'streaming'), count(*) filter (where sync_state in ('sync', 'quorum'))"
        answer = self.ask(leader, f"select {count} from pg_stat_replication where application_name <> 'pg_basebackup'")
        streaming, acknowledging = map(int, (answer or "0|0").split("|"))
        return streaming == len(self.members) - 1 and (acknowledging > 0 or not self.sync)

    def postmaster(self, member: str) -> int:
        return int((self.data(member) / "postmaster.pid").read_text().split()[0])
