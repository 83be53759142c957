"""How queries, storing and memory change with what the node holds.

``python -m bench.growth`` makes an index of each size first, which takes minutes for the largest
and is kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.data import SMALL
from bench.hospital import study
from bench.limits import objects, store
from bench.measure import MEBIBYTE
from bench.report import filled, write
from bench.servers import Server, node_with_index
from tests import peers
from tests.query_wire import PATIENT_ID, QUERY_RETRIEVE_LEVEL, STUDY_INSTANCE_UID, querying

_SIZES = (10_000, 100_000, 1_000_000)
_QUICK_SIZES = (1_000, 5_000)
_QUERIES = 200


@dataclass(frozen=True, slots=True)
class Grown:
    """What a node with so many studies does."""

    studies: int
    by_uid_milliseconds: float
    by_patient_milliseconds: float
    objects_a_second: float
    resident_bytes: int


def _asked(node: peers.NodeProcess, keys: Callable[[int], dict[int, str]], studies: int) -> float:
    """Return the median milliseconds of a C-FIND for studies all over the index."""
    taken = []
    with querying(node.dicom_address, "BENCH") as wire:
        for turn in range(_QUERIES):
            wanted = {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: "", PATIENT_ID: ""}
            wanted |= keys(turn * studies // _QUERIES)
            start = time.perf_counter()
            answers = wire.find(wanted)
            taken.append(1000 * (time.perf_counter() - start))
            if answers.status or not answers.pending:
                raise peers.PeerFailed(f"{answers.pending} matches, {answers.status:04X}H")
        wire.release()
    return median(taken)


def measure(studies: int) -> Grown:
    """Start a node that holds so many studies, ask it, and store into it."""
    with node_with_index(studies) as node:
        by_uid = _asked(node, lambda number: {STUDY_INSTANCE_UID: study(number).uid}, studies)
        by_patient = _asked(node, lambda number: {PATIENT_ID: study(number).patient_id}, studies)
        every = [each for part in objects(SMALL) for each in part]
        seconds = store(Server(node.dicom_address, lambda: 0, node), [every])
        return Grown(studies, by_uid, by_patient, len(every) / seconds, node.resident_bytes())


def text(measured: Sequence[Grown]) -> str:
    """Return the section of the page."""
    method = f"""Nodes with an index of so many studies of one object or a few, whose files are not
    there. Medians of {_QUERIES} C-FIND for studies all over the index; then 1,000 objects of 12 KB
    are stored over one association with full durability."""
    lines = [
        "| studies held | C-FIND by Study Instance UID | by Patient ID | storing | memory |",
        "|---|---|---|---|---|",
        *(
            f"| {each.studies:,} | {each.by_uid_milliseconds:.2f} ms "
            f"| {each.by_patient_milliseconds:.2f} ms | {each.objects_a_second:,.0f}/s "
            f"| {each.resident_bytes / MEBIBYTE:.0f} MiB |"
            for each in measured
        ),
    ]
    picture = "![Queries and storing by the number of studies held](performance/growth.svg)"
    parts = ["## Growth", filled(" ".join(method.split())), picture, "\n".join(lines)]
    return "\n\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Measure and print; with ``--write`` write the page, with ``--quick`` less of everything."""
    measured = [measure(size) for size in (_QUICK_SIZES if "--quick" in arguments else _SIZES)]
    words = text(measured)
    print(words)
    if "--write" in arguments:
        from bench.plots import save_growth  # needs the extra "bench"

        save_growth(measured)
        write("growth", words)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
