"""How fast the commands send, beside DCMTK's in the same run.

``python -m bench.send [PART…]`` measures the parts named, or all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from bench.command import Part, main
from bench.data import STUDY, directory_of
from bench.report import Figure, Section
from bench.servers import dicomnode, storescp
from tests import peers

_TITLE = "STORESCP"


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
    return [peers.find_program(program) or program, *arguments]


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


PARTS: dict[str, Part] = {"send": send, "echo": echo}

SECTION = Section(
    "send",
    "Sending",
    "The time of a whole command, the start of its program included. One study of 516 CT images of"
    " 512 KB, Explicit VR Little Endian, read from memory.",
)


if __name__ == "__main__":
    sys.exit(main(SECTION, PARTS, runs=7))
