"""What a contender must be able to do."""

import abc
import pathlib
import shutil

import machine
import measure
import s3
from measure import Cost
from servers import Server


class Contender(abc.ABC):
    """A tool with a server of its own. It works on one repository at a time: a place (a directory, a bucket) and a codec."""

    name: str
    places: tuple[str, ...] = ("directory", "s3")
    codecs: tuple[str, ...] = ("zst", "lz4")
    works: tuple[str, ...] = ("full", "incremental", "restore", "drain", "push", "load")

    def __init__(self, folder: pathlib.Path, bins: pathlib.Path, store: s3.Server):
        self.folder, self.bins, self.store = machine.make_folder(folder), bins, store
        self.server = Server(folder / "server", bins)
        self.place, self.codec = "directory", "zst"

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here; None when it can."""
        return None

    def start(self) -> None:
        """Its server runs, and is empty."""
        self.server.start()

    def enter(self, place: str, codec: str) -> None:
        """From now on everything goes to this repository, which is made."""
        self.place, self.codec = place, codec
        self.prepare()

    @property
    def prefix(self) -> str:
        return f"{self.name}-{self.codec}"

    @property
    def repository(self) -> pathlib.Path:
        return self.folder / f"repository-{self.codec}"

    @abc.abstractmethod
    def prepare(self) -> None:
        """Makes the repository, and has the server archive into it."""

    @abc.abstractmethod
    def backup(self, incremental: bool = False) -> Cost: ...

    @abc.abstractmethod
    def restore(self, target: pathlib.Path) -> Cost:
        """The newest backup, to the end of its WAL."""

    def catch_up(self) -> None:
        """Lets WAL be archived that `hold` has kept back."""

    def hold(self) -> None:
        """Keeps WAL from being archived."""

    def resume(self) -> None:
        """After `catch_up`: as before `hold`."""

    def push(self, name: str) -> list:
        """The command that archives a segment by name, as PostgreSQL calls it."""
        raise NotImplementedError

    def forget(self) -> None:
        """Empties the repository, so that the disk does not fill up."""
        if self.place == "directory":
            shutil.rmtree(self.repository, ignore_errors=True)

    def stored_mib(self) -> float:
        return measure.size_mib(self.repository) if self.place == "directory" else self.store.size_mib(self.prefix)

    @abc.abstractmethod
    def version(self) -> str: ...
