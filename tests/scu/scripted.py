"""A peer that does to an association of ours what a test tells it to, right or wrong.

Written like ``tests.wire`` from PS3.8 §9.3 and PS3.7 without using dicomnode.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests import wire
from tests.wire import P_DATA, RELEASE_RP, RELEASE_RQ, command_set, command_values, pdu, pdv

_SECONDS = 10.0
PENDING, SUCCESS, CANCELLED = 0xFF00, 0x0000, 0xFE00
FIND_RQ, GET_RQ, MOVE_RQ, CANCEL_RQ, STORE_RQ = 0x20, 0x10, 0x21, 0x0FFF, 0x0001
RESPONSE = 0x8000


@dataclass
class Message:
    """A message that was heard: its context, command set and data set."""

    context_id: int
    command: dict[int, bytes]
    data: bytes | None

    def __getitem__(self, tag: int) -> int:
        return int.from_bytes(self.command[tag], "little")

    @property
    def field(self) -> int:
        """Command Field."""
        return self[0x0100]

    @property
    def message_id(self) -> int:
        """Message ID."""
        return self[0x0110]


class Ended(Exception):
    """The connection is closed, or the association is being ended."""


class Conversation:
    """The peer's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.request = b""
        self.heard: list[int] = []

    async def hear_pdu(self) -> tuple[int, bytes]:
        """Receive one PDU; Ended at the end of the connection."""
        try:
            head = await self._reader.readexactly(6)
            body = await self._reader.readexactly(int.from_bytes(head[2:], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Ended from None
        self.heard.append(head[0])
        return head[0], body

    async def accept(
        self,
        *,
        refused: Sequence[int] = (),
        scp_of: Sequence[str] = (),
        window: tuple[int, int] | None = None,
        syntax: str = "",
    ) -> None:
        """Accept each context in its first transfer syntax, or in ``syntax``."""
        _, self.request = await self.hear_pdu()
        items = wire.item(0x10, wire.APPLICATION_CONTEXT.encode())
        for context_id, first in wire.proposed_contexts(self.request):
            result = 3 if context_id in refused else 0
            head = struct.pack("BBBB", context_id, 0, result, 0)
            items += wire.item(0x21, head + wire.item(0x40, syntax.encode() or first))
        user = wire.item(0x51, struct.pack(">I", 16384)) + wire.item(0x52, b"1.2.826.0.1.3680043.9")
        if window is not None:
            user += wire.item(0x53, struct.pack(">HH", *window))
        for uid in scp_of:
            user += wire.item(0x54, struct.pack(">H", len(uid)) + uid.encode() + b"\0\1")
        self.say(pdu(wire.ASSOCIATE_AC, self.request[:68] + items + wire.item(0x50, user)))

    async def hear(self) -> Message:
        """Receive one message; Ended, and a release answered, when there is none."""
        command, data = b"", b""
        while True:
            pdu_type, body = await self.hear_pdu()
            if pdu_type == RELEASE_RQ:
                self.say(pdu(RELEASE_RP, bytes(4)))
            if pdu_type != P_DATA:
                raise Ended
            at = 0
            while at < len(body):
                length, context_id, flags = struct.unpack_from(">IBB", body, at)
                part = body[at + 6 : at + 4 + length]
                at += 4 + length
                if flags & 1:
                    command += part
                else:
                    data += part
                if not flags & 2:
                    continue
                values = command_values(command)
                if not flags & 1:
                    return Message(context_id, values, data)
                if values[0x0800] == b"\1\1":
                    return Message(context_id, values, None)

    def answer(
        self,
        to: Message,
        status: int = SUCCESS,
        data: bytes | None = None,
        *,
        context_id: int = 0,
        **changes: int | str,
    ) -> None:
        """Respond to a request; ``changes`` are elements by number, such as ``e1020=3``."""
        elements: dict[int, int | str] = {
            0x0100: to.field | RESPONSE,
            0x0120: to.message_id,
            0x0800: 0x0101 if data is None else 1,
            0x0900: status,
        }
        elements.update({int(name[1:], 16): value for name, value in changes.items()})
        self.message(context_id or to.context_id, command_set(elements), data)

    def store(self, context_id: int, message_id: int, uid: str, data: bytes) -> None:
        """Send a C-STORE-RQ of a CT image, as sub-operation of a C-GET."""
        command = wire.c_store_rq(message_id, wire.CT_IMAGE_STORAGE, uid)
        self.message(context_id, command, data)

    def message(self, context_id: int, command: bytes, data: bytes | None = None) -> None:
        """Send a message, in PDUs of 16 KiB."""
        self.say(pdu(P_DATA, pdv(context_id, command, command=True)))
        if data is not None:
            for at in range(0, len(data) or 1, 16000):
                last = at + 16000 >= len(data)
                self.say(pdu(P_DATA, pdv(context_id, data[at : at + 16000], last=last)))

    def say(self, data: bytes) -> None:
        """Send bytes as they are."""
        if not self._writer.is_closing():
            self._writer.write(data)

    async def said(self) -> None:
        """Wait until the other side has taken enough for more to be sent."""
        await self._writer.drain()

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    async def hear_all(self) -> None:
        """Receive, and answer a release, until the connection ends."""
        while True:
            pdu_type, _ = await self.hear_pdu()
            if pdu_type == RELEASE_RQ:
                self.say(pdu(RELEASE_RP, bytes(4)))


Script = Callable[[Conversation], Awaitable[None]]


@dataclass
class Scripted:
    """A peer that listens: how it is written, and the conversations that it had."""

    written: str
    conversations: list[Conversation]


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Scripted]:
    """Run ``script`` at the peer's end of each connection; it may end when the other side does.

    What it raises is raised at the end of the block.
    """
    faults: list[BaseException] = []
    conversations: list[Conversation] = []
    tasks: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = Conversation(reader, writer)
        conversations.append(conversation)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(conversation)
            await conversation.hear_all()
        except (Ended, ConnectionError, asyncio.CancelledError):
            pass  # the other side ended it: the test looks at what that says
        except BaseException as fault:
            faults.append(fault)
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield Scripted(f"PEER@{host}:{port}", conversations)
    finally:
        server.close()
        if tasks:
            _, hanging = await asyncio.wait(tasks, timeout=_SECONDS)
            for task in hanging:
                task.cancel()
            assert not hanging, "the other side did not end the connection"
        if faults:
            raise faults[0]
