"""An association that we asked for, as the connection sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dicomnode.dimse.channel import (
    Channel,
    DataSetSink,
    Handler,
    Progress,
    Proposal,
    Requestor,
)
from dicomnode.dimse.command import (
    Command,
    CStoreRQ,
    Request,
    Response,
    UnrecognizedCommand,
    answer,
)
from dicomnode.dimse.status import Status
from dicomnode.scu.receiving import Receiver
from dicomnode.scu.requests import Requests
from dicomnode.ul.negotiation import Negotiated


class RequestingHandler(Handler, Protocol):
    """A handler that lets requests of ours be performed on its association."""

    requests: Requests


class RequestingProvider(Protocol):
    """Makes such handlers: ``services.dispatch.Dispatcher``, for one."""

    def established(self, channel: Channel) -> RequestingHandler:
        """An association has been accepted on ``channel``."""


class _Refusing:
    """The ``Provider`` and ``Handler`` of one association on which the peer may ask nothing."""

    requests: Requests

    def __init__(self, max_data_set_bytes: int) -> None:
        self._max_data_set_bytes = max_data_set_bytes

    def established(self, channel: Channel) -> RequestingHandler:
        self._channel = channel
        self.requests = Requests(channel, self._max_data_set_bytes)
        return self

    @property
    def outstanding(self) -> int:
        return 0

    def message(self, context_id: int, command: Command) -> DataSetSink | None:
        match command:
            case Response():
                return self.requests.response(context_id, command)
            case Request() | UnrecognizedCommand():
                # We are SCU here, and proposed no other role.
                self._channel.send(context_id, answer(command, Status.UNRECOGNIZED_OPERATION))
            case _:
                pass  # a C-CANCEL, of nothing that we perform
        return None

    def progress(self) -> Sequence[Progress]:
        return self.requests.progress()

    def closed(self, why: str) -> None:
        self.requests.closed(why)


class _Outgoing:
    """The ``Provider`` and ``Handler`` of one association that we asked for.

    All goes to the handler that ``provider`` makes, but for the objects of a C-GET of ours.
    """

    handler: RequestingHandler

    def __init__(self, provider: RequestingProvider) -> None:
        self._provider = provider
        self.receiver: Receiver | None = None

    def established(self, channel: Channel) -> Handler:
        self._contexts = channel.negotiated.contexts
        self.handler = self._provider.established(channel)
        return self

    @property
    def outstanding(self) -> int:
        return self.handler.outstanding

    def message(self, context_id: int, command: Command) -> DataSetSink | None:
        if self.receiver is not None and isinstance(command, CStoreRQ):
            return self.receiver.begin(self._contexts[context_id], command)
        return self.handler.message(context_id, command)

    def progress(self) -> Sequence[Progress]:
        return self.handler.progress()

    def closed(self, why: str) -> None:
        self.handler.closed(why)


@dataclass(frozen=True, slots=True)
class OutgoingAssociation:
    """An association that we asked for and got."""

    channel: Channel
    _handler: _Outgoing

    @property
    def handler(self) -> RequestingHandler:
        """What the peer's requests on it go to."""
        return self._handler.handler

    @property
    def requests(self) -> Requests:
        """Where requests of ours are performed on it."""
        return self.handler.requests

    @property
    def negotiated(self) -> Negotiated:
        """The outcome of negotiation."""
        return self.channel.negotiated

    def receive(self, receiver: Receiver | None) -> None:
        """Let ``receiver`` answer the C-STORE requests that come from now on."""
        self._handler.receiver = receiver


async def associate(
    requestor: Requestor,
    proposal: Proposal,
    provider: RequestingProvider | None = None,
    *,
    max_data_set_bytes: int = 1024 * 1024,
) -> OutgoingAssociation:
    """Make an association on which to perform requests; raises AssociationError.

    What the peer asks for on it goes to the handler that ``provider`` makes; without one it is
    refused with 0211H, and ``max_data_set_bytes`` are taken with a response.
    """
    outgoing = _Outgoing(provider or _Refusing(max_data_set_bytes))
    channel = await requestor.associate(proposal, outgoing)
    return OutgoingAssociation(channel, outgoing)
