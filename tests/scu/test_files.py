"""Received objects that become files: nothing of what fails is left, and no file stays open."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomnode.dimse.command import CStoreRQ
from dicomnode.errors import AssociationAborted, OutOfResources
from dicomnode.scu import files
from dicomnode.scu.receiving import ReceivedObject
from tests import wire


def arriving(*pieces: bytes, why_lost: str | None = "") -> ReceivedObject:
    """Return an object of which ``pieces`` have come; with ``why_lost`` None more is to come."""
    request = CStoreRQ(
        message_id=1,
        has_data_set=True,
        affected_sop_class_uid=wire.CT_IMAGE_STORAGE,
        affected_sop_instance_uid="1.2.3",
    )
    arriving = ReceivedObject(request, wire.EXPLICIT_LE, lambda size: None)
    for piece in pieces:
        arriving.arrived(piece)
    if why_lost is not None:
        arriving.ended(why_lost)
    return arriving


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def failing_from(call: int) -> Callable[..., int]:
    """Return a ``write_all`` for which there is no room from a call on."""
    calls = 0

    def write_all(fd: int, buffers: Any) -> int:
        nonlocal calls
        calls += 1
        if calls < call:
            return sum(map(len, buffers))
        raise OSError(errno.ENOSPC, "No space left on device")

    return write_all


@pytest.mark.parametrize("call", [1, 2], ids=["file meta", "data set"])
async def test_a_full_disk_leaves_no_file_behind_and_none_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    monkeypatch.setattr(files, "write_all", failing_from(call))
    await asyncio.to_thread(int)
    before = open_files()
    with pytest.raises(OutOfResources, match="disk full"):
        await files.save(arriving(b"12"), tmp_path / "a.dcm")
    assert list(tmp_path.iterdir()) == [] and open_files() == before


async def test_what_was_lost_on_the_way_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(AssociationAborted):
        await files.save(arriving(b"12", why_lost="A-ABORT"), tmp_path / "a.dcm")
    assert list(tmp_path.iterdir()) == []


async def test_a_cancelled_file_is_closed_when_the_thread_no_longer_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on = threading.Event(), threading.Event()
    after: list[bool] = []
    write_all = files.write_all

    def slow(fd: int, buffers: Any) -> int:
        if buffers != [b"12"]:
            return write_all(fd, buffers)
        writing.set()
        go_on.wait(20)
        after.append(os.path.exists(f"/proc/self/fd/{fd}"))
        return write_all(fd, buffers)

    monkeypatch.setattr(files, "write_all", slow)
    saving = asyncio.create_task(files.save(arriving(b"12", why_lost=None), tmp_path / "a.dcm"))
    await asyncio.to_thread(writing.wait, 20)
    # Once by whoever gave up, and once more by the end of the event loop.
    for _ in range(2):
        saving.cancel()
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert after == [True] and list(tmp_path.iterdir()) == []


async def test_the_folder_is_made_where_it_is_not_there(tmp_path: Path) -> None:
    await files.into(tmp_path / "a" / "b")(arriving(b"12"))
    assert (tmp_path / "a" / "b" / "1.2.3.dcm").read_bytes().endswith(b"12")
