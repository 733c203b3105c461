"""What is done to the leader (or to the store), and how it is undone once writes are back."""

import pathlib
import random
import signal
import time

import machine
from clients import Ledger, Pgbench, Sessions
from contender import Contender


class Fault:
    name: str
    # "namespaces", "volumes", "etcd", "upgrade": without them it is left out, and that is said.
    needs: frozenset[str] = frozenset()
    # How long writes are waited for before it is undone all the same (seconds).
    limit = 120.0
    # How long it lasts, whether writes go on or not (seconds); else it is undone once they are back.
    lasts = 0.0
    # Longest silence of writes that still counts as steady (seconds).
    steady = 0.3

    def __init__(self, contender: Contender, leader: str, ledger: pathlib.Path):
        self.contender, self.leader, self.ledger = contender, leader, ledger

    def prepare(self) -> None:
        """Before the clock starts."""

    def strike(self) -> None:
        raise NotImplementedError

    def heal(self) -> None:
        """Gives everything back; also after a strike that failed half-way."""

    def finish(self, leader: str) -> dict:
        """More figures of this run, once all is well again under `leader`."""
        return {}

    def end(self) -> None:
        """Ends what `prepare` has started, whatever happened since."""


class PostmasterKilled(Fault):
    name = "postmaster killed"

    def strike(self) -> None:
        machine.send([self.contender.postmaster(self.leader)], signal.SIGKILL)


class NodeKilled(Fault):
    """Agent and PostgreSQL; the host's kernel lives and refuses connections."""

    name = "node killed"

    def strike(self) -> None:
        machine.end_all(self.contender.home(self.leader))

    def heal(self) -> None:
        self.contender.start_node(self.leader)


class NodeStopped(Fault):
    """SIGSTOP to agent and PostgreSQL; the host's kernel lives and still accepts connections."""

    name = "node stopped"
    pids: tuple[int, ...] | list[int] = ()

    def strike(self) -> None:
        self.pids = machine.processes_of(self.contender.home(self.leader))
        machine.send(self.pids, signal.SIGSTOP)

    def heal(self) -> None:
        machine.send(self.pids, signal.SIGCONT)


class Partition(Fault):
    """The cable of the leader's host: from everyone, the store and the clients too. A second ledger writes on that host,
    straight to its PostgreSQL: what that still acknowledges and nobody has later is lost."""

    name = "node cut off"
    needs = frozenset({"namespaces", "etcd"})
    struck, inner = 0.0, None

    def prepare(self) -> None:
        entry = self.contender.hosts.entry(self.leader)
        self.inner = Ledger(self.ledger, self.contender.direct(self.leader), self.contender.folder / "inner.book", entry=entry)
        self.inner.wait_steady(1.0, 30.0)

    def strike(self) -> None:
        self.struck = self.inner.now
        self.contender.hosts.cut(self.leader)

    def heal(self) -> None:
        self.contender.hosts.connect(self.leader)

    def finish(self, leader: str) -> dict:
        self.inner.finish()
        lost = self.inner.verify(self.contender.direct(leader))["lost"]
        return {"inner_lost": len(lost), "inner_wrote_on": round(max(0.0, self.inner.last_acknowledged() - self.struck), 3)}

    def end(self) -> None:
        if self.inner:
            self.inner.process.kill()


class PowerCut(Fault):
    """Cable and processes: nothing answers any more, not even a kernel."""

    name = "power cut"
    needs = frozenset({"namespaces"})

    def strike(self) -> None:
        self.contender.hosts.cut(self.leader)
        machine.end_all(self.contender.home(self.leader))

    def heal(self) -> None:
        self.contender.hosts.connect(self.leader)
        self.contender.start_node(self.leader)


class AgentKilled(Fault):
    """The agent alone, started again at once as a service manager does."""

    name = "agent killed"

    def strike(self) -> None:
        self.contender.kill_agent(self.leader)
        self.contender.start_node(self.leader)


class AgentUpgraded(Fault):
    """Another program at its path takes over the running agent (SIGUSR2)."""

    name = "agent upgraded"
    needs = frozenset({"upgrade"})

    def strike(self) -> None:
        self.contender.upgrade_agent(self.leader)


class StoreDown(Fault):
    """All of the store's servers killed, and started again with what they knew."""

    name = "store down"
    needs = frozenset({"etcd"})
    lasts = 60.0

    def strike(self) -> None:
        self.contender.store.kill()

    def heal(self) -> None:
        self.contender.store.start()


class StoreFrozen(StoreDown):
    """All of the store's servers stopped: they still accept connections."""

    name = "store frozen"

    def strike(self) -> None:
        self.contender.store.freeze()

    def heal(self) -> None:
        self.contender.store.thaw()


class VolumeFrozen(Fault):
    """The leader's data volume takes no writes; reading what is cached goes on. Who does not notice is thawed after 60 s."""

    name = "volume frozen"
    needs = frozenset({"volumes"})
    limit = 60.0

    def strike(self) -> None:
        self.contender.volumes[self.leader].freeze()

    def heal(self) -> None:
        self.contender.volumes[self.leader].thaw()


class Switchover(Fault):
    name = "planned switchover"

    def strike(self) -> None:
        candidate = random.choice([member for member in self.contender.members if member != self.leader])
        self.contender.switchover(self.leader, candidate)


class SessionsSwitchover(Switchover):
    """With 50 pgbench sessions at work beside the ledger. Each ends at its first error, so that errors are counted."""

    name = "switchover, 50 sessions"
    sessions = 50
    seconds = 25
    # Transactions a second of all together; none: as many as they can.
    rate: int | None = 200
    busy = None

    def prepare(self) -> None:
        pgbench = Pgbench(self.contender.bins, self.contender.dsn())
        pgbench.fill()
        self.busy = Sessions(pgbench, self.sessions, self.seconds, self.rate)
        time.sleep(3.0)

    def finish(self, leader: str) -> dict:
        return self.busy.finish()

    def end(self) -> None:
        if self.busy:
            self.busy.process.kill()


class BusySwitchover(SessionsSwitchover):
    """As many transactions as two cores can do."""

    name = "switchover, 50 busy"
    rate = None
    # The ledger waits for its turn among them.
    steady = 1.0


FAULTS: dict[str, type[Fault]] = {
    "postmaster": PostmasterKilled,
    "node": NodeKilled,
    "stop": NodeStopped,
    "partition": Partition,
    "power": PowerCut,
    "agent": AgentKilled,
    "upgrade": AgentUpgraded,
    "store": StoreDown,
    "store-frozen": StoreFrozen,
    "volume": VolumeFrozen,
    "switchover": Switchover,
    "switchover-sessions": SessionsSwitchover,
    "switchover-busy": BusySwitchover,
}
