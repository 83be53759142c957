"""Disks that fail under a running node: refused with A700H, nothing half-done, and it goes on."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
from pathlib import Path

import pytest

from tests import proof
from tests.conftest import StartNode, StartNodeProcess
from tests.faults import disks
from tests.faults.oracle import Oracle
from tests.faults.scu import Image, associated, files_below, indexed_paths, store, temporary_files
from tests.peers import NodeProcess, eventually, http_get, write_config
from tests.wire import CT_IMAGE_STORAGE

OUT_OF_RESOURCES = 0xA700
ROUNDS = 3


def test_a_disk_that_dies_is_answered_a700_and_what_was_acknowledged_is_there_afterwards(
    start_node: StartNode, tmp_path: Path
) -> None:
    with disks.disk(tmp_path) as disk:
        where = disk.mounted / "store"
        node = start_node(storage={"directory": str(where)})
        images = [Image(number, study) for study in (1, 2) for number in (1, 2, 3)]
        assert store(node.dicom_address, *images) == [0] * len(images)
        disk.cut()
        with associated(node.dicom_address) as wire:
            for image in (Image(9), Image(1, study=3), Image(9, size_bytes=3_000_000)):
                status = wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set)
                assert status == OUT_OF_RESOURCES, f"{status:04X}H"
            assert wire.echo() == 0
        assert http_get(node.http_address, "/readyz")[0] == 503
        assert node.metric("dicomnode_receive_buffer_bytes") == 0
        node.stop()
        disk.mount_again()
        node = start_node(directory=tmp_path / "again", storage={"directory": str(where)})
        assert set(indexed_paths(where)) == {image.uid for image in images}
        assert all(image.is_stored_whole(where) for image in images)
        assert temporary_files(where) == []
        assert store(node.dicom_address, *images, Image(9)) == [0] * 7
        node.stop()


def test_a_disk_without_inodes_is_a_full_disk(start_node: StartNode, tmp_path: Path) -> None:
    with disks.disk(tmp_path, megabytes=64, inodes=128) as disk:
        where = disk.mounted / "store"
        node = start_node(storage={"directory": str(where), "min_free_bytes": 0})
        assert store(node.dicom_address, Image(1)) == [0]
        ballast = []
        with contextlib.suppress(OSError):
            for number in range(200):
                ballast.append(disk.mounted / f"ballast{number}")
                ballast[-1].touch()
        # Enough for the temporary file, and not for the directories of a new study.
        ballast[0].unlink()
        with associated(node.dicom_address) as wire:
            for image in (Image(1, study=2), Image(1, study=2)):
                assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == OUT_OF_RESOURCES
            assert wire.store(CT_IMAGE_STORAGE, Image(2).uid, Image(2).data_set) == 0
            for path in ballast[1:20]:
                path.unlink()
            assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0
        assert len(files_below(where, "objects")) == 3
        assert set(indexed_paths(where)) == {Image(1).uid, Image(2).uid, image.uid}
        assert temporary_files(where) == []
        node.stop()


def test_without_room_for_the_index_no_object_is_stored(
    start_node: StartNode, tmp_path: Path
) -> None:
    with disks.disk(tmp_path, megabytes=24) as disk:
        node = start_node(index={"url": f"sqlite:///{disk.mounted}/index.sqlite"})
        first, second = Image(1), Image(1, study=2)
        assert store(node.dicom_address, first) == [0]
        ballast = fill(disk.mounted)
        with associated(node.dicom_address) as wire:
            statuses = [
                wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set)
                for image in (second, *(Image(number, study=3) for number in range(200)))
            ]
            assert set(statuses) <= {0, OUT_OF_RESOURCES}
            assert OUT_OF_RESOURCES in statuses
            rows = indexed_paths(disk.mounted)
            objects = files_below(node.store_directory, "objects")
            assert {node.store_directory / path for path in rows.values()} == set(objects)
            assert len(objects) == 1 + statuses.count(0)
            assert wire.echo() == 0
            ballast.unlink()
            assert wire.store(CT_IMAGE_STORAGE, second.uid, second.data_set) == 0
        assert second.is_stored_whole(node.store_directory)
        assert second.uid in indexed_paths(disk.mounted)
        node.stop()


def fill(directory: Path) -> Path:
    """Fill a disk to its last block with one file; return the file."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for step in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(step))
    return ballast


