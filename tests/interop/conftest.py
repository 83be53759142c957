"""Nodes that keep the newest of each UID: pydicom's test data uses several twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import peers
from tests.interop.holdings import Holdings
from tests.interop.holdings import holdings as run_holdings


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.NodeProcess]:
    """Return a node in a process of its own, shared by the tests of a module."""
    directory = tmp_path_factory.mktemp("archive")
    with peers.node_process(directory, storage={"on_conflict": "replace"}) as process:
        yield process


@pytest.fixture(scope="session")
def holdings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holdings]:
    """Return a node that holds all samples, shared by all tests that change nothing in it.

    Its destinations are addresses that tests may listen on; nobody does by default.
    """
    destinations = {
        title: ("127.0.0.1", peers.free_port())
        for title in ("ANY_SYNTAX", "UNCOMPRESSED", "ORTHANC", "SCU", "NOBODY")
    }
    with run_holdings(tmp_path_factory.mktemp("holdings"), destinations) as running:
        yield running
