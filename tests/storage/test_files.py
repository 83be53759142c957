"""The file store: complete, durable, never overwritten, and one process at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.errors import ConfigurationError, DataSetMismatch, OutOfResources, StoreLocked
from dicomnode.storage import disk, files
from dicomnode.storage.files import (
    FileStore,
    IncomingFile,
    object_path,
    uid_path_component,
    valid_uid,
)
from dicomnode.storage.part10 import file_meta
from tests.storage.objects import CT_STORAGE, EXPLICIT, data_set, encoded

DATA = encoded(data_set())
UIDS = ("1.2.3", "1.2.3.4", "1.2.3.4.1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    with FileStore(tmp_path / "store", durability="relaxed") as store:
        yield store


def incoming(store: FileStore, data: bytes = DATA, uid: str = UIDS[2]) -> IncomingFile:
    file = store.begin(file_meta(CT_STORAGE, uid, EXPLICIT, source_ae_title="CT_1"))
    file.append([memoryview(data)])
    return file


def listed(store: FileStore, directory: str) -> list[str]:
    return sorted(os.listdir(store.directory / directory))


# -- UIDs and paths --------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.2", "0.0", "1..2", ".1", "9" * 64])
def test_what_is_made_of_digits_and_dots_names_a_file(uid: str) -> None:
    assert valid_uid(uid)
    assert uid_path_component(uid) == uid


@pytest.mark.parametrize(
    "uid", ["", ".", "..", "...", "9" * 65, "1/2", "../1", "1.2\n", "1 ", "a", "1\x00", "\u0661"]
)
def test_nothing_else_names_a_file(uid: str) -> None:
    assert not valid_uid(uid)
    with pytest.raises(DataSetMismatch):
        uid_path_component(uid)


@given(st.text(max_size=70), st.text(max_size=70), st.text(max_size=70))
def test_no_text_leads_out_of_the_store(study: str, series: str, sop: str) -> None:
    try:
        path = object_path(study, series, sop)
    except DataSetMismatch:
        return
    assert os.path.normpath(path) == path
    assert path.startswith("objects/") and path.count("/") == 4


def test_studies_fan_out_by_the_first_byte_of_their_digest() -> None:
    first = hashlib.sha256(b"1.2.3").hexdigest()[:2]
    assert object_path(*UIDS) == f"objects/{first}/1.2.3/1.2.3.4/1.2.3.4.1.dcm"


# -- placing ---------------------------------------------------------------------------------------


def test_a_placed_object_is_a_part_10_file_with_the_bytes_that_came(store: FileStore) -> None:
    file = incoming(store)
    assert file.sha256() == hashlib.sha256(DATA).hexdigest()
    assert file.data_set_bytes == len(DATA)
    size = file.size_bytes
    rel = file.place(*UIDS)
    content = Path(store.abs_path(rel)).read_bytes()
    assert rel == object_path(*UIDS)
    assert content.endswith(DATA) and len(content) == size
    assert pydicom.dcmread(store.abs_path(rel)).PatientName == "Doe^Jane"
    assert store.digest_file(rel) == hashlib.sha256(DATA).hexdigest()
    assert listed(store, "incoming") == []


def test_others_may_not_read_what_is_stored(store: FileStore) -> None:
    before = os.umask(0)
    try:
        rel = incoming(store).place(*UIDS)
    finally:
        os.umask(before)
    path = Path(store.abs_path(rel))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for directory in (path.parent, path.parent.parent, path.parent.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o750


def test_nothing_is_replaced_and_the_newcomer_stays_usable(store: FileStore) -> None:
    rel = incoming(store).place(*UIDS)
    other = encoded(data_set(PatientName="Other"))
    newcomer = incoming(store, other)
    with pytest.raises(FileExistsError):
        newcomer.place(*UIDS)
    assert store.digest_file(rel) == hashlib.sha256(DATA).hexdigest()
    kept = newcomer.quarantine("kept first")
    assert Path(store.abs_path(kept)).read_bytes().endswith(other)


@pytest.mark.parametrize("code", [None, errno.EINVAL, errno.ENOSYS])
def test_nothing_is_replaced_where_rename_cannot_promise_it(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    def unsupported(*arguments: object) -> int:
        disk.ctypes.set_errno(code or 0)
        return -1

    monkeypatch.setattr(disk, "_renameat2", None if code is None else unsupported)
    incoming(store).place(*UIDS)
    newcomer = incoming(store)
    with pytest.raises(FileExistsError):
        newcomer.place(*UIDS)
    newcomer.discard()
    assert listed(store, "incoming") == []


def test_of_many_that_place_one_uid_at_once_one_wins(store: FileStore) -> None:
    won, lost = race(8, lambda number: incoming(store).place(*UIDS))
    assert len(won) == 1
    assert all(isinstance(error, FileExistsError) for error in lost)


def test_many_place_in_a_new_series_at_once(store: FileStore) -> None:
    won, lost = race(8, lambda number: incoming(store).place("1.2", "1.3", f"1.4.{number}"))
    assert len(won) == 8 and not lost


def race(count: int, action: Callable[[int], str]) -> tuple[list[str], list[BaseException]]:
    barrier = threading.Barrier(count)
    won: list[str] = []
    lost: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait()
        try:
            won.append(action(number))
        except OSError as error:
            lost.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, lost


def test_an_object_is_placed_after_its_series_had_become_empty(store: FileStore) -> None:
    rel = incoming(store).place(*UIDS)
    store.remove(rel)
    assert os.listdir(Path(store.abs_path(rel)).parents[2]) == []
    assert incoming(store).place(*UIDS) == rel


def test_an_object_is_placed_when_its_series_is_removed_behind_our_back(store: FileStore) -> None:
    rel = incoming(store).place(*UIDS)
    os.unlink(store.abs_path(rel))
    os.rmdir(os.path.dirname(store.abs_path(rel)))
    assert incoming(store).place(*UIDS) == rel


def test_a_uid_that_is_none_is_not_placed(store: FileStore) -> None:
    file = incoming(store)
    with pytest.raises(DataSetMismatch):
        file.place("1.2.3", "../../..", "1.2.3.4.1")
    file.discard()
    file.discard()
    assert listed(store, "incoming") == []


# -- writing ---------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=200), max_size=30), st.integers(1, 64))
def test_partial_writes_are_completed(fragments: list[bytes], most: int) -> None:
    fd = os.memfd_create("partial")
    real = os.writev
    try:
        os.writev = lambda fd, buffers: os.write(fd, b"".join(buffers)[:most])  # type: ignore[assignment]
        written = disk.write_all(fd, [memoryview(fragment) for fragment in fragments])
    finally:
        os.writev = real
    content = os.pread(fd, 10_000, 0)
    os.close(fd)
    assert content == b"".join(fragments)
    assert written == len(content)


def test_more_fragments_than_one_call_takes_are_written(store: FileStore) -> None:
    fragments = [memoryview(bytes([number % 256])) for number in range(3000)]
    file = store.begin(file_meta(CT_STORAGE, UIDS[2], EXPLICIT))
    file.append(fragments)
    assert os.pread(file.fd, 5000, file.data_set_offset) == b"".join(fragments)
    assert file.sha256() == hashlib.sha256(b"".join(fragments)).hexdigest()
    file.discard()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk full"),
        (errno.EDQUOT, "disk quota exceeded"),
        (errno.EIO, "disk input/output error"),
        (errno.EXDEV, "disk error EXDEV"),
    ],
)
def test_a_disk_that_fails_is_out_of_resources_and_names_no_path(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(code, os.strerror(code), "/a/path")

    file = incoming(store)
    monkeypatch.setattr(os, "writev", fail)
    with pytest.raises(OutOfResources) as caught:
        file.append([memoryview(b"more")])
    assert caught.value.comment == words
    file.discard()


# -- durability ------------------------------------------------------------------------------------


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


# -- quarantine ------------------------------------------------------------------------------------


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


# -- the directory ---------------------------------------------------------------------------------


def test_a_second_store_on_the_directory_is_refused_and_told_whose_it_is(tmp_path: Path) -> None:
    second = FileStore(tmp_path, durability="relaxed")
    with (
        FileStore(tmp_path, durability="relaxed"),
        pytest.raises(StoreLocked, match=f"process {os.getpid()}"),
    ):
        second.open()
    with FileStore(tmp_path, durability="relaxed"):
        pass


def test_the_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from dicomnode.storage.files import FileStore\n"
        "FileStore(Path(sys.argv[1]), durability='relaxed').open(); os._exit(7)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == 7
    with FileStore(tmp_path, durability="relaxed"):
        pass


def test_a_directory_that_cannot_be_made_is_a_mistake_of_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"storage\.directory"):
        FileStore(tmp_path / "file" / "store", durability="full").open()


def test_only_files_of_earlier_runs_are_leftovers(tmp_path: Path) -> None:
    with FileStore(tmp_path, durability="relaxed") as store:
        left = incoming(store)
        assert store.leftovers() == []
        os.close(left.fd)
    with FileStore(tmp_path, durability="relaxed") as store:
        arriving = incoming(store)
        (rel,) = store.leftovers()
        store.remove(rel)
        assert store.leftovers() == []
        arriving.discard()
    assert (tmp_path / "incoming").is_dir()


def test_the_walk_is_in_order_of_study_and_series(store: FileStore) -> None:
    for study in ("1.2", "1.10", "3.4"):
        for series in ("7", "5", "5.1"):
            incoming(store).place(study, series, "1")
    directories = [series for series, names in store.walk() if names == ["1.dcm"]]
    assert len(directories) == 9
    assert directories == sorted(directories, key=lambda path: path.rsplit("/", 1))


def test_free_space_and_writability_are_told(store: FileStore) -> None:
    assert store.free_bytes() > 0
    store.check_writable()
    assert listed(store, "incoming") == []
