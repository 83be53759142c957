"""The messages of PS3.7 as values, and their command sets as bytes.

One frozen dataclass for each message of PS3.7 §9.3 and §10.3. A field without a default is
mandatory there; ``Priority`` alone is forgiven when it is missing, because nothing depends on
it. The fields' elements and VRs are in ``elements``.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

from dicomnode.dimse.elements import ELEMENTS, Layout, broken, split
from dicomnode.errors import LocalProtocolError

_RESPONSE = 0x8000
_COMMAND_FIELD = ELEMENTS["command_field"].number
_GROUP_LENGTH = struct.Struct("<HHII")


class CommandField(IntEnum):
    """Command Field (0000,0100), PS3.7 Table E.1-1."""

    C_STORE_RQ = 0x0001
    C_GET_RQ = 0x0010
    C_FIND_RQ = 0x0020
    C_MOVE_RQ = 0x0021
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100
    N_GET_RQ = 0x0110
    N_SET_RQ = 0x0120
    N_ACTION_RQ = 0x0130
    N_CREATE_RQ = 0x0140
    N_DELETE_RQ = 0x0150
    C_CANCEL_RQ = 0x0FFF
    C_STORE_RSP = 0x8001
    C_GET_RSP = 0x8010
    C_FIND_RSP = 0x8020
    C_MOVE_RSP = 0x8021
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RSP = 0x8100
    N_GET_RSP = 0x8110
    N_SET_RSP = 0x8120
    N_ACTION_RSP = 0x8130
    N_CREATE_RSP = 0x8140
    N_DELETE_RSP = 0x8150

    @property
    def service(self) -> str:
        """The service's name in the standard's spelling, such as "C-STORE"."""
        return self.name.rpartition("_")[0].replace("_", "-")


class Priority(IntEnum):
    """Priority (0000,0700); a peer's other values are kept as they came."""

    MEDIUM = 0
    HIGH = 1
    LOW = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a command set says; ``has_data_set`` tells that a data set follows."""

    has_data_set: bool = False

    @property
    def service(self) -> str:
        """The service's name for logs and metrics, such as "C-STORE"."""
        return _BY_CLASS[type(self)].service


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Command, ABC):
    """A message that is to be answered."""

    command_field: ClassVar[CommandField]

    message_id: int

    @property
    @abstractmethod
    def sop_class_uid(self) -> str:
        """The Affected or Requested SOP Class UID, whichever the message has."""

    @property
    @abstractmethod
    def sop_instance_uid(self) -> str | None:
        """The Affected or Requested SOP Instance UID; None when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeRequest(Request):
    """What C-ECHO, C-FIND, C-GET and C-MOVE requests have in common."""

    affected_sop_class_uid: str

    @property
    def sop_class_uid(self) -> str:
        """The Affected SOP Class UID."""
        return self.affected_sop_class_uid

    @property
    def sop_instance_uid(self) -> str | None:
        """None: the message names no instance."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class AffectedRequest(CompositeRequest):
    """A request that names the SOP Instance it affects."""

    affected_sop_instance_uid: str | None = None

    @property
    def sop_instance_uid(self) -> str | None:
        """The Affected SOP Instance UID."""
        return self.affected_sop_instance_uid


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedRequest(Request):
    """A request for an operation on an existing SOP Instance."""

    requested_sop_class_uid: str
    requested_sop_instance_uid: str

    @property
    def sop_class_uid(self) -> str:
        """The Requested SOP Class UID."""
        return self.requested_sop_class_uid

    @property
    def sop_instance_uid(self) -> str | None:
        """The Requested SOP Instance UID."""
        return self.requested_sop_instance_uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Response(Command):
    """A message that answers a request; the fields that every response may have."""

    command_field: ClassVar[CommandField]

    message_id_being_responded_to: int
    status: int
    affected_sop_class_uid: str | None = None
    offending_element: tuple[int, ...] = ()
    error_comment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceResponse(Response):
    """A response that may name the SOP Instance concerned."""

    affected_sop_instance_uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizedResponse(InstanceResponse):
    """What the N- responses have in common (PS3.7 Annex C)."""

    error_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubOperationsResponse(Response):
    """The counters of C-GET and C-MOVE; above 65535 the peer sees 65535."""

    number_of_remaining_suboperations: int | None = None
    number_of_completed_suboperations: int | None = None
    number_of_failed_suboperations: int | None = None
    number_of_warning_suboperations: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CStoreRQ(AffectedRequest):
    """C-STORE-RQ (PS3.7 §9.3.1.1)."""

    command_field = CommandField.C_STORE_RQ

    affected_sop_instance_uid: str
    priority: int = Priority.MEDIUM
    move_originator_ae_title: str | None = None
    move_originator_message_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CStoreRSP(InstanceResponse):
    """C-STORE-RSP (PS3.7 §9.3.1.2)."""

    command_field = CommandField.C_STORE_RSP


