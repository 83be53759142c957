"""Stored objects on their way out."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from dicomnode.errors import Unreadable
from dicomnode.index.entry import InstanceRow
from dicomnode.scu.conversion import Converters
from dicomnode.scu.sources import PIECE_BYTES, Pieces
from dicomnode.services.stored_objects import StoredObjects
from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import file_meta
from tests.storage.objects import BIG, CT_STORAGE, DEFLATED, EXPLICIT, IMPLICIT, data_set, encoded


class Store:
    def __init__(self, directory: Path) -> None:
        self.files = FileStore(directory, durability="relaxed")
        self.files.open()
        self.converters = Converters(self.files, 0)
        self.threads = ThreadPoolExecutor(2)
        self.objects = StoredObjects(self.files, self.converters, self.threads)

    def put(self, data: bytes, meta: bytes = b"") -> InstanceRow:
        meta = meta or file_meta(CT_STORAGE, "1.2", EXPLICIT)
        Path(self.files.abs_path("objects/x.dcm")).write_bytes(meta + data)
        size = len(meta) + len(data)
        digests = sha256(data).hexdigest(), sha256(meta + data).hexdigest()
        held = ("objects/x.dcm", size, len(data), *digests, "", 0.0)
        return InstanceRow("1.2", CT_STORAGE, "1", "1", EXPLICIT, *held)

    def path(self) -> Path:
        return Path(self.files.abs_path("objects/x.dcm"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = Store(tmp_path)
    yield made
    await made.converters.close()
    made.threads.shutdown()
    made.files.close()


@contextmanager
def no_file_left_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


async def whole(pieces: Pieces) -> bytes:
    data = b""
    while piece := await pieces.read():
        assert len(piece) <= PIECE_BYTES
        data += piece
    assert await pieces.read() == b""
    return data


@pytest.mark.parametrize("size", (0, 1, PIECE_BYTES - 1, PIECE_BYTES))
async def test_small_objects_come_whole(store: Store, size: int) -> None:
    await asyncio.to_thread(int)  # asyncio's own pool has its threads and files by now
    data = os.urandom(size)
    row = store.put(data)
    with no_file_left_open():
        sendable = await store.objects.fetch(row, EXPLICIT)
        assert (sendable.size, sendable.data_set) == (size, data)


@pytest.mark.parametrize("size", (PIECE_BYTES + 1, 2 * PIECE_BYTES, 3 * PIECE_BYTES - 7))
async def test_large_objects_come_in_pieces(store: Store, size: int) -> None:
    data = os.urandom(size)
    row = store.put(data)
    with no_file_left_open():
        sendable = await store.objects.fetch(row, EXPLICIT)
        assert isinstance(sendable.data_set, Pieces)
        assert sendable.size == size
        assert await whole(sendable.data_set) == data
        del sendable


@pytest.mark.parametrize("size", (7, 8, PIECE_BYTES + 1, PIECE_BYTES + 2))
async def test_a_deflated_data_set_of_odd_length_is_followed_by_a_null(
    store: Store, size: int
) -> None:
    data = os.urandom(size)
    meta = file_meta(CT_STORAGE, "1.2", DEFLATED)
    row = replace(store.put(data, meta), transfer_syntax_uid=DEFLATED)
    found = (await store.objects.fetch(row, DEFLATED)).data_set
    sent = await whole(found) if isinstance(found, Pieces) else bytes(found)
    assert sent == data + bytes(size & 1)


async def test_what_is_given_up_in_the_middle_leaves_no_file_open(store: Store) -> None:
    row = store.put(os.urandom(4 * PIECE_BYTES))
    with no_file_left_open():
        sendable = await store.objects.fetch(row, EXPLICIT)
        assert isinstance(sendable.data_set, Pieces)
        await sendable.data_set.read()
        ahead = sendable.data_set._ahead
        assert ahead is not None
        await ahead
        del sendable, ahead


async def test_a_file_that_shrinks_while_it_is_sent_is_noticed(store: Store) -> None:
    row = store.put(os.urandom(3 * PIECE_BYTES))
    sendable = await store.objects.fetch(row, EXPLICIT)
    os.truncate(store.path(), PIECE_BYTES)
    assert isinstance(sendable.data_set, Pieces)
    with pytest.raises(Unreadable, match="shorter"):
        await whole(sendable.data_set)


async def test_another_transfer_syntax_comes_from_a_conversion(store: Store) -> None:
    row = store.put(encoded(data_set(1)))
    sendable = await store.objects.fetch(row, IMPLICIT)
    assert isinstance(sendable.data_set, Pieces)
    assert await whole(sendable.data_set) == encoded(data_set(1), IMPLICIT)


async def test_files_with_a_wrong_group_length_are_read_all_the_same(store: Store) -> None:
    meta = bytearray(file_meta(CT_STORAGE, "1.2", EXPLICIT))
    meta[140:144] = b"\xff\xff\0\0"
    sendable = await store.objects.fetch(store.put(b"12345678", bytes(meta)), EXPLICIT)
    assert sendable.data_set == b"12345678"


@pytest.mark.parametrize("wanted", (EXPLICIT, IMPLICIT))
@pytest.mark.parametrize("size", (1000, PIECE_BYTES + 1000))
async def test_a_file_that_is_not_what_the_index_says_is_unreadable(
    store: Store, size: int, wanted: str
) -> None:
    row = store.put(bytes(size))
    with pytest.raises(Unreadable, match="by the index"):
        await store.objects.fetch(replace(row, size_bytes=row.size_bytes + 2), wanted)
    with pytest.raises(Unreadable, match="does not begin where"):
        await store.objects.fetch(replace(row, data_set_bytes=row.data_set_bytes - 2), wanted)
    store.path().write_bytes(bytes(row.size_bytes))
    with pytest.raises(Unreadable, match="damaged"):
        await store.objects.fetch(row, wanted)
    store.path().unlink()
    with pytest.raises(Unreadable, match="missing"):
        await store.objects.fetch(row, wanted)


@pytest.mark.parametrize("size", (1000, PIECE_BYTES + 1000))
async def test_an_object_replaced_by_one_as_long_in_another_syntax_is_not_taken_for_it(
    store: Store, size: int
) -> None:
    row = store.put(bytes(size))
    replaced = store.put(bytes(size), file_meta(CT_STORAGE, "1.2", BIG))
    assert replaced.size_bytes == row.size_bytes
    for wanted in (EXPLICIT, IMPLICIT):
        with pytest.raises(Unreadable, match="another transfer syntax"):
            await store.objects.fetch(row, wanted)
