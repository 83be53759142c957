"""The seven PDUs of PS3.8 §9.3: values, their bytes, and back.

``decode_pdu`` takes the variable field (what follows the 6-byte header) and raises
RemoteProtocolError only. Values that the standard does not know in A-ASSOCIATE-RJ and A-ABORT
decode as they are; what this side sends is made from ``Rejection`` and ``abort_pdu``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from struct import Struct
from typing import ClassVar, Self, TypeAlias, TypeVar

from dicomnode.errors import LocalProtocolError, RemoteProtocolError
from dicomnode.ul.items import (
    APPLICATION_CONTEXT,
    PRESENTATION_CONTEXT_AC,
    PRESENTATION_CONTEXT_RQ,
    USER_INFORMATION,
    PresentationContextAC,
    PresentationContextRQ,
    UserItem,
    decode_text,
    decode_user_information,
    encode_item,
    encode_text,
    encode_user_information,
    malformed,
    split_items,
)

DICOM_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
PDU_HEADER = Struct(">BxL")
PDV_HEADER_LENGTH = 6

# There are no more odd IDs in one byte.
MAXIMUM_CONTEXTS = 128

_PDV_HEADER = Struct(">LBB")
_ONE_PDV_HEADERS = Struct(">BxLLBB")
_ASSOCIATE_HEAD = Struct(">HH16s16s32x")
_MESSAGE_CONTROL_COMMAND = 1
_MESSAGE_CONTROL_LAST = 2

Item = TypeVar("Item", bound=UserItem)
Buffer: TypeAlias = bytes | memoryview


class PDUType(IntEnum):
    """The first byte of a PDU."""

    A_ASSOCIATE_RQ = 0x01
    A_ASSOCIATE_AC = 0x02
    A_ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    A_RELEASE_RQ = 0x05
    A_RELEASE_RP = 0x06
    A_ABORT = 0x07

    @property
    def words(self) -> str:
        """Name the PDU as the standard does."""
        return self.name.replace("_", "-")


class Rejection(Enum):
    """Every A-ASSOCIATE-RJ that this side can send: (result, source, reason) of Table 9-21."""

    NO_REASON_GIVEN = (1, 1, 1)
    APPLICATION_CONTEXT_NAME_NOT_SUPPORTED = (1, 1, 2)
    CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
    CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)
    PROVIDER_NO_REASON_GIVEN = (1, 2, 1)
    PROTOCOL_VERSION_NOT_SUPPORTED = (1, 2, 2)
    TEMPORARY_CONGESTION = (2, 3, 1)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)

    @property
    def result(self) -> int:
        """1 rejected-permanent, 2 rejected-transient."""
        return self.value[0]

    @property
    def source(self) -> int:
        """1 service-user, 2 service-provider (ACSE), 3 service-provider (Presentation)."""
        return self.value[1]

    @property
    def reason(self) -> int:
        """The reason, whose meaning depends on the source."""
        return self.value[2]

    @property
    def words(self) -> str:
        """Say the reason in the standard's words, for logs and metrics."""
        return _REJECTION_WORDS[self.source, self.reason]


_REJECTION_WORDS = {
    (1, 1): "No reason given",
    (1, 2): "Application context name not supported",
    (1, 3): "Calling AE title not recognized",
    (1, 7): "Called AE title not recognized",
    (2, 1): "No reason given",
    (2, 2): "Protocol version not supported",
    (3, 1): "Temporary congestion",
    (3, 2): "Local limit exceeded",
}


class AbortSource(IntEnum):
    """Who aborts (PS3.8 Table 9-26)."""

    SERVICE_USER = 0
    SERVICE_PROVIDER = 2


class AbortReason(IntEnum):
    """Why the service-provider aborts (PS3.8 Table 9-26)."""

    REASON_NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER_VALUE = 6

    @property
    def words(self) -> str:
        """Say the reason in the standard's words."""
        return self.name.lower().replace("_", " ").replace("pdu", "PDU")


class _Associate:
    """What A-ASSOCIATE-RQ and -AC have in common: the user information."""

    __slots__ = ()
    user_information: tuple[UserItem, ...]

    def find(self, kind: type[Item]) -> Item | None:
        """Return the first user-information item of ``kind``, if there is one."""
        return next(self._of(kind), None)

    def find_all(self, kind: type[Item]) -> tuple[Item, ...]:
        """Return all user-information items of ``kind``, in their order."""
        return tuple(self._of(kind))

    def _of(self, kind: type[Item]) -> Iterator[Item]:
        return (item for item in self.user_information if isinstance(item, kind))


