"""Recordings over HTTP: who may ask, for what, and what comes back."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from dicomnode.api.token import read_token
from tests import peers, wire
from tests.captures import Capture
from tests.conftest import RunningNode

ECHO = wire.pdu(wire.P_DATA, wire.pdv(1, wire.c_echo_rq(), command=True))
RELEASE = wire.pdu(wire.RELEASE_RQ, bytes(4))


@contextlib.contextmanager
def asked(
    node: RunningNode, method: str, path: str, body: object = None, *, token: str = ""
) -> Iterator[http.client.HTTPResponse]:
    """Ask the node with its own token; the body of the response is read as it comes."""
    local = read_token(node.store_directory)
    assert local is not None
    with contextlib.closing(
        http.client.HTTPConnection(*node.http_address, timeout=20)
    ) as connection:
        headers = {"Authorization": f"Bearer {token or local.token}"}
        connection.request(method, path, json.dumps(body), headers)
        with connection.getresponse() as answer:
            yield answer


def record(node: RunningNode, **wanted: object) -> Any:
    return asked(node, "POST", "/api/traces", {"ae_title": "RAW", **wanted})


def figures(node: RunningNode, number: int) -> dict[str, Any]:
    with asked(node, "GET", f"/api/traces/{number}") as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def echo(node: RunningNode, calling: str = "RAW") -> None:
    with wire.Wire(node.dicom_address) as peer:
        assert peer.associate(calling=calling)[0] == wire.ASSOCIATE_AC
        assert peer.echo() == 0
        peer.release()


def test_the_answer_is_the_recording_as_it_is_made(node: RunningNode) -> None:
    with record(node) as answer:
        assert answer.status == 200
        first = answer.read1(65536)
        assert first[:4] == b"\x0a\x0d\x0d\x0a"
        echo(node, "OTHER")
        echo(node)
        capture = Capture(first + answer.read())
        number = int(answer.headers["X-Trace-Number"])
    ((requestor, acceptor),) = capture.streams()
    assert requestor == wire.associate_rq() + ECHO + RELEASE
    assert acceptor[0] == wire.ASSOCIATE_AC
    told = figures(node, number)
    assert (told["associations"], told["dropped_bytes"], told["over"]) == (1, 0, True)


def test_whoever_closes_the_connection_ends_the_recording(node: RunningNode) -> None:
    with record(node) as answer:
        answer.read1(65536)
        number = int(answer.headers["X-Trace-Number"])
    peers.eventually(lambda: figures(node, number)["over"], "the end of the recording")
    assert "gone" in figures(node, number)["why"]


def test_a_recording_can_be_ended_and_is_whole(node: RunningNode) -> None:
    with record(node) as answer:
        first = answer.read1(65536)
        path = f"/api/traces/{answer.headers['X-Trace-Number']}"
        with asked(node, "DELETE", path) as ended:
            assert ended.status == 204
        assert "was ended" in Capture(first + answer.read()).closing
    with asked(node, "DELETE", path) as again:
        assert again.status == 404


def test_a_node_that_stops_ends_its_recordings(node: RunningNode) -> None:
    with record(node) as answer:
        first = answer.read1(65536)
        node.stop()
        capture = Capture(first + answer.read())
    assert capture.closing == "The recording ended: the node stops."


def test_without_a_token_nothing_is_recorded(node: RunningNode) -> None:
    wrong = "not-the-token-of-it"
    with asked(node, "POST", "/api/traces", {"ae_title": "RAW"}, token=wrong) as refused:
        assert refused.status == 401
    status, _ = peers.http_request(node.http_address, "GET", "/api/traces/1")
    assert status == 401


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "must be an object"),
        ({}, "ae_title"),
        ({"ae_title": "A" * 17}, "ae_title"),
        ({"ae_title": "RAW", "count": 0}, "count must be a whole number from 1 to 1000"),
        ({"ae_title": "RAW", "count": True}, "count"),
        ({"ae_title": "RAW", "seconds": 10**9}, "seconds"),
        ({"ae_title": "RAW", "max_bytes": 1}, "max_bytes"),
        ({"ae_title": "RAW", "address": "here"}, "address"),
        ({"ae_title": "RAW", "asked_by": 1}, "asked_by"),
        ({"ae_title": "RAW", "file": "/etc/passwd"}, "must be an object with"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_words(
    shared_node: RunningNode, body: object, words: str
) -> None:
    with asked(shared_node, "POST", "/api/traces", body) as answer:
        assert answer.status == 400
        assert words in json.loads(answer.read())["error"]


def test_a_recording_of_long_ago_is_not_there(shared_node: RunningNode) -> None:
    assert "no such recording" in figures(shared_node, 4711)["error"]


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Any:
    where = tmp_path_factory.mktemp("node")
    node = RunningNode(where, peers.write_config(where))
    yield node
    node.stop()
