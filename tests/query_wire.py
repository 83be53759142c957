"""The raw peer of ``tests.wire`` as SCU of query and retrieve.

Written from PS3.4 Annex C and PS3.7 §9.1.2-9.1.4 without using dicomnode. It reads with little
work of its own, so that ``bench`` measures the servers and not the client.
"""

from __future__ import annotations

import fcntl
import struct
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from tests.wire import (
    ASSOCIATE_AC,
    CT_IMAGE_STORAGE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    P_DATA,
    VERIFICATION,
    ConnectionEnded,
    Context,
    Wire,
    command_set,
    command_values,
    element,
    pdu,
    pdv,
)

PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"

ECHO, FIND, MOVE, GET, STORE, PATIENT_FIND = 1, 3, 5, 7, 9, 11
CONTEXTS: tuple[Context, ...] = (
    (ECHO, VERIFICATION, (IMPLICIT_LE,)),
    (FIND, STUDY_ROOT_FIND, (IMPLICIT_LE,)),
    (MOVE, STUDY_ROOT_MOVE, (IMPLICIT_LE,)),
    (GET, STUDY_ROOT_GET, (IMPLICIT_LE,)),
    (STORE, CT_IMAGE_STORAGE, (EXPLICIT_LE,)),
    (PATIENT_FIND, PATIENT_ROOT_FIND, (IMPLICIT_LE,)),
)

SPECIFIC_CHARACTER_SET = 0x00080005
STUDY_DATE = 0x00080020
ACCESSION_NUMBER = 0x00080050
QUERY_RETRIEVE_LEVEL = 0x00080052
MODALITIES_IN_STUDY = 0x00080061
STUDY_DESCRIPTION = 0x00081030
PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
SOP_INSTANCE_UID = 0x00080018
NUMBER_OF_STUDY_RELATED_SERIES = 0x00201206
NUMBER_OF_STUDY_RELATED_INSTANCES = 0x00201208

_NO_DATA_SET = 0x0101
_C_STORE_RQ, _C_STORE_RSP, _C_FIND_RQ, _C_GET_RQ, _C_MOVE_RQ = 0x01, 0x8001, 0x20, 0x10, 0x21
_C_CANCEL_RQ = 0x0FFF
_KNOWN_COMMANDS = 64


def identifier(keys: Mapping[int, str | bytes]) -> bytes:
    """Return an identifier in Implicit VR Little Endian; UIDs and text are padded alike."""
    encoded = b""
    for tag, value in sorted(keys.items()):
        raw = value if isinstance(value, bytes) else value.encode()
        is_uid = raw[:1].isdigit() and b"." in raw
        encoded += element(tag, raw if is_uid or len(raw) % 2 == 0 else raw + b" ")
    return encoded


def c_find_rq(message_id: int, sop_class_uid: str = STUDY_ROOT_FIND) -> bytes:
    """Return the command set of a C-FIND-RQ (PS3.7 §9.3.2.1)."""
    return _request(_C_FIND_RQ, message_id, sop_class_uid)


def c_get_rq(message_id: int, sop_class_uid: str = STUDY_ROOT_GET) -> bytes:
    """Return the command set of a C-GET-RQ (PS3.7 §9.3.3.1)."""
    return _request(_C_GET_RQ, message_id, sop_class_uid)


def c_move_rq(message_id: int, destination: str, sop_class_uid: str = STUDY_ROOT_MOVE) -> bytes:
    """Return the command set of a C-MOVE-RQ (PS3.7 §9.3.4.1)."""
    title = destination + " " * (len(destination) % 2)
    return _request(_C_MOVE_RQ, message_id, sop_class_uid, {0x0600: title})


def _request(
    field_code: int, message_id: int, sop_class_uid: str, more: dict[int, int | str] | None = None
) -> bytes:
    fields: dict[int, int | str] = {
        0x0002: sop_class_uid,
        0x0100: field_code,
        0x0110: message_id,
        0x0700: 0,
        0x0800: 1,
    }
    return command_set(fields | (more or {}))


