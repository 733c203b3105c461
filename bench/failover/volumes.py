"""Disks of their own for data directories: an ext4 file system in a file each, so that one can be frozen."""

import os
import pathlib
import shutil
import subprocess

import machine
from hosts import run

NEEDED = {"mkfs.ext4": "e2fsprogs", "fsfreeze": "util-linux", "mount": "mount"}
MEBIBYTES = 2048


def missing() -> str | None:
    """Why this machine does not let us mount; None when it does."""
    if os.geteuid() != 0:
        return "mounting a file system needs root"
    for program, package in NEEDED.items():
        if not shutil.which(program):
            return f"{program} is not installed (Debian: {package})"
    return None


class Volume:
    """Mounted on a folder until `end`."""

    def __init__(self, path: pathlib.Path):
        self.path, self.image = machine.make_folder(path), path.with_suffix(".img")
        with open(self.image, "wb") as file:
            file.truncate(MEBIBYTES << 20)
        run("mkfs.ext4", "-q", "-m", "0", self.image)
        run("mount", "-o", "loop", self.image, path)
        machine.make_folder(path)

    def freeze(self) -> None:
        """Whoever writes waits until `thaw`, and cannot be killed meanwhile; reading goes on."""
        run("fsfreeze", "-f", self.path)

    def thaw(self) -> None:
        subprocess.run(["fsfreeze", "-u", self.path], capture_output=True)

    def end(self) -> None:
        """Unmounts, lazily when a dying process still holds it."""
        self.thaw()
        if subprocess.run(["umount", self.path], capture_output=True).returncode:
            subprocess.run(["umount", "-l", self.path], capture_output=True)
        self.image.unlink(missing_ok=True)
