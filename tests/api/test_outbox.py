"""The outbox over HTTP and on the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from dicomnode.cli import app
from dicomnode.cli.asking import Refused, call
from dicomnode.settings import load_settings
from tests.conftest import RunningNode, StartNode
from tests.destination import Conversation, destination
from tests.faults.scu import Image, store
from tests.peers import eventually, free_port, http_request

SLOW = {"retry_seconds": 3600.0, "max_refusals": 1}


@pytest.fixture
def node(start_node: StartNode) -> RunningNode:
    """Return a node that forwards to a destination that nobody listens for."""
    return start_node(
        entities=[{"title": "ARCHIVE", "host": "127.0.0.1", "port": free_port()}],
        forward=[{"name": "all", "to": ["ARCHIVE"]}],
        forwarding=SLOW,
    )


def ran(node: RunningNode, *arguments: str, code: int = 0) -> str:
    """Run an ``outbox`` command; return what it wrote."""
    done = CliRunner().invoke(app, ["outbox", *arguments, "--config", str(node.config)])
    assert done.exit_code == code, done.output
    return done.output


def listed(node: RunningNode, *options: str) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = json.loads(ran(node, "list", "--json", *options))
    return shown


def test_a_destination_that_is_down_is_shown_with_the_reason(node: RunningNode) -> None:
    assert store(node.dicom_address, Image(1), Image(2)) == [0, 0]
    eventually(lambda: listed(node)[0]["down_since"] is not None)
    (shown,) = listed(node)
    assert shown["destination"] == "ARCHIVE"
    assert shown["objects"]["ready"] == 2
    assert "connection refused" in shown["last_error"]
    assert shown["next_attempt"] > shown["down_since"] + 1000
    written = ran(node, "list")
    assert "ARCHIVE" in written
    assert "connection refused" in written
    assert listed(node, "--destination", "OTHER") == []


def test_what_waits_is_dropped_when_that_is_confirmed(node: RunningNode) -> None:
    store(node.dicom_address, Image(1), Image(2))
    assert "give --yes" in ran(node, "drop", "--all", code=1)
    assert ran(node, "drop", "--yes") == "nothing dropped\n"
    assert ran(node, "drop", "--all", "--yes") == "ARCHIVE: 2 dropped\n"
    assert listed(node)[0]["objects"]["ready"] == 0


def test_what_was_set_aside_is_sent_again_on_demand(start_node: StartNode) -> None:
    statuses = [0x0122]

    def refuses_at_first(conversation: Conversation) -> None:
        conversation.accept()
        conversation.take(status=statuses[0])

    with destination(refuses_at_first) as target:
        node = start_node(
            entities=[target.entity("ARCHIVE")],
            forward=[{"name": "all", "to": ["ARCHIVE"]}],
            forwarding=SLOW,
        )
        store(node.dicom_address, Image(1))
        eventually(lambda: listed(node, "--dead"))
        (dead,) = listed(node, "--dead", "--destination", "ARCHIVE")
        assert dead["sop_instance_uid"] == Image(1).uid
        assert "0122H Refused: SOP Class not supported" in dead["last_error"]
        assert Image(1).uid in ran(node, "list", "--dead")
        statuses[0] = 0
        eventually(lambda: node.metric("dicomnode_outgoing_associations_active") == 0)
        assert ran(node, "retry") == "ARCHIVE: 1 sent again now\n"
        eventually(lambda: listed(node)[0]["objects"]["dead"] == 0 and len(target.stored) == 2)
        eventually(lambda: node.metric("dicomnode_outbox_depth") == 0)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/api/outbox/dead?destination=X", None, 404, "destinations are ARCHIVE"),
        ("POST", "/api/outbox/retry", {"destination": "X"}, 404, "nothing is sent to X"),
        ("POST", "/api/outbox/drop", {"dead_only": 1}, 400, "dead_only must be true or false"),
        ("POST", "/api/outbox/drop", [], 400, "the body must be a JSON object"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    node: RunningNode, method: str, path: str, body: object, status: int, words: str
) -> None:
    with pytest.raises(Refused, match=words) as refused:
        call(load_settings(node.config), method, path, body)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/outbox"),
        ("GET", "/api/outbox/dead"),
        ("POST", "/api/outbox/retry"),
        ("POST", "/api/outbox/drop"),
    ],
)
def test_nothing_is_shown_or_done_without_a_token(
    node: RunningNode, method: str, path: str
) -> None:
    assert http_request(node.http_address, method, path, body=b"{}")[0] == 401
