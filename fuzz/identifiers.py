"""Data sets that a peer asks with: queries, retrievals, worklist, MPPS and commitment (PS3.4)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

from dicomnode.errors import StatusError, UnreadableAttributes
from dicomnode.index.worklist import State
from dicomnode.services import query_plan, worklist_plan
from dicomnode.services.commitment_messages import decode_report, decode_request
from dicomnode.services.identifier import Bounds, parse, retrieve_keys
from dicomnode.services.mpps_rules import check_change, check_creation
from dicomnode.services.sop_classes import Root
from dicomnode.services.worklist_items import Source, UnfitItem, new_items
from dicomnode.storage.encoding import EXPLICIT_VR_LITTLE_ENDIAN, Elements
from dicomnode.storage.json_checks import check_attributes
from dicomnode.storage.json_model import decode_attributes, encode_attributes
from tests.fuzz.recordings import recordings
from tests.storage.objects import BIG, DEFLATED, EXPLICIT, IMPLICIT

_SYNTAXES = (IMPLICIT, EXPLICIT, BIG, DEFLATED)
_BOUNDS = Bounds(100_000, 100)
_UTF_8 = ("utf_8",)


def _query(data: bytes, syntax: str) -> None:
    for root in Root:
        with contextlib.suppress(StatusError):
            identifier = parse(data, syntax, root, _BOUNDS)
            query_plan.make_plan(identifier, query_plan.Asked(syntax, "DICOMNODE", combined=True))


def _retrieval(data: bytes, syntax: str) -> None:
    for relational in (False, True):
        with contextlib.suppress(StatusError):
            retrieve_keys(parse(data, syntax, Root.PATIENT, _BOUNDS), relational=relational)


def _worklist(data: bytes, syntax: str) -> None:
    asked = worklist_plan.Asked(syntax, "DICOMNODE", tuple(State))
    with contextlib.suppress(StatusError):
        worklist_plan.make_plan(data, asked, _BOUNDS)


def _step(data: bytes, syntax: str) -> None:
    try:
        attributes = decode_attributes(data, syntax)
    except UnreadableAttributes:
        return
    # It is kept as JSON, and sent on in Unicode.
    json.dumps(attributes, allow_nan=False)
    encode_attributes(attributes, Elements(EXPLICIT_VR_LITTLE_ENDIAN), _UTF_8)
    with contextlib.suppress(StatusError):
        check_creation(attributes)
    with contextlib.suppress(StatusError):
        check_change({}, attributes)


def _commitment(data: bytes, syntax: str) -> None:
    with contextlib.suppress(StatusError):
        decode_request(data, syntax)
    with contextlib.suppress(StatusError):
        decode_report(data, syntax)


def _item(data: bytes, syntax: str) -> None:
    with contextlib.suppress(UnreadableAttributes, UnfitItem):
        attributes = decode_attributes(data, syntax)
        for strict in (True, False):
            new_items([attributes], Source("key", "file", strict=strict))
    with contextlib.suppress(UnreadableAttributes, ValueError):
        check_attributes(json.loads(data))


_READERS: tuple[Callable[[bytes, str], None], ...] = (
    *(_query, _retrieval, _worklist, _step, _commitment, _item),
)


def seeds() -> Iterator[bytes]:
    """Yield the data sets that were recorded, for every reader."""
    for recording in recordings():
        for _, data in recording.data_sets():
            if len(data) < 1000:
                for number in range(len(_READERS)):
                    yield bytes([number << 2]) + data


def one(data: bytes) -> None:
    """Read a data set, or refuse it with a status."""
    if data:
        _READERS[(data[0] >> 2) % len(_READERS)](data[1:], _SYNTAXES[data[0] & 3])
