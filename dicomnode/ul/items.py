"""The items inside A-ASSOCIATE PDUs (PS3.8 §9.3.2 and §9.3.3, PS3.7 Annex D.3.3).

An item is type (1 byte), reserved (1), length (2, big endian), value. Decoders take the value
as a memoryview, copy what they keep, and raise RemoteProtocolError only. Text is ISO 8859-1 on
the way in and out, so that whatever a peer wrote can be decoded, logged and echoed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import ClassVar, Self, TypeAlias

from dicomnode.errors import LocalProtocolError, RemoteProtocolError

_ITEM_HEADER = Struct(">BxH")
_UINT16 = Struct(">H")
_UINT32 = Struct(">L")
_TWO_UINT16 = Struct(">HH")

APPLICATION_CONTEXT = 0x10
PRESENTATION_CONTEXT_RQ = 0x20
PRESENTATION_CONTEXT_AC = 0x21
ABSTRACT_SYNTAX = 0x30
TRANSFER_SYNTAX = 0x40
USER_INFORMATION = 0x50

# Beyond what 128 presentation contexts with every SOP class and transfer syntax of the standard
# can need; without these limits 1 MiB of empty items holds the reader up for long.
_MOST_ITEMS = 1024
_MOST_SUB_ITEMS = 256

# The padding that peers put behind UIDs, where PS3.5 §9.1 wants none.
_PADDING = "\0 "


class ContextResult(IntEnum):
    """What became of a presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4

    @property
    def words(self) -> str:
        """Name the result as the standard does, for logs."""
        return self.name.capitalize().replace("_", " ")


class UserIdentityKind(IntEnum):
    """The form of a user's identity (PS3.7 Table D.3-14)."""

    USERNAME = 1
    USERNAME_AND_PASSCODE = 2
    KERBEROS = 3
    SAML = 4
    JSON_WEB_TOKEN = 5


def malformed(rule: str) -> RemoteProtocolError:
    """Make the error for a field whose value breaks ``rule`` (PS3.8 Table 9-26, reason 6)."""
    return RemoteProtocolError(rule, source=2, reason=6)


def encode_item(item_type: int, value: bytes) -> bytes:
    """Put the item header before ``value``."""
    if len(value) > 0xFFFF:
        raise LocalProtocolError(
            f"item {item_type:02X}H of {len(value)} bytes is longer than its 16-bit length allows"
        )
    return _ITEM_HEADER.pack(item_type, len(value)) + value


def split_items(
    data: memoryview, inside: str, most: int = _MOST_ITEMS
) -> Iterator[tuple[int, memoryview]]:
    """Yield type and value of each item in ``data``; ``inside`` names the whole in errors."""
    offset, end = 0, len(data)
    while offset < end:
        if not most:
            raise malformed(f"{inside} has more items than anybody needs")
        most -= 1
        if end - offset < 4:
            raise malformed(f"{end - offset} bytes are left over behind the items of {inside}")
        item_type, length = _ITEM_HEADER.unpack_from(data, offset)
        offset += 4
        if length > end - offset:
            raise malformed(
                f"item {item_type:02X}H in {inside} claims {length} bytes where {end - offset} are"
            )
        yield item_type, data[offset : offset + length]
        offset += length


def encode_text(text: str) -> bytes:
    """Encode text of our own or echoed from a peer."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise LocalProtocolError(f"{text!r} holds characters that a PDU cannot carry") from None


def decode_text(value: memoryview) -> str:
    """Decode a UID or a name and drop the padding around it."""
    return str(value, "latin-1").strip(_PADDING)


def _sized(value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise LocalProtocolError(f"a field of {len(value)} bytes does not fit its 16-bit length")
    return _UINT16.pack(len(value)) + value


def _take(value: memoryview, offset: int, field: str) -> tuple[memoryview, int]:
    """Read a field that a 16-bit length precedes; returns it and the offset behind it."""
    if len(value) - offset < 2:
        raise malformed(f"the item ends before the length of its {field}")
    (length,) = _UINT16.unpack_from(value, offset)
    start = offset + 2
    if length > len(value) - start:
        raise malformed(f"{field} claims {length} bytes where {len(value) - start} are")
    return value[start : start + length], start + length


def _fixed(value: memoryview, length: int, item: str) -> None:
    if len(value) != length:
        raise malformed(f"{item} item has {len(value)} bytes instead of {length}")


@dataclass(frozen=True, slots=True)
class PresentationContextRQ:
    """A proposed presentation context (PS3.8 §9.3.2.2)."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]

    def encode(self) -> bytes:
        """Encode the whole item."""
        value = bytes((self.context_id, 0, 0, 0))
        value += encode_item(ABSTRACT_SYNTAX, encode_text(self.abstract_syntax))
        for uid in self.transfer_syntaxes:
            value += encode_item(TRANSFER_SYNTAX, encode_text(uid))
        return encode_item(PRESENTATION_CONTEXT_RQ, value)

    @classmethod
    def decode(cls, value: memoryview) -> Self:
        """Decode the value of an item 20H; a missing sub-item leaves its field empty."""
        if len(value) < 4:
            raise malformed(f"a presentation context item has {len(value)} bytes")
        abstract_syntax = ""
        transfer_syntaxes = []
        for item_type, content in split_items(value[4:], "a presentation context", _MOST_SUB_ITEMS):
            if item_type == ABSTRACT_SYNTAX:
                abstract_syntax = abstract_syntax or decode_text(content)
            elif item_type == TRANSFER_SYNTAX:
                transfer_syntaxes.append(decode_text(content))
        return cls(value[0], abstract_syntax, tuple(transfer_syntaxes))


