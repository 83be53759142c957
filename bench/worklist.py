"""How fast the node answers worklist queries, beside wlmscpfs with the same items.

``python -m bench.worklist [PART…]`` measures the parts named, or all of them.
"""

from __future__ import annotations

import contextlib
import datetime
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.command import Part, main
from bench.report import Figure, Section
from dicomnode.index.catalog import Catalog
from dicomnode.index.worklist import NewItem, WorklistItems
from dicomnode.services.sop_classes import MODALITY_WORKLIST
from dicomnode.storage.encoding import EXPLICIT_VR_LITTLE_ENDIAN, Elements
from dicomnode.storage.json_model import Attributes, encode_attributes
from dicomnode.storage.part10 import file_meta
from tests import peers
from tests.query_wire import (
    ACCESSION_NUMBER,
    PATIENT_ID,
    PATIENT_NAME,
    STUDY_INSTANCE_UID,
    QueryWire,
    c_find_rq,
    identifier,
    querying,
)
from tests.wire import IMPLICIT_LE, element

ITEMS = 10_000
MANY_ITEMS = 100_000
_A_DAY = 500
_TITLE = "DICOMNODE"
_TODAY = datetime.date.today()
_MODALITIES = ("CR", "CT", "DX", "MG", "MR", "NM", "PT", "RF", "US", "XA")
_CONTEXT = 1

_ITEM = 0xFFFEE000
_MODALITY, _STATION, _DATE, _TIME = 0x00080060, 0x00400001, 0x00400002, 0x00400003
_STEP_SEQUENCE, _STEP_ID, _DESCRIPTION = 0x00400100, 0x00400009, 0x00400007
_PROCEDURE_ID = 0x00401001


def _item(number: int) -> Attributes:
    """Return an item: 500 a day from ten days ago, of ten modalities with five stations each."""
    day = _TODAY + datetime.timedelta(days=number // _A_DAY - 10)
    modality = _MODALITIES[number % 10]
    step = {
        "00080060": _value("CS", modality),
        "00400001": _value("AE", f"{modality}_{number // 10 % 5}"),
        "00400002": _value("DA", f"{day:%Y%m%d}"),
        "00400003": _value("TM", f"{8 + number % 10:02}{number % 60:02}00"),
        "00400006": _value("PN", {"Alphabetic": f"PHYSICIAN^{number % 40}"}),
        "00400007": _value("LO", f"Examination {number % 200}"),
        "00400009": _value("SH", f"S{number}"),
        "00400010": _value("SH", f"ROOM {number % 50}"),
    }
    return {
        "00080050": _value("SH", f"A{number}"),
        "00080090": _value("PN", {"Alphabetic": f"REFERRER^{number % 300}"}),
        "00100010": _value("PN", {"Alphabetic": f"FAMILY{number % 4000}^GIVEN{number % 90}"}),
        "00100020": _value("LO", f"P{number // 2}"),
        "00100030": _value("DA", f"{1930 + number % 90}0615"),
        "00100040": _value("CS", "FM"[number % 2]),
        "0020000D": _value("UI", f"1.2.826.0.1.3680043.9.3811.4.{number}"),
        "00321060": _value("LO", f"Procedure {number % 200}"),
        "00400100": {"vr": "SQ", "Value": [step]},
        "00401001": _value("SH", f"R{number}"),
        "00401003": _value("SH", "ROUTINE"),
    }


def _value(vr: str, value: object) -> dict[str, object]:
    return {"vr": vr, "Value": [value]}


def fill(store: Path, items: int) -> None:
    """Make the index of a node that is to start there, with so many items."""
    store.mkdir(parents=True)
    with Catalog(f"sqlite:///{store / 'index.sqlite'}", synchronous="OFF") as catalog:
        WorklistItems(catalog).put(
            [NewItem(f"{number:06}", "command", "", "", _item(number)) for number in range(items)]
        )


@contextlib.contextmanager
def _node(items: int) -> Iterator[QueryWire]:
    """Start the node with so many items, and an association with it."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dicomnode-bench-")))
        fill(scratch / "node" / "store", items)
        limits = {"max_matches": 0}
        node = stack.enter_context(peers.node_process(scratch / "node", limits=limits))
        yield stack.enter_context(_asking(node.dicom_address))


@contextlib.contextmanager
def _wlmscpfs(items: int) -> Iterator[QueryWire]:
    """Start wlmscpfs with a file for each of so many items, and an association with it."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dicomnode-bench-")))
        folder = scratch / "files" / _TITLE
        folder.mkdir(parents=True)
        elements = Elements(EXPLICIT_VR_LITTLE_ENDIAN)
        for number in range(items):
            meta = file_meta(MODALITY_WORKLIST, f"1.2.{number}", EXPLICIT_VR_LITTLE_ENDIAN)
            data_set = encode_attributes(_item(number), elements, ("utf8",))
            (folder / f"{number:06}.wl").write_bytes(meta + data_set)
        peer = stack.enter_context(peers.wlmscpfs(scratch / "files"))
        yield stack.enter_context(_asking(peer.dicom_address))


