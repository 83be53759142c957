"""The node and its peers, each started on an empty directory."""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.hospital import copy_index, orthanc_directory
from tests import peers

# A million rows are compared with what is on disk.
_RECOVERY_SECONDS = 300.0


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


@contextlib.contextmanager
def node_with_index(studies: int, **sections: Mapping[str, object]) -> Iterator[peers.NodeProcess]:
    """Start a node on an index of that many studies, whose files are not there.

    At its start the node says that it misses them; queries and storing do not need them.
    """
    directory = _empty_directory()
    copy_index(studies, directory / "index.sqlite")
    index = {"url": f"sqlite:///{directory / 'index.sqlite'}"}
    with peers.node_process(
        directory / "node", index=index, start_seconds=_RECOVERY_SECONDS, **sections
    ) as node:
        yield node
    # A million studies take a gigabyte.
    shutil.rmtree(directory)


@contextlib.contextmanager
def orthanc_with(studies: int) -> Iterator[peers.Peer]:
    """Start the Orthanc that holds that many studies; whoever asks must not change it."""
    with peers.orthanc(orthanc_directory(studies)) as peer:
        yield peer


def dicomnode(
    durability: str,
    *,
    studies: int = 0,
    entities: Sequence[Mapping[str, object]] = (),
    forward: Sequence[Mapping[str, object]] = (),
) -> StartServer:
    """Return a way to start the node with ``durability`` "full" or "relaxed".

    With ``studies`` its index holds that many already, which ``objects`` does not count.
    ``entities`` and ``forward`` are tables of its configuration.
    """

    @contextlib.contextmanager
    def start() -> Iterator[Server]:
        storage = {"durability": durability}
        running = (
            node_with_index(studies, storage=storage)
            if studies
            else peers.node_process(
                _empty_directory(), entities=entities, storage=storage, forward=forward
            )
        )
        with running as node:

            def held() -> int:
                return int(peers.metric(node.http_address, "dicomnode_objects"))

            before = held()
            yield Server(node.dicom_address, lambda: held() - before, node)

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