@dataclass(frozen=True, slots=True)
class PresentationContextAC:
    """The answer to a presentation context (PS3.8 §9.3.3.2).

    ``transfer_syntax`` is not significant, and may be empty, unless ``result`` is acceptance.
    """

    context_id: int
    result: ContextResult
    transfer_syntax: str

    def encode(self) -> bytes:
        """Encode the whole item."""
        value = bytes((self.context_id, 0, self.result, 0))
        value += encode_item(TRANSFER_SYNTAX, encode_text(self.transfer_syntax))
        return encode_item(PRESENTATION_CONTEXT_AC, value)

    @classmethod
    def decode(cls, value: memoryview) -> Self:
        """Decode the value of an item 21H; a result that does not exist counts as a refusal."""
        if len(value) < 4:
            raise malformed(f"a presentation context item has {len(value)} bytes")
        transfer_syntax = ""
        for item_type, content in split_items(value[4:], "a presentation context", _MOST_SUB_ITEMS):
            if item_type == TRANSFER_SYNTAX:
                transfer_syntax = transfer_syntax or decode_text(content)
        result = ContextResult(value[2]) if value[2] <= 4 else ContextResult.NO_REASON
        return cls(value[0], result, transfer_syntax)


@dataclass(frozen=True, slots=True)
class MaximumLength:
    """The longest P-DATA-TF variable field its sender receives; 0 is no limit (PS3.8 §D.1)."""

    ITEM_TYPE: ClassVar[int] = 0x51
    maximum_length: int

    def encode(self) -> bytes:
        """Encode the whole item."""
        return encode_item(self.ITEM_TYPE, _UINT32.pack(self.maximum_length))

    @classmethod
    def decode(cls, value: memoryview) -> Self:
        """Decode the value of an item 51H."""
        _fixed(value, 4, "Maximum Length")
        return cls(_UINT32.unpack(value)[0])


@dataclass(frozen=True, slots=True)
class ImplementationClassUID:
    """Names the implementation for good (PS3.7 §D.3.3.2)."""

    ITEM_TYPE: ClassVar[int] = 0x52
    uid: str

    def encode(self) -> bytes:
        """Encode the whole item."""
        return encode_item(self.ITEM_TYPE, encode_text(self.uid))

    @classmethod
    def decode(cls, value: memoryview) -> Self:
        """Decode the value of an item 52H."""
        return cls(decode_text(value))


@dataclass(frozen=True, slots=True)
class AsynchronousOperationsWindow:
    """How many operations may be outstanding; 0 is no limit (PS3.7 §D.3.3.3).

    In the request and in the answer alike, ``max_invoked`` counts what the requestor invokes
    and ``max_performed`` what it performs.
    """

    ITEM_TYPE: ClassVar[int] = 0x53
    max_invoked: int
    max_performed: int

    def encode(self) -> bytes:
        """Encode the whole item."""
        return encode_item(self.ITEM_TYPE, _TWO_UINT16.pack(self.max_invoked, self.max_performed))

    @classmethod
    def decode(cls, value: memoryview) -> Self:
        """Decode the value of an item 53H."""
        _fixed(value, 4, "Asynchronous Operations Window")
        return cls(*_TWO_UINT16.unpack(value))


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """The roles of the requestor for one SOP class (PS3.7 §D.3.3.4)."""

    ITEM_TYPE: ClassVar[int] = 0x54
    sop_class_uid: str
    scu: bool
    scp: bool

    def encode(self) -> bytes:
        """Encode the whole item."""
        value = _sized(encode_text(self.sop_class_uid)) + bytes((self.scu, self.scp))
        return encode_item(self.ITEM_TYPE, value)

    @classmethod
    def decode(cls, value: memoryview) -> Self:
        """Decode the value of an item 54H."""
        uid, offset = _take(value, 0, "SOP Class UID of role selection")
        _fixed(value, offset + 2, "SCP/SCU Role Selection")
        return cls(decode_text(uid), value[offset] != 0, value[offset + 1] != 0)


@dataclass(frozen=True, slots=True)
class ImplementationVersionName:
    """Names the version of the implementation, 1 to 16 characters (PS3.7 §D.3.3.2)."""

    ITEM_TYPE: ClassVar[int] = 0x55
    name: str

    def encode(self) -> bytes:
        """Encode the whole item."""
        return encode_item(self.ITEM_TYPE, encode_text(self.name))

    @classmethod
    def decode(cls, value: memoryview) -> Self:
        """Decode the value of an item 55H."""
        return cls(decode_text(value))


