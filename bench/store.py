"""How fast the node stores, beside storescp and Orthanc in the same run.

``python -m bench.store [PART…]`` measures the parts named, or all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.command import Part, main
from bench.data import GIANT, LARGE, SMALL, Corpus, directory_of, part_directories
from bench.measure import (
    MEBIBYTE,
    alternate,
    associate_and_release,
    echo_99th_percentile,
    peak_resident_bytes,
    seconds_to_send,
)
from bench.report import Figure, Section
from bench.servers import Server, StartServer, dicomnode, orthanc, storescp


def _ratio(
    what: str,
    corpus: Corpus,
    starts: tuple[StartServer, StartServer],
    limit: float,
    runs: int,
    *,
    directories: Sequence[Path] | None = None,
) -> Figure:
    chosen = directories or [directory_of(corpus)]
    node, peer = alternate(
        starts, lambda server: seconds_to_send(server, chosen, corpus.objects), runs
    )
    return Figure(what, f"{node:.2f} s", f"{peer:.2f} s", node / peer, limit)


def large_full(runs: int) -> Figure:
    """516 x 512 KB, one association, full durability, against Orthanc."""
    what = "516 x 512 KB, one association, full; Orthanc"
    return _ratio(what, LARGE, (dicomnode("full"), orthanc), 0.6, runs)


def large_relaxed(runs: int) -> Figure:
    """516 x 512 KB, one association, relaxed, against storescp --bit-preserving."""
    what = "516 x 512 KB, one association, relaxed; storescp"
    return _ratio(what, LARGE, (dicomnode("relaxed"), storescp), 1.3, runs)


def small_full(runs: int) -> Figure:
    """1,000 x 12 KB, one association, full durability, against Orthanc."""
    what = "1000 x 12 KB, one association, full; Orthanc"
    return _ratio(what, SMALL, (dicomnode("full"), orthanc), 0.6, runs)


def small_eight(runs: int) -> Figure:
    """1,000 x 12 KB over eight associations at once, full durability, against Orthanc."""
    directories = part_directories(SMALL)
    node, peer = alternate(
        (dicomnode("full"), orthanc),
        lambda server: seconds_to_send(server, directories, SMALL.objects),
        runs,
    )
    rates = [f"{SMALL.objects / seconds:.0f}/s" for seconds in (node, peer)]
    what = "1000 x 12 KB, eight associations, full; Orthanc"
    return Figure(what, rates[0], rates[1], peer / node, 2.0, at_least=True)


def untuned(runs: int) -> Figure:
    """1,000 x 12 KB from a storescu without TCP_NODELAY, against one with it."""
    where = [directory_of(SMALL)]

    def tuned(server: Server) -> float:
        return seconds_to_send(server, where, SMALL.objects)

    def plain(server: Server) -> float:
        return seconds_to_send(server, where, SMALL.objects, nodelay=False)

    slow, fast = [], []
    for _ in range(runs):
        slow += alternate([dicomnode("full")], plain, 1)
        fast += alternate([dicomnode("full")], tuned, 1)
    without, with_it = sorted(slow)[len(slow) // 2], sorted(fast)[len(fast) // 2]
    what = "1000 x 12 KB, storescu without TCP_NODELAY; storescu with it"
    return Figure(what, f"{without:.2f} s", f"{with_it:.2f} s", without / with_it, 1.5)


def echo(runs: int) -> Figure:
    """C-ECHO beside four associations that store 512 KB images."""
    worst, count = [], 0
    for _ in range(runs):
        with dicomnode("full")() as server:
            slow, taken = echo_99th_percentile(server, part_directories(LARGE), LARGE.objects)
            worst.append(slow)
            count += taken
    milliseconds = sorted(worst)[len(worst) // 2] * 1000
    what = "C-ECHO while four associations store, 99th percentile"
    return Figure(what, f"{milliseconds:.1f} ms of {count} echoes", "", milliseconds, 25.0, " ms")


def memory_idle(_runs: int) -> Figure:
    """Resident memory of a node that has just started."""
    with dicomnode("full")() as server:
        assert server.node is not None
        idle = server.node.resident_bytes() / MEBIBYTE
    return Figure("memory, idle", f"{idle:.0f} MiB", "", idle, 120.0, " MiB")


def memory_gigabyte(_runs: int) -> Figure:
    """Resident memory while one object of 1 GB arrives."""
    where = [directory_of(GIANT)]
    with dicomnode("full")() as server:
        node = server.node
        assert node is not None
        before = node.resident_bytes()
        peak = peak_resident_bytes(node, lambda: seconds_to_send(server, where, 1))
    grown = (peak - before) / MEBIBYTE
    shown = f"{before / MEBIBYTE:.0f} → {peak / MEBIBYTE:.0f} MiB"
    return Figure("memory, more while 1 GB arrives", shown, "", grown, 64.0, " MiB")


def memory_associations(runs: int) -> Figure:
    """Resident memory before and after many associations were opened and closed."""
    count = 10_000 if runs > 1 else 1_000
    with dicomnode("full")() as server:
        node = server.node
        assert node is not None
        # Pools and caches fill first; what comes after them would be a leak.
        associate_and_release(server.address, 500)
        before = node.resident_bytes()
        associate_and_release(server.address, count)
        after = node.resident_bytes()
    shown = f"{before / MEBIBYTE:.1f} → {after / MEBIBYTE:.1f} MiB"
    grown = (after - before) / MEBIBYTE
    return Figure(f"memory, more after {count:,} associations", shown, "", grown, 2.0, " MiB")


def million(runs: int) -> Figure:
    """1,000 x 12 KB into a node that holds a million studies, against ten thousand objects."""
    many, few = alternate(
        (dicomnode("full", studies=1_000_000), dicomnode("full", studies=5_000)),
        lambda server: seconds_to_send(server, [directory_of(SMALL)], SMALL.objects),
        runs,
    )
    rates = [f"{SMALL.objects / seconds:.0f}/s" for seconds in (many, few)]
    what = "1000 x 12 KB, a million objects held; ten thousand held"
    return Figure(what, rates[0], rates[1], few / many, 0.8, at_least=True)


PARTS: dict[str, Part] = {
    "large-full": large_full,
    "large-relaxed": large_relaxed,
    "small-full": small_full,
    "small-eight": small_eight,
    "million": million,
    "untuned": untuned,
    "echo": echo,
    "memory-idle": memory_idle,
    "memory-gigabyte": memory_gigabyte,
    "memory-associations": memory_associations,
}


SECTION = Section(
    "store",
    "Storing",
    "A time is that of DCMTK's `storescu`, its own start included; servers started empty each"
    " time, except where the line says what is held.",
    """- 516 x 512 KB, 1000 x 12 KB, 1 GB: CT images of noise, Explicit VR Little Endian.
- full: answered after file, directory entry and index row are flushed; relaxed: nothing flushed.
- Digest and index are on in every run of dicomnode.
- memory is resident memory of the whole process.""",
)


if __name__ == "__main__":
    sys.exit(main(SECTION, PARTS, runs=5))
