"""A connection driven without a network: fake transport, fake services, and the bytes of peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dicomnode.dimse.channel import Admitted, Channel, DataSetSink, Lease, Refused
from dicomnode.dimse.command import CEchoRQ, Command, CStoreRQ, answer, encode_command
from dicomnode.net.accepted import AcceptedConnection
from dicomnode.net.buffers import BufferPool
from dicomnode.net.ending import Deadlines
from dicomnode.ul.association import Association, Role
from dicomnode.ul.framing import p_data
from dicomnode.ul.negotiation import AcceptorPolicy, SupportedContext, negotiate
from dicomnode.ul.pdu import AAssociateRQ, Rejection
from tests import wire

ECHO_PDU = wire.pdu(wire.P_DATA, wire.pdv(1, wire.c_echo_rq(), command=True))
ABORT_PDU = wire.pdu(wire.ABORT, bytes(4))
RELEASE_PDU = wire.pdu(wire.RELEASE_RQ, bytes(4))
PATIENT = Deadlines(artim=30, pdu=30, idle=30, write=30, connect=30, response=30)


class FakeTransport(asyncio.Transport):
    """Keeps what is written, and says whether reading is paused and the connection closed."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.7", 4711)})
        self.written = bytearray()
        self.reading = True
        self.closed = False
        self.aborted = False
        self.unsent_bytes = 0

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.written += b"".join(list_of_data)

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True


class Collector:
    """Keeps views and leases like a sink whose disk is slow, until ``write_out``."""

    def __init__(self) -> None:
        self.kept: list[tuple[memoryview, Lease]] = []
        self.data = bytearray()
        self.ended = ""

    def write(self, fragment: memoryview, lease: Lease) -> None:
        lease.retain()
        self.kept.append((fragment, lease))

    def finish(self) -> None:
        self.ended = "finished"

    def abandon(self, why: str) -> None:
        self.ended = f"abandoned: {why}"

    def write_out(self) -> bytes:
        for fragment, lease in self.kept:
            self.data += fragment
            lease.release()
        self.kept.clear()
        return bytes(self.data)


class Services:
    """A provider that echoes, and collects what is stored; answers when told to."""

    def __init__(self) -> None:
        self.channel: Channel
        self.sinks: list[Collector] = []
        self.unanswered: list[tuple[int, CStoreRQ]] = []
        self.closed_because = ""
        self.fault: Exception | None = None

    def established(self, channel: Channel) -> Services:
        self.channel = channel
        return self

    @property
    def outstanding(self) -> int:
        return len(self.unanswered)

    def message(self, context_id: int, command: Command) -> DataSetSink | None:
        if self.fault is not None:
            raise self.fault
        if isinstance(command, CEchoRQ):
            self.channel.send(context_id, answer(command, 0))
            return None
        assert isinstance(command, CStoreRQ)
        self.unanswered.append((context_id, command))
        self.sinks.append(Collector())
        return self.sinks[-1]

    def answer_all(self) -> None:
        waiting, self.unanswered = self.unanswered, []
        for context_id, command in waiting:
            self.channel.send(context_id, answer(command, 0))

    def closed(self, why: str) -> None:
        self.closed_because = why


class Bench:
    """A connection between a fake transport and fake services."""

    def __init__(
        self, *, blocks: int = 16, deadlines: Deadlines = PATIENT, is_made: bool = True
    ) -> None:
        self.pool = BufferPool(asyncio.get_running_loop(), 64 * 1024, blocks * 64 * 1024)
        self.transport = FakeTransport()
        self.services = Services()
        self.slots = 0
        self.told: list[str] = []
        self.lost = asyncio.Event()
        self.connection = AcceptedConnection(
            1,
            Association(Role.ACCEPTOR, maximum_length=16384, artim_seconds=deadlines.artim),
            pool=self.pool,
            deadlines=deadlines,
            admission=self,
            provider=self.services,
            observer=self,
            on_closed=lambda connection: self.lost.set(),
        )
        if is_made:
            self.connection.connection_made(self.transport)

    def admit(
        self, request: AAssociateRQ, peer_address: str, *, is_encrypted: bool = False
    ) -> Admitted | Refused:
        if request.calling_ae_title == "STRANGER":
            return Refused(Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED, "title unknown")
        supported = SupportedContext({wire.IMPLICIT_LE, wire.EXPLICIT_LE})
        policy = AcceptorPolicy(
            ae_titles=frozenset({"DICOMNODE"}),
            strict_ae_titles=False,
            calling_recognized=True,
            lookup=lambda uid: supported,
            maximum_length=16384,
            implementation_class_uid="1.2.3",
            implementation_version_name="TEST",
        )
        self.slots += 1
        negotiated = negotiate(request, policy)
        assert not isinstance(negotiated, Rejection)
        return Admitted(negotiated, self.release)

    def release(self) -> None:
        self.slots -= 1

    def accepted(self, channel: Channel) -> None:
        self.told.append(f"accepted {channel.calling_ae_title} from {channel.peer_address}")

    def rejected(self, peer_address: str, request: AAssociateRQ, refused: Refused) -> None:
        self.told.append(f"rejected {refused.why}")

    def ended(self, channel: Channel, how: str, why: str) -> None:
        self.told.append(f"{how}: {why}")

    def failed(self, peer_address: str, how: str, why: str) -> None:
        self.told.append(f"failed {how}: {why}")

    def feed(self, data: bytes) -> int:
        """Deliver ``data`` as a transport would, until reading is paused; return what went in."""
        offset = 0
        while offset < len(data) and self.transport.reading and not self.transport.closed:
            buffer = self.connection.get_buffer(-1)
            assert len(buffer) > 0
            size = min(len(buffer), len(data) - offset)
            buffer[:size] = data[offset : offset + size]
            self.connection.buffer_updated(size)
            offset += size
        return offset

    def lose(self) -> None:
        self.connection.connection_lost(None)

    def sent(self) -> bytes:
        data = bytes(self.transport.written)
        self.transport.written.clear()
        return data

    def associate(self) -> None:
        self.feed(wire.associate_rq())
        assert self.sent()[0] == wire.ASSOCIATE_AC


def store_pdus(data: bytes, message_id: int = 1) -> bytes:
    command = CStoreRQ(
        affected_sop_class_uid=wire.CT_IMAGE_STORAGE,
        affected_sop_instance_uid="1.2.3.4",
        message_id=message_id,
        has_data_set=True,
    )
    return b"".join(
        p_data(3, encode_command(command), 16384, is_command=True)
        + p_data(3, data, 16384, is_command=False)
    )


def count_pdus(data: bytes) -> int:
    count = offset = 0
    while offset < len(data):
        offset += 6 + int.from_bytes(data[offset + 2 : offset + 6], "big")
        count += 1
    return count


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)
