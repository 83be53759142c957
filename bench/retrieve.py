"""How fast the node hands out, beside dcmqrscp and Orthanc in the same run.

``python -m bench.retrieve [PART…]`` measures the parts named, or all of them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.command import Part, main
from bench.data import STUDY, directory_of, study_uid
from bench.report import Figure, Section
from tests import peers
from tests.query_wire import QUERY_RETRIEVE_LEVEL, STUDY_INSTANCE_UID, querying

_DESTINATION = "STORESCP"


@dataclass(frozen=True, slots=True)
class Archive:
    """A query/retrieve SCP that holds the study."""

    ae_title: str
    address: peers.Address


Retrieve = Callable[[Archive], float]


@contextlib.contextmanager
def _archives(*, nodelay: bool = True) -> Iterator[list[Archive]]:
    """Start the node, dcmqrscp and Orthanc, holding one study, and a storescp for C-MOVE."""
    files = sorted(directory_of(STUDY).rglob("*.dcm"))
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dicomnode-bench-")))
        scp = stack.enter_context(
            peers.storescp(scratch / "scp", "--ignore", bit_preserving=False, nodelay=nodelay)
        )
        host, port = scp.dicom_address
        entity = {"title": _DESTINATION, "host": host, "port": port}
        node = stack.enter_context(
            peers.node_process(
                scratch / "node", entities=[entity], storage={"durability": "relaxed"}
            )
        )
        known = {_DESTINATION: scp.dicom_address}
        dcmqrscp = stack.enter_context(
            peers.dcmqrscp(scratch / "dcmqrscp", files, destinations=known)
        )
        modalities = {"scp": [_DESTINATION, host, port]}
        orthanc = stack.enter_context(
            peers.orthanc(scratch / "orthanc", DicomModalities=modalities)
        )
        archives = [
            Archive("DICOMNODE", node.dicom_address),
            Archive("DCMQRSCP", dcmqrscp.dicom_address),
            Archive("ORTHANC", orthanc.dicom_address),
        ]
        for archive in (archives[0], archives[2]):
            _run(
                "storescu", "+sd", "+r", "-aec", archive.ae_title, *archive.address, files[0].parent
            )
        os.sync()
        yield archives


def _run(*command: str | int | Path, nodelay: bool = True) -> str:
    done = peers.run_tool(*command, timeout=300, nodelay=nodelay)
    if done.returncode:
        raise peers.PeerFailed(f"{command[0]}: {done.output[-2000:]}")
    return done.output


def _tool(program: str, *options: str, nodelay: bool = True) -> Retrieve:
    """Return a way to have ``program`` (getscu, movescu) retrieve the study; it takes seconds."""
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_uid(STUDY)}")

    def retrieve(archive: Archive) -> float:
        start = time.perf_counter()
        output = _run(
            *(program, "-v", "-S", *options, *keys, "-aec", archive.ae_title, *archive.address),
            nodelay=nodelay,
        )
        seconds = time.perf_counter() - start
        if "(Success)" not in output:
            raise peers.PeerFailed(f"{program} from {archive.ae_title}: {output[-2000:]}")
        return seconds

    return retrieve


getscu = _tool("getscu", "--ignore")
movescu = _tool("movescu", "-aem", _DESTINATION)


def _plain(archive: Archive) -> float:
    keys = {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: study_uid(STUDY)}
    with querying(archive.address, "BENCH", archive.ae_title, timeout=60) as wire:
        start = time.perf_counter()
        answers = wire.get(keys)
        seconds = time.perf_counter() - start
        wire.release()
    if answers.status != 0 or len(answers.stored) != STUDY.objects:
        raise peers.PeerFailed(f"{archive.ae_title}: {answers.status:04X}, {answers.counters}")
    return seconds


def _compare(what: str, retrieve: Retrieve, archives: list[Archive], runs: int) -> list[Figure]:
    """Let the archives take turns; compare the node with dcmqrscp and with Orthanc."""
    taken: list[list[float]] = [[] for _ in archives]
    for turn in range(runs + 1):
        for archive, seconds in zip(archives, taken, strict=True):
            took = retrieve(archive)
            if turn:  # the first brings the files into memory
                seconds.append(took)
    node, dcmqrscp, orthanc = map(median, taken)
    return [
        Figure(f"{what}; dcmqrscp", _shown(node), _shown(dcmqrscp), node / dcmqrscp, 1.2),
        Figure(f"{what}; Orthanc", _shown(node), _shown(orthanc), node / orthanc, 1.0),
    ]


def _shown(seconds: float) -> str:
    return f"{seconds:.3f} s"


def get(runs: int) -> list[Figure]:
    """C-GET of 516 x 512 KB, against dcmqrscp and Orthanc."""
    with _archives() as archives:
        return [
            *_compare("516 x 512 KB, C-GET, getscu", getscu, archives, runs),
            *_compare("516 x 512 KB, C-GET, plain client", _plain, archives, runs),
        ]


def move(runs: int) -> list[Figure]:
    """C-MOVE of 516 x 512 KB to a storescp, against dcmqrscp and Orthanc."""
    with _archives() as archives:
        return _compare("516 x 512 KB, C-MOVE to storescp, movescu", movescu, archives, runs)


def untuned(runs: int) -> list[Figure]:
    """C-GET and C-MOVE with DCMTK's tools leaving Nagle's algorithm on."""
    with _archives() as archives:
        fast = [median([run(archives[0]) for _ in range(runs)]) for run in (getscu, movescu)]
    with _archives(nodelay=False) as archives:
        slow_get = _tool("getscu", "--ignore", nodelay=False)
        slow_move = _tool("movescu", "-aem", _DESTINATION, nodelay=False)
        slow = [median([run(archives[0]) for _ in range(runs)]) for run in (slow_get, slow_move)]
    whats = (
        "516 x 512 KB, C-GET, getscu without TCP_NODELAY; with it",
        "516 x 512 KB, C-MOVE, storescp without TCP_NODELAY; with it",
    )
    return [
        Figure(what, _shown(without), _shown(with_it), without / with_it, 1.5)
        for what, without, with_it in zip(whats, slow, fast, strict=True)
    ]


PARTS: dict[str, Part] = {"get": get, "move": move, "untuned": untuned}

SECTION = Section(
    "retrieve",
    "Retrieving",
    "One study of 516 CT images of 512 KB, Explicit VR Little Endian, read from memory; whoever"
    " received them kept nothing (`--ignore`). A time is that of the tool, its own start included,"
    " or of the plain client's operation.",
)


if __name__ == "__main__":
    sys.exit(main(SECTION, PARTS, runs=7))
