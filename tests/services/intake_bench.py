"""An intake with everything real but the association, and faults to put under it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from dicomnode.dimse.channel import Channel
from dicomnode.errors import StatusError
from dicomnode.index.backend import Synchronous
from dicomnode.index.catalog import Catalog, InstanceRow
from dicomnode.index.custody import Custody
from dicomnode.observe.custody_metrics import CustodyMetrics
from dicomnode.services.custody import Custodian
from dicomnode.services.custody_recorder import Recorder
from dicomnode.services.intake import Arrival, Forwarding, Intake, OnConflict, Settled
from dicomnode.services.settling import Settler, restore
from dicomnode.services.turns import Turns
from dicomnode.services.workers import GroupWorker, Workers
from dicomnode.storage import disk
from dicomnode.storage.files import FileStore
from tests.index.entries import sqlite_url
from tests.storage.objects import CT_STORAGE, EXPLICIT, data_set, encoded

UID = "1.2.3.4.1"


def image(study: str = "1.2.3", series: str = "1.2.3.4", uid: str = UID, **more: object) -> bytes:
    """Return the encoded data set of an object whose SOP Instance UID is ``uid``."""
    return encoded(data_set(1, study, series, SOPInstanceUID=uid, **more))


@dataclass
class Association:
    """A channel and a lease at once: counts what has to be given back."""

    pauses: int = 0
    leases: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def pause(self) -> None:
        self.pauses += 1

    def resume(self) -> None:
        self.pauses -= 1

    def retain(self) -> None:
        with self.lock:
            self.leases += 1

    def release(self) -> None:
        with self.lock:
            self.leases -= 1


@dataclass
class Journal:
    """Keeps what the intake told."""

    conflicts: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    settling: list[Exception | None] = field(default_factory=list)

    def conflict(self, arrival: Arrival, policy: str, kept_path: str) -> None:
        self.conflicts.append(kept_path)

    def row_without_file(self, sop_instance_uid: str, path: str) -> None:
        self.missing.append(path)

    def internal_error(self, what: str, error: BaseException) -> None:
        self.errors.append(error)

    def settling_failed(self, error: Exception) -> None:
        self.settling.append(error)

    def settled_again(self) -> None:
        self.settling.append(None)


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def error(self, message: str, **fields: object) -> None:
        self.lines.append(message)

    info = error


class Bench:
    """One intake in ``directory``; with an index that is flushed, it keeps small objects.

    Nothing is settled but by ``settle``.
    """

    def __init__(
        self,
        directory: Path,
        on_conflict: OnConflict = "keep_first",
        synchronous: Synchronous = "OFF",
        url: str | None = None,
        forwarding: Forwarding | None = None,
        custody: bool = False,
    ) -> None:
        self.directory = directory
        self.files = FileStore(directory, durability="full")
        self.files.open()
        self.catalog = Catalog(url or sqlite_url(directory), synchronous=synchronous)
        self.catalog.open()
        self.journal = Journal()
        self.worker_faults: list[BaseException] = []
        self.workers = Workers(4, self.worker_faults.append)
        self.workers.start()
        self.group = GroupWorker(self.catalog.grouped, self.worker_faults.append)
        self.group.start()
        turns = Turns()
        self.settler = Settler(self.files, self.catalog, turns=turns, journal=self.journal)
        self.association = Association()
        self.custody = Custody(self.catalog)
        self.log = Lines()
        self.recorder = Recorder(
            self.custody.append, cast(Any, self.log), CustodyMetrics(CollectorRegistry())
        )
        self.intake = Intake(
            self.files,
            self.catalog,
            workers=self.workers,
            group=self.group,
            turns=turns,
            settler=self.settler,
            journal=self.journal,
            on_conflict=on_conflict,
            min_free_bytes=0,
            forwarding=forwarding,
            custodian=Custodian(self.custody, self.recorder, self.catalog) if custody else None,
        )

    def close(self) -> None:
        self.group.stop()
        self.workers.stop()
        self.catalog.close()
        self.files.close()

    async def send(self, data: bytes, *, uid: str = UID, fragment_bytes: int = 1 << 16) -> int:
        """Send one object; return the status of its only answer."""
        status = await self.send_one_of_many(data, uid=uid, fragment_bytes=fragment_bytes)
        assert (self.association.leases, self.association.pauses) == (0, 0)
        assert self.worker_faults == []
        return status

    async def send_one_of_many(
        self, data: bytes, *, uid: str = UID, fragment_bytes: int = 1 << 16
    ) -> int:
        """As ``send``, while others are on their way."""
        answers: list[Settled | StatusError] = []
        answered = asyncio.Event()

        def done(outcome: Settled | StatusError, received_bytes: int) -> None:
            answers.append(outcome)
            answered.set()

        arrival = Arrival(CT_STORAGE, uid, EXPLICIT, "CT_1")
        sink = self.intake.begin(arrival, cast(Channel, self.association), done)
        view = memoryview(data)
        for at in range(0, len(data), fragment_bytes):
            sink.write(view[at : at + fragment_bytes], self.association)
        sink.finish()
        await asyncio.wait_for(answered.wait(), 10)
        # Whatever else was to come would come now.
        await asyncio.sleep(0)
        assert len(answers) == 1
        return answers[0].status

    def row(self, uid: str = UID) -> InstanceRow | None:
        return self.catalog.get(uid)

    def holds(self, data: bytes, uid: str = UID) -> bool:
        """Tell whether exactly these bytes are stored under a row that says so."""
        row = self.row(uid)
        digest = sha256(data).hexdigest()
        return (
            row is not None
            and row.sha256 == digest
            and os.path.exists(self.files.abs_path(row.path))
            and self.files.digest_file(row.path) == digest
            and sha256(Path(self.files.abs_path(row.path)).read_bytes()).hexdigest()
            == row.file_sha256
        )

    def listed(self, folder: str) -> list[str]:
        """Return the DICOM files below a folder of the store, relative to it."""
        root = self.directory / folder
        return sorted(str(path.relative_to(root)) for path in root.rglob("*.dcm"))

    def clear(self) -> None:
        """Forget every object."""
        if last := self.catalog.last_unsettled():
            self.catalog.settle(last)
        self.catalog.truncate()
        for folder in ("objects", "quarantine", "incoming"):
            for name in self.listed(folder):
                self.files.remove(f"{folder}/{name}")
        for note in (self.directory / "quarantine").iterdir():
            note.unlink()

    def lose_power(self, flushed: Flushed) -> None:
        """Empty every file that was not flushed, and recover as at a start."""
        for folder in ("objects", "quarantine"):
            for name in self.listed(folder):
                path = self.directory / folder / name
                if path.stat().st_ino not in flushed.inodes:
                    path.write_bytes(b"")
        restore(self.files, self.catalog.unsettled())

    def torn(self, folder: str) -> list[str]:
        """Return the files of a folder that lost their bytes with the power."""
        return [
            name
            for name in self.listed(folder)
            if not (self.directory / folder / name).stat().st_size
        ]

    @property
    def temporary(self) -> list[str]:
        return os.listdir(self.directory / "incoming")


class Flushed:
    """Remembers which files have been flushed, by inode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inodes: set[int] = set()
        real = os.fdatasync

        def fdatasync(fd: int) -> None:
            real(fd)
            self.inodes.add(os.fstat(fd).st_ino)

        monkeypatch.setattr(os, "fdatasync", fdatasync)


