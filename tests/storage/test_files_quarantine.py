"""The quarantine of the file store, and what is replaced, put back or removed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.errors import OutOfResources
from dicomnode.storage.files import Durability, FileStore
from dicomnode.storage.paths import object_path
from tests.storage.filing import DATA, UIDS, incoming, listed
from tests.storage.objects import data_set, encoded


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    with FileStore(tmp_path / "store", durability="relaxed") as store:
        yield store


def test_a_quarantined_object_has_a_note_that_says_why(store: FileStore) -> None:
    kept = incoming(store).quarantine("UID held with other bytes")
    digest = hashlib.sha256(DATA).hexdigest()
    assert kept == f"quarantine/1.2.3.4.1.{digest[:16]}.dcm"
    note = json.loads(Path(store.abs_path(kept)).with_suffix(".json").read_text())
    assert note["reason"] == "UID held with other bytes"
    assert note["sha256"] == digest
    assert note["size_bytes"] == os.path.getsize(store.abs_path(kept))
    assert listed(store, "incoming") == []


def test_the_same_bytes_are_quarantined_once(store: FileStore) -> None:
    assert incoming(store).quarantine("first") == incoming(store).quarantine("second")
    other = incoming(store, encoded(data_set(PatientName="Other"))).quarantine("third")
    assert len(listed(store, "quarantine")) == 4
    assert os.path.exists(store.abs_path(other))


@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_what_is_damaged_in_the_quarantine_does_not_stand_for_a_whole_object(
    tmp_path: Path, durability: Durability
) -> None:
    with FileStore(tmp_path, durability=durability) as store:
        first = incoming(store).quarantine("first")
        Path(store.abs_path(first)).write_bytes(b"rubbish")
        kept = incoming(store).quarantine("second")
        assert store.digest_file(kept) == hashlib.sha256(DATA).hexdigest()
        assert incoming(store).quarantine("third") == kept
        assert len(listed(store, "quarantine")) == 4


def test_an_object_without_a_usable_uid_is_quarantined_too(store: FileStore) -> None:
    kept = incoming(store, uid="../../etc").quarantine("no UID")
    assert kept.startswith("quarantine/unknown.")


def test_a_quarantined_object_is_durable_even_when_it_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who put it there may have died before it was, or before the note was written."""
    with FileStore(tmp_path, durability="full") as store:
        kept = incoming(store).quarantine("first")
        note = Path(store.abs_path(kept)).with_suffix(".json")
        note.unlink()
        flushed: list[str] = []
        real = os.fsync

        def fsync(fd: int) -> None:
            flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)
        assert incoming(store).quarantine("second") == kept
        assert flushed == [note.name, "quarantine"]
        assert json.loads(note.read_text())["reason"] == "second"


def test_what_is_replaced_is_kept_in_the_quarantine(store: FileStore) -> None:
    rel = incoming(store).place(*UIDS)
    other = encoded(data_set(PatientName="Other"))
    newcomer = incoming(store, other)
    kept = newcomer.place_over(*UIDS)
    assert store.digest_file(rel) == hashlib.sha256(other).hexdigest()
    assert Path(store.abs_path(kept)).read_bytes().endswith(DATA)
    assert len(listed(store, "incoming")) == 1, "so that a start after a crash looks at it"
    newcomer.discard()
    assert store.digest_file(rel) == hashlib.sha256(other).hexdigest()
    assert listed(store, "incoming") == []


def test_what_was_replaced_is_put_back(store: FileStore) -> None:
    rel = incoming(store).place(*UIDS)
    newcomer = incoming(store, encoded(data_set(PatientName="Other")))
    kept = newcomer.place_over(*UIDS)
    for _ in range(2):
        store.put_back(kept, rel)
        assert store.digest_file(rel) == hashlib.sha256(DATA).hexdigest()
    newcomer.discard()
    assert listed(store, "incoming") == []


def test_a_replacement_that_cannot_be_made_durable_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileStore(tmp_path, durability="full") as store:
        rel = incoming(store).place(*UIDS)
        newcomer = incoming(store, encoded(data_set(PatientName="Other")))
        real, replaced = os.replace, threading.Event()

        def replace(source: str, target: str) -> None:
            real(source, target)
            replaced.set()

        def fsync(fd: int) -> None:
            if replaced.is_set():
                raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OutOfResources):
            newcomer.place_over(*UIDS)
        newcomer.discard()
        assert store.digest_file(rel) == hashlib.sha256(DATA).hexdigest()
        assert listed(store, "incoming") == []


def test_placing_over_nothing_is_placing(store: FileStore) -> None:
    newcomer = incoming(store)
    assert newcomer.place_over(*UIDS) == ""
    newcomer.discard()
    assert store.digest_file(object_path(*UIDS)) == hashlib.sha256(DATA).hexdigest()
    assert listed(store, "quarantine") == []


def test_a_file_that_cannot_be_looked_at_is_not_taken_for_missing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rel = incoming(store).place(*UIDS)
    assert store.exists(rel)
    assert not store.exists(f"{rel}/below")
    assert not store.exists(object_path("9", "9", "9"))

    def broken(path: str) -> os.stat_result:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "stat", broken)
    with pytest.raises(OutOfResources):
        store.exists(rel)


def test_a_file_that_cannot_be_closed_is_closed_all_the_same(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = incoming(store), os.close

    def close(fd: int) -> None:
        real(fd)
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as broken:
        broken.setattr(os, "close", close)
        rel = file.place(*UIDS)
        file.discard()
    assert store.digest_file(rel) == hashlib.sha256(DATA).hexdigest()


def test_a_parked_object_leaves_no_empty_directories(store: FileStore) -> None:
    rel = incoming(store).place(*UIDS)
    kept = store.park(rel, "unreadable")
    assert store.digest_file(kept) == hashlib.sha256(DATA).hexdigest()
    assert list(store.walk()) == []
    assert incoming(store).place(*UIDS) == rel
