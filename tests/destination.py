"""A destination of C-MOVE that does what a test tells it to, right or wrong.

Written like ``tests.wire`` from PS3.8 §9.3 and PS3.7 without using dicomnode.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.query_wire import c_store_rsp
from tests.wire import (
    ABORT,
    APPLICATION_CONTEXT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    ConnectionEnded,
    command_values,
    item,
    pdu,
    pdv,
    proposed_contexts,
)

_C_STORE_RQ = 0x0001


@dataclass
class Conversation:
    """One connection of the node's to the destination."""

    socket: socket.socket
    stored: list[str]
    ended: threading.Event

    def receive_pdu(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU."""
        pdu_type, _, length = struct.unpack(">BBI", self._receive_exactly(6))
        return pdu_type, self._receive_exactly(length)

    def _receive_exactly(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            part = self.socket.recv(size - len(received))
            if not part:
                raise ConnectionEnded
            received += part
        return received

    def accept(self) -> bytes:
        """Take the association request and accept every context in its first transfer syntax.

        Returns the request; what it says of roles is not answered.
        """
        _, request = self.receive_pdu()
        answers = b"".join(
            item(0x21, struct.pack("BBBB", context_id, 0, 0, 0) + item(0x40, syntax))
            for context_id, syntax in proposed_contexts(request)
        )
        user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.826.0.1.3680043.9")
        items = item(0x10, APPLICATION_CONTEXT.encode()) + answers + item(0x50, user)
        self.socket.sendall(pdu(ASSOCIATE_AC, request[:68] + items))
        return request

    def reject(self) -> None:
        """Take the association request and reject it: called AE title not recognized."""
        self.receive_pdu()
        self.socket.sendall(pdu(ASSOCIATE_RJ, bytes([0, 1, 1, 7])))

    def take_object(self) -> tuple[int, dict[int, bytes]] | None:
        """Receive a C-STORE-RQ with its data set; None when the node asks for release."""
        command: dict[int, bytes] = {}
        while True:
            pdu_type, body = self.receive_pdu()
            if pdu_type == RELEASE_RQ:
                self.socket.sendall(pdu(RELEASE_RP, bytes(4)))
                return None
            if pdu_type != P_DATA:
                raise ConnectionEnded
            at = 0
            while at < len(body):
                length, context_id, flags = struct.unpack_from(">IBB", body, at)
                part = body[at + 6 : at + 4 + length]
                at += 4 + length
                if flags == 3:
                    command = command_values(part)
                elif flags == 2:
                    return context_id, command

    def answer(self, context_id: int, command: dict[int, bytes], status: int = 0) -> None:
        """Answer a C-STORE-RQ."""
        self.stored.append(command[0x1000].rstrip(b"\0").decode())
        self.socket.sendall(
            pdu(P_DATA, pdv(context_id, c_store_rsp(command, status), command=True))
        )

    def take(self, objects: int | None = None, status: int = 0) -> None:
        """Answer so many objects, or all until the node releases."""
        while objects is None or objects > 0:
            taken = self.take_object()
            if taken is None:
                return
            self.answer(*taken, status)
            objects = None if objects is None else objects - 1

    def abort(self) -> None:
        """Send A-ABORT."""
        self.socket.sendall(pdu(ABORT, bytes(4)))

    def wait_for_end(self) -> None:
        """Do nothing more until the node ends the connection, or the test is over."""
        self.socket.settimeout(0.1)
        while not self.ended.is_set():
            try:
                if not self.socket.recv(1 << 16):
                    return
            except TimeoutError:
                continue

    def hang(self) -> None:
        """Not even read until the test is over."""
        self.ended.wait(30)


Behaviour = Callable[[Conversation], None]


def whole(conversation: Conversation) -> None:
    """Take everything: a ``Behaviour``."""
    conversation.accept()
    conversation.take()


@dataclass
class Destination:
    """Where the node moves objects; every connection is treated by the same ``behaviour``."""

    behaviour: Behaviour
    stored: list[str] = field(default_factory=list)
    connections: int = 0
    failures: list[BaseException] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.address: tuple[str, int] = self._listener.getsockname()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def entity(self, title: str = "DESTINATION") -> dict[str, object]:
        """Return its table for ae.toml."""
        return {"title": title, "host": self.address[0], "port": self.address[1]}

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            thread = threading.Thread(target=self._converse, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _converse(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        with connection:
            try:
                self.behaviour(Conversation(connection, self.stored, self.ended))
            except (ConnectionEnded, ConnectionError):
                pass  # the node ended it: the test looks at what the node says of that
            except BaseException as failure:
                self.failures.append(failure)

    def close(self) -> None:
        """Stop listening and wait for the conversations."""
        self.ended.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()
        assert not self.failures, self.failures


@contextlib.contextmanager
def destination(behaviour: Behaviour) -> Iterator[Destination]:
    """Listen for the node until the block ends."""
    running = Destination(behaviour)
    try:
        yield running
    finally:
        running.close()