@dataclass(frozen=True, slots=True)
class ExtendedNegotiation:
    """Application information for one SOP class, as its service defines it (PS3.7 §D.3.3.5)."""

    ITEM_TYPE: ClassVar[int] = 0x56
    sop_class_uid: str
    info: bytes

    def encode(self) -> bytes:
        """Encode the whole item."""
        return encode_item(self.ITEM_TYPE, _sized(encode_text(self.sop_class_uid)) + self.info)

    @classmethod
    def decode(cls, value: memoryview) -> Self:
        """Decode the value of an item 56H."""
        uid, offset = _take(value, 0, "SOP Class UID of extended negotiation")
        return cls(decode_text(uid), bytes(value[offset:]))


@dataclass(frozen=True, slots=True)
class CommonExtendedNegotiation:
    """The service and the more general SOP classes of a SOP class (PS3.7 §D.3.3.6)."""

    ITEM_TYPE: ClassVar[int] = 0x57
    sop_class_uid: str
    service_class_uid: str
    related: tuple[str, ...]

    def encode(self) -> bytes:
        """Encode the whole item; its second byte, the sub-item version, is 0."""
        value = _sized(encode_text(self.sop_class_uid))
        value += _sized(encode_text(self.service_class_uid))
        value += _sized(b"".join(_sized(encode_text(uid)) for uid in self.related))
        return encode_item(self.ITEM_TYPE, value)

    @classmethod
    def decode(cls, value: memoryview) -> Self:
        """Decode the value of an item 57H; later versions may have more fields behind."""
        sop_class_uid, offset = _take(value, 0, "SOP Class UID of common extended negotiation")
        service_class_uid, offset = _take(value, offset, "Service Class UID")
        identification, _ = _take(value, offset, "Related General SOP Class Identification")
        related = []
        offset = 0
        while offset < len(identification):
            uid, offset = _take(identification, offset, "Related General SOP Class UID")
            related.append(decode_text(uid))
        return cls(decode_text(sop_class_uid), decode_text(service_class_uid), tuple(related))


@dataclass(frozen=True, slots=True)
class UserIdentityRQ:
    """Who the requestor says its user is (PS3.7 §D.3.3.7); never shown in logs.

    ``kind`` is a UserIdentityKind, or any other number that a peer sent; ``secondary`` is the
    passcode of kind 2 and empty otherwise.
    """

    ITEM_TYPE: ClassVar[int] = 0x58
    kind: int
    positive_response_requested: bool
    primary: bytes
    secondary: bytes = b""

    def encode(self) -> bytes:
        """Encode the whole item."""
        value = bytes((self.kind, self.positive_response_requested))
        return encode_item(self.ITEM_TYPE, value + _sized(self.primary) + _sized(self.secondary))

    @classmethod
    def decode(cls, value: memoryview) -> Self:
        """Decode the value of an item 58H."""
        primary, offset = _take(value, 2, "primary field of user identity")
        secondary, offset = _take(value, offset, "secondary field of user identity")
        _fixed(value, offset, "User Identity")
        return cls(value[0], value[1] != 0, bytes(primary), bytes(secondary))

    def __repr__(self) -> str:
        return f"UserIdentityRQ(kind={self.kind}, ...)"


@dataclass(frozen=True, slots=True)
class UserIdentityAC:
    """The answer to a user identity: a Kerberos ticket, a SAML response, or nothing."""

    ITEM_TYPE: ClassVar[int] = 0x59
    response: bytes = b""

    def encode(self) -> bytes:
        """Encode the whole item."""
        return encode_item(self.ITEM_TYPE, _sized(self.response))

    @classmethod
    def decode(cls, value: memoryview) -> Self:
        """Decode the value of an item 59H."""
        response, offset = _take(value, 0, "server response of user identity")
        _fixed(value, offset, "User Identity response")
        return cls(bytes(response))


UserItem: TypeAlias = (
    MaximumLength
    | ImplementationClassUID
    | AsynchronousOperationsWindow
    | RoleSelection
    | ImplementationVersionName
    | ExtendedNegotiation
    | CommonExtendedNegotiation
    | UserIdentityRQ
    | UserIdentityAC
)

_USER_ITEMS: dict[int, type[UserItem]] = {
    0x51: MaximumLength,
    0x52: ImplementationClassUID,
    0x53: AsynchronousOperationsWindow,
    0x54: RoleSelection,
    0x55: ImplementationVersionName,
    0x56: ExtendedNegotiation,
    0x57: CommonExtendedNegotiation,
    0x58: UserIdentityRQ,
    0x59: UserIdentityAC,
}


def encode_user_information(items: Iterable[UserItem]) -> bytes:
    """Encode the User Information item with its sub-items (PS3.8 §9.3.2.3)."""
    return encode_item(USER_INFORMATION, b"".join(item.encode() for item in items))


def decode_user_information(value: memoryview) -> tuple[UserItem, ...]:
    """Decode the sub-items of a User Information item; unknown ones are ignored (§9.3.1)."""
    return tuple(
        _USER_ITEMS[item_type].decode(content)
        for item_type, content in split_items(value, "the user information")
        if item_type in _USER_ITEMS
    )
