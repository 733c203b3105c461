"""Where members run: all on this machine's loopback address, or each on a host of its own made of namespaces.

Such a host has one network card on one bridge, a name and a machine identity. Clients, routers and stores stay on the
machine itself, at the bridge's first address. Nothing of the machine's own network is touched.
"""

import fcntl
import os
import pathlib
import shutil
import subprocess
import uuid

import machine

REGISTRY = pathlib.Path("/tmp/matriarch-bench-hosts")
NEEDED = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux"}
# Lives as long as our end of its pipe, and holds the namespaces. Programs that find the machine's identity on another host
# would take each other for neighbours and use Unix sockets.
HOLD = 'mount --bind "$1" /etc/machine-id && hostname "$2" && ip link set lo up && echo ready && exec cat >/dev/null'


def run(*command) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def missing() -> str | None:
    """Why this machine does not let us make hosts; None when it does."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program, package in NEEDED.items():
        if not shutil.which(program):
            return f"{program} is not installed (Debian: {package})"
    return None


class Local:
    """No hosts: 127.0.0.1, and ports that differ."""

    kind = "loopback"
    gateway = "127.0.0.1"

    def __init__(self, folder: pathlib.Path, members: list[str]):
        pass

    def address(self, member: str) -> str:
        return "127.0.0.1"

    def entry(self, member: str) -> list[str] | None:
        return None

    def end(self) -> None:
        pass


class Namespaces:
    """A host for each member, on a bridge with a subnet of its own."""

    kind = "namespaces"

    def __init__(self, folder: pathlib.Path, members: list[str]):
        self.folder, self.members, self.holders = machine.make_folder(folder), members, {}
        self.number, self.lock = self.reserve()
        self.gateway = f"10.214.{self.number}.1"
        self.bridge = f"mtb{self.number}"
        # What a run left behind that was killed: its number is ours now.
        self.unplug()
        try:
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "address", "add", f"{self.gateway}/24", "dev", self.bridge)
            run("ip", "link", "set", self.bridge, "up")
            for member in members:
                self.raise_host(member)
        except OSError:
            self.end()
            raise

    @staticmethod
    def reserve() -> tuple[int, object]:
        REGISTRY.mkdir(exist_ok=True)
        for number in range(1, 251):
            lock = open(REGISTRY / str(number), "w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return number, lock
            except BlockingIOError:
                lock.close()
        machine.fail("no free subnet between 10.214.1 and 10.214.250")

    def raise_host(self, member: str) -> None:
        identity = self.folder / f"{member}.machine-id"
        identity.write_text(f"{uuid.uuid4().hex}\n")
        apart = ["unshare", "--net", "--uts", "--mount", "--propagation", "slave", "--"]
        holder = subprocess.Popen(
            [*apart, "sh", "-c", HOLD, "sh", identity, member], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.holders[member] = holder
        if holder.stdout.readline() != "ready\n":
            raise OSError(f"the namespaces of {member} could not be made; the message is above")
        if os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            raise OSError(f"{member} has no network of its own")
        run("ip", "link", "add", self.cable(member), "type", "veth", "peer", "name", "host0", "netns", holder.pid)
        run("ip", "link", "set", self.cable(member), "master", self.bridge, "up")
        inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "ip"]
        run(*inside, "address", "add", f"{self.address(member)}/24", "dev", "host0")
        run(*inside, "link", "set", "host0", "up")

    def cable(self, member: str) -> str:
        return f"mtb{self.number}-{self.members.index(member) + 1}"

    def address(self, member: str) -> str:
        return f"10.214.{self.number}.{10 + self.members.index(member) + 1}"

    def entry(self, member: str) -> list[str]:
        spaces = f"/proc/{self.holders[member].pid}/ns"
        return ["nsenter", f"--net={spaces}/net", f"--uts={spaces}/uts", f"--mount={spaces}/mnt", "--"]

    def cut(self, member: str) -> None:
        """Pulls the cable at the switch's end: the host hears nobody and reaches nobody, and is told nothing."""
        run("ip", "link", "set", self.cable(member), "down")

    def connect(self, member: str) -> None:
        run("ip", "link", "set", self.cable(member), "up")

    def unplug(self) -> None:
        for device in [*(self.cable(member) for member in self.members), self.bridge]:
            subprocess.run(["ip", "link", "delete", device], capture_output=True)

    def end(self) -> None:
        for holder in self.holders.values():
            holder.stdin.close()
            holder.stdout.close()
            holder.wait()
        self.unplug()
        self.lock.close()
