"""A node that keeps the newest of each UID: pydicom's test data uses several twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import peers


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.NodeProcess]:
    """Return a node in a process of its own, shared by the tests of a module."""
    directory = tmp_path_factory.mktemp("archive")
    with peers.node_process(directory, storage={"on_conflict": "replace"}) as process:
        yield process
