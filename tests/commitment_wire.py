"""A requester of storage commitment on the wire, written from PS3.4 §J.3 and PS3.7 §10.3."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.wire import IMPLICIT_LE, P_DATA, Wire, command_set, command_values, element

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
CONTEXTS = ((1, PUSH_MODEL, (IMPLICIT_LE,)),)

N_ACTION_RSP = 0x8130
N_EVENT_REPORT_RQ = 0x0100
_N_EVENT_REPORT_RSP = 0x8100

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
    def transaction_uid(self) -> str:
        """The Transaction UID of a report."""
        at = self.data.index(struct.pack("<HH", 0x0008, 0x1195))
        (length,) = struct.unpack_from("<I", self.data, at + 4)
        return self.data[at + 8 : at + 8 + length].decode().rstrip("\0")


class Requester(Wire):
    """One association of a requester."""

    def ask(self, message_id: int, transaction_uid: str, references: Sequence[Referenced]) -> None:
        """Send a request; the response is among the ``receive``d."""
        data = action_information(transaction_uid, references)
        for part in self.message(1, n_action_rq(message_id), data):
            self.send(part)

    def receive(self) -> Message:
        """Return the next message of the node."""
        parts: dict[bool, bytes] = {True: b"", False: b""}
        while True:
            pdu_type, body = self.receive_pdu()
            assert pdu_type == P_DATA, f"PDU type {pdu_type}: {body.hex()}"
            while body:
                (length,) = struct.unpack_from(">I", body)
                control, fragment = body[5], body[6 : 4 + length]
                body = body[4 + length :]
                is_command = bool(control & 1)
                parts[is_command] += fragment
                if control & 2 and (not is_command or not self._has_data(parts[True])):
                    return Message(command_values(parts[True]), parts[False])

    @staticmethod
    def _has_data(command: bytes) -> bool:
        return int.from_bytes(command_values(command)[0x0800], "little") != 0x0101

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
def requesting(address: tuple[str, int], calling: str = "SCU") -> Iterator[Requester]:
    """Open an association for storage commitment."""
    with Requester(address) as wire:
        wire.associate(calling=calling, contexts=CONTEXTS)
        yield wire
