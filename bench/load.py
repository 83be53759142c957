"""A hundred associations of mixed work beside five hundred idle ones, for as long as one likes.

``python -m bench.load --hours 1`` is what ``make proof`` runs; ``make test`` has seconds of it.
"""

from __future__ import annotations

import argparse
import sys
from statistics import quantiles

from bench.measure import MEBIBYTE
from bench.report import filled, write
from bench.soak import SERVICES, Load, Shown, soak

MOST_LATE_DESCRIPTORS = 48
"""Connections to the index that are made when they are first needed, and kept."""


def growth_limit_mebibytes(load: Load) -> float:
    """Return by how much memory may differ between the second quarter of a load and the last.

    SQLite's caches, of 16 MiB for the writer and 2 MiB for each of its readers, fill while the
    index is still smaller than they are; that is over in the first quarter of an hour.
    """
    return 16.0 if load.seconds >= 3600 else 32.0


def percentiles(seconds: list[float]) -> tuple[float, float, float]:
    """Return median, 99th percentile and maximum in milliseconds."""
    hundredths = quantiles(seconds, n=100, method="inclusive")
    return 1000 * hundredths[49], 1000 * hundredths[98], 1000 * max(seconds)


def faults(shown: Shown) -> list[str]:
    """Return what is not as it should be; a wrong answer ends the load before that."""
    growth = shown.growth_bytes / MEBIBYTE
    late = shown.after.descriptors - shown.rested.descriptors
    found = {
        f"{shown.acknowledged} objects acknowledged, {shown.held} held": (
            shown.held != shown.acknowledged
        ),
        f"{shown.acknowledged} objects acknowledged, {shown.retrieved} came back": (
            shown.retrieved != shown.acknowledged
        ),
        f"memory grew by {growth:.1f} MiB": growth > growth_limit_mebibytes(shown.load),
        f"{late} more file descriptors than before": late > MOST_LATE_DESCRIPTORS,
        f"the node complained: {shown.complaints[:3]}": bool(shown.complaints),
    }
    return [words for words, wrong in found.items() if wrong]


def text(shown: Shown) -> str:
    """Return the section of the page."""
    load = shown.load
    method = f"""{load.associations} associations store (half of all operations), find, ask for
    their worklist, echo and retrieve studies for {load.seconds:g} s, {load.rate:g} operations a
    second together, beside {load.idle} idle associations. An operation's time runs from when it was
    due to its final response, so that one that had to wait counts in full. Every answer was
    checked, and at the end every object retrieved and compared."""
    rows = ["| operation | number | median | 99th percentile | maximum |", "|---|---|---|---|---|"]
    for service in SERVICES:
        taken = list(shown.latencies[service])
        shares = " | ".join(f"{each:.1f} ms" for each in percentiles(taken))
        rows.append(f"| {service} | {len(taken):,} | {shares} |")
    costs = {
        "objects acknowledged, held, and come back as they were sent": (
            f"{shown.acknowledged:,}, {shown.held:,}, {shown.retrieved:,}"
        ),
        "processor time of the node": f"{100 * shown.cpu_seconds / load.seconds:.0f} % of one core",
        "memory at rest, with the idle associations, under load at most, at rest again": ", ".join(
            f"{each / MEBIBYTE:.0f}"
            for each in (
                shown.rested.resident_bytes,
                shown.with_idle.resident_bytes,
                max(sample.resident_bytes for sample in shown.during),
                shown.after.resident_bytes,
            )
        )
        + " MiB",
        "memory, last quarter of the load more than its second": (
            f"{shown.growth_bytes / MEBIBYTE:+.1f} MiB (at most {growth_limit_mebibytes(load):g})"
        ),
        "an idle association": (
            f"{shown.idle_bytes / 1024:.0f} KiB, {shown.idle_descriptors:.2f} file descriptors"
        ),
        "receive buffers under load, at most, of all associations": (
            f"{max(sample.buffer_bytes for sample in shown.during) / MEBIBYTE:.1f} MiB"
        ),
    }
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in costs.items())]
    notes = """\
- Objects are CT images of 12 KB, every fiftieth of 512 KB; full durability.
- A buffer is taken when bytes come and given back when they have been read: an idle association
  has none.
- What memory grows by at first is SQLite's caches, at most 16 MiB for the writer and 2 MiB for each
  of its readers."""
    picture = "![Latencies, and memory over time](performance/load.svg)"
    parts = ["## Load", filled(" ".join(method.split())), "\n".join(rows), picture]
    return "\n\n".join([*parts, "\n".join(table), notes])


def main() -> int:
    """Load a node, print what it showed, and say with the exit code whether all was well."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.load", description=(__doc__ or "").partition("\n")[0]
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=60.0)
    length.add_argument("--hours", type=float)
    parser.add_argument("--associations", type=int, default=100)
    parser.add_argument("--idle", type=int, default=500)
    parser.add_argument("--rate", type=float, default=150.0, help="operations a second, of all")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    options = parser.parse_args()
    seconds = options.seconds if options.hours is None else 3600 * options.hours
    load = Load(seconds, options.associations, options.idle, options.rate)
    shown = soak(load)
    words = text(shown)
    print(words)
    if options.write:
        from bench.plots import save_load  # needs the extra "bench"

        save_load(shown)
        write("load", words)
    found = faults(shown)
    for each in found:
        print(each, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
