"""Requests that we make of peers: on associations of ours, and sub-operations on theirs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from dicomnode.dimse.channel import (
    Channel,
    DataSetSink,
    DataSetSource,
    Handler,
    Proposal,
    Requestor,
)
from dicomnode.dimse.command import (
    Command,
    Request,
    Response,
    UnrecognizedCommand,
    answer,
)
from dicomnode.dimse.status import Status
from dicomnode.errors import AssociationAborted, AssociationTimedOut, RemoteProtocolError
from dicomnode.ul.negotiation import Negotiated

_MAX_MESSAGE_ID = 0xFFFF


class Requests:
    """Requests of ours on one association, and the responses that they wait for."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._open: dict[int, tuple[str, asyncio.Future[Response]]] = {}
        self._last_message_id = 0
        self._closed_because: str | None = None

    def next_message_id(self) -> int:
        """Return a Message ID (0000,0110) that no request without a response has, and not 0."""
        message_id = self._last_message_id
        while True:
            message_id = message_id % _MAX_MESSAGE_ID + 1
            if message_id not in self._open:
                self._last_message_id = message_id
                return message_id

    async def perform(
        self,
        context_id: int,
        request: Request,
        data_set: bytes | memoryview | DataSetSource | None,
        *,
        seconds: float,
    ) -> Response:
        """Send ``request`` and return its final response.

        Raises AssociationAborted when the association ends first, and AssociationTimedOut when
        the peer, which has been sent all of it, answers nothing for ``seconds``: whether it
        still takes what is sent is the channel's to watch. The caller then aborts.
        """
        if self._closed_because is not None:
            raise AssociationAborted(self._closed_because)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Response] = loop.create_future()
        # It stays open until its response comes, even if nobody waits for that any more.
        self._open[request.message_id] = request.service, answered
        channel = self._channel
        if data_set is None or isinstance(data_set, bytes | memoryview):
            channel.send(context_id, request, data_set)
        else:
            await channel.stream(context_id, request, data_set)
        await channel.drained()
        deadline = loop.call_later(seconds, self._time_out, request, answered, seconds)
        try:
            return await answered
        finally:
            deadline.cancel()

    def _time_out(
        self, request: Request, answered: asyncio.Future[Response], seconds: float
    ) -> None:
        if not answered.done():
            why = f"no answer to {request.service} {request.message_id} for {seconds:g} s"
            answered.set_exception(AssociationTimedOut(f"{why} (timeouts.response_seconds)"))

    def response(self, response: Response) -> None:
        """Take a response that arrived; RemoteProtocolError when nothing asked for it."""
        service, answered = self._open.get(response.message_id_being_responded_to, ("", None))
        if answered is None or service != response.service:
            raise RemoteProtocolError(
                f"a {response.service} response to message"
                f" {response.message_id_being_responded_to}, but nothing was requested with that",
                source=0,
            )
        del self._open[response.message_id_being_responded_to]
        if not answered.done():
            answered.set_result(response)

    def closed(self, why: str) -> None:
        """Let whoever waits know that the association has ended."""
        self._closed_because = why
        waiting, self._open = self._open, {}
        for _, answered in waiting.values():
            if not answered.done():
                answered.set_exception(AssociationAborted(why))
                answered.exception()  # whoever was to await it may be gone


class RequestingHandler(Handler, Protocol):
    """A handler that lets requests of ours be performed on its association."""

    requests: Requests


class RequestingProvider(Protocol):
    """Makes such handlers: ``dispatch.Dispatcher``, for one."""

    def established(self, channel: Channel) -> RequestingHandler:
        """An association has been accepted on ``channel``."""


class _Refusing:
    """The ``Provider`` and ``Handler`` of one association on which the peer may ask nothing."""

    requests: Requests

    def established(self, channel: Channel) -> RequestingHandler:
        self._channel = channel
        self.requests = Requests(channel)
        return self

    @property
    def outstanding(self) -> int:
        return 0

    def message(self, context_id: int, command: Command) -> DataSetSink | None:
        match command:
            case Response():
                self.requests.response(command)
            case Request() | UnrecognizedCommand():
                # We are SCU here, and proposed no other role.
                refusal = answer(command, Status.UNRECOGNIZED_OPERATION)
                self._channel.send(context_id, refusal)
            case _:
                pass  # a C-CANCEL, of nothing that we perform
        return None

    def closed(self, why: str) -> None:
        self.requests.closed(why)


class _Keeping:
    """Keeps the handler that ``provider`` makes."""

    handler: RequestingHandler

    def __init__(self, provider: RequestingProvider) -> None:
        self._provider = provider

    def established(self, channel: Channel) -> Handler:
        self.handler = self._provider.established(channel)
        return self.handler


@dataclass(frozen=True, slots=True)
class OutgoingAssociation:
    """An association that we asked for and got."""

    channel: Channel
    handler: RequestingHandler

    @property
    def requests(self) -> Requests:
        """Where requests of ours are performed on it."""
        return self.handler.requests

    @property
    def negotiated(self) -> Negotiated:
        """The outcome of negotiation."""
        return self.channel.negotiated


async def associate(
    requestor: Requestor, proposal: Proposal, provider: RequestingProvider | None = None
) -> OutgoingAssociation:
    """Make an association on which to perform requests; raises AssociationError.

    What the peer asks for on it goes to the handler that ``provider`` makes; without one it is
    refused with 0211H.
    """
    keeping = _Keeping(provider or _Refusing())
    channel = await requestor.associate(proposal, keeping)
    return OutgoingAssociation(channel, keeping.handler)
