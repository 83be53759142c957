"""What is kept, what is refused, and what a transfer that breaks leaves behind."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import RunningNode, StartNode
from tests.faults.scu import (
    Image,
    associated,
    files_below,
    indexed_paths,
    store,
    temporary_files,
)
from tests.interop.samples import data_set_bytes
from tests.peers import eventually, http_get
from tests.wire import (
    ABORT,
    CT_IMAGE_STORAGE,
    P_DATA,
    Wire,
    c_store_rq,
    data_set,
    pdu,
    pdv,
)


def abort(wire: Wire) -> None:
    wire.abort()


def close(wire: Wire) -> None:
    wire.socket.close()


def close_in_a_pdu(wire: Wire) -> None:
    wire.send(pdu(P_DATA, pdv(3, bytes(1000)))[:500])
    wire.socket.close()


def be_aborted(wire: Wire) -> None:
    wire.send(pdu(P_DATA, pdv(99, bytes(10))))
    while wire.receive_pdu()[0] != ABORT:
        pass


@pytest.mark.parametrize("ending", [abort, close, close_in_a_pdu, be_aborted])
def test_nothing_is_left_of_a_data_set_that_was_broken_off(
    node: RunningNode, ending: Callable[[Wire], None]
) -> None:
    image = Image(1, size_bytes=1_000_000)
    with associated(node.dicom_address) as wire:
        wire.send(pdu(P_DATA, pdv(3, c_store_rq(1, CT_IMAGE_STORAGE, image.uid), command=True)))
        for at in range(0, 600_000, 100_000):
            wire.send(pdu(P_DATA, pdv(3, image.data_set[at : at + 100_000], last=False)))
        eventually(lambda: temporary_files(node.store_directory), "a temporary file")
        ending(wire)
    eventually(lambda: not temporary_files(node.store_directory), "no temporary file")
    assert files_below(node.store_directory, "objects", "quarantine") == []
    assert indexed_paths(node.store_directory) == {}
    assert store(node.dicom_address, image) == [0], "the same object is welcome afterwards"
    assert image.is_stored_whole(node.store_directory)


def test_the_same_object_twice_is_one_object_and_success(node: RunningNode) -> None:
    image = Image(1)
    assert store(node.dicom_address, image, image) == [0, 0]
    assert store(node.dicom_address, image) == [0]
    assert len(node.files("objects")) == 1
    assert node.files("quarantine") == []
    assert node.metric("dicomnode_objects") == 1
    assert node.metric("dicomnode_objects_conflicting_total") == 0


def test_keep_first_parks_the_newcomer_and_the_status_says_so(start_node: StartNode) -> None:
    node = start_node(storage={"on_conflict": "keep_first"})
    first, second = Image(1, shade=1), Image(1, shade=2)
    statuses = store(node.dicom_address, first, second)
    assert statuses[0] == 0
    assert 0xB000 <= statuses[1] <= 0xBFFF, f"{statuses[1]:04X}H is no warning"
    assert first.is_stored_whole(node.store_directory)
    parked = [path for path in node.files("quarantine") if path.suffix == ".dcm"]
    assert [data_set_bytes(path) for path in parked] == [second.data_set]
    assert node.metric("dicomnode_objects_conflicting_total", policy="keep_first") == 1
    assert node.metric("dicomnode_objects") == 1


def test_replace_keeps_the_newcomer_and_parks_the_first(start_node: StartNode) -> None:
    node = start_node(storage={"on_conflict": "replace"})
    first, second = Image(1, shade=1), Image(1, shade=2)
    assert store(node.dicom_address, first, second) == [0, 0]
    assert second.is_stored_whole(node.store_directory)
    assert node.metric("dicomnode_objects_conflicting_total", policy="replace") == 1
    assert node.metric("dicomnode_objects") == 1
    assert first.data_set in [
        data_set_bytes(path) for path in node.files("quarantine") if path.suffix == ".dcm"
    ]


def test_refuse_answers_a_failure_and_keeps_the_first(start_node: StartNode) -> None:
    node = start_node(storage={"on_conflict": "refuse"})
    first, second = Image(1, shade=1), Image(1, shade=2)
    statuses = store(node.dicom_address, first, second, Image(2))
    assert statuses[0] == statuses[2] == 0
    assert statuses[1] == 0x0111 or 0xA000 <= statuses[1] <= 0xAFFF or statuses[1] >> 12 == 0xC
    assert first.is_stored_whole(node.store_directory)
    assert node.metric("dicomnode_objects_conflicting_total", policy="refuse") == 1
    assert temporary_files(node.store_directory) == []


def test_first_objects_of_one_patient_from_many_associations_make_one_row(
    node: RunningNode,
) -> None:
    images = [Image(number) for number in range(1, 25)]
    with ThreadPoolExecutor(8) as pool:
        batches = [images[at::8] for at in range(8)]
        statuses = list(pool.map(lambda batch: store(node.dicom_address, *batch), batches))
    assert {status for batch in statuses for status in batch} == {0}
    assert node.metric("dicomnode_patients") == 1
    assert node.metric("dicomnode_studies") == 1
    assert node.metric("dicomnode_series") == 1
    assert node.metric("dicomnode_objects") == 24
    assert len(indexed_paths(node.store_directory)) == 24


def test_one_object_sent_by_many_at_once_is_one_object(node: RunningNode) -> None:
    image = Image(1, size_bytes=50_000)
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: store(node.dicom_address, image), range(16)))
    assert statuses == [[0]] * 16
    assert image.is_stored_whole(node.store_directory)
    assert len(node.files("objects")) == 1
    assert node.metric("dicomnode_objects") == 1
    assert temporary_files(node.store_directory) == []


def test_one_patient_id_with_two_names_and_birth_dates_is_stored_and_flagged(
    node: RunningNode,
) -> None:
    jane = Image(1, study=1)
    john = Image(1, study=2, patient_name="Roe^John", birth_date="19510203")
    assert store(node.dicom_address, jane, john) == [0, 0]
    assert node.metric("dicomnode_identity_conflicts") == 1
    assert node.metric("dicomnode_objects") == 2


def test_uids_that_differ_from_the_command_are_answered_a900(node: RunningNode) -> None:
    image = Image(1)
    with associated(node.dicom_address) as wire:
        assert wire.store(CT_IMAGE_STORAGE, image.uid + "9", image.data_set) == 0xA900
        assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0, "the next goes on"
    assert len(node.files("objects")) == 1


@pytest.mark.parametrize(
    "uid", ["../../../escaped", "/etc/passwd", "1.2.3/4", "..", ".", "", "1." * 40, "1.2\u00e93"]
)
def test_a_study_uid_that_is_no_uid_is_answered_a900_and_reaches_no_path(
    node: RunningNode, uid: str
) -> None:
    image = Image(1)
    hostile = data_set(CT_IMAGE_STORAGE, image.uid, study_uid=uid, series_uid=image.series_uid)
    before = set(node.directory.parent.rglob("*"))
    with associated(node.dicom_address) as wire:
        assert wire.store(CT_IMAGE_STORAGE, image.uid, hostile) == 0xA900
        assert wire.echo() == 0
    made = {path for path in set(node.directory.parent.rglob("*")) - before if path.is_file()}
    assert not [path for path in made if not path.name.startswith("index.sqlite")]


@pytest.mark.parametrize("sent", [b"", b"\xff" * 300, b"not a data set at all..."], ids=len)
def test_a_data_set_that_is_none_is_answered_with_a_failure(node: RunningNode, sent: bytes) -> None:
    image = Image(1)
    with associated(node.dicom_address) as wire:
        status = wire.store(CT_IMAGE_STORAGE, image.uid, sent)
        assert status == 0xA900 or 0xC000 <= status <= 0xCFFF, f"{status:04X}H"
        assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0
    assert temporary_files(node.store_directory) == []


def test_below_the_watermark_everything_is_refused_with_a700(start_node: StartNode) -> None:
    node = start_node(storage={"min_free_bytes": 1 << 60})
    with associated(node.dicom_address) as wire:
        assert wire.store(CT_IMAGE_STORAGE, Image(1).uid, Image(1).data_set) == 0xA700
        assert wire.echo() == 0
    assert node.files("objects") == []
    requests = "dicomnode_dimse_requests_total"
    assert node.metric(requests, service="C-STORE", status="A700") == 1
    assert node.metric("dicomnode_refusals_total", rule="storage.min_free_bytes") == 1
    (told,) = json.loads(http_get(node.http_address, "/api/explain")[1])["explanations"]
    assert "are to stay free: make room on the disk of storage.directory" in told["advice"][0]
    assert [place["key"] for place in told["configuration"]] == [
        "storage.min_free_bytes",
        "storage.directory",
    ]


@contextlib.contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system that is soon full; skip where that is not allowed."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(disk: Path, *, leave_bytes: int) -> Path:
    """Fill ``disk`` with one file up to ``leave_bytes``; return the file."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - leave_bytes))
    return ballast


