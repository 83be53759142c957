"""Storage commitment on the wire: Action Information and Event Information (PS3.4 §J.3.2, §J.3.3).

What is read comes from peers: whatever is wrong with it raises a StatusError with the status that
answers it. Long lists take a second or two: not for the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from dicomnode.dimse.status import Status
from dicomnode.errors import ConversionFailed, StatusError
from dicomnode.storage.elements import (
    Element,
    ItemStart,
    SequenceEnd,
    SequenceStart,
    Source,
    encoding_of,
    walk,
)
from dicomnode.storage.encoding import DEFLATED, Elements, InflatedTooLong, deflated, inflated
from dicomnode.storage.paths import valid_uid

REQUEST_ACTION: Final = 1
ALL_COMMITTED: Final = 1
FAILURES_EXIST: Final = 2

MAX_REFERENCES: Final = 100_000
# 100,000 references with UIDs of full length, and something beside them.
MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024
# Of elements and of beginnings and ends of items: a reference needs four. Without values they
# would be millions, and take a thread many seconds.
_PARTS_PER_REFERENCE: Final = 10

RETRIEVE_AE_TITLE: Final = 0x0008_0054
REFERENCED_SOP_CLASS_UID: Final = 0x0008_1150
REFERENCED_SOP_INSTANCE_UID: Final = 0x0008_1155
TRANSACTION_UID: Final = 0x0008_1195
FAILURE_REASON: Final = 0x0008_1197
FAILED_SOP_SEQUENCE: Final = 0x0008_1198
REFERENCED_SOP_SEQUENCE: Final = 0x0008_1199

_SEQUENCES: Final = (REFERENCED_SOP_SEQUENCE, FAILED_SOP_SEQUENCE)
_TOP: Final = frozenset((RETRIEVE_AE_TITLE, TRANSACTION_UID))
_OF_ITEMS: Final = frozenset(
    (REFERENCED_SOP_CLASS_UID, REFERENCED_SOP_INSTANCE_UID, FAILURE_REASON)
)
# Of a longer value, more than this is not needed to see that it is wrong.
_MAX_VALUE_BYTES: Final = 80


@dataclass(frozen=True, slots=True)
class Reference:
    """An instance that is to be kept."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An instance that is not kept; ``reason`` is a Failure Reason of PS3.3 §C.14.1.1."""

    reference: Reference
    reason: int


@dataclass(frozen=True, slots=True)
class Request:
    """What an SCU asks to be kept (PS3.4 Table J.3-1)."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What an SCP says to it (PS3.4 Table J.3-2)."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[Failure, ...]
    retrieve_ae_title: str = ""

    @property
    def event_type_id(self) -> int:
        """The Event Type ID that the report goes under."""
        return FAILURES_EXIST if self.failed else ALL_COMMITTED


# -- writing -------------------------------------------------------------------------------------


def encode_request(request: Request, transfer_syntax_uid: str) -> bytes:
    """Return the data set of an N-ACTION request."""
    elements = Elements(transfer_syntax_uid)
    write = _reference_writer(elements)
    return _finished(
        transfer_syntax_uid,
        elements.element(TRANSACTION_UID, "UI", request.transaction_uid.encode()),
        elements.items(REFERENCED_SOP_SEQUENCE, map(write, request.references)),
    )


def encode_report(report: Report, transfer_syntax_uid: str) -> bytes:
    """Return the data set of an N-EVENT-REPORT request; lists without items are left out."""
    elements = Elements(transfer_syntax_uid)
    write, write_reason = _reference_writer(elements), elements.writer(FAILURE_REASON, "US")
    title = report.retrieve_ae_title.encode()
    failed = [
        write(failure.reference) + write_reason(elements.integer(failure.reason))
        for failure in report.failed
    ]
    return _finished(
        transfer_syntax_uid,
        elements.element(RETRIEVE_AE_TITLE, "AE", title) if title else b"",
        elements.element(TRANSACTION_UID, "UI", report.transaction_uid.encode()),
        elements.items(FAILED_SOP_SEQUENCE, failed) if failed else b"",
        elements.items(REFERENCED_SOP_SEQUENCE, map(write, report.committed))
        if report.committed
        else b"",
    )


def _reference_writer(elements: Elements) -> Callable[[Reference], bytes]:
    write_class = elements.writer(REFERENCED_SOP_CLASS_UID, "UI")
    write_instance = elements.writer(REFERENCED_SOP_INSTANCE_UID, "UI")

    def write(reference: Reference) -> bytes:
        return write_class(reference.sop_class_uid.encode()) + write_instance(
            reference.sop_instance_uid.encode()
        )

    return write


def _finished(transfer_syntax_uid: str, *parts: bytes) -> bytes:
    data_set = b"".join(parts)
    return deflated(data_set) if transfer_syntax_uid == DEFLATED else data_set


# -- reading -------------------------------------------------------------------------------------


def decode_request(data: bytes, transfer_syntax_uid: str) -> Request:
    """Read the data set of an N-ACTION request. Raises StatusError."""
    message = _read(data, transfer_syntax_uid)
    if REFERENCED_SOP_SEQUENCE not in message.sequences:
        raise _missing(REFERENCED_SOP_SEQUENCE)
    items = message.sequences[REFERENCED_SOP_SEQUENCE]
    if not items:
        raise _empty(REFERENCED_SOP_SEQUENCE)
    return Request(_uid(message.values, TRANSACTION_UID), _references(items))


def decode_report(data: bytes, transfer_syntax_uid: str) -> Report:
    """Read the data set of an N-EVENT-REPORT request. Raises StatusError.

    A failure without a reason is a processing failure (0110H).
    """
    message = _read(data, transfer_syntax_uid)
    if not message.sequences:
        raise _missing(REFERENCED_SOP_SEQUENCE)
    failed = message.sequences.get(FAILED_SOP_SEQUENCE, [])
    reasons = [message.integer(item.get(FAILURE_REASON, b"")) for item in failed]
    return Report(
        _uid(message.values, TRANSACTION_UID),
        _references(message.sequences.get(REFERENCED_SOP_SEQUENCE, [])),
        tuple(map(Failure, _references(failed), reasons)),
        message.values.get(RETRIEVE_AE_TITLE, b"").decode("ascii", "replace").strip(" \0"),
    )


@dataclass(slots=True)
class _Message:
    """What is wanted of a data set: raw values by tag, at the top and in the sequences' items."""

    order: str
    values: dict[int, bytes] = field(default_factory=dict)
    sequences: dict[int, list[dict[int, bytes]]] = field(default_factory=dict)

    def integer(self, value: bytes) -> int:
        """Return the value of a US; without one, processing failure."""
        if len(value) < 2:
            return Status.PROCESSING_FAILURE
        return int.from_bytes(value[:2], "little" if self.order == "<" else "big")


