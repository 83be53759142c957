"""An association that we asked for, as the connection sees it."""

from __future__ import annotations

from dataclasses import dataclass

from dicomnode.dimse.channel import Channel, DataSetSink, Handler, Proposal, Provider, Requestor
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


class _Outgoing:
    """The ``Provider`` and ``Handler`` of one association that we asked for."""

    requests: Requests

    def __init__(self, provider: Provider | None, max_data_set_bytes: int) -> None:
        self._provider = provider
        self._max_data_set_bytes = max_data_set_bytes
        self._performing: Handler | None = None
        self.receiver: Receiver | None = None

    def established(self, channel: Channel) -> Handler:
        self._channel = channel
        self.requests = Requests(channel, self._max_data_set_bytes)
        if self._provider is not None:
            self._performing = self._provider.established(channel)
        return self

    @property
    def outstanding(self) -> int:
        return self._performing.outstanding if self._performing is not None else 0

    def message(self, context_id: int, command: Command) -> DataSetSink | None:
        if isinstance(command, Response):
            return self.requests.response(context_id, command)
        if isinstance(command, CStoreRQ) and self.receiver is not None:
            return self.receiver.begin(self._channel.negotiated.contexts[context_id], command)
        if self._performing is not None:
            return self._performing.message(context_id, command)
        # We are SCU here; a C-CANCEL is of nothing that we perform.
        if isinstance(command, Request | UnrecognizedCommand):
            self._channel.send(context_id, answer(command, Status.UNRECOGNIZED_OPERATION))
        return None

    def closed(self, why: str) -> None:
        self.requests.closed(why)
        if self._performing is not None:
            self._performing.closed(why)


@dataclass(frozen=True, slots=True)
class OutgoingAssociation:
    """An association that we asked for and got."""

    channel: Channel
    requests: Requests
    _handler: _Outgoing

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
    provider: Provider | None = None,
    *,
    max_data_set_bytes: int = 1024 * 1024,
) -> OutgoingAssociation:
    """Make an association on which to perform requests; raises AssociationError.

    What the peer requests on it goes to the handler of ``provider``; without one it is refused.
    """
    outgoing = _Outgoing(provider, max_data_set_bytes)
    channel = await requestor.associate(proposal, outgoing)
    return OutgoingAssociation(channel, outgoing.requests, outgoing)
