"""The node and its peers, each started on an empty directory."""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests import peers


@dataclass(frozen=True, slots=True)
class Server:
    """A storage SCP being measured; ``objects`` says how many it holds."""

    address: peers.Address
    objects: Callable[[], int]
    node: peers.NodeProcess | None = None


StartServer = Callable[[], AbstractContextManager[Server]]


def _empty_directory() -> Path:
    """Make a directory that is removed when the process ends, and not before.

    A filesystem with thousands of files just deleted is slower at making new ones: whoever ran
    next would be measured with it.
    """
    directory = Path(tempfile.mkdtemp(prefix="dicomnode-bench-run-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def dicomnode(durability: str) -> StartServer:
    """Return a way to start the node with ``durability`` "full" or "relaxed"."""

    @contextlib.contextmanager
    def start() -> Iterator[Server]:
        storage = {"durability": durability}
        with peers.node_process(_empty_directory(), storage=storage) as node:

            def objects() -> int:
                return int(peers.metric(node.http_address, "dicomnode_objects"))

            yield Server(node.dicom_address, objects, node)

    return start


@contextlib.contextmanager
def storescp() -> Iterator[Server]:
    """Start DCMTK's storescp, told to keep what it receives as it is."""
    with peers.storescp(_empty_directory() / "scp") as peer:
        yield Server(peer.dicom_address, lambda: sum(1 for _ in peer.directory.iterdir()))


@contextlib.contextmanager
def orthanc() -> Iterator[Server]:
    """Start Orthanc, without plugins, on SQLite, flushing what it stores (its default)."""
    with peers.orthanc(_empty_directory()) as peer:
        web = peer.http_address
        assert web is not None

        def objects() -> int:
            return int(json.loads(peers.http_get(web, "/statistics")[1])["CountInstances"])

        yield Server(peer.dicom_address, objects)