@dataclass(frozen=True, slots=True)
class AAssociateRQ(_Associate):
    """A-ASSOCIATE-RQ (PS3.8 §9.3.2)."""

    TYPE: ClassVar[PDUType] = PDUType.A_ASSOCIATE_RQ
    called_ae_title: str
    calling_ae_title: str
    presentation_contexts: tuple[PresentationContextRQ, ...]
    user_information: tuple[UserItem, ...] = ()
    application_context_name: str = DICOM_APPLICATION_CONTEXT
    protocol_version: int = 1

    def encode(self) -> bytes:
        """Encode the whole PDU."""
        return _encode_associate(self)

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Decode the variable field; refuses even and repeated presentation context IDs."""
        version, called, calling, name, contexts, user = _decode_associate(cls.TYPE, body)
        proposed = tuple(map(PresentationContextRQ.decode, contexts))
        check_context_ids(proposed)
        return cls(called, calling, proposed, user, name, version)


@dataclass(frozen=True, slots=True)
class AAssociateAC(_Associate):
    """A-ASSOCIATE-AC (PS3.8 §9.3.3); the titles are echoes that nobody tests."""

    TYPE: ClassVar[PDUType] = PDUType.A_ASSOCIATE_AC
    called_ae_title: str
    calling_ae_title: str
    presentation_contexts: tuple[PresentationContextAC, ...]
    user_information: tuple[UserItem, ...] = ()
    application_context_name: str = DICOM_APPLICATION_CONTEXT
    protocol_version: int = 1

    def encode(self) -> bytes:
        """Encode the whole PDU."""
        return _encode_associate(self)

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Decode the variable field."""
        version, called, calling, name, contexts, user = _decode_associate(cls.TYPE, body)
        answered = tuple(map(PresentationContextAC.decode, contexts))
        return cls(called, calling, answered, user, name, version)


@dataclass(frozen=True, slots=True)
class AAssociateRJ:
    """A-ASSOCIATE-RJ (PS3.8 §9.3.4), with whatever codes the peer sent."""

    TYPE: ClassVar[PDUType] = PDUType.A_ASSOCIATE_RJ
    result: int
    source: int
    reason: int

    @classmethod
    def of(cls, rejection: Rejection) -> Self:
        """Make the PDU that carries ``rejection``."""
        return cls(rejection.result, rejection.source, rejection.reason)

    @property
    def words(self) -> str:
        """Say the reason in the standard's words."""
        code = self.source, self.reason
        return _REJECTION_WORDS.get(code, f"Reason {self.reason} of source {self.source}")

    def encode(self) -> bytes:
        """Encode the whole PDU."""
        return PDU_HEADER.pack(self.TYPE, 4) + bytes((0, self.result, self.source, self.reason))

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Decode the variable field."""
        _four_bytes(cls.TYPE, body)
        return cls(body[1], body[2], body[3])


@dataclass(frozen=True, slots=True)
class PresentationDataValue:
    """One fragment of a command or of a data set (PS3.8 §9.3.5.1 and Annex E.2)."""

    context_id: int
    is_command: bool
    is_last: bool
    data: Buffer

    def encode(self) -> bytes:
        """Encode the whole item: its length, context ID, message control header, and data."""
        control = self.is_command * _MESSAGE_CONTROL_COMMAND + self.is_last * _MESSAGE_CONTROL_LAST
        header = _PDV_HEADER.pack(len(self.data) + 2, self.context_id, control)
        return b"".join((header, self.data))


@dataclass(frozen=True, slots=True)
class PDataTF:
    """P-DATA-TF (PS3.8 §9.3.5): one or more presentation data values."""

    TYPE: ClassVar[PDUType] = PDUType.P_DATA_TF
    values: tuple[PresentationDataValue, ...]

    def encode(self) -> bytes:
        """Encode the whole PDU, copying the data."""
        values = b"".join([value.encode() for value in self.values])
        return PDU_HEADER.pack(self.TYPE, len(values)) + values

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Decode the variable field; the data are views into ``body``."""
        return cls(tuple(PresentationDataValue(*fields) for fields in split_p_data(body)))