def c_cancel_rq(message_id: int) -> bytes:
    """Return the command set of a C-CANCEL-RQ for the request with that id (PS3.7 §9.3.2.3)."""
    return command_set({0x0100: _C_CANCEL_RQ, 0x0120: message_id, 0x0800: _NO_DATA_SET})


def c_store_rsp(request: Mapping[int, bytes], status: int = 0) -> bytes:
    """Return the command set that answers a C-STORE-RQ (PS3.7 §9.3.1.2)."""
    return command_set(
        {
            0x0002: request[0x0002].decode(),
            0x0100: _C_STORE_RSP,
            0x0120: _us(request[0x0110]),
            0x0800: _NO_DATA_SET,
            0x0900: status,
            0x1000: request[0x1000].decode(),
        }
    )


def _us(value: bytes) -> int:
    return int.from_bytes(value, "little")


@dataclass(slots=True)
class Answers:
    """The responses to one request: the pending ones' count, and the final one."""

    pending: int = 0
    identifiers: list[bytes] = field(default_factory=list)
    final: dict[int, bytes] = field(default_factory=dict)
    final_identifier: bytes | None = None
    stored: dict[str, int] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """Status of the final response."""
        return _us(self.final[0x0900])

    @property
    def comment(self) -> str:
        """Error Comment (0000,0902) of the final response, "" where there is none."""
        return self.final.get(0x0902, b"").decode().strip()

    @property
    def counters(self) -> tuple[int | None, ...]:
        """Remaining, completed, failed and warning sub-operations, None where not sent."""
        return tuple(
            _us(self.final[tag]) if tag in self.final else None
            for tag in (0x1020, 0x1021, 0x1022, 0x1023)
        )


