"""A disk of a test's own, whose power can be cut."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# Linux's FS_IOC_SHUTDOWN, _IOR('X', 125, __u32), and its FS_SHUTDOWN_FLAGS_NOLOGFLUSH.
_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2


class Disk:
    """An ext4 in a file, mounted at ``mounted``."""

    def __init__(self, directory: Path, megabytes: int, inodes: int) -> None:
        self.mounted = directory / "disk"
        self._image = directory / "disk.img"
        self.mounted.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", "-N", str(inodes), self._image)
        self.mount()

    def mount(self) -> None:
        # The log is committed when asked for, not by the clock, so that a missing flush shows.
        _run("mount", "-o", "loop,commit=300", self._image, self.mounted)

    def cut(self) -> None:
        """Lose everything that has not been flushed; whatever is asked from now on fails."""
        fd = os.open(self.mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def mount_again(self) -> None:
        """Have what survived, after ``cut`` and the end of everybody who used it."""
        _run("umount", self.mounted)
        self.mount()


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


@contextlib.contextmanager
def disk(directory: Path, *, megabytes: int = 512, inodes: int = 4096) -> Iterator[Disk]:
    """Have a disk mounted below ``directory``; skip, with words, where that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("faults of disks are not tested: only root may mount a file system")
    try:
        made = Disk(directory, megabytes, inodes)
        made.cut()
        made.mount_again()
    except (OSError, subprocess.CalledProcessError) as error:
        _unmount(directory / "disk")
        pytest.skip(f"faults of disks are not tested: no ext4 that can be shut down: {error}")
    try:
        yield made
    finally:
        _unmount(made.mounted)


def _unmount(mounted: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(["umount", "--lazy", str(mounted)], check=False, capture_output=True)
