"""A blocking DICOM peer of a few lines that sends exactly the bytes a test asks for.

Written from PS3.8 §9.3 and PS3.7 §6.3 without using dicomnode, so that both do not share a
mistake. It checks nothing of its own accord: tests use it to misbehave, and ``bench`` to
measure without a client library's overhead.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

Context = tuple[int, str, Sequence[str]]
DEFAULT_CONTEXTS: tuple[Context, ...] = (
    (1, VERIFICATION, (IMPLICIT_LE,)),
    (3, CT_IMAGE_STORAGE, (EXPLICIT_LE,)),
    (5, SECONDARY_CAPTURE, (EXPLICIT_LE,)),
)


def pdu(pdu_type: int, body: bytes) -> bytes:
    """Return one PDU (PS3.8 §9.3.1)."""
    return struct.pack(">BBI", pdu_type, 0, len(body)) + body


def item(item_type: int, body: bytes) -> bytes:
    """Return one item of an association PDU (PS3.8 §9.3.2)."""
    return struct.pack(">BBH", item_type, 0, len(body)) + body


def associate_rq(
    called: str = "DICOMNODE",
    calling: str = "RAW",
    contexts: Sequence[Context] = DEFAULT_CONTEXTS,
    *,
    maximum_length: int = 131072,
    protocol_version: int = 1,
    application_context: str = APPLICATION_CONTEXT,
    scp_of: Sequence[str] = (),
    scu_too: bool = False,
    extended: Mapping[str, bytes] | None = None,
    identity: tuple[int, bytes, bytes] | None = None,
    window: tuple[int, int] | None = None,
) -> bytes:
    """Return an A-ASSOCIATE-RQ (PS3.8 §9.3.2).

    ``scp_of`` are the SOP classes that the caller takes the SCP role of (PS3.7 §D.3.3.4), and
    ``scu_too`` whether it keeps that of SCU, ``extended`` the application information of extended
    negotiations (PS3.7 §D.3.3.5), ``identity`` type, primary and secondary field of a user identity
    (PS3.7 §D.3.3.7), ``window`` the operations that each side may have outstanding (PS3.7
    §D.3.3.3).
    """
    items = item(0x10, application_context.encode())
    for context_id, abstract_syntax, transfer_syntaxes in contexts:
        sub_items = item(0x30, abstract_syntax.encode())
        sub_items += b"".join(item(0x40, uid.encode()) for uid in transfer_syntaxes)
        items += item(0x20, struct.pack("BBBB", context_id, 0, 0, 0) + sub_items)
    information = item(0x51, struct.pack(">I", maximum_length)) + item(
        0x52, b"1.2.826.0.1.3680043.9"
    )
    for uid in scp_of:
        information += item(0x54, _counted(uid) + bytes((scu_too, 1)))
    for uid, application in (extended or {}).items():
        information += item(0x56, _counted(uid) + application)
    if window is not None:
        information += item(0x53, struct.pack(">HH", *window))
    if identity is not None:
        kind, *fields = identity
        counted = b"".join(_length(field) + field for field in fields)
        information += item(0x58, bytes((kind, 1)) + counted)
    items += item(0x50, information)
    fixed = struct.pack(">HH16s16s32x", protocol_version, 0, _title(called), _title(calling))
    return pdu(ASSOCIATE_RQ, fixed + items)


def _counted(uid: str) -> bytes:
    return _length(uid) + uid.encode()


def _length(value: str | bytes) -> bytes:
    return struct.pack(">H", len(value))


def _title(title: str) -> bytes:
    return title.encode("ascii").ljust(16)


def proposed_contexts(request: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield context id and first transfer syntax of an A-ASSOCIATE-RQ's contexts."""
    at = 68
    while at < len(request):
        item_type, _, length = struct.unpack_from(">BBH", request, at)
        if item_type == 0x20:
            context_id = request[at + 4]
            inner = at + 8
            while inner < at + 4 + length:
                sub_type, _, size = struct.unpack_from(">BBH", request, inner)
                if sub_type == 0x40:
                    yield context_id, request[inner + 4 : inner + 4 + size]
                    break
                inner += 4 + size
        at += 4 + length


def pdv(context_id: int, data: bytes, *, command: bool = False, last: bool = True) -> bytes:
    """Return one presentation data value item (PS3.8 §9.3.5.1)."""
    header = struct.pack(">IBB", len(data) + 2, context_id, (1 if command else 0) | last << 1)
    return header + data


def element(tag: int, value: bytes) -> bytes:
    """Return one Implicit VR Little Endian element, padded to even length."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def command_set(elements: dict[int, int | str]) -> bytes:
    """Return a command set with its group length (PS3.7 §6.3.1); integers become US."""
    encoded = b"".join(
        element(tag, struct.pack("<H", value) if isinstance(value, int) else value.encode())
        for tag, value in sorted(elements.items())
    )
    return element(0x00000000, struct.pack("<I", len(encoded))) + encoded


def c_echo_rq(message_id: int = 1) -> bytes:
    """Return the command set of a C-ECHO-RQ (PS3.7 §9.3.5.1)."""
    return command_set({0x0002: VERIFICATION, 0x0100: 0x0030, 0x0110: message_id, 0x0800: 0x0101})


def c_store_rq(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Return the command set of a C-STORE-RQ (PS3.7 §9.3.1.1)."""
    return command_set(
        {
            0x0002: sop_class_uid,
            0x0100: 0x0001,
            0x0110: message_id,
            0x0700: 0,
            0x0800: 1,
            0x1000: sop_instance_uid,
        }
    )