@dataclass(frozen=True, slots=True, kw_only=True)
class CFindRQ(CompositeRequest):
    """C-FIND-RQ (PS3.7 §9.3.2.1)."""

    command_field = CommandField.C_FIND_RQ

    priority: int = Priority.MEDIUM


@dataclass(frozen=True, slots=True, kw_only=True)
class CFindRSP(Response):
    """C-FIND-RSP (PS3.7 §9.3.2.2)."""

    command_field = CommandField.C_FIND_RSP


@dataclass(frozen=True, slots=True, kw_only=True)
class CGetRQ(CompositeRequest):
    """C-GET-RQ (PS3.7 §9.3.3.1)."""

    command_field = CommandField.C_GET_RQ

    priority: int = Priority.MEDIUM


@dataclass(frozen=True, slots=True, kw_only=True)
class CGetRSP(SubOperationsResponse):
    """C-GET-RSP (PS3.7 §9.3.3.2)."""

    command_field = CommandField.C_GET_RSP


@dataclass(frozen=True, slots=True, kw_only=True)
class CMoveRQ(CompositeRequest):
    """C-MOVE-RQ (PS3.7 §9.3.4.1)."""

    command_field = CommandField.C_MOVE_RQ

    move_destination: str
    priority: int = Priority.MEDIUM


@dataclass(frozen=True, slots=True, kw_only=True)
class CMoveRSP(SubOperationsResponse):
    """C-MOVE-RSP (PS3.7 §9.3.4.2)."""

    command_field = CommandField.C_MOVE_RSP


@dataclass(frozen=True, slots=True, kw_only=True)
class CEchoRQ(CompositeRequest):
    """C-ECHO-RQ (PS3.7 §9.3.5.1)."""

    command_field = CommandField.C_ECHO_RQ


@dataclass(frozen=True, slots=True, kw_only=True)
class CEchoRSP(Response):
    """C-ECHO-RSP (PS3.7 §9.3.5.2)."""

    command_field = CommandField.C_ECHO_RSP


@dataclass(frozen=True, slots=True, kw_only=True)
class CCancelRQ(Command):
    """C-CANCEL-RQ of a C-FIND, C-GET or C-MOVE (PS3.7 §9.3.2.3); it has no answer of its own."""

    command_field: ClassVar[CommandField] = CommandField.C_CANCEL_RQ

    message_id_being_responded_to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NEventReportRQ(AffectedRequest):
    """N-EVENT-REPORT-RQ (PS3.7 §10.3.1.1)."""

    command_field = CommandField.N_EVENT_REPORT_RQ

    affected_sop_instance_uid: str
    event_type_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NEventReportRSP(NormalizedResponse):
    """N-EVENT-REPORT-RSP (PS3.7 §10.3.1.2)."""

    command_field = CommandField.N_EVENT_REPORT_RSP

    event_type_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NGetRQ(RequestedRequest):
    """N-GET-RQ (PS3.7 §10.3.2.1)."""

    command_field = CommandField.N_GET_RQ

    attribute_identifier_list: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NGetRSP(NormalizedResponse):
    """N-GET-RSP (PS3.7 §10.3.2.2); the list is that of status 0107H."""

    command_field = CommandField.N_GET_RSP

    attribute_identifier_list: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NSetRQ(RequestedRequest):
    """N-SET-RQ (PS3.7 §10.3.3.1)."""

    command_field = CommandField.N_SET_RQ


@dataclass(frozen=True, slots=True, kw_only=True)
class NSetRSP(NormalizedResponse):
    """N-SET-RSP (PS3.7 §10.3.3.2); the list is that of status 0107H."""

    command_field = CommandField.N_SET_RSP

    attribute_identifier_list: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NActionRQ(RequestedRequest):
    """N-ACTION-RQ (PS3.7 §10.3.4.1)."""

    command_field = CommandField.N_ACTION_RQ

    action_type_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NActionRSP(NormalizedResponse):
    """N-ACTION-RSP (PS3.7 §10.3.4.2)."""

    command_field = CommandField.N_ACTION_RSP

    action_type_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NCreateRQ(AffectedRequest):
    """N-CREATE-RQ (PS3.7 §10.3.5.1); without an instance UID the SCP makes one."""

    command_field = CommandField.N_CREATE_RQ


@dataclass(frozen=True, slots=True, kw_only=True)
class NCreateRSP(NormalizedResponse):
    """N-CREATE-RSP (PS3.7 §10.3.5.2); the list is that of status 0107H."""

    command_field = CommandField.N_CREATE_RSP

    attribute_identifier_list: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NDeleteRQ(RequestedRequest):
    """N-DELETE-RQ (PS3.7 §10.3.6.1)."""

    command_field = CommandField.N_DELETE_RQ


