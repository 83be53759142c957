"""Asks other nodes for associations; owns the connections that it made."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator

from dicomnode.dimse.channel import Channel, Proposal, Provider, RequestObserver
from dicomnode.errors import (
    AssociationError,
    AssociationTimedOut,
    ConnectionFailed,
    TLSFailed,
)
from dicomnode.net.buffers import BufferPool
from dicomnode.net.connection import Connection
from dicomnode.net.ending import Deadlines, Ending, How
from dicomnode.net.requested import RequestedConnection, peer_words
from dicomnode.net.secure_calling import secure_connection
from dicomnode.net.taps import Taps
from dicomnode.tls.contexts import ClientContexts
from dicomnode.tls.faults import TLSFault
from dicomnode.ul.association import Association, Role
from dicomnode.ul.items import (
    ImplementationClassUID,
    ImplementationVersionName,
    MaximumLength,
    UserItem,
)
from dicomnode.ul.pdu import AAssociateRQ


class Requestor:
    """The calling side of the node; ``numbers`` counts associations, whoever asked for them.

    ``maximum_pdu_bytes`` is what we advertise, and the implementation as whom we introduce
    ourselves. Limits of admission do not count what is asked for here. ``secure`` returns how TLS
    is made with those that are asked over it.
    """

    def __init__(
        self,
        *,
        numbers: Iterator[int],
        maximum_pdu_bytes: int,
        implementation_class_uid: str,
        implementation_version_name: str,
        pool: BufferPool,
        deadlines: Deadlines,
        observer: RequestObserver,
        secure: Callable[[], ClientContexts | None] = lambda: None,
        taps: Taps | None = None,
    ) -> None:
        self._numbers = numbers
        self._maximum_pdu_bytes = maximum_pdu_bytes
        self._introduction: tuple[UserItem, ...] = (
            MaximumLength(maximum_pdu_bytes),
            ImplementationClassUID(implementation_class_uid),
        )
        self._version_name = ImplementationVersionName(implementation_version_name)
        self._pool = pool
        self._deadlines = deadlines
        self._observer = observer
        self._secure = secure
        self._taps = taps
        self._connections: set[Connection] = set()
        self._is_closed = False
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    async def associate(self, proposal: Proposal, provider: Provider) -> Channel:
        """Connect and negotiate; see ``dimse.channel.Requestor``."""
        connection = self._connection(proposal, provider)
        self._connections.add(connection)
        self._all_closed.clear()
        try:
            await self._connect(proposal, connection)
            await connection.answered()
        except AssociationError as error:
            self._give_up(connection)
            self._observer.request_failed(proposal, error)
            raise
        except BaseException:
            self._give_up(connection)
            raise
        return connection

    def _connection(self, proposal: Proposal, provider: Provider) -> RequestedConnection:
        # In the order of item types (PS3.7 §D.3.3).
        user_information = (
            *self._introduction,
            *([proposal.window] if proposal.window else []),
            *proposal.roles,
            self._version_name,
            *proposal.extended,
        )
        request = AAssociateRQ(
            proposal.called_ae_title,
            proposal.calling_ae_title,
            proposal.contexts,
            user_information,
        )
        association = Association(
            Role.REQUESTOR,
            maximum_length=self._maximum_pdu_bytes,
            artim_seconds=self._deadlines.artim,
        )
        return RequestedConnection(
            next(self._numbers),
            association,
            proposal=proposal,
            request=request,
            pool=self._pool,
            deadlines=self._deadlines,
            provider=provider,
            observer=self._observer,
            on_closed=self._closed,
            taps=self._taps,
        )

    async def _connect(self, proposal: Proposal, connection: RequestedConnection) -> None:
        peer, seconds = peer_words(proposal), self._deadlines.connect
        if self._is_closed:
            raise ConnectionFailed(f"cannot connect to {peer}: the node is shutting down")
        try:
            if proposal.tls is not None:
                await secure_connection(proposal, self._secure(), connection, seconds)
                return
            async with asyncio.timeout(seconds):
                await _connected(connection, proposal.host, proposal.port)
        except TLSFault as fault:
            words = f"cannot connect to {peer}: {fault.words}"
            raise TLSFailed(words, fault.cause, fault.advice) from None
        except TimeoutError:
            why = f"no answer for {seconds:g} s (timeouts.connect_seconds)"
            raise AssociationTimedOut(f"cannot connect to {peer}: {why}") from None
        except (OSError, UnicodeError) as error:
            # UnicodeError: a name that DNS cannot have.
            raise ConnectionFailed(f"cannot connect to {peer}: {_reason(error)}") from error

    def _give_up(self, connection: Connection) -> None:
        connection.abort("the association was given up before it was made")
        connection.close_after_writing()
        if not connection.is_made:
            self._closed(connection)

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_closed.set()

    async def close(self, seconds: float) -> None:
        """Abort every association that is left, make no more, and wait for their ends.

        Connections whose peers have not taken the A-ABORT after ``seconds`` are dropped.
        """
        self._is_closed = True
        for connection in list(self._connections):
            connection.abort_as(Ending(How.SHUT_DOWN, "the node stops"))
            connection.close_after_writing()
            if not connection.is_made:
                self._closed(connection)
        for wait in (seconds, 1.0):
            try:
                async with asyncio.timeout(wait):
                    await self._all_closed.wait()
            except TimeoutError:
                for connection in list(self._connections):
                    connection.close()


async def _connected(connection: Connection, host: str, port: int) -> None:
    """Make the TCP connection, or leave nothing of it."""
    try:
        await asyncio.get_running_loop().create_connection(lambda: connection, host, port)
    except BaseException:
        # uvloop closes what is given up as it is made, and never says so to the protocol.
        if connection.is_made:
            connection.connection_lost(None)
        raise


def _reason(error: OSError | UnicodeError) -> str:
    """Say what the system says of ``error``, in its own words and not the event loop's."""
    if isinstance(error, UnicodeError):
        return "not a host name"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return error.strerror or str(error)
