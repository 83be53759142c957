"""Where the time goes while the node stores: what its threads were at, seen by py-spy.

``python -m bench.breakdown`` needs the extra ``bench``, and root: the node lets nobody else look
into its memory.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import dicomnode
from bench.data import LARGE, SMALL
from bench.limits import Object, objects, store
from bench.report import filled, write
from bench.servers import dicomnode as started_node
from tests import peers

_SAMPLES_A_SECOND = 200
_RUNS = 3
_FRAME = re.compile(r"(.+) \((.+?)(?::(\d+))?\)")

# Function, and text of the line that it is in; the first that fits, from the innermost frame.
RULES = (
    ("flush of the file", r"IncomingFile\.flush", "fdatasync"),
    ("SHA-256", r"IncomingFile\.append", r"update"),
    ("writing the file", r"write_all|begin_writing_back|FileStore\.begin", ""),
    ("name and flush of the directory", r"IncomingFile\.place|fsync_directory", ""),
    ("name and flush of the directory", r"FileStore\.(make|flush)_directory", ""),
    ("header", r"read_front|IncomingObject\._check|read_header", ""),
    ("index: commit and flush", r"Writer\._transaction", r"commit\(\)"),
    ("index: rows", r"Writer\._transaction|Writer\._commit", ""),
    ("settling, beside", r"Settler\._settle|Settler\._run", ""),
    ("other work of threads", r"(Group)?Workers?\._work", ""),
)
_WAITING = re.compile(r"Event\.wait|Condition\.wait|Queue\.get|_Jobs\.take|_worker")
_LOOP = "event loop (processor time)"
STAGES = (_LOOP, *dict.fromkeys(name for name, _, _ in RULES))


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Milliseconds of one object: in all, of the processor, and of each stage."""

    what: str
    milliseconds: float
    seen_milliseconds: float
    user_milliseconds: float
    system_milliseconds: float
    stages: dict[str, float]


def stage_of(stack: Sequence[str]) -> str | None:
    """Return what a thread was at, its frames from the outermost; None: it waited."""
    frames = [found for frame in stack if (found := _FRAME.fullmatch(frame))]
    if not frames or _WAITING.fullmatch(frames[-1][1]):
        return None
    for frame in reversed(frames):
        line = _line(frame[2], int(frame[3] or 0))
        for name, function, words in RULES:
            if re.fullmatch(function, frame[1]) and re.search(words, line):
                return name
    return None


def _line(file: str, number: int) -> str:
    return linecache.getline(str(Path(dicomnode.__file__).parents[1] / file), number)


def _processor_seconds(pid: int, task: str = "") -> tuple[float, float]:
    """Return user and system time of a process, or of its first thread with ``task``."""
    path = Path(f"/proc/{pid}/{task}stat")
    fields = path.read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks, int(fields[12]) / ticks


@contextlib.contextmanager
def _watched(pid: int, output: Path) -> Iterator[None]:
    """Let py-spy look at a process meanwhile; the stacks are in ``output`` afterwards."""
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        raise peers.PeerFailed("there is no py-spy: pip install 'dicomnode[bench]'")
    options = ("--idle", "--threads", "--nonblocking", "--rate", str(_SAMPLES_A_SECOND))
    watching = subprocess.Popen(
        [program, "record", "--pid", str(pid), *options, "--format", "raw", "--output", output],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert watching.stdout is not None
    if "Sampling" not in (said := watching.stdout.readline()):
        raise peers.PeerFailed(f"py-spy: {said}{watching.communicate()[0]}")
    try:
        yield
    finally:
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=60)


def _read(raw: str) -> tuple[Counter[str], int]:
    """Return how often each stage was seen, and how often py-spy looked."""
    seen: Counter[str] = Counter()
    looked: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, number = line.rpartition(" ")
        thread, *frames = stack.split(";")
        looked[thread] += int(number)
        if stage := stage_of(frames):
            seen[stage] += int(number)
    return seen, max(looked.values())


def measure(what: str, every: Sequence[Object], runs: int) -> Breakdown:
    """Store objects over one association, each run into a new node; every other run is watched."""
    plain = watched = user = system = loop = 0.0
    seconds: Counter[str] = Counter()
    for _ in range(runs):
        with started_node("full")() as server:
            node = server.node
            assert node is not None
            pid = node.process.pid
            before, main = _processor_seconds(pid), _processor_seconds(pid, f"task/{pid}/")
            plain += store(server, [every])
            after, ended = _processor_seconds(pid), _processor_seconds(pid, f"task/{pid}/")
        user, system = user + after[0] - before[0], system + after[1] - before[1]
        loop += sum(ended) - sum(main)
        with started_node("full")() as server, tempfile.TemporaryDirectory() as scratch:
            assert server.node is not None
            output = Path(scratch) / "stacks"
            start = time.perf_counter()
            with _watched(server.node.process.pid, output):
                watched += store(server, [every])
                lasted = time.perf_counter() - start
            seen, looked = _read(output.read_text())
            for stage, number in seen.items():
                seconds[stage] += number * lasted / looked
    scale = 1000 / runs / len(every)
    stages = {_LOOP: loop * scale}
    stages |= {name: seconds[name] * scale for name in STAGES if name in seconds}
    return Breakdown(what, plain * scale, watched * scale, user * scale, system * scale, stages)


def text(measured: Sequence[Breakdown], runs: int) -> str:
    """Return the section of the page."""
    method = f"""One association stores, each object after the answer to the one before, with full
    durability, into an empty node ({runs} of them); times are those of one object. What threads
    were at py-spy saw {_SAMPLES_A_SECOND} times a second in runs of its own, without stopping them;
    the stages of an object overlap, and what remains is the sender, the wire, and waiting for a
    turn."""
    head = "| one object | " + " | ".join(each.what for each in measured) + " |"
    rows = {
        "from request to answer": [each.milliseconds for each in measured],
        "the same while py-spy looked": [each.seen_milliseconds for each in measured],
        "processor, user": [each.user_milliseconds for each in measured],
        "processor, system": [each.system_milliseconds for each in measured],
    }
    for stage in STAGES:
        if any(stage in each.stages for each in measured):
            rows[stage] = [each.stages.get(stage, 0.0) for each in measured]
    lines = [
        f"| {name} | " + " | ".join(f"{value:.2f} ms" for value in values) + " |"
        for name, values in rows.items()
    ]
    table = "\n".join([head, "|---" * (len(measured) + 1) + "|", *lines])
    picture = "![Where the time of one object goes](performance/breakdown.svg)"
    parts = ["## Where the time goes", filled(" ".join(method.split())), picture, table]
    return "\n\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Measure and print; with ``--write`` write the page."""
    runs = 1 if "--quick" in arguments else _RUNS
    measured = []
    for corpus, what in ((LARGE, "512 KB"), (SMALL, "12 KB")):
        every = [each for part in objects(corpus) for each in part]
        try:
            measured.append(measure(what, every, runs))
        except peers.PeerFailed as failed:
            print(failed, file=sys.stderr)
            return 1
    words = text(measured, runs)
    print(words)
    if "--write" in arguments:
        from bench.plots import save_breakdown  # needs the extra "bench"

        save_breakdown(measured)
        write("breakdown", words)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