@dataclass(frozen=True, slots=True, kw_only=True)
class NDeleteRSP(NormalizedResponse):
    """N-DELETE-RSP (PS3.7 §10.3.6.2)."""

    command_field = CommandField.N_DELETE_RSP


@dataclass(frozen=True, slots=True, kw_only=True)
class UnrecognizedCommand(Command):
    """A request whose Command Field the standard does not have; answered with 0211H."""

    command_field: int
    message_id: int
    affected_sop_class_uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnrecognizedRSP(Command):
    """The answer to an UnrecognizedCommand; ``command_field`` is the request's with bit 15 set."""

    command_field: int
    message_id_being_responded_to: int
    status: int
    affected_sop_class_uid: str | None = None
    error_comment: str | None = None


_LAYOUTS: dict[int, Layout] = {
    message.command_field: Layout.of(message, message.command_field.service)
    for message in (
        *(CStoreRQ, CStoreRSP, CFindRQ, CFindRSP, CGetRQ, CGetRSP, CMoveRQ, CMoveRSP),
        *(CEchoRQ, CEchoRSP, CCancelRQ, NEventReportRQ, NEventReportRSP, NGetRQ, NGetRSP),
        *(NSetRQ, NSetRSP, NActionRQ, NActionRSP, NCreateRQ, NCreateRSP, NDeleteRQ, NDeleteRSP),
    )
}
_UNRECOGNIZED = Layout.of(UnrecognizedCommand, "unrecognized")
_BY_CLASS: dict[type[Command], Layout] = {
    layout.message: layout
    for layout in (
        *_LAYOUTS.values(),
        _UNRECOGNIZED,
        Layout.of(UnrecognizedRSP, "unrecognized"),
    )
}


def decode_command(data: bytes | memoryview) -> Command:
    """Read one whole command set (PS3.7 §6.3.1); nothing of ``data`` is kept.

    The order of the elements, the group length and unknown elements of group 0000 are let pass.
    Raises RemoteProtocolError naming what is broken, or the mandatory element that is missing.
    """
    elements = split(bytes(data))
    command_field = elements.get(_COMMAND_FIELD)
    if command_field is None or len(command_field) != 2:
        raise broken("a command set without a Command Field (0000,0100)")
    layout = _LAYOUTS.get(command_field[0] | command_field[1] << 8, _UNRECOGNIZED)
    values: dict[str, Any] = {}
    for name, number, read, is_mandatory in layout.read:
        value = elements.get(number)
        if value is not None:
            try:
                values[name] = read(value)
            except ValueError as error:
                raise broken(f"{layout.title} with {ELEMENTS[name]} of {error}") from None
        elif is_mandatory:
            raise broken(f"{layout.title} without the mandatory {ELEMENTS[name]}")
    command: Command = layout.message(**values)
    return command


def encode_command(command: Command) -> bytes:
    """Write one whole command set, group length first (PS3.7 §6.3.1).

    Error Comment is cut to 64 printable ASCII characters. Raises LocalProtocolError when
    another value does not fit its element.
    """
    layout = _BY_CLASS[type(command)]
    try:
        body = b"".join(
            [
                write(value)
                for value, write in zip(layout.values(command), layout.write, strict=True)
                if value is not None
            ]
        )
    except (struct.error, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"{layout.title} cannot be encoded: {error}") from error
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def answer(
    request: Request | UnrecognizedCommand,
    status: int,
    *,
    error_comment: str | None = None,
    offending_element: tuple[int, ...] = (),
    attribute_identifier_list: tuple[int, ...] = (),
    error_id: int | None = None,
) -> Response | UnrecognizedRSP:
    """Make the response to ``request``, without a data set, naming the same SOP Class and Instance.

    It is the final answer of any service; fields peculiar to one are added with
    ``dataclasses.replace``. The attribute identifier list and the error ID are for those messages
    alone that have them.
    """
    if isinstance(request, UnrecognizedCommand):
        return UnrecognizedRSP(
            command_field=request.command_field | _RESPONSE,
            message_id_being_responded_to=request.message_id,
            status=status,
            affected_sop_class_uid=request.affected_sop_class_uid,
            error_comment=error_comment,
        )
    message = _LAYOUTS[request.command_field | _RESPONSE].message
    more: dict[str, Any] = {
        "affected_sop_instance_uid": request.sop_instance_uid,
        "attribute_identifier_list": attribute_identifier_list or None,
        "error_id": error_id,
    }
    response: Response = message(
        message_id_being_responded_to=request.message_id,
        status=status,
        affected_sop_class_uid=request.sop_class_uid,
        error_comment=error_comment,
        offending_element=offending_element,
        **{name: value for name, value in more.items() if value is not None},
    )
    return response