def data_set(
    sop_class_uid: str,
    sop_instance_uid: str,
    *,
    study_uid: str,
    series_uid: str,
    patient_id: str = "P1",
    patient_name: str = "Doe^Jane",
    birth_date: str = "19700101",
    pixels: bytes = b"",
) -> bytes:
    """Return a small Explicit VR Little Endian data set of one image."""
    parts = [
        _explicit(0x00080016, b"UI", sop_class_uid.encode()),
        _explicit(0x00080018, b"UI", sop_instance_uid.encode()),
        _explicit(0x00080060, b"CS", b"CT"),
        _explicit(0x00100010, b"PN", patient_name.encode()),
        _explicit(0x00100020, b"LO", patient_id.encode()),
        _explicit(0x00100030, b"DA", birth_date.encode()),
        _explicit(0x0020000D, b"UI", study_uid.encode()),
        _explicit(0x0020000E, b"UI", series_uid.encode()),
    ]
    if pixels:
        parts.append(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(pixels)) + pixels)
    return b"".join(parts)


def _explicit(tag: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def command_values(data: bytes) -> dict[int, bytes]:
    """Return tag → raw value of an encoded command set."""
    values = {}
    at = 0
    while at < len(data):
        group, number, length = struct.unpack_from("<HHI", data, at)
        values[group << 16 | number] = data[at + 8 : at + 8 + length]
        at += 8 + length
    return values


class ConnectionEnded(Exception):
    """The node closed the connection where a PDU was awaited."""


class Wire:
    """One TCP connection to a node; every wait ends after ``timeout`` seconds."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        timeout: float = 10.0,
        receive_buffer_bytes: int = 0,
        source: str = "",
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(timeout)
        if source:
            self.socket.bind((source, 0))
        if receive_buffer_bytes:
            # Of use only before the connection is made.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._message_id = 0
        self.peer_maximum_length = 16384

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def receive_exactly(self, size: int) -> bytes:
        """Return ``size`` bytes; ConnectionEnded when the node closes first."""
        parts = []
        while size:
            part = self.socket.recv(min(size, 1 << 20))
            if not part:
                raise ConnectionEnded
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def receive_pdu(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU."""
        pdu_type, _, length = struct.unpack(">BBI", self.receive_exactly(6))
        return pdu_type, self.receive_exactly(length)

    def receive_until_closed(self) -> bytes:
        """Return all that still comes; a reset counts as a close."""
        received = b""
        try:
            while part := self.socket.recv(65536):
                received += part
        except ConnectionResetError:
            pass
        return received

    def associate(self, **fields: object) -> tuple[int, bytes]:
        """Send an A-ASSOCIATE-RQ (arguments of ``associate_rq``); return the answer."""
        self.send(associate_rq(**fields))  # type: ignore[arg-type]
        pdu_type, body = self.receive_pdu()
        if pdu_type == ASSOCIATE_AC:
            at = body.find(b"\x51\x00\x00\x04")
            (length,) = struct.unpack_from(">I", body, at + 4)
            self.peer_maximum_length = length or 131072
        return pdu_type, body

    def message(
        self, context_id: int, command: bytes, data: bytes | None = None
    ) -> Iterator[bytes]:
        """Yield the P-DATA-TF PDUs of one message."""
        yield pdu(P_DATA, pdv(context_id, command, command=True))
        if data is None:
            return
        step = self.peer_maximum_length - 6
        for at in range(0, len(data) or 1, step):
            last = at + step >= len(data)
            yield pdu(P_DATA, pdv(context_id, data[at : at + step], last=last))

    def response(self) -> dict[int, bytes]:
        """Return the command set of the next message; it must fit one PDU."""
        pdu_type, body = self.receive_pdu()
        if pdu_type != P_DATA:
            raise ConnectionEnded(f"PDU type {pdu_type}: {body.hex()}")
        return command_values(body[6:])

    def request(self, context_id: int, command: bytes, data: bytes | None = None) -> int:
        """Send one message; return the status of its response."""
        for part in self.message(context_id, command, data):
            self.send(part)
        return int.from_bytes(self.response()[0x0900], "little")

    def echo(self, context_id: int = 1) -> int:
        """C-ECHO; return the status."""
        self._message_id = self._message_id % 65535 + 1
        return self.request(context_id, c_echo_rq(self._message_id))

    def store(
        self, sop_class_uid: str, sop_instance_uid: str, data: bytes, *, context_id: int = 3
    ) -> int:
        """C-STORE one data set; return the status."""
        self._message_id = self._message_id % 65535 + 1
        command = c_store_rq(self._message_id, sop_class_uid, sop_instance_uid)
        return self.request(context_id, command, data)

    def release(self) -> int:
        """Release and return the type of the PDU that answers."""
        self.send(pdu(RELEASE_RQ, bytes(4)))
        return self.receive_pdu()[0]

    def abort(self) -> None:
        """Send A-ABORT and close."""
        self.send(pdu(ABORT, bytes(4)))
        self.socket.close()
