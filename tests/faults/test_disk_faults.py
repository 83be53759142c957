"""Disks that fail under a running node: refused with A700H, nothing half-done, and it goes on."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.conftest import StartNode
from tests.faults import disks
from tests.faults.scu import Image, associated, files_below, indexed_paths, store, temporary_files
from tests.peers import eventually, http_get
from tests.wire import CT_IMAGE_STORAGE

OUT_OF_RESOURCES = 0xA700


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
