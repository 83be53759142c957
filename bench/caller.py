"""A DICOM peer on asyncio with little work of its own, for hundreds of associations at once.

What it sends is encoded by ``tests.wire`` and ``tests.query_wire``; it uses nothing of dicomnode.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from dataclasses import dataclass, field
from typing import Self

from tests.peers import Address, PeerFailed
from tests.query_wire import c_store_rsp
from tests.wire import (
    ASSOCIATE_AC,
    CT_IMAGE_STORAGE,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    Context,
    associate_rq,
    command_values,
    pdu,
    pdv,
)

_C_STORE_RQ = 0x0001
_NO_DATA_SET = 0x0101
_PDU_BYTES = 131072


@dataclass(slots=True)
class Answer:
    """What came of a request: the final status, matches, and SHA-256 of each object by its UID."""

    status: int = 0
    matches: list[bytes] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)


class Caller:
    """One association that this side asked for; made by ``open``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._message_id = 0

    @classmethod
    async def open(cls, address: Address, calling: str, contexts: tuple[Context, ...]) -> Self:
        """Make an association, with both roles for CT images. Raises PeerFailed."""
        reader, writer = await asyncio.open_connection(*address)
        caller = cls(reader, writer)
        both = (CT_IMAGE_STORAGE,)
        writer.write(associate_rq(calling=calling, contexts=contexts, scp_of=both, scu_too=True))
        pdu_type, body = await caller._pdu()
        if pdu_type != ASSOCIATE_AC:
            writer.close()
            raise PeerFailed(f"{calling} was answered with PDU type {pdu_type}: {body.hex()}")
        return caller

    def next_id(self) -> int:
        """Return the message id of the next request."""
        self._message_id = self._message_id % 65535 + 1
        return self._message_id

    async def ask(self, context_id: int, command: bytes, data: bytes | None = None) -> Answer:
        """Send a request and read until its final response; objects are answered with Success."""
        self._send(context_id, command, data)
        await self._writer.drain()
        answer = Answer()
        while True:
            on_context, response, content = await self._message()
            if int.from_bytes(response[0x0100], "little") == _C_STORE_RQ:
                uid = response[0x1000].rstrip(b"\0").decode()
                answer.objects[uid] = hashlib.sha256(content).digest()
                self._send(on_context, c_store_rsp(response))
                continue
            answer.status = int.from_bytes(response[0x0900], "little")
            if answer.status & 0xFF00 != 0xFF00:
                return answer
            answer.matches.append(content)

    async def release(self) -> None:
        """Release the association and wait for the answer."""
        self._writer.write(pdu(RELEASE_RQ, bytes(4)))
        pdu_type, body = await self._pdu()
        self._writer.close()
        await self._writer.wait_closed()
        if pdu_type != RELEASE_RP:
            raise PeerFailed(f"a release was answered with PDU type {pdu_type}: {body.hex()}")

    def _send(self, context_id: int, command: bytes, data: bytes | None = None) -> None:
        write = self._writer.write
        write(pdu(P_DATA, pdv(context_id, command, command=True)))
        step = _PDU_BYTES - 6
        for at in range(0, len(data or b""), step):
            assert data is not None
            write(pdu(P_DATA, pdv(context_id, data[at : at + step], last=at + step >= len(data))))

    async def _message(self) -> tuple[int, dict[int, bytes], bytes]:
        """Return presentation context, command set, and data set (empty where there is none)."""
        command: dict[int, bytes] = {}
        parts: list[bytes] = []
        while True:
            pdu_type, body = await self._pdu()
            if pdu_type != P_DATA:
                raise PeerFailed(f"PDU type {pdu_type} came instead of a message: {body.hex()}")
            at = 0
            while at < len(body):
                length, context_id, flags = struct.unpack_from(">IBB", body, at)
                parts.append(body[at + 6 : at + 4 + length])
                at += 4 + length
                if not flags & 2:
                    continue
                whole = b"".join(parts)
                parts = []
                if not flags & 1:
                    return context_id, command, whole
                command = command_values(whole)
                if int.from_bytes(command[0x0800], "little") == _NO_DATA_SET:
                    return context_id, command, b""

    async def _pdu(self) -> tuple[int, bytes]:
        try:
            head = await self._reader.readexactly(6)
            pdu_type, _, length = struct.unpack(">BBI", head)
            return pdu_type, await self._reader.readexactly(length)
        except asyncio.IncompleteReadError:
            raise PeerFailed("the node closed the connection") from None
