"""How the node stays answering while it commits itself to much at once.

``python -m bench.commitment`` measures; there is no peer to compare with.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from pydicom.uid import CTImageStorage

from bench.command import Part, main
from bench.data import Corpus, directory_of, part_directories, study_uid
from bench.measure import ECHO_CONTEXT
from bench.report import Figure, Section
from tests import peers
from tests.commitment_wire import N_ACTION_RSP, N_EVENT_REPORT_RQ, Referenced, requesting
from tests.wire import Wire

_INSTANCES = 500
_CORPUS = Corpus("committed", 4 * _INSTANCES, 64, 96, 4)
_COMMITMENTS = 1000
_REQUESTERS = 4
_LIMIT_MILLISECONDS = 25.0
_LIMIT_MEBIBYTES = 64.0


@contextlib.contextmanager
def _archive() -> Iterator[peers.NodeProcess]:
    """Start the node with four studies of 500 objects."""
    directory_of(_CORPUS)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dicomnode-bench-")))
        node = stack.enter_context(peers.node_process(scratch / "node"))
        for directory in part_directories(_CORPUS):
            done = peers.run_tool(
                *("storescu", "+sd", "-aec", "DICOMNODE", *node.dicom_address, directory),
                timeout=300,
            )
            if done.returncode:
                raise peers.PeerFailed(done.output[-2000:])
        yield node


def _study(part: int) -> list[Referenced]:
    """Return the references of one study; see ``bench.data``."""
    numbers = range(part, _CORPUS.objects, _CORPUS.parts)
    return [
        (str(CTImageStorage), f"{study_uid(_CORPUS, part)}.1.{number + 1}") for number in numbers
    ]


def _request(node: peers.NodeProcess, requester: int, number: int) -> None:
    """Ask for ``number`` commitments on one association, and take the reports on it."""
    references = _study(requester % _CORPUS.parts)
    answered = reported = 0
    with requesting(node.dicom_address, f"SCU_{requester}") as wire:
        wire.socket.settimeout(600)
        wire.ask(1, f"1.2.826.0.1.3680043.10.1666.9.{requester}.0", references)
        while answered < number or reported < number:
            message = wire.receive()
            if message.field == N_ACTION_RSP:
                if message.status:
                    raise peers.PeerFailed(f"N-ACTION: {message.status:04X}")
                answered += 1
                if answered < number:
                    uid = f"1.2.826.0.1.3680043.10.1666.9.{requester}.{answered}"
                    wire.ask(answered + 1, uid, references)
            elif message.field == N_EVENT_REPORT_RQ:
                if message.integer(0x1002) != 1:
                    raise peers.PeerFailed("not all instances were committed")
                wire.answer(message)
                reported += 1
        wire.release()


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run showed."""

    echo_seconds: list[float]
    before_bytes: int
    peak_bytes: int
    seconds: float


def _run(commitments: int) -> _Run:
    with (
        _archive() as node,
        ThreadPoolExecutor(_REQUESTERS) as pool,
        Wire(node.dicom_address) as echo,
    ):
        echo.associate(calling="ECHO", contexts=ECHO_CONTEXT)
        before = peak = node.resident_bytes()
        times: list[float] = []
        began = time.perf_counter()
        asking = [
            pool.submit(_request, node, requester, commitments // _REQUESTERS)
            for requester in range(_REQUESTERS)
        ]
        while not all(each.done() for each in asking):
            start = time.perf_counter()
            echo.echo()
            times.append(time.perf_counter() - start)
            peak = max(peak, node.resident_bytes())
            time.sleep(0.005)  # a round trip at a time, not a load of its own
        for each in asking:
            each.result()
        return _Run(times, before, peak, time.perf_counter() - began)


def many(runs: int) -> list[Figure]:
    """A thousand commitments of 500 objects each, with C-ECHO beside them."""
    done = _run(_COMMITMENTS)
    milliseconds = 1000 * quantiles(done.echo_seconds, n=100)[98]
    before, peak = (size / 2**20 for size in (done.before_bytes, done.peak_bytes))
    what = f"{_COMMITMENTS} commitments of {_INSTANCES} objects"
    rate = f"{_COMMITMENTS * _INSTANCES / done.seconds:,.0f} objects/s"
    return [
        Figure(
            f"C-ECHO during {what}, 99th percentile",
            f"{milliseconds:.1f} ms of {len(done.echo_seconds)} echoes, {rate}",
            *("", milliseconds, _LIMIT_MILLISECONDS, " ms"),
        ),
        Figure(
            f"memory, more during {what}",
            f"{before:.0f} → {peak:.0f} MiB",
            *("", peak - before, _LIMIT_MEBIBYTES, " MiB"),
        ),
    ]


PARTS: dict[str, Part] = {"many": many}

SECTION = Section(
    "commitment",
    "Storage commitment",
    """\
Four requesters ask for a thousand commitments of one study each, as fast as the node answers, and
take the reports on their associations. A fifth association echoes all the while.
""",
    """\
- Objects: CT images of noise, 12 KB, Explicit VR Little Endian; each file is read and its digest
  taken again for each commitment.
""",
)

if __name__ == "__main__":
    sys.exit(main(SECTION, PARTS, runs=1))
