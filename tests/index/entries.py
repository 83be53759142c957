"""Entries for the tests of the index."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dicomnode.index.catalog import AddOutcome, Catalog, InstanceEntry, InstanceRow
from dicomnode.storage.header import read_header
from dicomnode.storage.paths import object_path
from tests.storage.objects import EXPLICIT, data_set, encoded


def sqlite_url(directory: Path) -> str:
    """Return the URL of the index in a storage directory."""
    return f"sqlite:///{directory / 'index.sqlite'}"


def entry(
    number: int = 1, study: str = "1.2.3", series: str = "1.2.3.4", **more: object
) -> InstanceEntry:
    """Return the entry of ``data_set`` with the same arguments."""
    data = encoded(data_set(number, study, series, **more))
    fd = os.memfd_create("entry")
    try:
        os.write(fd, data)
        header = read_header(fd, 0, len(data), EXPLICIT)
    finally:
        os.close(fd)
    return InstanceEntry.from_header(
        header,
        transfer_syntax_uid=EXPLICIT,
        path=object_path(
            header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
        ),
        size_bytes=len(data) + 400,
        data_set_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        file_sha256=hashlib.sha256(bytes(400) + data).hexdigest(),
        source_ae="CT_1",
        received_at=1_700_000_000.25,
    )


def waited(start: Callable[[Callable[[Any], None]], None]) -> Any:
    """Call ``start`` with a listener and return what that is told."""
    told = threading.Event()
    outcomes: list[Any] = []

    def done(outcome: Any) -> None:
        outcomes.append(outcome)
        told.set()

    start(done)
    assert told.wait(20)
    return outcomes[0]


def add(
    catalog: Catalog, new: InstanceEntry, contents: bytes | None = None
) -> AddOutcome | BaseException:
    outcome: AddOutcome | BaseException = waited(lambda done: catalog.add(new, done, contents))
    return outcome


def replace(catalog: Catalog, new: InstanceEntry) -> AddOutcome | BaseException:
    outcome: AddOutcome | BaseException = waited(lambda done: catalog.replace(new, done))
    return outcome


def remove(catalog: Catalog, sop_instance_uid: str) -> InstanceRow | BaseException | None:
    outcome: InstanceRow | BaseException | None = waited(
        lambda done: catalog.remove(sop_instance_uid, done)
    )
    return outcome


@contextmanager
def held_writer(catalog: Catalog, new: InstanceEntry) -> Iterator[None]:
    """Keep the writer busy, with a listener that does not return, while the block runs."""
    begun, gate = threading.Event(), threading.Event()

    def listener(outcome: object) -> None:
        begun.set()
        gate.wait(20)

    holder = threading.Thread(target=lambda: catalog.add(new, listener))
    holder.start()
    begun.wait(20)
    try:
        yield
    finally:
        gate.set()
        holder.join()