@dataclass(frozen=True, slots=True)
class AReleaseRQ:
    """A-RELEASE-RQ (PS3.8 §9.3.6)."""

    TYPE: ClassVar[PDUType] = PDUType.A_RELEASE_RQ

    def encode(self) -> bytes:
        """Encode the whole PDU."""
        return PDU_HEADER.pack(self.TYPE, 4) + bytes(4)

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Decode the variable field, which is reserved."""
        _four_bytes(cls.TYPE, body)
        return cls()


@dataclass(frozen=True, slots=True)
class AReleaseRP:
    """A-RELEASE-RP (PS3.8 §9.3.7)."""

    TYPE: ClassVar[PDUType] = PDUType.A_RELEASE_RP

    def encode(self) -> bytes:
        """Encode the whole PDU."""
        return PDU_HEADER.pack(self.TYPE, 4) + bytes(4)

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Decode the variable field, which is reserved."""
        _four_bytes(cls.TYPE, body)
        return cls()


@dataclass(frozen=True, slots=True)
class AAbort:
    """A-ABORT (PS3.8 §9.3.8), with whatever codes the peer sent."""

    TYPE: ClassVar[PDUType] = PDUType.A_ABORT
    source: int
    reason: int

    @property
    def words(self) -> str:
        """Say who aborts and why in the standard's words."""
        if self.source == AbortSource.SERVICE_USER:
            return "service-user"
        if self.source != AbortSource.SERVICE_PROVIDER:
            return f"source {self.source}, reason {self.reason}"
        known = AbortReason.__members__.values()
        why = AbortReason(self.reason).words if self.reason in known else f"reason {self.reason}"
        return f"service-provider, {why}"

    def encode(self) -> bytes:
        """Encode the whole PDU."""
        return PDU_HEADER.pack(self.TYPE, 4) + bytes((0, 0, self.source, self.reason))

    @classmethod
    def decode(cls, body: memoryview) -> Self:
        """Decode the variable field."""
        _four_bytes(cls.TYPE, body)
        return cls(body[2], body[3])


PDU: TypeAlias = (
    AAssociateRQ | AAssociateAC | AAssociateRJ | PDataTF | AReleaseRQ | AReleaseRP | AAbort
)

_PDUS: dict[int, type[PDU]] = {
    pdu.TYPE: pdu
    for pdu in (AAssociateRQ, AAssociateAC, AAssociateRJ, PDataTF, AReleaseRQ, AReleaseRP, AAbort)
}


def decode_pdu(pdu_type: int, body: memoryview) -> PDU:
    """Decode the variable field of a PDU of ``pdu_type``; raises RemoteProtocolError only."""
    if pdu_type not in _PDUS:
        raise RemoteProtocolError(
            f"PDU type {pdu_type:02X}H does not exist", reason=AbortReason.UNRECOGNIZED_PDU
        )
    return _PDUS[pdu_type].decode(body)


def abort_pdu(source: int, reason: int) -> AAbort:
    """Make an A-ABORT of our own; the reason of a service-user is always 0 (Table 9-26)."""
    try:
        return AAbort(AbortSource(source), AbortReason(reason) if source else 0)
    except ValueError:
        raise LocalProtocolError(f"A-ABORT has no source {source} with reason {reason}") from None


def check_context_ids(contexts: Sequence[PresentationContextRQ]) -> None:
    """Refuse even and repeated presentation context IDs (PS3.8 §7.1.1.13, §9.3.2.2)."""
    seen = set()
    for context in contexts:
        if context.context_id % 2 == 0:
            raise malformed(f"presentation context ID {context.context_id} is not odd")
        if context.context_id in seen:
            raise malformed(f"presentation context ID {context.context_id} is proposed twice")
        seen.add(context.context_id)


def p_data_header(context_id: int, length: int, *, is_command: bool, is_last: bool) -> bytes:
    """Encode what precedes ``length`` bytes of data, the only ones of their P-DATA-TF."""
    control = is_command * _MESSAGE_CONTROL_COMMAND + is_last * _MESSAGE_CONTROL_LAST
    return _ONE_PDV_HEADERS.pack(PDUType.P_DATA_TF, length + 6, length + 2, context_id, control)


