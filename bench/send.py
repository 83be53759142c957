"""How fast the commands and forwarding send, beside DCMTK's tools in the same run.

``python -m bench.send [PART…]`` measures the parts named, or all of them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.command import Part, main
from bench.data import STUDY, directory_of
from bench.measure import alternate, seconds_to_send
from bench.report import Figure, Section
from bench.servers import Server, dicomnode, storescp
from tests import peers
from tests.programs import find_program

_TITLE = "STORESCP"
_FORWARDING_SECONDS = 60.0


def _timed(command: Sequence[str | Path]) -> float:
    """Run a tool to its end; return the seconds. Raises PeerFailed."""
    start = time.perf_counter()
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=peers.peer_environment(),
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise peers.PeerFailed(f"{command[0]}: {done.stdout.decode()[-2000:]}")
    return seconds


def _ours(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "dicomnode", *arguments]


def _dcmtk(program: str, *arguments: str | Path) -> list[str | Path]:
    return [find_program(program) or program, *arguments]


def _written(address: peers.Address, title: str = _TITLE) -> str:
    return f"{title}@{address[0]}:{address[1]}"


def send(runs: int) -> Figure:
    """516 x 512 KB to storescp, `dicomnode send` against storescu."""
    folder = directory_of(STUDY)
    commands: list[Callable[[peers.Address], list[str | Path]]] = [
        lambda address: _ours("send", _written(address), folder),
        lambda address: _dcmtk("storescu", "+sd", "+r", "-aec", _TITLE, *map(str, address), folder),
    ]
    taken: list[list[float]] = [[], []]
    for turn in range(runs + 1):
        for command, seconds in zip(commands, taken, strict=True):
            with storescp() as server:
                os.sync()
                took = _timed(command(server.address))
                if server.objects() != STUDY.objects:
                    raise peers.PeerFailed(f"{server.objects()} objects arrived")
            if turn:  # the first brings the files into memory
                seconds.append(took)
    ours, theirs = map(median, taken)
    what = "516 x 512 KB to storescp --bit-preserving; storescu"
    return Figure(what, f"{ours:.3f} s", f"{theirs:.3f} s", ours / theirs, 1.3)


def echo(runs: int) -> Figure:
    """`dicomnode echo` from the shell to its end, against echoscu."""
    with dicomnode("relaxed")() as server:
        address = server.address
        ours = _ours("echo", _written(address, "DICOMNODE"))
        theirs = _dcmtk("echoscu", "-aec", "DICOMNODE", *map(str, address))
        node, peer = (
            median(_timed(command) for _ in range(runs + 2)) for command in (ours, theirs)
        )
    return Figure(
        "C-ECHO from the shell; echoscu", f"{node:.3f} s", f"{peer:.3f} s", node, 0.6, " s"
    )


@contextlib.contextmanager
def _forwarding() -> Iterator[tuple[Server, Server]]:
    """Start a node that forwards all it receives, and the storescp that it goes to."""
    with storescp() as destination:
        host, port = destination.address
        archive = [{"title": _TITLE, "host": host, "port": port}]
        rules = [{"name": "all", "to": [_TITLE]}]
        with dicomnode("full", entities=archive, forward=rules)() as node:
            yield node, destination


def _received_and_forwarded() -> tuple[float, float]:
    """Return the seconds until a study has been received, and until it has been forwarded."""
    with _forwarding() as (node, destination):
        received = seconds_to_send(node, [directory_of(STUDY)], STUDY.objects)
        start = time.perf_counter() - received
        while destination.objects() < STUDY.objects:
            if time.perf_counter() - start > _FORWARDING_SECONDS:
                raise peers.PeerFailed(f"{destination.objects()} objects were forwarded")
            time.sleep(0.01)
        return received, time.perf_counter() - start


def _forward(runs: int) -> tuple[float, float, float]:
    """Return the median seconds of receiving alone, of receiving and of forwarding beside it."""
    alone, beside, through = [], [], []
    for _ in range(runs):
        alone += alternate(
            [dicomnode("full")],
            lambda server: seconds_to_send(server, [directory_of(STUDY)], STUDY.objects),
            1,
        )
        received, forwarded = _received_and_forwarded()
        beside.append(received)
        through.append(forwarded)
    return median(alone), median(beside), median(through)


def forward(runs: int) -> Figure:
    """516 x 512 KB received while they go on to storescp, against receiving alone."""
    alone, beside, through = _forward(runs)
    rates = [f"{STUDY.objects / seconds:.0f}/s" for seconds in (beside, alone)]
    what = f"516 x 512 KB received while forwarded (all there after {through:.2f} s); received only"
    return Figure(what, rates[0], rates[1], alone / beside, 0.7, at_least=True)


PARTS: dict[str, Part] = {"send": send, "echo": echo, "forward": forward}

SECTION = Section(
    "send",
    "Sending",
    "The time of a whole command, the start of its program included. One study of 516 CT images of"
    " 512 KB, Explicit VR Little Endian, read from memory.",
)


if __name__ == "__main__":
    sys.exit(main(SECTION, PARTS, runs=7))
