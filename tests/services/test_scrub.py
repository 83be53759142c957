"""The scrub: what it finds, keeps and forgets, and where it goes on."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.index.custody import Custody
from dicomnode.integrity.record import faults
from dicomnode.services import scrub as scrub_module
from dicomnode.services.recovery import rebuild
from dicomnode.storage import files as stored_files
from dicomnode.storage.disk import OpenFile, disk_errors
from dicomnode.storage.files import FileStore
from tests.services.scrubbing import FAST, SLOW, Bench
from tests.storage.damage import flip_bit


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.open()
    yield made
    made.close()


def soon(is_so: Callable[[], bool]) -> None:
    """Wait until a thread has come so far."""
    tick, deadline = threading.Event(), time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        tick.wait(0.01)


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def preamble(path: Path) -> None:
    flip_bit(path, 0)


def last_byte(path: Path) -> None:
    flip_bit(path, path.stat().st_size - 1)


def directory_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


# -- what is found ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (preamble, "damaged"),
        (last_byte, "damaged"),
        (cut, "damaged"),
        (directory_in_its_place, "damaged"),
        (delete, "missing"),
    ],
)
def test_a_file_that_is_not_what_was_received_is_told_everywhere_and_left_as_it_is(
    bench: Bench, harm: Callable[[Path], None], kind: str
) -> None:
    paths = [bench.put(number) for number in range(1, 4)]
    bench.index()
    harm(bench.path(paths[1]))
    stat = os.stat(bench.path(paths[1])) if kind == "damaged" else None
    scrub = bench.run()
    assert bench.listed() == {paths[1]: kind}
    if stat is not None:
        assert os.stat(bench.path(paths[1])).st_mtime_ns == stat.st_mtime_ns
    (line,) = bench.errors
    assert (line["kind"], line["path"]) == (kind, paths[1])
    assert f'dicomnode_scrub_bad_files{{kind="{kind}"}} 1.0' in bench.metrics()
    assert f'dicomnode_scrub_found_total{{by="scrub",kind="{kind}"}} 1.0' in bench.metrics()
    (told,) = bench.explanations.listed()
    assert told["kind"] == "integrity" and "1.2.3.4.2" in told["reasons"][0]["words"]
    assert scrub.figures()["not_whole"][kind] == 1
    # Told once, however often it is met.
    bench.run()
    assert len(bench.errors) == 1
    records = Custody(bench.catalog).of_study("1.2.3")
    assert [(each.event.value, each.sop_instance_uid) for each in records] == [(kind, "1.2.3.4.2")]


def test_a_disk_that_does_not_give_a_file_back_makes_it_unreadable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.put(1)
    bench.index()

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(OpenFile, "read", fail)
        bench.run()
    assert bench.listed() == {path: "unreadable"}
    bench.run()
    assert bench.listed() == {}


def test_a_run_waits_while_the_process_lacks_file_descriptors(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put(1)
    bench.index()
    monkeypatch.setattr(scrub_module, "_PAUSE_AFTER_FAILURE_SECONDS", 0.01)
    lacking = iter([OSError(errno.EMFILE, "Too many open files")] * 3)
    real = FileStore.open_object

    def open_object(self: FileStore, rel: str) -> int:
        with disk_errors():
            if (error := next(lacking, None)) is not None:
                raise error
        return real(self, rel)

    monkeypatch.setattr(FileStore, "open_object", open_object)
    scrub = bench.scrub(**FAST)
    scrub.start()
    soon(lambda: scrub.figures()["ended_at"] is not None)
    scrub.close()
    assert next(lacking, None) is None
    assert bench.listed() == {}
    words = "the scrub cannot go on for now: too many open files"
    assert [each["message"] for each in bench.errors] == [words] * 3


def test_only_a_file_that_has_been_proven_whole_leaves_the_list(bench: Bench) -> None:
    path = bench.put(1)
    bench.index()
    whole = bench.path(path).read_bytes()
    flip_bit(bench.path(path), 300)
    bench.run()
    bench.close()
    bench.open()
    rebuild(bench.files, bench.catalog)
    bench.run()
    assert bench.listed() == {path: "damaged"}
    bench.path(path).unlink()
    bench.run()
    assert bench.listed() == {path: "missing"}
    bench.path(path).write_bytes(whole)
    assert bench.scrub().look_at_study("1.2.3") == 1
    assert bench.listed() == {}
    records = Custody(bench.catalog).of_instance("1.2.3.4.1", "1.2.3")
    assert [each.event.value for each in records] == ["damaged", "missing", "whole_again"]
    assert list(faults(records)) == []


def test_an_object_that_is_no_longer_held_leaves_the_list(bench: Bench) -> None:
    path = bench.put(1)
    bench.index()
    bench.path(path).unlink()
    scrub = bench.run()
    bench.forget("1.2.3.4.1")
    scrub.start()
    scrub._looked_again_at -= 10_000
    scrub._wake.set()
    soon(lambda: not bench.listed())
    scrub.close()


def test_an_object_that_is_replaced_while_it_is_read_is_not_taken_for_damaged(
    bench: Bench,
) -> None:
    bench.put(1)
    bench.index()
    (_, before), *_ = bench.run()._records.series_after("")
    path = bench.path(before[0].path)
    path.write_bytes(path.read_bytes() + b"\x09\x00\x01\x00LO\x00\x00")
    bench.forget("1.2.3.4.1")
    bench.index()
    assert bench.catalog.get("1.2.3.4.1") != before[0]
    bench.scrub()._examine_all(before)
    assert (bench.listed(), bench.errors) == ({}, [])


def test_files_that_the_index_does_not_know_are_counted_but_not_those_just_placed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.put(1)
    bench.index()
    bench.path(path).with_name("notes.txt").write_text("stray")
    bench.path("objects/zz/9.9/9.9.9").mkdir(parents=True)
    bench.path("objects/zz/9.9/9.9.9/9.9.9.9.dcm").write_bytes(b"stray")
    assert bench.run().unknown_files() == 0
    monkeypatch.setattr(stored_files, "_RECENT_SECONDS", -60.0)
    assert bench.run().unknown_files() == 2
    assert bench.listed() == {}


# -- when and where --------------------------------------------------------------------------------


def test_a_restart_goes_on_where_the_scrub_was(bench: Bench) -> None:
    studies = [f"1.{number}" for number in range(1, 7)]
    for study in studies:
        bench.put(1, study)
    bench.index()
    scrub = bench.scrub(**SLOW)
    scrub.start()
    soon(lambda: scrub.figures()["objects"] >= 2)
    scrub.close()
    done = scrub.figures()["objects"]
    began_at = scrub.figures()["began_at"]
    assert 2 <= done < 6
    bench.close()
    bench.open()
    scrub = bench.scrub(**FAST)
    assert scrub.figures()["objects"] == done
    scrub.start()
    soon(lambda: scrub.figures()["ended_at"] is not None)
    scrub.close()
    figures = scrub.figures()
    assert (figures["ended_objects"], figures["ended_began_at"]) == (6, began_at)
    assert f"dicomnode_scrub_objects_total {6.0 - done}" in bench.metrics()


def test_a_run_that_is_asked_for_reads_everything_at_full_speed(bench: Bench) -> None:
    for study in range(1, 30):
        bench.put(1, f"1.{study}")
    bench.index()
    scrub = bench.scrub(**SLOW)
    scrub.start()
    soon(lambda: scrub.figures()["objects"] >= 1)
    scrub.now()
    soon(lambda: scrub.figures()["ended_at"] is not None)
    assert scrub.figures()["ended_objects"] == 29
    scrub.close()


def test_the_age_counts_from_the_reception_until_a_run_has_ended(bench: Bench) -> None:
    path = bench.put(1)
    os.utime(bench.path(path), (1.0e9, 1.0e9))
    bench.index()
    scrub = bench.scrub()
    assert scrub.figures()["proven_since"] == 1.0e9
    assert scrub.age_seconds() > 1e8
    scrub.run_once(lambda scrub: None)
    assert scrub.age_seconds() < 60
    assert scrub.figures()["proven_since"] == scrub.figures()["ended_began_at"]
    bench.close()
    bench.open()
    # It outlives the index: what reindex enters is compared with what was received.
    rebuild(bench.files, bench.catalog)
    assert bench.scrub().age_seconds() < 60


def test_the_age_is_told_as_soon_as_there_is_an_object(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "_EMPTY_SECONDS", 0.01)
    scrub = bench.scrub()
    scrub.start()
    soon(lambda: scrub.figures()["ended_at"] is not None)
    assert scrub.age_seconds() == 0
    path = bench.put(1)
    os.utime(bench.path(path), (1.0e9, 1.0e9))
    bench.index()
    # It was read as it was entered, after that run.
    soon(lambda: scrub.age_seconds() > 0)
    assert scrub.figures()["proven_since"] == scrub.figures()["ended_began_at"]
    scrub.close()


def test_a_scrub_that_is_off_reads_nothing_until_it_is_asked(bench: Bench) -> None:
    for study in range(1, 4):
        bench.put(1, f"1.{study}")
    bench.index()
    scrub = bench.scrub(**SLOW)
    scrub.start()
    soon(lambda: scrub.figures()["objects"] >= 1)
    scrub.close()
    assert scrub.figures()["ended_at"] is None
    scrub = bench.scrub(enabled=False)
    scrub.start()
    assert not scrub.figures()["is_running"]
    scrub.now()
    soon(lambda: scrub.figures()["ended_objects"] == 3)
    scrub.close()
    assert "dicomnode_scrub_objects_total 3.0" in bench.metrics()