_CALLS = (
    *("open", "close", "writev", "write", "pread", "fsync", "fdatasync", "statvfs"),
    *("mkdir", "rmdir", "link", "unlink", "replace", "stat"),
)


class FailingDisk:
    """Makes the ``at``-th system call of the workers fail, from when it is entered.

    ``failed`` is the name of the call that did.
    """

    def __init__(self, at: int, code: int = errno.EIO) -> None:
        self.failed = ""
        self._at = at
        self._code = code
        self._count = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def under(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingDisk]:
        with monkeypatch.context() as patched:
            for name in _CALLS:
                patched.setattr(os, name, self._wrapped(name, getattr(os, name)))
            rename = self._wrapped("rename", disk.rename_without_replacing)
            patched.setattr("dicomnode.storage.incoming.rename_without_replacing", rename)
            yield self

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if self._is_due():
                self.failed = name
                if name == "close":  # closes all the same, as Linux does
                    real(*arguments)
                raise OSError(self._code, os.strerror(self._code))
            return real(*arguments, **keywords)

        return call

    def _is_due(self) -> bool:
        if not threading.current_thread().name.startswith("dicomnode-worker"):
            return False
        with self._lock:
            self._count += 1
            return self._count == self._at


@contextlib.contextmanager
def keeping(directory: Path) -> Iterator[Bench]:
    """Give a bench that keeps small objects; skips the test where that cannot be."""
    bench = Bench(directory, synchronous="FULL")
    if not bench.settler.takes(0):
        pytest.skip("the filesystem of the tests cannot be flushed as a whole")
    yield bench
    bench.close()
