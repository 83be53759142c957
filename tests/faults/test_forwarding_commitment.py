"""Objects that go on to another node, are committed there, and are deleted here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartNode
from tests.faults.scu import Image, files_below, indexed_paths, store
from tests.peers import eventually

IMAGES = [Image(number) for number in range(1, 6)]


@pytest.mark.timeout(180)
def test_objects_are_deleted_here_when_the_next_node_has_committed_to_them(
    start_node: StartNode, tmp_path: Path
) -> None:
    archive = start_node(directory=tmp_path / "archive", node={"ae_title": "ARCHIVE"})
    host, port = archive.dicom_address
    router = start_node(
        directory=tmp_path / "router",
        node={"ae_title": "ROUTER", "ae_title_aliases": ["DICOMNODE"]},
        entities=[{"title": "ARCHIVE", "host": host, "port": port}],
        forward=[{"name": "all", "to": ["ARCHIVE"], "commit": True, "delete_when_committed": True}],
    )
    assert store(router.dicom_address, *IMAGES) == [0] * len(IMAGES)
    eventually(lambda: router.metric("dicomnode_objects") == 0, timeout=60)
    assert files_below(router.store_directory, "objects") == []
    assert set(indexed_paths(archive.store_directory)) == {image.uid for image in IMAGES}
    assert all(image.is_stored_whole(archive.store_directory) for image in IMAGES)
    assert router.metric("dicomnode_outbox_depth") == 0
    assert store(router.dicom_address, IMAGES[0]) == [0], "it is welcome again"
