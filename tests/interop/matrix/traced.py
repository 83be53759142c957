"""Records an association over TLS with ``dicomnode trace``, as only the node can read it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.interop.matrix.traffic import dissect
from tests.interop.matrix.world import World
from tests.interop.test_trace import traced


@contextlib.contextmanager
def tls_traced(world: World, calling: str) -> Iterator[None]:
    """Record the associations of ``calling`` while the block runs, and check the capture."""
    capture = world.folder() / f"{calling} TLS.pcapng"
    with traced(world.node, capture, "--ae", calling):
        yield
    found = dissect(capture)
    assert found.pdus >= 4, f"{found.pdus} PDUs in the trace"
    assert not found.faults, found.faults
    world.traffic.extra.add(found)
