"""The file store: complete, never overwritten, and one process at a time."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dicomnode.errors import ConfigurationError, DataSetMismatch, OutOfResources, StoreLocked
from dicomnode.storage import disk
from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import file_meta
from dicomnode.storage.paths import object_path, uid_path_component, valid_uid
from tests.storage.filing import DATA, UIDS, incoming, listed
from tests.storage.objects import CT_STORAGE, EXPLICIT, data_set, encoded


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    with FileStore(tmp_path / "store", durability="relaxed") as store:
        yield store


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
@example([bytes(range(256)) * 160, b"abc", bytes(range(255)) * 80], 5000)
@example([bytes(range(256)) * 160, b"abc", bytes(range(255)) * 80], 1 << 20)
def test_partial_writes_are_completed(fragments: list[bytes], most: int) -> None:
    fd = os.memfd_create("partial")
    real = os.writev
    try:
        os.writev = lambda fd, buffers: os.write(fd, b"".join(buffers)[:most])  # type: ignore[assignment]
        written = disk.write_all(fd, [memoryview(fragment) for fragment in fragments])
    finally:
        os.writev = real
    content = os.pread(fd, 100_000, 0)
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