def test_a_full_disk_is_answered_a700_and_storing_goes_on_once_there_is_room(
    start_node: StartNode, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 96) as disk:
        node = start_node(storage={"directory": str(disk / "store"), "min_free_bytes": 0})
        ballast = fill(disk, leave_bytes=8 << 20)
        small, large = Image(1), Image(2, size_bytes=30 << 20)
        with associated(node.dicom_address) as wire:
            assert wire.store(CT_IMAGE_STORAGE, small.uid, small.data_set) == 0
            assert wire.store(CT_IMAGE_STORAGE, large.uid, large.data_set) == 0xA700
            assert temporary_files(disk / "store") == []
            assert wire.echo() == 0
            ballast.unlink()
            assert wire.store(CT_IMAGE_STORAGE, large.uid, large.data_set) == 0
        assert small.is_stored_whole(disk / "store")
        assert large.is_stored_whole(disk / "store")
        node.stop()


def test_a_node_starts_on_an_almost_full_disk_and_refuses_with_a700_what_does_not_fit(
    start_node: StartNode, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 96) as disk:
        storage = {"directory": str(disk / "store"), "min_free_bytes": 0}
        stored, image = Image(1), Image(2, size_bytes=4 << 20)
        node = start_node(storage=storage)
        assert store(node.dicom_address, stored) == [0]
        node.stop()
        fill(disk, leave_bytes=2 << 20)
        node = start_node(directory=tmp_path / "again", storage=storage)
        assert store(node.dicom_address, stored, image) == [0, 0xA700]
        assert node.metric("dicomnode_objects") == 1
        node.stop()
