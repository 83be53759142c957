"""Objects converted in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from dicomnode.errors import ConversionFailed
from dicomnode.scu.conversion import Converters
from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import read_file_meta

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"


class Archive:
    def __init__(self, files: FileStore, directory: Path) -> None:
        self.files = files
        self.directory = directory

    def put(self, name: str) -> tuple[str, int, int, str]:
        source = get_testdata_file(name)
        assert isinstance(source, str)
        data = Path(source).read_bytes()
        (self.directory / "objects" / name).write_bytes(data)
        with open(source, "rb") as file:
            meta = read_file_meta(file.fileno())
        offset = meta.data_set_offset
        return (
            self.files.abs_path(f"objects/{name}"),
            offset,
            len(data) - offset,
            meta.transfer_syntax_uid,
        )

    def leftovers(self) -> list[str]:
        return os.listdir(self.directory / "incoming")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    files = FileStore(tmp_path, durability="relaxed")
    files.open()
    return Archive(files, tmp_path)


@pytest.fixture
async def converters(archive: Archive) -> AsyncIterator[Converters]:
    made = Converters(archive.files, 0)
    yield made
    await made.close()


async def test_an_object_is_converted_and_leaves_no_file(
    archive: Archive, converters: Converters
) -> None:
    file, size = await converters.convert(*archive.put("MR_small_RLE.dcm"), EXPLICIT)
    assert size == os.fstat(file.fileno()).st_size > 64 * 64 * 2
    assert archive.leftovers() == []


async def test_more_than_there_are_processes_for_take_turns(
    archive: Archive, converters: Converters
) -> None:
    objects = [archive.put(name) for name in ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm")] * 3
    await asyncio.gather(*(converters.convert(*each, IMPLICIT) for each in objects))
    assert len(converters._all) == 2


async def test_what_cannot_be_converted_fails_with_the_reason(
    archive: Archive, converters: Converters
) -> None:
    path, offset, size, stored = archive.put("CT_small.dcm")
    with pytest.raises(ConversionFailed, match="cut short"):
        await converters.convert(path, offset, size - 5, stored, IMPLICIT)
    with pytest.raises(ConversionFailed, match="No such file"):
        await converters.convert("objects/missing", offset, size, stored, IMPLICIT)
    assert archive.leftovers() == []


async def test_no_more_is_written_than_the_storage_can_spare(archive: Archive) -> None:
    converters = Converters(archive.files, 1 << 62)
    with pytest.raises(ConversionFailed, match="more than 0 bytes"):
        await converters.convert(*archive.put("CT_small.dcm"), IMPLICIT)
    await converters.close()


async def test_conversions_at_once_leave_together_what_the_storage_must_keep(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    converters = Converters(archive.files, 1000)
    job = archive.put("CT_small.dcm")
    monkeypatch.setattr(archive.files, "free_bytes", lambda: 1 << 40)
    _, size = await converters.convert(*job, IMPLICIT)
    monkeypatch.setattr(archive.files, "free_bytes", lambda: 1000 + 2 * size)
    await converters.convert(*job, IMPLICIT)
    monkeypatch.setattr(archive.files, "free_bytes", lambda: 1000 + 2 * size - 1)
    with pytest.raises(ConversionFailed, match="more than"):
        await converters.convert(*job, IMPLICIT)
    await converters.close()


async def test_a_process_that_dies_fails_its_object_and_is_replaced(
    archive: Archive, converters: Converters
) -> None:
    job = archive.put("CT_small.dcm")
    # It takes a job, and ends.
    dying = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "input()"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    converters._idle.append(dying)
    converters._all.add(dying)
    with pytest.raises(ConversionFailed, match="crashed"):
        await converters.convert(*job, IMPLICIT)
    await converters.convert(*job, IMPLICIT)
    assert dying not in converters._all


async def test_a_process_that_died_without_a_job_fails_no_object(
    archive: Archive, converters: Converters
) -> None:
    job = archive.put("CT_small.dcm")
    await converters.convert(*job, IMPLICIT)
    process = converters._idle[-1]
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    await converters.convert(*job, IMPLICIT)
    assert process not in converters._all


async def test_a_signal_to_stop_is_the_nodes_to_heed(
    archive: Archive, converters: Converters
) -> None:
    job = archive.put("CT_small.dcm")
    await converters.convert(*job, IMPLICIT)
    (process,) = converters._idle
    os.kill(process.pid, signal.SIGTERM)
    await converters.convert(*job, IMPLICIT)
    assert converters._idle == [process]


async def test_a_process_that_takes_too_long_is_ended(archive: Archive) -> None:
    converters = Converters(archive.files, 0, seconds=0.0)
    with pytest.raises(ConversionFailed, match="took longer"):
        await converters.convert(*archive.put("CT_small.dcm"), IMPLICIT)
    assert converters._all == set()


async def test_whoever_stops_waiting_leaves_no_process_at_work(
    archive: Archive, converters: Converters
) -> None:
    task = asyncio.create_task(converters.convert(*archive.put("CT_small.dcm"), IMPLICIT))
    while not converters._all:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert converters._all == set()
    assert archive.leftovers() == []


async def test_what_waits_for_its_turn_when_the_converters_end_starts_no_other(
    archive: Archive, converters: Converters
) -> None:
    job = archive.put("MR_small_RLE.dcm")
    conversions = [asyncio.create_task(converters.convert(*job, EXPLICIT)) for _ in range(4)]
    await asyncio.sleep(0)
    await converters.close()
    outcomes = await asyncio.gather(*conversions, return_exceptions=True)
    assert all(isinstance(outcome, ConversionFailed) for outcome in outcomes), outcomes
    assert not converters._all and archive.leftovers() == []
