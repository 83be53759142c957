"""What nodes record of objects, with real peers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import CatalogError
from dicomnode.integrity.record import CustodyRecord, Event
from dicomnode.services import custody_recorder
from tests import peers
from tests.audit.reading import read_file
from tests.cli.commands import run
from tests.conftest import RunningNode, StartNode
from tests.custody_log import events, recorded
from tests.faults.scu import Image, associated, files_below, store
from tests.peers import eventually, run_tool
from tests.wire import CT_IMAGE_STORAGE, data_set

IMAGES = [Image(number) for number in range(1, 4)]


def of(records: Sequence[CustodyRecord], event: Event) -> list[CustodyRecord]:
    return [record for record in records if record.event is event]


def status(node: RunningNode) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(peers.http_get(node.http_address, "/api/status")[1])
    return dict(told["custody"])


# -- the story of objects --------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_objects_that_are_received_forwarded_committed_and_deleted_have_that_story(
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
    for image in IMAGES:
        story = [Event.RECEIVED, Event.FORWARDED, Event.COMMITTED, Event.DELETED]
        assert events(router.store_directory, image) == story
        assert events(archive.store_directory, image) == [Event.RECEIVED, Event.COMMITTED]
    told = recorded(router.store_directory)
    assert {each.details["calling_ae_title"] for each in of(told, Event.RECEIVED)} == {"RAW"}
    assert {each.details["to"] for each in of(told, Event.FORWARDED)} == {"ARCHIVE"}
    assert {each.details["rule"] for each in of(told, Event.FORWARDED)} == {"all"}
    assert {each.details["by"] for each in of(told, Event.COMMITTED)} == {"ARCHIVE"}
    received = recorded(archive.store_directory)
    committed = of(received, Event.COMMITTED)
    assert {each.details["to"] for each in committed} == {"ROUTER"}
    # Both are of one association, as both sides number their own.
    assert len({each.details["association"] for each in of(received, Event.RECEIVED)}) == 1
    for image in IMAGES:
        (mine,) = [each for each in received if each.sop_instance_uid == image.uid][:1]
        (sent,) = [each for each in told if each.sop_instance_uid == image.uid][:1]
        assert mine.details["sha256"] == sent.details["sha256"]


@pytest.mark.interop("getscu", "movescu", "storescp")
def test_who_was_given_objects_by_c_get_and_c_move_is_recorded_before_it_is_told(
    start_node: StartNode, tmp_path: Path
) -> None:
    with peers.storescp(tmp_path / "scp") as destination:
        host, port = destination.dicom_address
        entity = {"title": "STORESCP", "host": host, "port": port}
        node = start_node(directory=tmp_path / "node", entities=[entity])
        store(node.dicom_address, *IMAGES)
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={IMAGES[0].study_uid}"]
        called = ["-S", "-aec", "DICOMNODE", *keys, *map(str, node.dicom_address)]
        got = tmp_path / "got"
        got.mkdir()
        assert run_tool("getscu", "-aet", "WS_1", "-od", got, *called).returncode == 0
        # No waiting: the final response has come.
        given = of(recorded(node.store_directory), Event.RETRIEVED)
        assert [each.details["to"] for each in given] == ["WS_1"] * 3
        assert {each.details["service"] for each in given} == {"C-GET"}
        moved = run_tool("movescu", "-aet", "WS_2", "-aem", "STORESCP", *called)
        assert moved.returncode == 0, moved.output
        given = of(recorded(node.store_directory), Event.RETRIEVED)[3:]
        assert [each.details["to"] for each in given] == ["STORESCP"] * 3
        assert {each.details["asked_by"] for each in given} == {"WS_2"}
        assert given[0].details["asked_on"] != given[0].details["association"]
        assert {each.sop_instance_uid for each in given} == {image.uid for image in IMAGES}


@pytest.mark.interop("getscu")
def test_a_retrieval_that_cannot_be_recorded_succeeds_and_is_recorded_later(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise CatalogError("the disk is full")

    monkeypatch.setattr(custody_recorder, "_RETRY_SECONDS", 0.05)
    node = start_node()
    store(node.dicom_address, *IMAGES)
    recorder: Any = node.node._archive.custodian.recorder  # type: ignore[union-attr]
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={IMAGES[0].study_uid}"]
    with monkeypatch.context() as broken:
        broken.setattr(recorder, "_append", full)
        called = ["-S", "-aec", "DICOMNODE", "-od", tmp_path, *keys, *node.dicom_address]
        got = run_tool("getscu", *called)
        assert got.returncode == 0, got.output
        assert status(node)["waiting"] == 3
        assert node.metric("dicomnode_custody_failures_total") >= 1
    eventually(lambda: len(of(recorded(node.store_directory), Event.RETRIEVED)) == 3)
    assert status(node)["lost"] == 0


@pytest.mark.parametrize(
    ("policy", "story"),
    [
        ("keep_first", [Event.RECEIVED, Event.RECEIVED_AGAIN, Event.QUARANTINED]),
        ("replace", [Event.RECEIVED, Event.RECEIVED_AGAIN, Event.REPLACED]),
        ("refuse", [Event.RECEIVED, Event.RECEIVED_AGAIN]),
    ],
)
@pytest.mark.parametrize("size_bytes", [1024, 400_000])
def test_what_comes_again_and_with_other_bytes_is_recorded(
    start_node: StartNode, policy: str, story: list[Event], size_bytes: int
) -> None:
    node = start_node(storage={"on_conflict": policy})
    first, second = (Image(1, shade=shade, size_bytes=size_bytes) for shade in (0, 1))
    store(node.dicom_address, first, first)
    eventually(lambda: len(events(node.store_directory, first)) == 2)
    store(node.dicom_address, second)
    assert events(node.store_directory, first) == story
    records = recorded(node.store_directory)
    assert records[0].details["association"] == records[1].details["association"]
    if policy == "replace":
        assert records[2].details["replaced_sha256"] == records[0].details["sha256"]
        assert records[2].details["sha256"] != records[0].details["sha256"]


def test_an_object_that_gives_way_to_one_of_another_study_is_gone_from_its_own(
    start_node: StartNode,
) -> None:
    node = start_node(storage={"on_conflict": "replace"})
    first, other = Image(1), Image(1, study=2)
    assert store(node.dicom_address, first) == [0]
    uids = {"study_uid": other.study_uid, "series_uid": other.series_uid}
    with associated(node.dicom_address) as wire:
        second = data_set(CT_IMAGE_STORAGE, first.uid, **uids)
        assert wire.store(CT_IMAGE_STORAGE, first.uid, second) == 0
        wire.release()
    told = [(each.study_instance_uid, each.event) for each in recorded(node.store_directory)]
    assert told == [
        (first.study_uid, Event.RECEIVED),
        (first.study_uid, Event.DELETED),
        (other.study_uid, Event.REPLACED),
    ]


def test_nothing_is_recorded_when_that_is_off(start_node: StartNode, tmp_path: Path) -> None:
    settings = {"directory": tmp_path, "custody": {"enabled": False}}
    node = start_node(**settings)
    assert store(node.dicom_address, *IMAGES) == [0] * len(IMAGES)
    assert recorded(node.store_directory) == []
    assert status(node) == {"enabled": False}


def test_the_status_and_the_metrics_tell_how_much_is_recorded(start_node: StartNode) -> None:
    node = start_node()
    store(node.dicom_address, *IMAGES)
    told = status(node)
    last = recorded(node.store_directory)[-1]
    assert (told["records"], told["head"]) == (3, f"3:{last.hash}")
    assert node.metric("dicomnode_custody_records", state="recorded") == 3
    assert node.metric("dicomnode_custody_failures_total") == 0


# -- recovery --------------------------------------------------------------------------------------


def reindex(node: RunningNode) -> None:
    done = run("reindex", "--config", node.config)
    assert done.code == 0, done.err


def test_reindexing_records_only_what_no_record_tells_yet(start_node: StartNode) -> None:
    node = start_node()
    store(node.dicom_address, *IMAGES)
    node.stop()
    before = recorded(node.store_directory)
    reindex(node)
    assert recorded(node.store_directory) == before
    with closing(sqlite3.connect(node.store_directory / "index.sqlite")) as index, index:
        index.execute("DELETE FROM custody")
    reindex(node)
    entered = recorded(node.store_directory)
    assert [each.event for each in entered] == [Event.ENTERED] * 3
    digests = {each.details["file_sha256"] for each in before}
    assert {each.details["file_sha256"] for each in entered} == digests
    assert {each.details["source_ae_title"] for each in entered} == {"RAW"}


def test_other_bytes_than_were_received_are_not_taken_for_them(start_node: StartNode) -> None:
    node = start_node()
    store(node.dicom_address, *IMAGES)
    node.stop()
    received = recorded(node.store_directory)
    path = files_below(node.store_directory, "objects")[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    reindex(node)
    (found,) = of(recorded(node.store_directory), Event.DAMAGED)
    assert found.sop_instance_uid == path.stem
    (told,) = [each for each in received if each.sop_instance_uid == path.stem]
    assert found.details["file_sha256"] == told.details["file_sha256"]
    assert found.details["found_file_sha256"] == sha256(data).hexdigest()


def test_what_came_while_nothing_was_recorded_is_entered_and_not_taken_for_damage(
    start_node: StartNode, tmp_path: Path
) -> None:
    settings = {"directory": tmp_path / "node", "storage": {"on_conflict": "replace"}}
    node = start_node(**settings)
    store(node.dicom_address, Image(1))
    node.stop()
    node = start_node(**settings, custody={"enabled": False})
    store(node.dicom_address, Image(1, shade=1))
    node.stop()
    node = start_node(**settings)
    node.stop()
    reindex(node)
    first, second = recorded(node.store_directory)
    assert (first.event, second.event) == (Event.RECEIVED, Event.ENTERED)
    assert second.details["recorded_sha256"] == first.details["sha256"]


def test_the_head_of_the_chain_is_noted_in_the_log_and_the_audit_trail(
    start_node: StartNode, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "audit.xml"
    node = start_node(audit={"enabled": True, "file": str(file)})
    assert store(node.dicom_address, *IMAGES) == [0] * len(IMAGES)
    node.stop()
    last = recorded(node.store_directory)[-1]
    noted = f"head of the chain of custody (stop): {last.sequence}:{last.hash}"
    assert last.sequence == 3 and noted in capfd.readouterr().err
    alerts = [each for each in read_file(file) if each.types == ["110135"]]
    assert [each.outcome for each in alerts] == ["0", "0"]
    assert alerts[-1].detail("110182", "Alert Description") == noted.encode()
