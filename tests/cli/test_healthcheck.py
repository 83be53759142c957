"""``dicomnode healthcheck`` against a node."""

from __future__ import annotations

from pathlib import Path

from tests import peers
from tests.cli.commands import run
from tests.conftest import RunningNode


def url(node: RunningNode) -> str:
    return "http://{}:{}".format(*node.http_address)


def test_a_node_that_is_ready_is_healthy(node: RunningNode) -> None:
    ended = run("healthcheck", "--url", url(node))
    assert (ended.code, ended.out) == (0, "ready\n")


def test_a_node_that_is_not_ready_says_what_is_wrong(node: RunningNode) -> None:
    node.node._draining = True
    ended = run("healthcheck", "--url", url(node))
    assert ended.code == 1
    assert ended.err == "dicomnode: draining: the node is shutting down\n"


def test_the_address_is_found_in_the_settings_and_nobody_there_is_a_failure(
    tmp_path: Path,
) -> None:
    config = peers.write_config(tmp_path, http={"host": "0.0.0.0", "port": peers.free_port()})
    ended = run("healthcheck", "--config", config)
    assert ended.code == 1
    assert ended.err.startswith("dicomnode: no node answers at http://127.0.0.1:")
