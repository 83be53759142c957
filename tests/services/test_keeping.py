"""Small objects: row and bytes first, then the name, then the answer."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicomnode.dimse.status import Status
from dicomnode.errors import OutOfResources
from dicomnode.index.catalog import InstanceEntry
from dicomnode.index.schema import meta
from dicomnode.services.placing import Placement
from dicomnode.storage.disk import OpenFile
from dicomnode.storage.header import HEADER_END
from dicomnode.storage.incoming import IncomingFile
from dicomnode.storage.paths import object_path
from tests.services.intake_bench import UID, Bench, Flushed, image, keeping

FIRST = image()
SECOND = image(PatientName="Other^Bytes")
PATH = object_path("1.2.3", "1.2.3.4", UID)
OUT_OF_RESOURCES = 0xA700


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    with keeping(tmp_path / "store") as bench:
        yield bench


@pytest.fixture
def before_the_name(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Have something done just before an object gets its name."""

    def have_done(action: Callable[[], None]) -> None:
        real = IncomingFile.place

        def place(self: IncomingFile, *uids: str, **options: bool) -> str:
            action()
            return real(self, *uids, **options)

        monkeypatch.setattr(IncomingFile, "place", place)

    return have_done


BeforeTheName = Callable[[Callable[[], None]], None]


async def test_row_and_bytes_are_committed_before_the_name(
    bench: Bench, before_the_name: BeforeTheName
) -> None:
    """A file without a row could be one that a power loss tore; it would be indexed as it is."""
    rows: list[object] = []

    def look() -> None:
        rows.append(bench.row())
        assert [row.path for row in bench.catalog.unsettled()] == [PATH]
        assert bench.listed("objects") == []

    before_the_name(look)
    assert await bench.send(FIRST) == Status.SUCCESS
    assert rows[0] is not None
    assert bench.holds(FIRST)


async def test_a_crash_between_row_and_name_is_mended_at_the_start(
    bench: Bench, before_the_name: BeforeTheName
) -> None:
    """What a start does is done where the crash would be, and undone for the old run to go on."""
    restored: list[bool] = []

    def crash() -> None:
        (row,) = bench.catalog.unsettled()
        restored.append(bench.files.secure(row.path, row.contents))
        restored.append(bench.holds(FIRST))
        bench.files.remove(row.path)

    before_the_name(crash)
    assert await bench.send(FIRST) == Status.SUCCESS
    assert restored == [True, True]
    assert bench.holds(FIRST)


async def test_without_a_name_an_object_is_neither_stored_nor_found(
    bench: Bench, before_the_name: BeforeTheName, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as broken:
        broken.setattr("dicomnode.storage.incoming.rename_without_replacing", lambda *paths: fail())
        assert await bench.send(FIRST) == OUT_OF_RESOURCES
    assert bench.row() is None
    assert bench.catalog.counts().unsettled == 0
    assert bench.listed("objects") == [] and bench.temporary == []
    assert await bench.send(FIRST) == Status.SUCCESS
    assert bench.holds(FIRST)


@pytest.mark.parametrize("found", [b"", SECOND, None], ids=["empty", "other", "same"])
async def test_a_file_that_no_row_speaks_of_gives_way_before_there_is_a_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, found: bytes | None
) -> None:
    """Who found the row first would read that file, or forward it."""
    assert await bench.send(FIRST) == Status.SUCCESS
    flushed = Flushed(monkeypatch)
    path = Path(bench.files.abs_path(PATH))
    bench.catalog.truncate()
    if found is not None:
        path.write_bytes(found)
    before = path.stat().st_ino
    rows_then: list[object] = []
    clear = Placement._clear_way
    monkeypatch.setattr(
        Placement, "_clear_way", lambda this: (rows_then.append(bench.row()), clear(this))
    )
    assert await bench.send(FIRST) == Status.SUCCESS
    assert rows_then == [None]
    assert bench.holds(FIRST)
    assert path.stat().st_ino != before
    assert len(bench.listed("quarantine")) == (found is not None)
    assert path.stat().st_ino in flushed.inodes


