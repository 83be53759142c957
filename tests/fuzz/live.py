"""Damaged associations, thousands of them, to one node that serves a well-behaved peer too."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.arena import Arena
from tests.fuzz.assailant import Assailant
from tests.fuzz.mutations import course
from tests.fuzz.neighbour import Neighbour
from tests.peers import eventually, metric

#: The node is looked at after so many.
_BATCH = 200
#: What a fault of our own looks like in the log; no peer may cause one.
_FAULT = re.compile(r"Traceback|internal error|fault in |never retrieved|never awaited")
_STALL_SECONDS = "0.1"
#: Database and log of each of the index's readers, and of its writer.
_MOST_POOLED = 2 * 16 + 3


@dataclass(frozen=True, slots=True)
class Held:
    """What the node's process holds when nobody is connected."""

    resident_bytes: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a run."""

    associations: int
    seconds: float
    cpu_seconds: float
    before: Held
    after: Held
    operations: int
    longest_seconds: float
    stalls: int

    def __str__(self) -> str:
        grown = (self.after.resident_bytes - self.before.resident_bytes) / (1 << 20)
        return (
            f"{self.associations} associations in {self.seconds:.0f} s"
            f" ({self.cpu_seconds:.0f} s of the node's CPU):"
            f" memory {self.after.resident_bytes >> 20} MiB ({grown:+.1f} MiB),"
            f" {self.after.descriptors} descriptors ({self.before.descriptors} before),"
            f" {self.operations} operations of the neighbour, the longest"
            f" {self.longest_seconds * 1000:.0f} ms,"
            f" {self.stalls} stalls of the event loop above {_STALL_SECONDS} s"
        )


class Campaign:
    """Courses from one number on, to one node."""

    def __init__(self, arena: Arena, first_seed: int) -> None:
        self._node = arena.node
        self._assailant = Assailant(arena.node.dicom_address, arena.node.tls_address)
        self._next = first_seed
        self._lines_seen = 0

    def run(self, warm_up: int, number: int) -> Figures:
        """Take courses; AssertionError says which, when the node did not bear them.

        The first ``warm_up`` are those after which its memory and files are compared.
        """
        with Neighbour(self._node.dicom_address) as neighbour:
            self._assail(neighbour, warm_up)
        before, stalls = self._held(), self._stalls()
        began, cpu_began = time.monotonic(), self._cpu_seconds()
        with Neighbour(self._node.dicom_address) as neighbour:
            self._assail(neighbour, number)
        seconds, cpu_seconds = time.monotonic() - began, self._cpu_seconds() - cpu_began
        after = self._held(before.descriptors)
        assert not (faults := self._faults()), "\n".join(faults)
        return Figures(
            associations=warm_up + number,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            before=before,
            after=after,
            operations=neighbour.operations,
            longest_seconds=neighbour.longest_seconds,
            stalls=self._stalls() - stalls,
        )

    def _assail(self, neighbour: Neighbour, number: int) -> None:
        for seeds in self._batches(number):
            asyncio.run(self._assailant.assail(map(course, seeds)))
            where = f"python -m tests.fuzz.replay {seeds.start} {len(seeds)}"
            assert self._node.process.poll() is None, f"the node has ended: {where}"
            assert not (faults := self._faults()), f"{where}\n" + "\n".join(faults)
            neighbour.check(where)

    def _batches(self, number: int) -> Iterator[range]:
        end = self._next + number
        while self._next < end:
            seeds = range(self._next, min(self._next + _BATCH, end))
            self._next = seeds.stop
            yield seeds

    def _faults(self) -> list[str]:
        """Return what the node wrote about a fault of its own since it was last looked at."""
        lines = self._node.lines
        new, self._lines_seen = lines[self._lines_seen :], len(lines)
        at = next((at for at, line in enumerate(new) if _FAULT.search(line)), None)
        return [] if at is None else new[max(0, at - 3) : at + 40]

    def _held(self, descriptors: int = 1 << 20) -> Held:
        """Return what is held once no association is open, and no more files than before."""

        def active() -> float:
            return metric(self._node.http_address, "dicomnode_associations_active")

        eventually(lambda: active() == 0, "no association open")
        more = f"{descriptors} descriptors or fewer, of {self._descriptors()}"
        eventually(lambda: len(self._descriptors()) <= descriptors, more)
        return Held(self._node.resident_bytes(), len(self._descriptors()))

    def _descriptors(self) -> list[str]:
        """Return what the process has open; of the index, whose pool grows to a number, nothing."""
        opened, pooled = [], 0
        for path in Path(f"/proc/{self._node.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                name = str(path.readlink())
                if "index.sqlite" in name:
                    pooled += 1
                else:
                    opened.append(name)
        assert pooled <= _MOST_POOLED, f"{pooled} files of the index are open"
        return sorted(opened)

    def _cpu_seconds(self) -> float:
        return metric(self._node.http_address, "process_cpu_seconds_total")

    def _stalls(self) -> int:
        http, name = self._node.http_address, "dicomnode_event_loop_lag_seconds"
        short = metric(http, f"{name}_bucket", le=_STALL_SECONDS)
        return int(metric(http, f"{name}_count") - short)