def _asking(address: peers.Address) -> QueryWire:
    contexts = ((_CONTEXT, MODALITY_WORKLIST, (IMPLICIT_LE,)),)
    return querying(address, "BENCH", _TITLE, contexts=contexts, timeout=120)


def _asked(*, modality: str = "", station: str = "", date: str = "", name: str = "") -> bytes:
    """Return an identifier with these values of keys, and more keys without."""
    keys = {
        _MODALITY: modality,
        _STATION: station,
        _DATE: date,
        _TIME: "",
        _DESCRIPTION: "",
        _STEP_ID: "",
    }
    patient = {ACCESSION_NUMBER: "", PATIENT_NAME: name, PATIENT_ID: "", STUDY_INSTANCE_UID: ""}
    step = element(_ITEM, identifier(keys))
    return identifier({**patient, _STEP_SEQUENCE: step, _PROCEDURE_ID: ""})


def _turns(
    wires: Sequence[QueryWire], keys: Callable[[int], bytes], times: int, matches: int
) -> list[float]:
    """Ask every server in turn, ``times`` over; return the median seconds of each."""
    taken: list[list[float]] = [[] for _ in wires]
    for turn in range(times + 1):
        for wire, seconds in zip(wires, taken, strict=True):
            start = time.perf_counter()
            command = c_find_rq(wire.next_id(), MODALITY_WORKLIST)
            answers = wire.ask(_CONTEXT, command, keys(turn))
            took = time.perf_counter() - start
            if answers.status != 0 or answers.pending != matches:
                raise peers.PeerFailed(f"{answers.pending} matches, status {answers.status:04X}")
            if turn:  # the first fills caches
                seconds.append(took)
    return [median(seconds) for seconds in taken]


def _of_today(turn: int) -> bytes:
    return _asked(modality=_MODALITIES[turn % 10], date=f"{_TODAY:%Y%m%d}")


def of_station(turn: int) -> bytes:
    """Return an identifier for what is scheduled today at one station."""
    return _asked(station=f"{_MODALITIES[turn % 10]}_{turn % 5}", date=f"{_TODAY:%Y%m%d}")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def today(runs: int) -> list[Figure]:
    """What is scheduled today, among 10,000 items, against wlmscpfs."""
    queries = {
        "one modality's 50 items of today": (_of_today, 50, 0.05),
        "one station's 10 items of today": (of_station, 10, 0.05),
        "33 items by a name with wild cards": (lambda turn: _asked(name="FAMILY123*"), 33, 0.25),
        "everything": (lambda turn: _asked(), ITEMS, 1.5),
    }
    figures = []
    with ExitStack() as stack:
        wires = [stack.enter_context(start(ITEMS)) for start in (_node, _wlmscpfs)]
        for name, (keys, matches, limit) in queries.items():
            node, peer = _turns(wires, keys, 2 * runs, matches)
            what = f"{name} among {ITEMS:,}; wlmscpfs"
            shown = _milliseconds(node), _milliseconds(peer)
            figures.append(Figure(what, *shown, node / peer, limit))
    return figures


def growth(runs: int) -> list[Figure]:
    """What is scheduled today, among 100,000 items, against 10,000."""
    queries = {
        "one modality's 50 items of today": (_of_today, 50),
        "one station's 10 items of today": (of_station, 10),
    }
    figures = []
    with ExitStack() as stack:
        wires = [stack.enter_context(_node(items)) for items in (MANY_ITEMS, ITEMS)]
        for name, (keys, matches) in queries.items():
            many, few = _turns(wires, keys, 40 * runs, matches)
            what = f"{name} among {MANY_ITEMS:,}; among {ITEMS:,}"
            shown = _milliseconds(many), _milliseconds(few)
            figures.append(Figure(what, *shown, many / few, 2.0))
    return figures


PARTS: dict[str, Part] = {"today": today, "growth": growth}

SECTION = Section(
    "worklist",
    "Worklist",
    "C-FIND of the Modality Worklist by the same plain client over one association that stays open;"
    " the time is from request to final response, with all responses read.",
    """- 500 items are scheduled a day, of ten modalities with five stations each; wlmscpfs has a
  file for each.
- Returned are patient, accession number, procedure and Study Instance UID; of the step station,
  date, time, modality, description and ID.""",
)

if __name__ == "__main__":
    sys.exit(main(SECTION, PARTS, runs=3))
