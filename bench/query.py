"""How fast the node answers C-FIND, beside Orthanc with the same studies in the same run.

``python -m bench.query [PART…]`` measures the parts named, or all of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median

from bench.command import Part, main
from bench.hospital import study
from bench.measure import MEBIBYTE, peak_resident_bytes
from bench.report import Figure, Section
from bench.servers import node_with_index, orthanc_with
from tests import peers
from tests.query_wire import (
    ACCESSION_NUMBER,
    MODALITIES_IN_STUDY,
    NUMBER_OF_STUDY_RELATED_INSTANCES,
    NUMBER_OF_STUDY_RELATED_SERIES,
    PATIENT_ID,
    PATIENT_NAME,
    QUERY_RETRIEVE_LEVEL,
    STUDY_DATE,
    STUDY_DESCRIPTION,
    STUDY_INSTANCE_UID,
    Answers,
    QueryWire,
    querying,
)

STUDIES = 20_000
MANY_STUDIES = 1_000_000
ASSOCIATIONS = 100

Keys = Mapping[int, str]

_RETURNED: Keys = {
    QUERY_RETRIEVE_LEVEL: "STUDY",
    STUDY_INSTANCE_UID: "",
    PATIENT_ID: "",
    PATIENT_NAME: "",
    STUDY_DATE: "",
    STUDY_DESCRIPTION: "",
    ACCESSION_NUMBER: "",
}
_COUNTED: Keys = {
    **_RETURNED,
    MODALITIES_IN_STUDY: "",
    NUMBER_OF_STUDY_RELATED_SERIES: "",
    NUMBER_OF_STUDY_RELATED_INSTANCES: "",
}
_ONE_YEAR = "20180101-20181231"
_EXACT: Mapping[str, Callable[[int], Keys]] = {
    "Study Instance UID": lambda number: {STUDY_INSTANCE_UID: study(number).uid},
    "Patient ID": lambda number: {PATIENT_ID: study(number).patient_id},
    "Accession Number": lambda number: {ACCESSION_NUMBER: study(number).accession_number},
}


def _seconds(wire: QueryWire, keys: Keys) -> tuple[float, int]:
    """Ask once; return the seconds and how many matched."""
    start = time.perf_counter()
    answers = wire.find(keys)
    seconds = time.perf_counter() - start
    if answers.status != 0 or not answers.pending:
        words = f"{answers.pending} matches, status {answers.status:04X} {answers.comment}"
        raise peers.PeerFailed(f"{dict(keys)}: {words}")
    return seconds, answers.pending


def _turns(
    wires: Sequence[QueryWire], keys: Callable[[int], Keys], times: int
) -> tuple[list[float], int]:
    """Ask every server in turn, ``times`` over; return the median of each and the matches."""
    taken: list[list[float]] = [[] for _ in wires]
    matches: set[int] = set()
    for turn in range(times + 1):
        for wire, seconds in zip(wires, taken, strict=True):
            took, found = _seconds(wire, keys(turn))
            matches.add(found)
            if turn:  # the first fills caches
                seconds.append(took)
    return [median(seconds) for seconds in taken], max(matches)


def _both(stack: ExitStack, studies: int) -> list[QueryWire]:
    node = stack.enter_context(node_with_index(studies))
    orthanc = stack.enter_context(orthanc_with(studies))
    return [
        stack.enter_context(querying(node.dicom_address, "BENCH", timeout=60)),
        stack.enter_context(querying(orthanc.dicom_address, "BENCH", "ORTHANC", timeout=60)),
    ]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def exact(runs: int) -> list[Figure]:
    """One study by an exact key among 20,000, against Orthanc."""
    figures = []
    with ExitStack() as stack:
        wires = _both(stack, STUDIES)
        for name, keys in _EXACT.items():
            (node, peer), _ = _turns(
                wires, lambda turn, keys=keys: {**_RETURNED, **keys(17 * turn)}, 20 * runs
            )
            what = f"{name} among {STUDIES:,} studies; Orthanc"
            shown = _milliseconds(node), _milliseconds(peer)
            figures.append(Figure(what, *shown, node / peer, 0.25))
    return figures


def exact_among_many(runs: int) -> list[Figure]:
    """One study by an exact key among 1,000,000, against 20,000."""
    figures = []
    with ExitStack() as stack:
        wires = []
        for studies in (MANY_STUDIES, STUDIES):
            node = stack.enter_context(node_with_index(studies))
            wires.append(stack.enter_context(querying(node.dicom_address, "BENCH")))
        for name, keys in _EXACT.items():
            (many, few), _ = _turns(
                wires, lambda turn, keys=keys: {**_RETURNED, **keys(17 * turn)}, 40 * runs
            )
            what = f"{name} among {MANY_STUDIES:,} studies; among {STUDIES:,}"
            shown = _milliseconds(many), _milliseconds(few)
            figures.append(Figure(what, *shown, many / few, 2.0))
    return figures


def rows(runs: int) -> list[Figure]:
    """Queries with a thousand matches and more among 20,000 studies, against Orthanc."""
    queries: dict[str, Keys] = {
        "the studies of a year": {**_RETURNED, STUDY_DATE: _ONE_YEAR},
        "the studies of a year, counts and modalities": {**_COUNTED, STUDY_DATE: _ONE_YEAR},
        "names S*": {**_RETURNED, PATIENT_NAME: "S*"},
        "names *ss*^*": {**_RETURNED, PATIENT_NAME: "*ss*^*"},
    }
    figures = []
    with ExitStack() as stack:
        wires = _both(stack, STUDIES)
        for name, keys in queries.items():
            taken, matches = _turns(wires, lambda _, keys=keys: keys, 2 * runs)
            node, peer = (matches / seconds for seconds in taken)
            what = f"{name}: {matches:,} matches; Orthanc"
            shown = f"{node:,.0f}/s", f"{peer:,.0f}/s"
            figures.append(Figure(what, *shown, node / peer, 1.0, at_least=True))
    return figures


def memory(_runs: int) -> Figure:
    """Resident memory while a hundred associations ask for everything."""
    with node_with_index(STUDIES, limits={"max_associations": ASSOCIATIONS}) as node:
        before = node.resident_bytes()
        peak = peak_resident_bytes(node, lambda: _all_at_once(node.dicom_address))
    grown = (peak - before) / MEBIBYTE
    shown = f"{before / MEBIBYTE:.0f} → {peak / MEBIBYTE:.0f} MiB"
    what = f"memory, more while {ASSOCIATIONS} associations ask for everything"
    return Figure(what, shown, "", grown, 256.0, " MiB")


def _all_at_once(address: peers.Address) -> None:
    def ask(number: int) -> Answers:
        with querying(address, f"BENCH{number}", timeout=300) as wire:
            wire.keeps_identifiers = False
            return wire.find({**_COUNTED})

    with ThreadPoolExecutor(ASSOCIATIONS) as pool:
        for answers in pool.map(ask, range(ASSOCIATIONS)):
            # max_matches ends it with A700H after the first 10,000.
            if answers.pending < STUDIES // 2:
                raise peers.PeerFailed(f"{answers.pending} matches, {answers.status:04X}")


PARTS: dict[str, Part] = {
    "exact": exact,
    "exact-among-many": exact_among_many,
    "rows": rows,
    "memory": memory,
}

SECTION = Section(
    "query",
    "Querying",
    "C-FIND at the study level, Study Root, by the same plain client over one association that"
    " stays open; the time is from request to final response, with all responses read.",
    """- Studies have one series of one to three instances (of one beyond the first 20,000), two
  studies are of one patient, and their dates lie within ten years.
- Returned are Patient ID, name, study date, description, accession number and UID; "counts and
  modalities" adds Number of Study Related Series and Instances, and Modalities in Study.
- The node's index was made by the code that stores, Orthanc was sent the objects.""",
)


if __name__ == "__main__":
    sys.exit(main(SECTION, PARTS, runs=5))
