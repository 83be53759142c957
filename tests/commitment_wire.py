"""A requester of storage commitment on the wire, written from PS3.4 §J.3 and PS3.7 §10.3."""

from __future__ import annotations

import contextlib
import io
import queue
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from tests.destination import Conversation
from tests.wire import (
    IMPLICIT_LE,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    ConnectionEnded,
    Wire,
    command_set,
    command_values,
    element,
    pdu,
    pdv,
)

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
CONTEXTS = ((1, PUSH_MODEL, (IMPLICIT_LE,)),)

N_ACTION_RSP = 0x8130
N_EVENT_REPORT_RQ = 0x0100
_N_EVENT_REPORT_RSP = 0x8100

REFERENCED = "ReferencedSOPSequence"
FAILED = "FailedSOPSequence"

# SOP Class UID and SOP Instance UID.
Referenced = tuple[str, str]


def n_action_rq(
    message_id: int = 1, *, instance: str = PUSH_MODEL_INSTANCE, action: int = 1, data: int = 1
) -> bytes:
    """Return the command set of an N-ACTION-RQ (PS3.7 §10.3.4.1)."""
    return command_set(
        {
            0x0003: PUSH_MODEL,
            0x0100: 0x0130,
            0x0110: message_id,
            0x0800: 1 if data else 0x0101,
            0x1001: instance,
            0x1008: action,
        }
    )


def n_event_report_rsp(message_id: int, status: int = 0) -> bytes:
    """Return the command set of an N-EVENT-REPORT-RSP (PS3.7 §10.3.1.2)."""
    return command_set(
        {
            0x0002: PUSH_MODEL,
            0x0100: _N_EVENT_REPORT_RSP,
            0x0120: message_id,
            0x0800: 0x0101,
            0x0900: status,
            0x1000: PUSH_MODEL_INSTANCE,
        }
    )


def action_information(transaction_uid: str, references: Sequence[Referenced]) -> bytes:
    """Return a request's data set (PS3.4 Table J.3-1), Implicit VR Little Endian."""
    items = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
        for sop_class, sop_instance in references
        for item in [element(0x00081150, sop_class.encode()) + uid(0x00081155, sop_instance)]
    )
    return uid(0x00081195, transaction_uid) + element(0x00081199, items)


def uid(tag: int, value: str) -> bytes:
    """Return a UI element."""
    return element(tag, value.encode())


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the node: its command's values by tag, and its data set."""

    command: dict[int, bytes]
    data: bytes

    def integer(self, tag: int) -> int:
        """Return a US of the command."""
        return int.from_bytes(self.command[tag], "little")

    @property
    def field(self) -> int:
        """The Command Field."""
        return self.integer(0x0100)

    @property
    def status(self) -> int:
        """The Status of a response."""
        return self.integer(0x0900)

    @property
    def data_set(self) -> Dataset:
        """The data set of a report, in Implicit VR Little Endian."""
        return read_dataset(io.BytesIO(self.data), is_implicit_VR=True, is_little_endian=True)

    @property
    def outcome(self) -> tuple[int, str, list[str], dict[str, int]]:
        """Event type, transaction, UIDs that are committed, and reasons of those that are not."""
        report = self.data_set
        return (
            self.integer(0x1002),
            str(report.TransactionUID),
            [str(item.ReferencedSOPInstanceUID) for item in report.get(REFERENCED, [])],
            {
                str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
                for item in report.get(FAILED, [])
            },
        )


def receive_message(receive_pdu: Callable[[], tuple[int, bytes]]) -> Message | None:
    """Return the node's next message; None when it asks for release."""
    parts: dict[bool, bytes] = {True: b"", False: b""}
    while True:
        pdu_type, body = receive_pdu()
        if pdu_type == RELEASE_RQ:
            return None
        if pdu_type != P_DATA:
            raise ConnectionEnded(f"PDU type {pdu_type}: {body.hex()}")
        while body:
            (length,) = struct.unpack_from(">I", body)
            control, fragment = body[5], body[6 : 4 + length]
            body = body[4 + length :]
            is_command = bool(control & 1)
            parts[is_command] += fragment
            if control & 2 and (not is_command or not _has_data(parts[True])):
                return Message(command_values(parts[True]), parts[False])


def _has_data(command: bytes) -> bool:
    return int.from_bytes(command_values(command)[0x0800], "little") != 0x0101


class Requester(Wire):
    """One association of a requester."""

    def ask(self, message_id: int, transaction_uid: str, references: Sequence[Referenced]) -> None:
        """Send a request; the response is among the ``receive``d."""
        data = action_information(transaction_uid, references)
        for part in self.message(1, n_action_rq(message_id), data):
            self.send(part)

    def commit(
        self, message_id: int, transaction_uid: str, references: Sequence[Referenced]
    ) -> int:
        """Send a request and return the status of its response."""
        self.ask(message_id, transaction_uid, references)
        response = self.receive()
        assert response.field == N_ACTION_RSP, response
        return response.status

    def receive(self) -> Message:
        """Return the next message of the node."""
        message = receive_message(self.receive_pdu)
        assert message is not None
        return message

    def take_report(self, status: int = 0) -> Message:
        """Await a report and answer it with ``status``."""
        report = self.receive()
        assert report.field == N_EVENT_REPORT_RQ, report
        self.answer(report, status)
        return report

    def answer(self, report: Message, status: int = 0) -> None:
        """Answer a report."""
        for part in self.message(1, n_event_report_rsp(report.integer(0x0110), status)):
            self.send(part)


@contextlib.contextmanager
def requesting(
    address: tuple[str, int], calling: str = "SCU", called: str = "DICOMNODE"
) -> Iterator[Requester]:
    """Open an association for storage commitment."""
    with Requester(address) as wire:
        wire.associate(calling=calling, called=called, contexts=CONTEXTS)
        yield wire


class Reports:
    """A requester that takes reports on associations of the node's: a ``Behaviour``.

    ``statuses`` are its answers, the last one for all that follow.
    """

    def __init__(self, *statuses: int) -> None:
        self._statuses = list(statuses) or [0]
        self.taken: queue.Queue[Message] = queue.Queue()
        self.requests: list[bytes] = []

    def __call__(self, conversation: Conversation) -> None:
        self.requests.append(conversation.accept())
        while (message := receive_message(conversation.receive_pdu)) is not None:
            assert message.field == N_EVENT_REPORT_RQ, message
            status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
            answer = n_event_report_rsp(message.integer(0x0110), status)
            conversation.socket.sendall(pdu(P_DATA, pdv(1, answer, command=True)))
            self.taken.put(message)
        conversation.socket.sendall(pdu(RELEASE_RP, bytes(4)))

    def take(self, seconds: float = 10) -> Message:
        """Return the next report, once it has come."""
        return self.taken.get(timeout=seconds)
