"""TLS between a transport and its user, without a network."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest

from dicomnode.net.secure import SecureConnection
from dicomnode.tls.faults import Side
from tests.authority import Authority
from tests.net.shell import FakeTransport
from tests.secure_wire import trusting


class Client:
    """The peer: TLS in memory."""

    def __init__(self) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = trusting(None)
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def say_to(self, connection: SecureConnection) -> None:
        """Hand over what the client has to say."""
        said = memoryview(self.outgoing.read())
        while said:
            room = memoryview(connection.get_buffer(-1))
            size = min(len(room), len(said))
            room[:size] = said[:size]
            said = said[size:]
            connection.buffer_updated(size)


class Full(asyncio.BufferedProtocol):
    """A user that has room for a few bytes, and then is behind."""

    def __init__(self) -> None:
        self.room = memoryview(bytearray(10))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.room = self.room[nbytes:]


@pytest.mark.timeout(3)
async def test_a_user_that_is_behind_when_tcp_has_ended_does_not_stop_the_loop(
    authority: Authority,
) -> None:
    ours = authority.issue("node", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours.certificate, ours.key)
    connection, transport = SecureConnection(context, Side.SERVER), FakeTransport()
    connection.connection_made(transport)
    client = Client()
    handshake = asyncio.ensure_future(connection.handshake())
    while not handshake.done():
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.say_to(connection)
        await asyncio.sleep(0)
        client.incoming.write(bytes(transport.written))
        transport.written.clear()
    secured = await handshake
    assert secured is not None
    client.tls.write(bytes(100))
    client.say_to(connection)
    transport.close()
    user = Full()
    connection.start(user, secured)
    assert len(user.room) == 0