async def test_who_finds_the_row_before_the_name_waits_for_it(
    bench: Bench, before_the_name: BeforeTheName
) -> None:
    opened: list[bytes] = []
    waiting = threading.Event()

    def read() -> None:
        waiting.set()
        fd = bench.files.open_object(PATH)
        opened.append(os.pread(fd, 1 << 20, 0))
        os.close(fd)

    reader = threading.Thread(target=read)

    def begin() -> None:
        reader.start()
        waiting.wait(20)

    before_the_name(begin)
    assert await bench.send(FIRST) == Status.SUCCESS
    reader.join(20)
    assert opened[0].endswith(FIRST)


async def test_what_has_no_name_yet_is_not_settled_without_it(
    bench: Bench, before_the_name: BeforeTheName
) -> None:
    """The index would forget the bytes of a file that no flush has seen."""
    order: list[str] = []
    real = bench.files._objects
    assert real is not None

    class Recorded:
        def flush_filesystem(self) -> None:
            order.append("flush")

    bench.files._objects = Recorded()  # type: ignore[assignment]
    settling = threading.Thread(target=bench.settler._settle)

    def begin() -> None:
        settling.start()
        settling.join(0.05)
        order.append("name")

    before_the_name(begin)
    assert await bench.send(FIRST) == Status.SUCCESS
    settling.join(20)
    bench.files._objects = real
    assert order == ["name", "flush"]
    assert bench.catalog.counts().unsettled == 0


async def test_an_object_that_never_gets_its_name_holds_nobody_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.storage.files._ARRIVAL_SECONDS", 0.01)
    assert await bench.send(FIRST) == Status.SUCCESS
    bench.files.announce("objects/00/1.2/1.3/1.4.dcm")
    assert not bench.settler._settle()
    bench.files.arrived("objects/00/1.2/1.3/1.4.dcm")
    assert bench.settler._settle()


class Forwarder:
    """Forwards everything, as far as one row in ``meta``; its sender reads when it is told."""

    header_end = HEADER_END

    def __init__(self) -> None:
        self.bench: Bench
        self.read: list[bytes] = []
        self._sender = threading.Thread(target=self._send)

    def attachment(self, entry: InstanceEntry) -> Forwarder:
        return self

    def apply(self, cursor: Any) -> None:
        cursor.execute("INSERT INTO meta VALUES ('queued', 'yes')")

    def undo(self, cursor: Any) -> None:
        cursor.execute("DELETE FROM meta WHERE name = 'queued'")

    def committed(self) -> None:
        self._sender.start()

    def _send(self) -> None:
        with contextlib.suppress(OutOfResources):
            file = OpenFile(self.bench.files.open_object(PATH))
            self.read.append(file.read(1 << 20, 0))

    def finish(self) -> None:
        self._sender.join(20)

    def has_queued(self) -> bool:
        with self.bench.catalog.read() as connection:
            return "queued" in connection.execute(select(meta.c.name)).scalars().all()


@pytest.fixture
async def forwarder(tmp_path: Path) -> Any:
    forwarder = Forwarder()
    bench = Bench(tmp_path / "forwarding", synchronous="FULL", forwarding=forwarder)
    forwarder.bench = bench
    if not bench.settler.takes(0):
        pytest.skip("the filesystem of the tests cannot be flushed as a whole")
    yield forwarder
    bench.close()


async def test_a_sender_that_is_told_of_a_small_object_before_its_name_waits_for_it(
    forwarder: Forwarder, before_the_name: BeforeTheName
) -> None:
    read_before: list[int] = []
    before_the_name(lambda: read_before.append(len(forwarder.read)))
    assert await forwarder.bench.send(FIRST) == Status.SUCCESS
    forwarder.finish()
    assert read_before == [0]
    assert [data.endswith(FIRST) for data in forwarder.read] == [True]
    assert forwarder.has_queued()
    assert forwarder.bench.catalog.counts().unsettled == 1


async def test_a_small_object_that_gets_no_name_is_not_forwarded(
    forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*paths: str) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("dicomnode.storage.incoming.rename_without_replacing", fail)
    assert await forwarder.bench.send(FIRST) == OUT_OF_RESOURCES
    forwarder.finish()
    assert forwarder.read == [] and not forwarder.has_queued()
