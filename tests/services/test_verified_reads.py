"""Objects that are handed out are compared with what was received."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dicomnode.errors import Unreadable
from dicomnode.index.catalog import InstanceRow
from dicomnode.scu.conversion import Converters
from dicomnode.scu.sources import PIECE_BYTES, Pieces
from dicomnode.services import verified_reads
from dicomnode.services.stored_objects import StoredObjects
from dicomnode.services.verified_reads import VerifiedReads, VerifyOnRead
from tests.services.scrubbing import Bench
from tests.storage.damage import flip_bit
from tests.storage.objects import EXPLICIT, IMPLICIT

LONG = PIECE_BYTES + 4096


class Reader:
    """Reads the objects of a bench for sending."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.converters = Converters(bench.files, 0)
        self.threads = ThreadPoolExecutor(2)

    def put(self, number: int = 1, padding: int = 0) -> InstanceRow:
        self.bench.put(number, padding=padding)
        self.bench.index()
        row = self.bench.catalog.get(f"1.2.3.4.{number}")
        assert row is not None
        return row

    async def read(self, row: InstanceRow, policy: VerifyOnRead, syntax: str = EXPLICIT) -> bytes:
        scrub = self.bench.scrub()
        verified = VerifiedReads(policy, scrub.wholeness, scrub.bad)
        objects = StoredObjects(
            self.bench.files, self.converters, self.threads, verified, "retrieval"
        )
        data_set = (await objects.fetch(row, syntax)).data_set
        if not isinstance(data_set, Pieces):
            return bytes(data_set)
        data = b""
        while piece := await data_set.read():
            data += piece
        return data


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Reader]:
    bench = Bench(tmp_path)
    bench.open()
    made = Reader(bench)
    yield made
    await made.converters.close()
    made.threads.shutdown()
    bench.close()


@pytest.mark.parametrize("padding", [0, LONG], ids=["short", "long"])
@pytest.mark.parametrize("at", [0, 450, -1], ids=["preamble", "header", "end"])
async def test_a_damaged_object_is_not_handed_out(reader: Reader, padding: int, at: int) -> None:
    row = reader.put(padding=padding)
    path = reader.bench.path(row.path)
    data = await reader.read(row, "always")
    assert data == path.read_bytes()[-row.data_set_bytes :]
    place = at if at >= 0 else row.size_bytes - 1
    flip_bit(path, place)
    with pytest.raises(Unreadable, match="not what was received"):
        await reader.read(row, "always")
    assert reader.bench.listed() == {row.path: "damaged"}
    assert [line["found_by"] for line in reader.bench.errors] == ["retrieval"]
    # Nor is it however little is compared, now that it is known.
    with pytest.raises(Unreadable):
        await reader.read(row, "off")
    flip_bit(path, place)
    assert await reader.read(row, "off") == data
    assert reader.bench.listed() == {}


async def test_a_damaged_object_is_not_converted(reader: Reader) -> None:
    row = reader.put()
    assert await reader.read(row, "always", IMPLICIT)
    flip_bit(reader.bench.path(row.path), row.size_bytes - 1)
    with pytest.raises(Unreadable, match="not what was received"):
        await reader.read(row, "always", IMPLICIT)


@pytest.mark.parametrize("kind", ["missing", "damaged"])
async def test_a_file_that_cannot_be_read_is_listed_whatever_is_compared(
    reader: Reader, kind: str
) -> None:
    row = reader.put()
    path = reader.bench.path(row.path)
    if kind == "missing":
        path.unlink()
    else:
        os.truncate(path, 100)
    with pytest.raises(Unreadable):
        await reader.read(row, "off")
    assert reader.bench.listed() == {row.path: kind}


async def test_an_object_that_has_been_replaced_is_not_listed(reader: Reader) -> None:
    row = reader.put()
    path = reader.bench.path(row.path)
    path.write_bytes(path.read_bytes() + b"\x09\x00\x01\x00LO\x00\x00")
    reader.bench.forget(row.sop_instance_uid)
    reader.bench.index()
    with pytest.raises(Unreadable):
        await reader.read(row, "always")
    assert reader.bench.listed() == {}


@pytest.mark.parametrize(("chance", "compared"), [(0, True), (1, False)])
async def test_of_samples_one_in_sixteen_is_compared(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, chance: int, compared: bool
) -> None:
    row = reader.put()
    scrub = reader.bench.scrub()
    asked: list[int] = []

    def drawn(size: int) -> int:
        asked.append(size)
        return chance

    monkeypatch.setattr(verified_reads.random, "randrange", drawn)
    verified = VerifiedReads("sampled", scrub.wholeness, scrub.bad)
    assert (verified.wants(row), asked) == (compared, [16])
    assert not VerifiedReads("off", scrub.wholeness, scrub.bad).wants(row)
