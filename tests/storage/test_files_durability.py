"""What the file store makes durable, and when."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.errors import OutOfResources
from dicomnode.storage import disk
from dicomnode.storage.files import Durability, FileStore
from dicomnode.storage.paths import object_path
from tests.storage.filing import UIDS, incoming


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    with FileStore(tmp_path / "store", durability="relaxed") as store:
        yield store


def test_bytes_are_flushed_before_the_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def recorded(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            calls.append(name)
            return real(*arguments)

        return call

    with FileStore(tmp_path, durability="full") as store:
        incoming(store, uid="1.5").place("1.2.3", "1.2.3.4", "1.5")
        file = incoming(store)
        monkeypatch.setattr(os, "fdatasync", recorded("bytes", os.fdatasync))
        monkeypatch.setattr(os, "fsync", recorded("directory", os.fsync))
        rename = recorded("name", disk.rename_without_replacing)
        monkeypatch.setattr("dicomnode.storage.incoming.rename_without_replacing", rename)
        file.flush()
        file.place(*UIDS)
        assert calls == ["bytes", "name", "directory"]
        calls.clear()
        new = incoming(store)
        new.flush()
        new.place("9.2", "9.3", "9.4")
    # A new study: its directory, its series', and what they stand in.
    assert calls == ["bytes", "directory", "directory", "directory", "name", "directory"]


def test_every_directory_that_leads_to_the_store_is_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with FileStore(tmp_path / "a" / "b" / "store", durability="full"):
        expected = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "store"]
        assert set(flushed) >= set(map(str, expected))


def test_relaxed_durability_flushes_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flushed(fd: int) -> None:
        raise AssertionError("flushed")

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "fdatasync", flushed)
    file = incoming(store)
    file.flush()
    file.place(*UIDS)
    incoming(store).quarantine("because")


@pytest.mark.parametrize(
    ("durability", "flush_follows", "begun"),
    [("full", True, True), ("full", False, False), ("relaxed", True, False)],
)
def test_the_disk_begins_to_write_what_arrives_where_a_flush_will_follow(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    durability: Durability,
    flush_follows: bool,
    begun: bool,
) -> None:
    ranges: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "dicomnode.storage.incoming.begin_writing_back",
        lambda fd, offset, size: ranges.append((offset, size)),
    )
    with FileStore(tmp_path, durability=durability) as store:
        file = store.begin(b"meta")
        file.append([memoryview(b"12"), memoryview(b"345")], flush_follows=flush_follows)
        file.append([memoryview(b"6")], flush_follows=flush_follows)
        assert ranges == ([(0, 9), (9, 1)] if begun else [])
        file.discard()


def test_a_name_that_cannot_be_made_durable_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileStore(tmp_path, durability="full") as store:
        incoming(store, uid="1.5").place("1.2.3", "1.2.3.4", "1.5")
        file = incoming(store)

        def fail(fd: int) -> None:
            raise OSError(errno.EIO, "broken")

        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", fail)
            with pytest.raises(OutOfResources):
                file.place(*UIDS)
        file.discard()
        assert not os.path.exists(store.abs_path(object_path(*UIDS)))
        assert incoming(store).place(*UIDS) == object_path(*UIDS)


def test_a_file_that_is_not_flushed_has_no_flush_of_its_directory_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileStore(tmp_path, durability="full") as store:
        incoming(store, uid="1.5").place("1.2.3", "1.2.3.4", "1.5")
        file = incoming(store)
        with monkeypatch.context() as counted:
            flushed: list[int] = []
            counted.setattr(os, "fsync", flushed.append)
            counted.setattr(os, "fdatasync", flushed.append)
            rel = file.place(*UIDS, flush=False)
            assert flushed == []
            store.flush_object(rel)
            assert len(flushed) == 2, "the bytes and the name"


def test_settling_tells_of_what_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileStore(tmp_path, durability="full") as store:
        store.settle()

        def lost(fd: int) -> int:
            ctypes.set_errno(errno.EIO)
            return -1

        with monkeypatch.context() as broken:
            broken.setattr(disk, "_syncfs", lost)
            with pytest.raises(OutOfResources, match="input/output"):
                store.settle()

        def log_failed(fd: int) -> None:
            raise OSError(errno.EROFS, "the log has failed")

        monkeypatch.setattr(os, "fsync", log_failed)
        with pytest.raises(OutOfResources, match="read-only"):
            store.settle()


def test_only_filesystems_that_flush_what_they_hold_are_settled_as_a_whole(tmp_path: Path) -> None:
    with FileStore(tmp_path / "relaxed", durability="relaxed") as store:
        assert not store.settles
    assert not disk.reports_lost_writes("/proc")
    assert not disk.reports_lost_writes(str(tmp_path / "missing"))


@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_a_secured_file_is_flushed_whatever_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    rel = object_path(*UIDS)
    with FileStore(tmp_path, durability=durability) as store:
        flushed: list[int] = []
        real = os.fdatasync

        def fdatasync(fd: int) -> None:
            real(fd)
            flushed.append(os.fstat(fd).st_ino)

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        path = Path(store.abs_path(rel))
        assert store.secure(rel, b"contents")
        for found in (b"", b"content", b"contents and more", b"CONTENTS"):
            path.write_bytes(found)
            assert store.secure(rel, b"contents")
            assert path.read_bytes() == b"contents"
            assert flushed[-1] == path.stat().st_ino
        assert not store.secure(rel, b"contents")
        assert flushed[-1] == path.stat().st_ino
        assert os.listdir(tmp_path / "incoming") == []


def test_a_file_that_cannot_be_secured_leaves_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rel = object_path(*UIDS)
    with FileStore(tmp_path, durability="full") as store:
        store.secure(rel, b"contents")

        def full(fd: int, buffers: object) -> int:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "writev", full)
        with pytest.raises(OutOfResources, match="disk full"):
            store.secure(rel, b"other")
        assert Path(store.abs_path(rel)).read_bytes() == b"contents"
        assert os.listdir(tmp_path / "incoming") == []


def test_what_goes_to_the_quarantine_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileStore(tmp_path, durability="full") as store:
        rel = incoming(store).place(*UIDS, flush=False)
        flushed: list[int] = []
        monkeypatch.setattr(os, "fdatasync", lambda fd: flushed.append(os.fstat(fd).st_ino))
        kept = store.park(rel, "because")
        assert flushed == [os.stat(store.abs_path(kept)).st_ino]


def test_a_new_directory_is_flushed_for_the_first_file_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileStore(tmp_path, durability="full") as store:
        flushed: list[int] = []
        monkeypatch.setattr(os, "fsync", flushed.append)
        for number in (1, 2):
            incoming(store, uid=f"1.{number}").place("1.2.3", "1.2.3.4", f"1.{number}", flush=False)
        assert flushed == []
        incoming(store, uid="1.3").place("1.2.3", "1.2.3.4", "1.3")
        assert len(flushed) == 4, "what leads to the series, and the name"
        incoming(store, uid="1.4").place("1.2.3", "1.2.3.4", "1.4")
        assert len(flushed) == 5
