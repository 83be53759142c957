"""The elements of group 0000, in Implicit VR Little Endian (PS3.7 §6.3.1, Annex E.1).

``ELEMENTS`` maps the field names of the messages in ``command`` to the elements that carry
them. A reader turns the value bytes of one element into a Python value and raises ValueError
when they cannot be one; a writer turns a Python value into the whole element, header included.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from enum import Enum, auto
from operator import attrgetter
from typing import Any, Self

from dicomnode.errors import RemoteProtocolError

NO_DATA_SET = 0x0101
DATA_SET_PRESENT = 0x0001

_MAXIMUM_COMMENT_BYTES = 64
_HEADER = struct.Struct("<HHI")
_US_ELEMENT = struct.Struct("<HHIH")
# LO has neither control characters nor the backslash, which would make two values of one.
_NOT_IN_COMMENT = re.compile(rb"[^ -\[\]-~]")


class Kind(Enum):
    """How a value is written: the VR, and what is peculiar to one element."""

    UI = auto()
    AE = auto()
    LO = auto()
    US = auto()
    AT = auto()
    COUNTER = auto()
    DATA_SET_TYPE = auto()


@dataclass(frozen=True, slots=True)
class Element:
    """One element of the command dictionary; ``number`` is its number in group 0000."""

    number: int
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.name} (0000,{self.number:04X})"


ELEMENTS: dict[str, Element] = {
    "affected_sop_class_uid": Element(0x0002, Kind.UI, "Affected SOP Class UID"),
    "requested_sop_class_uid": Element(0x0003, Kind.UI, "Requested SOP Class UID"),
    "command_field": Element(0x0100, Kind.US, "Command Field"),
    "message_id": Element(0x0110, Kind.US, "Message ID"),
    "message_id_being_responded_to": Element(0x0120, Kind.US, "Message ID Being Responded To"),
    "move_destination": Element(0x0600, Kind.AE, "Move Destination"),
    "priority": Element(0x0700, Kind.US, "Priority"),
    "has_data_set": Element(0x0800, Kind.DATA_SET_TYPE, "Command Data Set Type"),
    "status": Element(0x0900, Kind.US, "Status"),
    "offending_element": Element(0x0901, Kind.AT, "Offending Element"),
    "error_comment": Element(0x0902, Kind.LO, "Error Comment"),
    "error_id": Element(0x0903, Kind.US, "Error ID"),
    "affected_sop_instance_uid": Element(0x1000, Kind.UI, "Affected SOP Instance UID"),
    "requested_sop_instance_uid": Element(0x1001, Kind.UI, "Requested SOP Instance UID"),
    "event_type_id": Element(0x1002, Kind.US, "Event Type ID"),
    "attribute_identifier_list": Element(0x1005, Kind.AT, "Attribute Identifier List"),
    "action_type_id": Element(0x1008, Kind.US, "Action Type ID"),
    "number_of_remaining_suboperations": Element(
        0x1020, Kind.COUNTER, "Number of Remaining Sub-operations"
    ),
    "number_of_completed_suboperations": Element(
        0x1021, Kind.COUNTER, "Number of Completed Sub-operations"
    ),
    "number_of_failed_suboperations": Element(
        0x1022, Kind.COUNTER, "Number of Failed Sub-operations"
    ),
    "number_of_warning_suboperations": Element(
        0x1023, Kind.COUNTER, "Number of Warning Sub-operations"
    ),
    "move_originator_ae_title": Element(
        0x1030, Kind.AE, "Move Originator Application Entity Title"
    ),
    "move_originator_message_id": Element(0x1031, Kind.US, "Move Originator Message ID"),
}


def _read_text(value: bytes) -> str:
    # Latin-1 keeps every byte, so that what a peer sent is echoed to it unchanged.
    return value.strip(b"\0 ").decode("latin-1")


def _read_us(value: bytes) -> int:
    if len(value) != 2:
        raise ValueError(f"{len(value)} bytes instead of 2")
    return value[0] | value[1] << 8


def _read_at(value: bytes) -> tuple[int, ...]:
    if len(value) % 4:
        raise ValueError(f"{len(value)} bytes, no multiple of 4")
    return tuple(group << 16 | number for group, number in struct.iter_unpack("<HH", value))


def _read_data_set_type(value: bytes) -> bool:
    return _read_us(value) != NO_DATA_SET


def reader(kind: Kind) -> Callable[[bytes], Any]:
    """Give the function that turns value bytes into a value; it raises ValueError."""
    match kind:
        case Kind.UI | Kind.AE | Kind.LO:
            return _read_text
        case Kind.US | Kind.COUNTER:
            return _read_us
        case Kind.AT:
            return _read_at
        case Kind.DATA_SET_TYPE:
            return _read_data_set_type


def _text_writer(number: int, pad: bytes, clean: Callable[[str], bytes]) -> Callable[[str], bytes]:
    header = _HEADER.pack

    def write(text: str) -> bytes:
        value = clean(text)
        if len(value) & 1:
            value += pad
        return header(0, number, len(value)) + value

    return write


def _us_writer(number: int) -> Callable[[int], bytes]:
    pack = _US_ELEMENT.pack
    return lambda value: pack(0, number, 2, value)


def _counter_writer(number: int) -> Callable[[int], bytes]:
    # A retrieval may have more sub-operations than US can count; the peer then sees 65535.
    pack = _US_ELEMENT.pack
    return lambda value: pack(0, number, 2, min(value, 0xFFFF))


def _at_writer(number: int) -> Callable[[tuple[int, ...]], bytes]:
    def write(tags: tuple[int, ...]) -> bytes:
        if not tags:
            return b""
        halves = [half for tag in tags for half in (tag >> 16, tag & 0xFFFF)]
        return _HEADER.pack(0, number, 4 * len(tags)) + struct.pack(f"<{len(halves)}H", *halves)

    return write


def _data_set_type_writer(number: int) -> Callable[[bool], bytes]:
    present = _US_ELEMENT.pack(0, number, 2, DATA_SET_PRESENT)
    absent = _US_ELEMENT.pack(0, number, 2, NO_DATA_SET)
    return lambda value: present if value else absent


def _latin_1(text: str) -> bytes:
    return text.encode("latin-1")


def _comment(text: str) -> bytes:
    return _NOT_IN_COMMENT.sub(b"?", text.encode("ascii", "replace"))[:_MAXIMUM_COMMENT_BYTES]


def writer(element: Element) -> Callable[[Any], bytes]:
    """Give the function that writes a value as the whole ``element``.

    It raises struct.error for a number that does not fit and UnicodeEncodeError for an
    identifier that is no Latin-1; an Error Comment is made to fit instead.
    """
    match element.kind:
        case Kind.UI:
            return _text_writer(element.number, b"\0", _latin_1)
        case Kind.AE:
            return _text_writer(element.number, b" ", _latin_1)
        case Kind.LO:
            return _text_writer(element.number, b" ", _comment)
        case Kind.US:
            return _us_writer(element.number)
        case Kind.COUNTER:
            return _counter_writer(element.number)
        case Kind.AT:
            return _at_writer(element.number)
        case Kind.DATA_SET_TYPE:
            return _data_set_type_writer(element.number)


def broken(rule: str) -> RemoteProtocolError:
    """Make the error for a message that breaks ``rule``."""
    # DIMSE is the user of the upper layer: its aborts have source 0 (PS3.8 §9.3.8).
    return RemoteProtocolError(rule, source=0)


def split(data: bytes) -> dict[int, bytes]:
    """Give the values of a command set by element number; the last one of a number counts.

    Elements of other groups behind those of group 0000 are passed over: Orthanc puts the Failed SOP
    Instance UID List (0008,0058) there, in Pending responses. Raises RemoteProtocolError.
    """
    elements: dict[int, bytes] = {}
    unpack = _HEADER.unpack_from
    start, end = 0, len(data)
    while start + 8 <= end:
        group, number, length = unpack(data, start)
        start += 8
        if length > end - start:
            raise broken(
                f"a command element ({group:04X},{number:04X}) of {length} bytes"
                f" where {end - start} are left"
            )
        if not group:
            elements[number] = data[start : start + length]
        elif not elements:
            raise broken(f"an element ({group:04X},{number:04X}) at the head of a command set")
        start += length
    if start != end:
        raise broken(f"{end - start} bytes after the last element of a command set")
    return elements


@dataclass(frozen=True, slots=True)
class Layout:
    """How one message is read and written, worked out once from the fields of its class.

    ``read`` has (field name, element number, reader, is mandatory) for each field; ``write`` the
    writers of what ``values`` gives, in the order of the elements.
    """

    message: type[Any]
    title: str
    service: str
    read: tuple[tuple[str, int, Callable[[bytes], Any], bool], ...]
    values: Callable[[Any], tuple[Any, ...]]
    write: tuple[Callable[[Any], bytes], ...]

    @classmethod
    def of(cls, message: type[Any], service: str) -> Self:
        """Work out the layout of the dataclass ``message``; no default means mandatory."""
        own = {field.name: field.default is MISSING for field in fields(message)}
        # Data set or not: a message that does not say cannot be told from one that is cut off.
        own["has_data_set"] = True
        names = sorted({*own, "command_field"}, key=lambda name: ELEMENTS[name].number)
        return cls(
            message=message,
            title=f"{service}-{'RSP' if message.__name__.endswith('RSP') else 'RQ'}",
            service=service,
            read=tuple(
                (name, ELEMENTS[name].number, reader(ELEMENTS[name].kind), own[name])
                for name in names
                if name in own
            ),
            values=attrgetter(*names),
            write=tuple(writer(ELEMENTS[name]) for name in names),
        )