def test_small_objects_on_a_disk_that_fills_up_are_refused_or_kept_for_good(
    start_node: StartNode, tmp_path: Path
) -> None:
    with disks.disk(tmp_path, megabytes=64) as disk:
        where = disk.mounted / "store"
        storage = {"directory": str(where), "min_free_bytes": 0}
        node = start_node(storage=storage)
        assert store(node.dicom_address, Image(1)) == [0]
        ballast = fill(disk.mounted)
        images = [Image(number, study=2, size_bytes=20_000) for number in range(40)]
        with associated(node.dicom_address) as wire:
            statuses = [wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) for image in images]
            assert set(statuses) <= {0, OUT_OF_RESOURCES}
            assert OUT_OF_RESOURCES in statuses
            assert wire.echo() == 0
            acknowledged = [
                image for image, status in zip(images, statuses, strict=True) if not status
            ]
            ballast.unlink()
            assert store(node.dicom_address, *images) == [0] * len(images)
        assert set(indexed_paths(where)) == {Image(1).uid, *(image.uid for image in images)}
        eventually(lambda: node.metric("dicomnode_unsettled_objects") == 0, "all are settled")
        disk.cut()
        node.stop()
        disk.mount_again()
        assert all(image.is_stored_whole(where) for image in (Image(1), *acknowledged, *images))


@pytest.mark.proof
@pytest.mark.parametrize("disk_number", range(proof.count(1, 16)))
def test_a_disk_that_fills_up_is_freed_and_fills_up_again_loses_nothing(
    start_node_process: StartNodeProcess, tmp_path: Path, disk_number: int
) -> None:
    oracle, directory = Oracle(tmp_path / "acknowledged.log"), tmp_path / "node"
    with disks.disk(tmp_path, megabytes=64) as disk:
        where = disk.mounted / "store"
        storage = {"directory": str(where), "min_free_bytes": 0}
        node = start_node_process(directory, storage=storage)
        for study in range(ROUNDS):
            ballast = disk.mounted / "ballast"
            ballast.write_bytes(bytes(shutil.disk_usage(disk.mounted).free - (3 << 20)))
            with associated(node.dicom_address) as wire:
                for number in range(100):
                    size_bytes = (2000, 400_000)[number % 2]
                    if oracle.store(wire, Image(number, study, size_bytes=size_bytes)):
                        break
                assert wire.echo() == 0
            assert set(oracle.refusals) == {OUT_OF_RESOURCES}
            ballast.unlink()
            oracle.send_again(node.dicom_address)
        assert len(oracle.refusals) == ROUNDS
        node.signal(signal.SIGKILL)
        node.wait()
        node = start_node_process(directory, storage=storage)
        oracle.check(node, where, everything=True)
        node.signal(signal.SIGTERM)
        assert node.wait() == 0


def test_a_disk_that_takes_a_part_of_what_is_written_gets_the_rest(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    oracle, directory = Oracle(tmp_path / "acknowledged.log"), tmp_path / "node"
    node = NodeProcess(write_config(directory), "-m", "tests.faults.controls", "writes_are_short")
    try:
        node.wait_until_ready()
        with associated(node.dicom_address) as wire:
            for number, size_bytes in enumerate((100, 2000, 70_000, 400_000)):
                assert oracle.store(wire, Image(number, size_bytes=size_bytes)) == 0
        node.wait_for_line("short writes")
    finally:
        node.close()
    node = start_node_process(directory)
    oracle.check(node, directory / "store")


def test_a_file_that_may_not_grow_on_is_answered_a700(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    oracle, directory = Oracle(tmp_path / "acknowledged.log"), tmp_path / "node"
    node = start_node_process(directory)
    limits = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
    with associated(node.dicom_address) as wire:
        # In the middle of a write: a part of it is taken, and the next one fails.
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (200_001, limits[1]))
        assert oracle.store(wire, Image(1, size_bytes=400_000)) == OUT_OF_RESOURCES
        assert wire.echo() == 0
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, limits)
        assert oracle.store(wire, Image(1, size_bytes=400_000)) == 0
    oracle.check(node, directory / "store")
