"""What the file store makes durable, and when."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.errors import OutOfResources
from dicomnode.storage import disk, files
from dicomnode.storage.files import FileStore, object_path
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
        monkeypatch.setattr(files, "rename_without_replacing", rename)
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
