"""Quotas and permissions of an AE on a running node: who is refused is told, the rest goes on."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import StartNode
from tests.faults.scu import Image, associated, store
from tests.faults.test_limits import LOCAL_LIMIT_EXCEEDED, explained
from tests.faults.test_limits import answer as association_answer
from tests.peers import eventually, write_registry
from tests.wire import CT_IMAGE_STORAGE, c_store_rq

COMMENT = 0x0902


def test_a_quota_refuses_with_a700_a_comment_a_metric_and_an_explanation(
    start_node: StartNode,
) -> None:
    node = start_node(entities=[{"title": "CT_1", "max_objects_per_hour": 2}, {"title": "MR_1"}])
    images = [Image(number) for number in range(1, 5)]
    with associated(node.dicom_address, "CT_1") as wire:
        for image, status in zip(images[:3], (0, 0, 0xA700), strict=True):
            assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == status
        # The same association goes on, and so does everybody else.
        assert wire.echo() == 0
        for part in wire.message(3, c_store_rq(9, CT_IMAGE_STORAGE, "1.2"), images[3].data_set):
            wire.send(part)
        answer = wire.response()
        assert answer[COMMENT].strip() == b"quota of CT_1: max_objects_per_hour is 2"
    assert store(node.dicom_address, images[3], calling="MR_1") == [0]
    refusals = "dicomnode_refusals_total"
    assert node.metric(refusals, rule="max_objects_per_hour", calling_aet="CT_1") == 2
    (entry,) = [each for each in explained(node) if each["kind"] == "operation"]
    assert entry["count"] == 2 and entry["answer"].startswith("A700H")
    assert "Raise max_objects_per_hour of CT_1 in ae.toml" in entry["advice"][0]


def test_an_object_that_exceeds_a_quota_half_way_leaves_nothing(start_node: StartNode) -> None:
    node = start_node(entities=[{"title": "CT_1", "max_stored_bytes": "1 MB"}])
    large, small = Image(1, size_bytes=4_000_000), Image(2, size_bytes=100_000)
    with associated(node.dicom_address, "CT_1") as wire:
        assert wire.store(CT_IMAGE_STORAGE, large.uid, large.data_set) == 0xA700
        assert wire.store(CT_IMAGE_STORAGE, small.uid, small.data_set) == 0
    eventually(lambda: not node.files("incoming"), "nothing left")
    assert len(node.files("objects")) == 1
    held = "dicomnode_quota_stored_bytes"
    assert 100_000 < node.metric(held, calling_aet="CT_1") < 110_000


def test_small_objects_count_as_well_and_what_is_received_again_counts_once(
    start_node: StartNode,
) -> None:
    node = start_node(entities=[{"title": "CT_1", "max_stored_bytes": 45_000}])
    images = [Image(number, size_bytes=16_000) for number in range(1, 6)]
    with associated(node.dicom_address, "CT_1") as wire:
        for image in (images[0], *images[:3]):
            assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0
        assert wire.store(CT_IMAGE_STORAGE, images[3].uid, images[3].data_set) == 0xA700
    held = node.metric("dicomnode_quota_stored_bytes", calling_aet="CT_1")
    assert held == sum(path.stat().st_size for path in node.store_directory.rglob("*.dcm"))
    assert store(node.dicom_address, images[4], calling="MR_1") == [0]


def test_what_is_held_of_an_ae_counts_over_a_restart(start_node: StartNode, tmp_path: Path) -> None:
    directory = tmp_path / "node"
    quota = [{"title": "CT_1", "max_stored_bytes": 500_000}]
    node = start_node(directory=directory)
    first, second = Image(1, size_bytes=400_000), Image(2, size_bytes=400_000)
    assert store(node.dicom_address, first, calling="CT_1") == [0]
    node.stop()
    node = start_node(directory=directory, entities=quota)
    assert store(node.dicom_address, second, calling="CT_1") == [0xA700]
    assert store(node.dicom_address, second, calling="MR_1") == [0]
    assert store(node.dicom_address, Image(3), calling="CT_1") == [0]


def test_a_quota_that_comes_with_a_reload_knows_what_is_held(start_node: StartNode) -> None:
    node = start_node(entities=[{"title": "CT_1"}])
    first, second = Image(1, size_bytes=400_000), Image(2, size_bytes=400_000)
    assert store(node.dicom_address, first, calling="CT_1") == [0]
    write_registry(node.directory, [{"title": "CT_1", "max_stored_bytes": 500_000}])
    assert node.reload()
    assert store(node.dicom_address, second, calling="CT_1") == [0xA700]
    write_registry(node.directory, [{"title": "CT_1", "max_stored_bytes": 5_000_000}])
    assert node.reload()
    assert store(node.dicom_address, second, calling="CT_1") == [0]


def test_a_service_that_an_ae_may_not_use_is_counted_and_names_its_line(
    start_node: StartNode,
) -> None:
    node = start_node(entities=[{"title": "VIEWER", "services": ["echo", "find"]}])
    with associated(node.dicom_address, "VIEWER") as wire:
        assert wire.echo() == 0
    assert node.metric("dicomnode_refusals_total", rule="services", calling_aet="VIEWER") == 2
    (entry,) = [each for each in explained(node) if each["kind"] == "presentation context"]
    assert 'add "store" to its services in ae.toml' in entry["advice"][0]


def test_a_limit_of_associations_is_explained_with_the_line_that_raises_it(
    start_node: StartNode,
) -> None:
    node = start_node(entities=[{"title": "CT_1", "max_associations": 1}])
    with associated(node.dicom_address, "CT_1"):
        assert association_answer(node, "CT_1") == LOCAL_LIMIT_EXCEEDED
    assert node.metric("dicomnode_refusals_total", rule="max_associations") == 1
    (entry,) = [each for each in explained(node) if each["kind"] == "association"]
    assert "write max_associations = 2 into its [[ae]] in ae.toml" in entry["advice"][0]
