"""What goes on between the node and others, over HTTP."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests import peers, wire
from tests.conftest import RunningNode, StartNode

CT = "1.2.840.10008.5.1.4.1.1.2"
ENTITIES = [
    {"title": "CT_1"},
    {"title": "ARCHIVE", "host": "127.0.0.1", "port": 9},
    {"title": "QUIET"},
]


def asked(node: RunningNode, path: str) -> dict[str, Any]:
    status, body = peers.http_get(node.http_address, path)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def peer_of(node: RunningNode, title: str) -> dict[str, Any]:
    return next(row for row in asked(node, "/api/peers")["peers"] if row["ae_title"] == title)


@contextlib.contextmanager
def associated(
    node: RunningNode, *, calling: str = "CT_1", called: str = "DICOMNODE"
) -> Iterator[wire.Wire]:
    """Ask the node for an association, and drop the connection at the end."""
    with wire.Wire(node.dicom_address) as peer:
        peer.associate(called=called, calling=calling)
        yield peer


def test_an_association_shows_its_operation_and_how_far_that_is(start_node: StartNode) -> None:
    node = start_node(entities=ENTITIES)
    with associated(node) as peer:
        command = wire.c_store_rq(7, CT, "1.2.3.4")
        peer.send(wire.pdu(wire.P_DATA, wire.pdv(3, command, command=True)))
        for _ in range(20):
            peer.send(wire.pdu(wire.P_DATA, wire.pdv(3, bytes(10_000), last=False)))

        def row() -> dict[str, Any]:
            (found,) = asked(node, "/api/associations")["associations"]
            return dict(found)

        peers.eventually(lambda: row()["received_bytes"] > 200_000, "all that was sent")
        shown = row()
        assert (shown["direction"], shown["calling_ae_title"]) == ("incoming", "CT_1")
        assert (shown["called_ae_title"], shown["peer_address"]) == ("DICOMNODE", "127.0.0.1")
        assert shown["under_way_count"] == 1
        (operation,) = shown["under_way"]
        assert (operation["service"], operation["message_id"]) == ("C-STORE", 7)
        assert operation["asked_by"] == "peer"
        # What has not been handed on yet waits for more of it.
        assert 100_000 < operation["progress"]["received_bytes"] <= 200_000
        assert "1.2.3.4" not in json.dumps(shown)
    peers.eventually(
        lambda: asked(node, "/api/associations")["associations"] == [], "the association's end"
    )


def test_an_ae_shows_when_it_was_seen_and_what_came_of_it(start_node: StartNode) -> None:
    node = start_node(entities=ENTITIES)
    assert peer_of(node, "CT_1")["last_seen"] is None
    with associated(node) as peer:
        assert peer.echo() == 0
        peer.release()
    shown = peer_of(node, "CT_1")
    assert shown["last_seen"] <= shown["last_success"]
    assert (shown["last_success_of"], shown["last_address"]) == ("C-ECHO", "127.0.0.1")
    assert shown["failures"] == []
    assert peer_of(node, "QUIET")["last_seen"] is None


def test_failures_are_counted_by_their_reasons(start_node: StartNode) -> None:
    node = start_node(entities=ENTITIES)
    for _ in range(3):
        with associated(node, called="SOMEBODY"):
            pass
    with associated(node) as peer:
        assert peer.store(CT, "1.2.3", b"no data set") != 0
        peer.abort()
    peers.eventually(lambda: len(peer_of(node, "CT_1")["failures"]) == 3, "all failures")
    counts = {row["reason"]: row["count"] for row in peer_of(node, "CT_1")["failures"]}
    assert counts.pop("association rejected: Called AE title not recognized") == 3
    assert counts.pop("association aborted by peer") == 1
    ((reason, count),) = counts.items()
    assert reason.startswith("C-STORE C")
    assert count == 1


def test_titles_that_the_registry_does_not_have_share_one_account(start_node: StartNode) -> None:
    node = start_node(entities=ENTITIES)
    for number in range(5):
        with associated(node, calling=f"STRANGER{number}") as peer:
            peer.release()
    shown = asked(node, "/api/peers")
    assert [row["ae_title"] for row in shown["peers"]] == ["CT_1", "ARCHIVE", "QUIET"]
    assert shown["others"]["last_seen"] is not None


def test_the_status_holds_the_live_associations_too(start_node: StartNode) -> None:
    node = start_node(entities=ENTITIES)
    with associated(node):
        (row,) = asked(node, "/api/status")["associations"]
        assert row["under_way"] == []
        assert row["operations"] == 0
