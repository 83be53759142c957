"""The threads that check storage commitments: their order, their faults, and their end."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dicomnode.errors import CatalogError
from dicomnode.services import commitment_check
from dicomnode.services.commitment_check import Checker
from tests.commitment_wire import Referenced, requesting
from tests.conftest import RunningNode, StartNode
from tests.faults.scu import Image, store
from tests.peers import eventually
from tests.wire import CT_IMAGE_STORAGE

IMAGES = [Image(number, size_bytes=3 * 1024**2) for number in range(1, 4)]
FIRST, *REST = IMAGES
TRANSACTION = "1.2.826.0.1.3680043.10.1666.8.3"


def references(*images: Image) -> list[Referenced]:
    return [(CT_IMAGE_STORAGE, image.uid) for image in images]


@pytest.fixture
def archive(start_node: StartNode) -> RunningNode:
    node = start_node()
    assert store(node.dicom_address, *IMAGES) == [0] * len(IMAGES)
    return node


@pytest.fixture
def gate(archive: RunningNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let nobody open the file of the first image until this is set."""
    gate = threading.Event()
    real = archive.node._archive.files.open_object

    def waiting(rel: str) -> int:
        if Path(rel).stem == FIRST.uid:
            assert gate.wait(30)
        return real(rel)

    monkeypatch.setattr(archive.node._archive.files, "open_object", waiting)
    yield gate
    gate.set()


def test_a_small_request_waits_for_no_large_one(
    archive: RunningNode, gate: threading.Event
) -> None:
    with requesting(archive.dicom_address) as large, requesting(archive.dicom_address) as small:
        assert large.commit(1, f"{TRANSACTION}.1", references(*IMAGES)) == 0
        for number in (2, 3, 4):
            assert small.commit(number, f"{TRANSACTION}.{number}", references(REST[0])) == 0
            assert small.take_report().outcome[1] == f"{TRANSACTION}.{number}"
        small.release()
        gate.set()
        assert large.take_report().outcome[1] == f"{TRANSACTION}.1"
        large.release()


def test_the_node_answers_others_while_a_file_cannot_be_had(
    archive: RunningNode, gate: threading.Event
) -> None:
    with requesting(archive.dicom_address) as waiting:
        assert waiting.commit(1, TRANSACTION, references(FIRST)) == 0
        assert store(archive.dicom_address, Image(9)) == [0]
        gate.set()
        assert waiting.take_report().outcome[2] == [FIRST.uid]
        waiting.release()


def test_the_node_stops_in_the_middle_of_a_file(
    archive: RunningNode, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, read = threading.Event(), commitment_check.OpenFile.read

    def endless(self: Any, size: int, position: int) -> bytes:
        begun.set()
        return read(self, size, 0)

    with monkeypatch.context() as patched:
        patched.setattr(commitment_check.OpenFile, "read", endless)
        with requesting(archive.dicom_address) as wire:
            assert wire.commit(1, TRANSACTION, references(FIRST)) == 0
            assert begun.wait(10)
            wire.abort()
        archive.stop()
    again = start_node(directory=archive.directory)
    eventually(lambda: again.metric("dicomnode_commitments", state="checked") == 1)
    assert again.metric("dicomnode_commitment_instances_total", result="committed") == 1


def test_a_fault_in_a_check_is_a_processing_failure_and_holds_up_no_other(
    archive: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(self: Checker, *arguments: object) -> None:
        raise ZeroDivisionError

    with requesting(archive.dicom_address) as wire:
        with monkeypatch.context() as patched:
            patched.setattr(Checker, "_check", faulty)
            assert wire.commit(1, f"{TRANSACTION}.1", references(*IMAGES)) == 0
            assert set(wire.take_report().outcome[3].values()) == {0x0110}
        assert wire.commit(2, f"{TRANSACTION}.2", references(*IMAGES)) == 0
        assert wire.take_report().outcome[2] == [image.uid for image in IMAGES]
        wire.release()


def test_a_check_goes_on_when_the_index_answers_again(
    archive: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment_check, "_PAUSE_SECONDS", 0.01)
    failing = iter([CatalogError("index failed")] * 3)
    real = Checker._rows

    def rows(self: Checker, uids: Any) -> Any:
        if (error := next(failing, None)) is not None:
            raise error
        return real(self, uids)

    monkeypatch.setattr(Checker, "_rows", rows)
    with requesting(archive.dicom_address) as wire:
        assert wire.commit(1, TRANSACTION, references(*IMAGES)) == 0
        assert wire.take_report().outcome[0] == 1
        wire.release()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_the_process_lacks_for_a_moment_is_no_damage_of_an_object(
    archive: RunningNode, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(commitment_check, "_PAUSE_SECONDS", 0.01)
    lacking = iter([OSError(code, "lacking")] * 3)
    real = os.open

    def open_file(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).endswith(f"{FIRST.uid}.dcm") and (error := next(lacking, None)) is not None:
            raise error
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", open_file)
    with requesting(archive.dicom_address) as wire:
        assert wire.commit(1, TRANSACTION, references(*IMAGES)) == 0
        assert wire.take_report().outcome[0] == 1
        wire.release()
    assert next(lacking, None) is None


def test_a_thread_ends_that_was_told_to_just_before_it_would_wait() -> None:
    nothing: Any = SimpleNamespace(next_pending=lambda excluding, smallest: None)
    unused: Any = None
    checker = Checker(nothing, unused, unused, unused, unused)
    clear = checker._more.clear

    def told_and_cleared() -> None:
        checker._stopping.set()
        checker._more.set()
        clear()

    checker._more.clear = told_and_cleared  # type: ignore[method-assign]
    checker.start()
    for thread in checker._threads:
        thread.join(10)
        assert not thread.is_alive()