def split_p_data(body: memoryview) -> list[tuple[int, bool, bool, memoryview]]:
    """Split a P-DATA-TF's variable field into (context ID, is command, is last, data)."""
    return [
        (context_id, control & 1 != 0, control & 2 != 0, data)
        for context_id, control, data in _values(body)
    ]


def join_p_data(body: memoryview) -> list[tuple[int, bool, bool, memoryview]]:
    """Split like ``split_p_data``, but join by copying what continues the value before it.

    A peer that cuts a message into thousands of values a PDU costs no more than their bytes.
    """
    values: list[tuple[int, bool, bool, memoryview]] = []
    pieces: list[memoryview] = []
    begun = -1, 0
    for context_id, control, data in _values(body):
        kind = control & 1
        if pieces and begun != (context_id, kind):
            values.append((begun[0], begun[1] != 0, False, _join(pieces)))
            pieces = []
        if control & 2:
            pieces.append(data)
            values.append((context_id, kind != 0, True, _join(pieces)))
            pieces = []
        elif data or not pieces:
            begun = context_id, kind
            pieces.append(data)
    if pieces:
        values.append((begun[0], begun[1] != 0, False, _join(pieces)))
    return values


def _join(pieces: list[memoryview]) -> memoryview:
    return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


def _values(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield context ID, message control header and data of each value."""
    offset, end = 0, len(body)
    if not end:
        raise malformed("P-DATA-TF without a PDV")
    while offset < end:
        if end - offset < PDV_HEADER_LENGTH:
            raise malformed(f"{end - offset} bytes are left over behind the last PDV")
        length, context_id, control = _PDV_HEADER.unpack_from(body, offset)
        after = offset + 4 + length
        if length < 2 or after > end:
            raise malformed(f"a PDV claims {length} bytes where 2 to {end - offset - 4} may be")
        yield context_id, control, body[offset + PDV_HEADER_LENGTH : after]
        offset = after


def _four_bytes(pdu_type: PDUType, body: memoryview) -> None:
    if len(body) != 4:
        raise malformed(f"{pdu_type.words} has a length of {len(body)} instead of 4")


def _title(title: str) -> bytes:
    encoded = encode_text(title)
    if len(encoded) > 16:
        raise LocalProtocolError(f"AE title {title!r} is longer than 16 characters")
    return encoded.ljust(16)


def _encode_associate(pdu: AAssociateRQ | AAssociateAC) -> bytes:
    titles = _title(pdu.called_ae_title), _title(pdu.calling_ae_title)
    body = b"".join(
        (
            _ASSOCIATE_HEAD.pack(pdu.protocol_version, 0, *titles),
            encode_item(APPLICATION_CONTEXT, encode_text(pdu.application_context_name)),
            *(context.encode() for context in pdu.presentation_contexts),
            encode_user_information(pdu.user_information),
        )
    )
    return PDU_HEADER.pack(pdu.TYPE, len(body)) + body


def _decode_associate(
    pdu_type: PDUType, body: memoryview
) -> tuple[int, str, str, str, list[memoryview], tuple[UserItem, ...]]:
    """Decode what RQ and AC share; presentation contexts stay the values of their items.

    Of items that may be there once, the first counts.
    """
    if len(body) < _ASSOCIATE_HEAD.size:
        raise malformed(f"{pdu_type.words} ends after {len(body)} bytes of its fixed fields")
    version, _, called, calling = _ASSOCIATE_HEAD.unpack_from(body)
    context_type = (
        PRESENTATION_CONTEXT_RQ if pdu_type is PDUType.A_ASSOCIATE_RQ else PRESENTATION_CONTEXT_AC
    )
    name = ""
    contexts: list[memoryview] = []
    user_information: memoryview | None = None
    for item_type, value in split_items(body[_ASSOCIATE_HEAD.size :], pdu_type.words):
        if item_type == APPLICATION_CONTEXT:
            name = name or decode_text(value)
        elif item_type == context_type:
            if len(contexts) == MAXIMUM_CONTEXTS:
                raise malformed(f"more than {MAXIMUM_CONTEXTS} presentation contexts")
            contexts.append(value)
        elif item_type == USER_INFORMATION and user_information is None:
            user_information = value
    titles = (decode_text(memoryview(title)) for title in (called, calling))
    user = decode_user_information(user_information) if user_information else ()
    return version, *titles, name, contexts, user