class QueryWire(Wire):
    """One association that queries and retrieves; it reads through a buffer."""

    def __init__(
        self, address: tuple[str, int], *, timeout: float = 10.0, receive_buffer_bytes: int = 0
    ) -> None:
        super().__init__(address, timeout=timeout, receive_buffer_bytes=receive_buffer_bytes)
        self.keeps_identifiers = True
        self._buffered = self.socket.makefile("rb", buffering=1 << 20)
        self._known: dict[bytes, dict[int, bytes]] = {}
        self._query_id = 0

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._buffered.close()
        super().__exit__(exception_type, exception, traceback)

    def receive_exactly(self, size: int) -> bytes:
        """Return ``size`` bytes; ConnectionEnded when the node closes first."""
        data = self._buffered.read(size)
        if len(data) < size:
            raise ConnectionEnded
        return data

    def messages(self) -> Iterator[tuple[int, dict[int, bytes], bytes | None]]:
        """Yield presentation context, command set and data set of every message."""
        command: dict[int, bytes] = {}
        parts: list[bytes | memoryview] = []
        while True:
            pdu_type, body = self.receive_pdu()
            if pdu_type != P_DATA:
                raise ConnectionEnded(f"PDU type {pdu_type}: {body.hex()}")
            at = 0
            view = memoryview(body)
            while at < len(body):
                length, context_id, flags = struct.unpack_from(">IBB", body, at)
                part = view[at + 6 : at + 4 + length]
                at += 4 + length
                parts.append(part)
                if not flags & 2:
                    continue
                whole = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
                parts = []
                if flags & 1:
                    command = self._command(whole)
                    if _us(command[0x0800]) == _NO_DATA_SET:
                        yield context_id, command, None
                else:
                    yield context_id, command, whole

    def _command(self, encoded: bytes) -> dict[int, bytes]:
        # Pending responses to one query are all alike.
        known = self._known.get(encoded)
        if known is None:
            if len(self._known) >= _KNOWN_COMMANDS:
                self._known.clear()
            known = self._known[encoded] = command_values(encoded)
        return known

    def next_id(self) -> int:
        """Return the message id of the next request."""
        self._query_id = self._query_id % 65535 + 1
        return self._query_id

    def find(
        self,
        keys: Mapping[int, str | bytes] | bytes,
        *,
        context_id: int = FIND,
        cancel_after: int | None = None,
    ) -> Answers:
        """C-FIND; with ``cancel_after`` C-CANCEL is sent once so many matches have come."""
        uid = STUDY_ROOT_FIND if context_id == FIND else PATIENT_ROOT_FIND
        return self.ask(context_id, c_find_rq(self.next_id(), uid), keys, cancel_after)

    def get(
        self, keys: Mapping[int, str | bytes] | bytes, *, cancel_after: int | None = None
    ) -> Answers:
        """C-GET; every object is answered with Success and forgotten."""
        return self.ask(GET, c_get_rq(self.next_id()), keys, cancel_after)

    def move(
        self,
        destination: str,
        keys: Mapping[int, str | bytes] | bytes,
        *,
        cancel_after: int | None = None,
    ) -> Answers:
        """C-MOVE to ``destination``."""
        return self.ask(MOVE, c_move_rq(self.next_id(), destination), keys, cancel_after)

    def ask(
        self,
        context_id: int,
        command: bytes,
        keys: Mapping[int, str | bytes] | bytes,
        cancel_after: int | None = None,
    ) -> Answers:
        """Send a request and read until its final response."""
        data = keys if isinstance(keys, bytes) else identifier(keys)
        self.send(b"".join(self.message(context_id, command, data)))
        if cancel_after == 0:
            self.cancel(context_id, self._query_id)
        answers = Answers()
        for on_context, response, content in self.messages():
            if _us(response[0x0100]) == _C_STORE_RQ:
                assert content is not None
                answers.stored[response[0x1000].rstrip(b"\0").decode()] = len(content)
                self.send(pdu(P_DATA, pdv(on_context, c_store_rsp(response), command=True)))
                continue
            if _us(response[0x0900]) & 0xFF00 != 0xFF00:
                answers.final, answers.final_identifier = response, content
                return answers
            answers.pending += 1
            if content is not None and self.keeps_identifiers:
                answers.identifiers.append(content)
            if answers.pending == cancel_after:
                self.cancel(context_id, self._query_id)
        raise AssertionError("messages() does not end by itself")

    def cancel(self, context_id: int, message_id: int) -> None:
        """Send C-CANCEL-RQ for one request."""
        self.send(pdu(P_DATA, pdv(context_id, c_cancel_rq(message_id), command=True)))


def querying(
    address: tuple[str, int],
    calling: str = "RAW",
    called: str = "DICOMNODE",
    *,
    contexts: Sequence[Context] = CONTEXTS,
    timeout: float = 10.0,
    extended: Mapping[str, bytes] | None = None,
    receive_buffer_bytes: int = 0,
) -> QueryWire:
    """Return an association for query and retrieve; the caller is SCP of CT images."""
    wire = QueryWire(address, timeout=timeout, receive_buffer_bytes=receive_buffer_bytes)
    pdu_type, body = wire.associate(
        calling=calling,
        called=called,
        contexts=contexts,
        scp_of=(CT_IMAGE_STORAGE,),
        extended=extended,
    )
    if pdu_type != ASSOCIATE_AC:
        raise ConnectionEnded(f"PDU type {pdu_type}: {body.hex()}")
    return wire


def values(encoded: bytes) -> dict[int, bytes]:
    """Return tag → raw value of an Implicit VR Little Endian identifier without sequences."""
    return command_values(encoded)


def nothing_more_comes(wire: QueryWire) -> Callable[[], bool]:
    """Return a condition: bytes wait to be read, and as many as when it was last asked."""
    seen = [0]

    def settled() -> bool:
        unread = fcntl.ioctl(wire.socket, termios.FIONREAD, bytes(4))
        seen.append(int.from_bytes(unread, sys.byteorder))
        return seen[-1] == seen[-2] > 0

    return settled
