"""Success means stored: what survives when the power goes while objects arrive.

The store is on an ext4 of its own that is shut down without flushing its log: what was not
flushed before is gone, as after a power loss, and everything after it fails. What a disk's own
cache would lose is not tested.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import file_meta
from tests import proof
from tests.conftest import StartNodeProcess
from tests.destination import destination, whole
from tests.faults import disks
from tests.faults.disks import Disk
from tests.faults.scu import Image, indexed_paths, store, temporary_files
from tests.faults.senders import Modality, ward
from tests.interop.samples import data_set_bytes
from tests.peers import NodeProcess, eventually, free_port, http_get, metric, run_tool
from tests.wire import CT_IMAGE_STORAGE, EXPLICIT_LE

CYCLES = proof.count(4, 20)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with disks.disk(tmp_path) as disk:
        yield disk


@dataclass(frozen=True, slots=True)
class Survived:
    """What the index has: UID → path of its rows, and path → file of what it keeps."""

    rows: dict[str, str]
    kept: dict[str, bytes]


def indexed_after_the_loss(store_directory: Path, aside: Path) -> Survived:
    """Return what survived in the index, from a copy; it must be sound."""
    aside.mkdir()
    for path in store_directory.glob("index.sqlite*"):
        shutil.copy(path, aside)
    with contextlib.closing(sqlite3.connect(aside / "index.sqlite")) as index:
        assert index.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return Survived(
            dict(index.execute("SELECT sop_instance_uid, path FROM instance")),
            dict(index.execute("SELECT path, bytes FROM intake")),
        )


@pytest.mark.proof
@pytest.mark.timeout(60 + 10 * CYCLES)
@pytest.mark.parametrize("seed", range(proof.count(1, 20)))
def test_everything_acknowledged_survives_a_power_loss(
    start_node_process: StartNodeProcess, disk: Disk, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    where = disk.mounted / "store"
    with ward(tmp_path) as people:
        oracle, settings = people.oracle, {**people.settings, "storage": {"directory": str(where)}}
        node = start_node_process(**settings)
        for cycle in range(CYCLES):
            studies = range(2 * cycle, 2 * cycle + 2)
            modalities = people.work(node, studies, chance.randrange(1, 120))
            disk.cut()
            end(node, modalities)
            disk.mount_again()
            survived = indexed_after_the_loss(where, tmp_path / f"index{cycle}")
            images = oracle.objects | oracle.unanswered
            for uid, row in survived.rows.items():
                if row not in survived.kept:
                    assert data_set_bytes(where / row) == images[uid].data_set, f"{row} is torn"
            node = start_node_process(**settings)
            for row, contents in survived.kept.items():
                assert (where / row).read_bytes() == contents, f"{row} has not been restored"
            oracle.check(node, where, everything=cycle == CYCLES - 1)
            oracle.send_again(node.dicom_address)
        assert set(oracle.refusals) <= {0xA700, 0x0110}
        assert len(oracle.objects) > CYCLES
        people.wait_for_deliveries(node)


def end(node: NodeProcess, modalities: Sequence[Modality]) -> None:
    """Kill a node on a dead disk: what it answered in between it answered without that disk."""
    node.signal(signal.SIGKILL)
    node.wait()
    for modality in modalities:
        modality.join(20)


def test_a_file_that_a_crash_left_unflushed_is_durable_before_its_sender_is_told_success(
    start_node_process: StartNodeProcess, disk: Disk
) -> None:
    """The node died between giving the file its name and flushing the directory."""
    where, image = disk.mounted / "store", Image(1)
    storage = {"directory": str(where)}
    # The index is there and its log has its length: committing a row flushes nothing else.
    node = start_node_process(storage=storage)
    node.signal(signal.SIGKILL)
    node.wait()
    with FileStore(where, durability="relaxed") as files:
        meta = file_meta(CT_IMAGE_STORAGE, image.uid, EXPLICIT_LE, source_ae_title="RAW")
        file = files.begin(meta)
        file.append([memoryview(image.data_set)])
        file.place(image.study_uid, image.series_uid, image.uid)
    node = start_node_process(storage=storage)
    assert store(node.dicom_address, image) == [0]
    disk.cut()
    node.signal(signal.SIGKILL)
    node.wait()
    disk.mount_again()
    assert image.is_stored_whole(where)


def test_what_was_not_flushed_is_lost_so_that_the_test_above_can_fail(
    start_node_process: StartNodeProcess, disk: Disk
) -> None:
    where = disk.mounted / "store"
    node = start_node_process(storage={"directory": str(where), "durability": "relaxed"})
    images = [Image(number) for number in range(20)]
    assert store(node.dicom_address, *images) == [0] * len(images)
    disk.cut()
    node.signal(signal.SIGKILL)
    node.wait()
    disk.mount_again()
    assert not all(is_there(image, where) for image in images)


def stored_and_cut(
    start_node_process: StartNodeProcess, disk: Disk, **settings: object
) -> tuple[NodeProcess, list[Image]]:
    """Store small images, and cut the power before all of their files have been flushed."""
    where = disk.mounted / "store"
    stored: list[Image] = []
    for study in range(5):  # the node may settle just before the power goes
        node = start_node_process(storage={"directory": str(where)}, **settings)
        images = [Image(number, study) for number in range(20)]
        assert store(node.dicom_address, *images) == [0] * len(images)
        stored += images
        disk.cut()
        node.signal(signal.SIGKILL)
        node.wait()
        disk.mount_again()
        if not all(is_there(image, where) for image in images):
            return node, stored
    raise AssertionError("nothing was lost")


def is_there(image: Image, where: Path) -> bool:
    path = image.path(where)
    return path.is_file() and path.read_bytes().endswith(image.data_set)


def test_small_objects_that_only_the_index_has_are_written_at_the_next_start(
    start_node_process: StartNodeProcess, disk: Disk
) -> None:
    where = disk.mounted / "store"
    _, images = stored_and_cut(start_node_process, disk)
    node = start_node_process(storage={"directory": str(where)})
    node.wait_for_line(r"files restored [1-9]")
    assert all(image.is_stored_whole(where) for image in images)
    assert metric(node.http_address, "dicomnode_objects") == len(images)
    assert metric(node.http_address, "dicomnode_unsettled_objects") == 0
    assert http_get(node.http_address, "/readyz")[0] == 200
    assert temporary_files(where) == []


def test_small_objects_that_were_acknowledged_before_a_power_loss_are_forwarded_after_it(
    start_node_process: StartNodeProcess, disk: Disk
) -> None:
    where = disk.mounted / "store"
    nobody = {"title": "D0", "host": "127.0.0.1", "port": free_port()}
    rules = {
        "forward": [{"name": "all", "to": ["D0"]}],
        "forwarding": {"retry_seconds": 0.05, "max_retry_seconds": 0.2},
    }
    _, images = stored_and_cut(start_node_process, disk, entities=[nobody], **rules)
    with destination(whole) as target:
        node = start_node_process(
            storage={"directory": str(where)}, entities=[target.entity("D0")], **rules
        )
        eventually(lambda: metric(node.http_address, "dicomnode_outbox_depth") == 0, timeout=60)
    assert {image.uid for image in images} == set(target.stored)


def test_reindexing_after_a_power_loss_loses_nothing_that_only_the_index_has(
    start_node_process: StartNodeProcess, disk: Disk
) -> None:
    where = disk.mounted / "store"
    node, images = stored_and_cut(start_node_process, disk)
    done = run_tool(*(sys.executable, "-m", "dicomnode", "reindex"), "--config", node.config)
    assert done.returncode == 0, done.output
    assert "files restored" in done.output
    assert all(image.is_stored_whole(where) for image in images)
    assert set(indexed_paths(where)) == {image.uid for image in images}


@pytest.mark.parametrize("version", ["2", "999"])
def test_another_schema_version_after_a_power_loss_loses_nothing_either(
    start_node_process: StartNodeProcess, disk: Disk, version: str
) -> None:
    where = disk.mounted / "store"
    _, images = stored_and_cut(start_node_process, disk)
    with contextlib.closing(sqlite3.connect(where / "index.sqlite")) as index, index:
        index.execute("UPDATE meta SET value = ?", (version,))
    node = start_node_process(storage={"directory": str(where)})
    assert all(image.is_stored_whole(where) for image in images)
    assert metric(node.http_address, "dicomnode_objects") == len(images)


def test_a_node_that_was_stopped_has_left_nothing_to_the_index_alone(
    start_node_process: StartNodeProcess, disk: Disk
) -> None:
    where = disk.mounted / "store"
    images = [Image(number) for number in range(20)]
    node = start_node_process(storage={"directory": str(where)})
    assert store(node.dicom_address, *images) == [0] * len(images)
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    with contextlib.closing(sqlite3.connect(where / "index.sqlite")) as index:
        assert index.execute("SELECT count(*) FROM intake").fetchone() == (0,)
    disk.cut()
    disk.mount_again()
    assert all(image.is_stored_whole(where) for image in images)
