"""Reports of storage commitments to requesters that are away, refuse, hang, or come back."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import CatalogError
from dicomnode.services import commitment_reports
from dicomnode.services.commitment_check import Checker
from tests import peers
from tests.commitment_wire import PUSH_MODEL, Reports, requesting
from tests.conftest import RunningNode, StartNode, StartNodeProcess
from tests.destination import Behaviour, Conversation, Destination, destination
from tests.faults.scu import Image, store
from tests.peers import eventually, free_port
from tests.wire import CT_IMAGE_STORAGE, RELEASE_RP

IMAGE = Image(1)
WANTED = [(CT_IMAGE_STORAGE, IMAGE.uid)]
ALL_KEPT = [IMAGE.uid]
TRANSACTION = "1.2.826.0.1.3680043.10.1666.8.2"
QUICK = {"connect_seconds": 0.5, "response_seconds": 0.5}
# Attempts follow one another at once, and go on as long as a test does.
EAGER = {"retry_seconds": 0.05, "max_retry_seconds": 0.1, "give_up_seconds": 600}


def archive(
    start_node: StartNode,
    *entities: Mapping[str, object],
    commitment: Mapping[str, object] = EAGER,
    directory: Path | None = None,
) -> RunningNode:
    """Return a node that holds the image and knows ``entities``."""
    node = start_node(
        entities=entities,
        timeouts=QUICK,
        commitment=commitment,
        access={"unknown_ae": "allow"},
        directory=directory,
    )
    assert store(node.dicom_address, IMAGE) == [0]
    return node


@contextlib.contextmanager
def known(behaviour: Behaviour) -> Iterator[tuple[Destination, dict[str, object]]]:
    """Run a requester that takes associations; yield it and its table for ae.toml."""
    with destination(behaviour) as requester:
        yield requester, requester.entity("SCU")


def ask(address: peers.Address, transaction_uid: str = TRANSACTION, called: str = "") -> None:
    """Ask for a commitment and release at once, as many modalities do."""
    with requesting(address, called=called or "DICOMNODE") as wire:
        assert wire.commit(1, transaction_uid, WANTED) == 0x0000
        wire.abort()


def number(node: RunningNode, state: str) -> float:
    return node.metric("dicomnode_commitments", state=state)


def attempts(node: RunningNode, result: str) -> float:
    return node.metric("dicomnode_commitment_reports_total", result=result)


def api(node: RunningNode, path: str) -> Any:
    return json.loads(peers.http_get(node.http_address, path)[1])


# -- on an association of the node ----------------------------------------------------------------


def test_who_has_gone_is_told_on_a_new_association_with_roles_reversed(
    start_node: StartNode,
) -> None:
    reports = Reports()
    with known(reports) as (requester, entity):
        node = archive(start_node, entity)
        ask(node.dicom_address)
        assert reports.take().outcome == (1, TRANSACTION, ALL_KEPT, {})
        eventually(lambda: number(node, "delivered") == 1)
        assert requester.connections == 1
    (request,) = reports.requests
    assert request[4:20].rstrip() == b"SCU"
    assert request[20:36].rstrip() == b"DICOMNODE"
    # PS3.7 Table D.3-9: length of the UID, the UID, SCU role 0, SCP role 1.
    assert len(PUSH_MODEL).to_bytes(2, "big") + PUSH_MODEL.encode() + b"\0\1" in request


def test_the_report_comes_from_the_title_of_ours_that_was_asked(start_node: StartNode) -> None:
    reports = Reports()
    with known(reports) as (_, entity):
        node = start_node(entities=[entity], node={"ae_title_aliases": ["OLD_PACS"]})
        ask(node.dicom_address, called="OLD_PACS")
        assert reports.take().outcome == (2, TRANSACTION, [], {IMAGE.uid: 0x0112})
    assert reports.requests[0][20:36].rstrip() == b"OLD_PACS"


def test_several_reports_to_one_requester_share_an_association(start_node: StartNode) -> None:
    reports = Reports()
    port = free_port()
    node = archive(start_node, {"title": "SCU", "host": "127.0.0.1", "port": port})
    for each in range(5):
        ask(node.dicom_address, f"{TRANSACTION}.{each}")
    eventually(lambda: number(node, "checked") == 5)
    with known(reports) as (requester, entity):
        peers.write_registry(node.directory, [entity])
        node.reload()
        told = {reports.take().outcome[1] for _ in range(5)}
        eventually(lambda: number(node, "delivered") == 5)
        assert told == {f"{TRANSACTION}.{each}" for each in range(5)}
        assert requester.connections < 5


def test_an_entry_that_is_added_later_is_used_at_once(start_node: StartNode) -> None:
    patient = {**EAGER, "retry_seconds": 300, "max_retry_seconds": 300}
    node = archive(start_node, commitment=patient)
    ask(node.dicom_address)
    eventually(lambda: attempts(node, "put off") == 1)
    reports = Reports()
    with known(reports) as (_, entity):
        peers.write_registry(node.directory, [entity])
        node.reload()
        assert reports.take().outcome[1] == TRANSACTION


def test_nothing_is_dialled_for_a_requester_that_the_registry_does_not_know(
    start_node: StartNode,
) -> None:
    reports = Reports()
    with known(reports) as (requester, entity):
        node = archive(start_node, {**entity, "title": "ANOTHER"})
        ask(node.dicom_address)
        eventually(lambda: attempts(node, "put off") >= 2)
        assert requester.connections == 0


# -- what is not taken is tried again --------------------------------------------------------------


def refuses(conversation: Conversation) -> None:
    conversation.reject()


def aborts(conversation: Conversation) -> None:
    conversation.accept()
    conversation.receive_pdu()
    conversation.abort()


def says_nothing(conversation: Conversation) -> None:
    conversation.accept()
    conversation.wait_for_end()


def is_deaf(conversation: Conversation) -> None:
    conversation.wait_for_end()


@pytest.mark.parametrize("first", [refuses, aborts, says_nothing, is_deaf])
def test_a_report_is_delivered_after_a_failure(start_node: StartNode, first: Behaviour) -> None:
    reports, before = Reports(), iter([first])
    with known(lambda each: next(before, reports)(each)) as (requester, entity):
        node = archive(start_node, entity)
        ask(node.dicom_address)
        assert reports.take().outcome == (1, TRANSACTION, ALL_KEPT, {})
        eventually(lambda: number(node, "delivered") == 1)
        assert requester.connections == 2
        assert attempts(node, "put off") == 1


@pytest.mark.parametrize("status", [0x0110, 0x0112, 0x0113, 0x0211, 0x0213])
def test_a_report_that_is_answered_with_a_failure_comes_again(
    start_node: StartNode, status: int
) -> None:
    reports = Reports(status, status, 0x0000)
    with known(reports) as (_, entity):
        node = archive(start_node, entity)
        ask(node.dicom_address)
        told = [reports.take().outcome for _ in range(3)]
        eventually(lambda: number(node, "delivered") == 1)
    assert told == [(1, TRANSACTION, ALL_KEPT, {})] * 3


def test_what_is_refused_on_the_requesters_association_comes_on_another(
    start_node: StartNode,
) -> None:
    reports = Reports()
    with known(reports) as (_, entity):
        node = archive(start_node, entity)
        with requesting(node.dicom_address) as wire:
            assert wire.commit(1, TRANSACTION, WANTED) == 0
            wire.take_report(0x0211)
            assert reports.take().outcome == (1, TRANSACTION, ALL_KEPT, {})
            wire.release()


def test_a_requester_that_is_silent_on_its_association_is_told_on_another(
    start_node: StartNode,
) -> None:
    reports = Reports()
    with known(reports) as (_, entity):
        node = archive(start_node, entity)
        with requesting(node.dicom_address) as wire:
            assert wire.commit(1, TRANSACTION, WANTED) == 0
            wire.receive()
            assert reports.take().outcome == (1, TRANSACTION, ALL_KEPT, {})


def test_a_requester_that_releases_instead_of_answering_is_told_on_another_association(
    start_node: StartNode,
) -> None:
    reports = Reports()
    with known(reports) as (_, entity):
        node = archive(start_node, entity)
        with requesting(node.dicom_address) as wire:
            assert wire.commit(1, TRANSACTION, WANTED) == 0
            wire.receive()
            assert wire.release() == RELEASE_RP
        assert reports.take().outcome == (1, TRANSACTION, ALL_KEPT, {})
        eventually(lambda: number(node, "delivered") == 1)


def test_one_that_hangs_holds_up_no_other(start_node: StartNode) -> None:
    reports = Reports()
    with destination(says_nothing) as hanging, known(reports) as (_, entity):
        node = archive(start_node, hanging.entity("HANGING"), entity)
        with requesting(node.dicom_address, calling="HANGING") as wire:
            assert wire.commit(1, TRANSACTION, WANTED) == 0
            wire.abort()
        ask(node.dicom_address)
        assert reports.take().outcome == (1, TRANSACTION, ALL_KEPT, {})


def test_one_that_is_away_is_called_once_for_all_its_reports(start_node: StartNode) -> None:
    patient = {**EAGER, "retry_seconds": 300, "max_retry_seconds": 300}
    with known(refuses) as (requester, entity):
        node = archive(start_node, {"title": "SCU"}, commitment=patient)
        for each in range(120):
            ask(node.dicom_address, f"{TRANSACTION}.{each}")
        eventually(lambda: attempts(node, "put off") == 120)
        peers.write_registry(node.directory, [entity])
        node.reload()
        eventually(lambda: attempts(node, "put off") == 240)
        assert requester.connections == 1


def test_a_report_that_is_under_way_is_not_looked_for_again_and_again(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start_node(commitment=EAGER, access={"unknown_ae": "allow"})
    commitments, looks = node.node._commitment._commitments, 0
    destinations = commitments.destinations

    def look(now: float, latest: float) -> tuple[list[str], float | None]:
        nonlocal looks
        looks += 1
        return destinations(now, latest)

    with requesting(node.dicom_address) as wire:
        assert wire.commit(1, TRANSACTION, WANTED) == 0
        report = wire.receive()
        monkeypatch.setattr(commitments, "destinations", look)
        node.reload()
        for _ in range(20):
            api(node, "/api/status")
        assert 1 <= looks <= 2
        wire.answer(report)
        wire.release()


def test_a_report_that_was_taken_is_not_sent_again_while_the_index_fails(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment_reports, "_PAUSE_SECONDS", 0.01)
    reports = Reports()
    with known(reports) as (requester, entity):
        node = archive(start_node, entity)
        commitments = node.node._commitment._commitments
        deliver, failures = commitments.deliver, 0

        def fail_thrice(id: int) -> None:
            nonlocal failures
            failures += 1
            if failures <= 3:
                raise CatalogError("disk full")
            deliver(id)

        monkeypatch.setattr(commitments, "deliver", fail_thrice)
        ask(node.dicom_address)
        assert reports.take().outcome == (1, TRANSACTION, ALL_KEPT, {})
        eventually(lambda: number(node, "delivered") == 1)
        assert requester.connections == 1
        assert reports.taken.empty()
        assert attempts(node, "delivered") == 1


# -- giving up -------------------------------------------------------------------------------------


@pytest.mark.parametrize("registered", [True, False])
def test_a_report_that_nobody_takes_is_given_up_and_stays_to_be_seen(
    start_node: StartNode, registered: bool
) -> None:
    impatient = {**EAGER, "give_up_seconds": 0.3}
    entity = {"title": "SCU", "host": "127.0.0.1", "port": free_port()}
    node = archive(start_node, *([entity] if registered else []), commitment=impatient)
    ask(node.dicom_address)
    eventually(lambda: number(node, "given up") == 1)
    (entry,) = api(node, "/api/status")["commitments"]["given_up_list"]
    assert (entry["requester"], entry["transaction_uid"]) == ("SCU", TRANSACTION)
    assert entry["why"]
    given_up, waited = api(node, "/api/explain")["explanations"]
    assert given_up["kind"] == "commitment" and "given up" in given_up["answer"]
    assert waited["kind"] == "forwarding" and "reports wait" in waited["answer"]
    assert given_up["advice"] == waited["advice"][:1] != []
    with requesting(node.dicom_address) as wire:
        assert wire.commit(1, TRANSACTION, WANTED) == 0x0131
        wire.abort()


# -- restarts --------------------------------------------------------------------------------------


def test_a_report_outlives_the_node(start_node_process: StartNodeProcess) -> None:
    """The node is killed between the answer and the report, once and again."""
    entity: dict[str, object] = {"title": "SCU", "host": "127.0.0.1", "port": free_port()}
    node = start_node_process(entities=[entity], commitment=EAGER, timeouts=QUICK)
    directory = node.config.parent
    assert store(node.dicom_address, IMAGE) == [0]
    ask(node.dicom_address)
    for _ in range(2):
        node.signal(signal.SIGKILL)
        node.wait()
        node = start_node_process(directory, entities=[entity], commitment=EAGER, timeouts=QUICK)
    reports = Reports()
    with known(reports) as (_, entity):
        peers.write_registry(directory, [entity])
        node.signal(signal.SIGHUP)
        assert reports.take().outcome == (1, TRANSACTION, ALL_KEPT, {})
        node.wait_for_line("SCU has the report on 1 object, on a new association")
    with requesting(node.dicom_address) as wire:
        assert wire.commit(1, TRANSACTION, WANTED) == 0x0131
        wire.release()


def test_what_was_not_checked_before_a_stop_is_checked_after_the_start(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, reports = tmp_path / "node", Reports()
    with known(reports) as (_, entity):
        with monkeypatch.context() as patched:
            patched.setattr(Checker, "wake", lambda self: None)
            node = archive(start_node, entity, directory=directory)
            ask(node.dicom_address)
            eventually(lambda: number(node, "pending") == 1)
            node.stop()
        archive(start_node, entity, directory=directory)
        assert reports.take().outcome == (1, TRANSACTION, ALL_KEPT, {})


def test_a_report_on_its_way_is_finished_before_the_node_stops(start_node: StartNode) -> None:
    reports = Reports()
    with known(reports) as (_, entity):
        node = archive(start_node, entity)
        with requesting(node.dicom_address) as wire:
            assert wire.commit(1, TRANSACTION, WANTED) == 0
            report = wire.receive()
            node._loop.call_soon_threadsafe(node._stop.set)
            wire.answer(report)
            wire.release()
        node.stop()
        again = archive(start_node, entity, directory=node.directory)
        assert number(again, "delivered") == 1
        assert reports.taken.empty()