class _Memory(Source):
    """A data set that lies in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(-1, 0, len(data))
        self._data = data

    def read(self, position: int, size: int) -> bytes:
        return self._data[position : position + size]


def _read(data: bytes, transfer_syntax_uid: str) -> _Message:
    if transfer_syntax_uid == DEFLATED:
        try:
            data = inflated(data, MAX_MESSAGE_BYTES)
        except InflatedTooLong:
            raise too_long() from None
        except ValueError as error:
            raise StatusError(str(error), status=Status.INVALID_ARGUMENT_VALUE) from None
    source = _Memory(data)
    encoding = encoding_of(source, transfer_syntax_uid)
    message = _Message(encoding.order)
    target, wanted = message.values, _TOP
    depth, most = 0, _PARTS_PER_REFERENCE * MAX_REFERENCES
    try:
        for count, event in enumerate(walk(source, encoding)):
            if count == most:
                words = f"more than {most} elements and items"
                raise StatusError(words, status=Status.RESOURCE_LIMITATION)
            match event:
                case Element(tag=tag, start=start, length=length):
                    if depth <= 1 and tag in wanted:
                        target[tag] = source.read(start, min(length, _MAX_VALUE_BYTES))
                    elif not depth and tag in _SEQUENCES:
                        message.sequences.setdefault(tag, [])
                case SequenceStart(tag=tag):
                    depth += 1
                    if depth == 1:
                        items = message.sequences.setdefault(tag, []) if tag in _SEQUENCES else []
                        wanted = _OF_ITEMS
                case SequenceEnd():
                    depth -= 1
                    if not depth:
                        target, wanted = message.values, _TOP
                case ItemStart() if depth == 1:
                    target = {}
                    items.append(target)
                    _check_number(message)
    except ConversionFailed:
        raise StatusError(
            "what came is no data set", status=Status.INVALID_ARGUMENT_VALUE
        ) from None
    return message


def too_long() -> StatusError:
    """Return the error for a data set of more than ``MAX_MESSAGE_BYTES``, or no room for it."""
    words = f"a data set over {MAX_MESSAGE_BYTES} bytes, or too many at once"
    return StatusError(words, status=Status.RESOURCE_LIMITATION)


def _check_number(message: _Message) -> None:
    if sum(map(len, message.sequences.values())) > MAX_REFERENCES:
        comment = f"more than {MAX_REFERENCES} references"
        raise StatusError(comment, status=Status.RESOURCE_LIMITATION)


def _references(items: Iterable[dict[int, bytes]]) -> tuple[Reference, ...]:
    return tuple(
        Reference(_uid(item, REFERENCED_SOP_CLASS_UID), _uid(item, REFERENCED_SOP_INSTANCE_UID))
        for item in items
    )


def _uid(values: dict[int, bytes], tag: int) -> str:
    if tag not in values:
        raise _missing(tag)
    uid = values[tag].decode("latin-1").strip(" \0")
    if not uid:
        raise _empty(tag)
    if not valid_uid(uid):
        comment = f"{_named(tag)} is no UID"
        raise StatusError(comment, status=Status.INVALID_ATTRIBUTE_VALUE, offending=(tag,))
    return uid


def _missing(tag: int) -> StatusError:
    comment = f"{_named(tag)} is missing"
    return StatusError(comment, status=Status.MISSING_ATTRIBUTE, offending=(tag,))


def _empty(tag: int) -> StatusError:
    comment = f"{_named(tag)} is empty"
    return StatusError(comment, status=Status.MISSING_ATTRIBUTE_VALUE, offending=(tag,))


def _named(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
