"""What a node finds when it starts: after loss, beside another node."""

from __future__ import annotations

import shutil
import signal
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.conftest import StartNodeProcess
from tests.faults.scu import (
    Image,
    associated,
    files_below,
    indexed_paths,
    store,
)
from tests.interop.samples import data_set_bytes
from tests.peers import NodeProcess, PeerFailed, metric, run_tool, write_config
from tests.wire import CT_IMAGE_STORAGE, Wire


def test_a_second_node_on_the_same_storage_refuses_to_start(
    node_process: NodeProcess, tmp_path: Path
) -> None:
    where = tmp_path / "node" / "store"
    second = NodeProcess(write_config(tmp_path / "second", storage={"directory": str(where)}))
    try:
        with pytest.raises(PeerFailed):
            second.wait_until_ready()
        assert second.wait() not in (0, -signal.SIGKILL)
        assert str(where) in "\n".join(second.lines)
    finally:
        second.close()
    with associated(node_process.dicom_address) as wire:
        assert wire.echo() == 0


def stored_and_stopped(start: StartNodeProcess, directory: Path, *images: Image) -> Path:
    """Store ``images``, end the node, and return the storage directory."""
    node = start(directory)
    assert store(node.dicom_address, *images) == [0] * len(images)
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    return directory / "store"


def test_files_without_rows_are_indexed_at_start(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    images = [Image(number, study) for study in (1, 2) for number in (1, 2, 3)]
    where = stored_and_stopped(start_node_process, tmp_path / "node", *images)
    for path in where.glob("index.sqlite*"):
        path.unlink()
    node = start_node_process(tmp_path / "node")
    assert set(indexed_paths(where)) == {image.uid for image in images}
    assert metric(node.http_address, "dicomnode_studies") == 2


def test_rows_without_a_file_are_reported_at_start(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    images = [Image(1), Image(2)]
    where = stored_and_stopped(start_node_process, tmp_path / "node", *images)
    images[0].path(where).unlink()
    node = start_node_process(tmp_path / "node")
    node.wait_for_line(images[0].uid.replace(".", r"\."))
    assert store(node.dicom_address, images[0]) == [0], "it is welcome again"
    assert images[0].is_stored_whole(where)


def test_files_that_nobody_can_read_are_parked_at_start(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    image = Image(1)
    where = stored_and_stopped(start_node_process, tmp_path / "node", image)
    broken = image.path(where).with_name("1.2.3.dcm")
    broken.write_bytes(b"no DICOM at all")
    node = start_node_process(tmp_path / "node")
    assert not broken.exists()
    parked = [path for path in files_below(where, "quarantine") if path.suffix == ".dcm"]
    assert [path.read_bytes() for path in parked] == [b"no DICOM at all"]
    assert metric(node.http_address, "dicomnode_objects") == 1


def test_reindex_rebuilds_the_index_from_the_files(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    images = [Image(number, study) for study in (1, 2) for number in (1, 2, 3)]
    directory = tmp_path / "node"
    where = stored_and_stopped(start_node_process, directory, *images)
    before = indexed_paths(where)
    digests = {path: sha256(data_set_bytes(where / path)).hexdigest() for path in before.values()}
    done = run_tool(
        *(sys.executable, "-m", "dicomnode", "reindex"), "--config", directory / "dicomnode.toml"
    )
    assert done.returncode == 0, done.output
    assert indexed_paths(where) == before
    assert digests == {
        path: sha256(data_set_bytes(where / path)).hexdigest() for path in before.values()
    }


def test_reindex_refuses_while_the_node_runs(node_process: NodeProcess) -> None:
    done = run_tool(sys.executable, "-m", "dicomnode", "reindex", "--config", node_process.config)
    assert done.returncode not in (0, 2), done.output
    assert "Traceback" not in done.output
    with associated(node_process.dicom_address) as wire:
        assert wire.echo() == 0


def test_an_index_that_is_no_index_is_rebuilt_or_reported_never_overwritten_in_silence(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    where = stored_and_stopped(start_node_process, tmp_path / "node", Image(1))
    for path in where.glob("index.sqlite*"):
        path.unlink()
    (where / "index.sqlite").write_bytes(b"this is no SQLite file at all" * 100)
    try:
        start_node_process(tmp_path / "node")
    except PeerFailed as failed:
        assert "Traceback" not in str(failed)
        assert "index" in str(failed)
    assert Image(1).is_stored_whole(where)


def test_a_store_that_was_moved_is_found_again(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    where = stored_and_stopped(start_node_process, tmp_path / "node", Image(1))
    moved = tmp_path / "elsewhere"
    shutil.move(where, moved)
    node = start_node_process(tmp_path / "other", storage={"directory": str(moved)})
    assert metric(node.http_address, "dicomnode_objects") == 1
    with Wire(node.dicom_address) as wire:
        wire.associate()
        assert wire.store(CT_IMAGE_STORAGE, Image(1).uid, Image(1).data_set) == 0
