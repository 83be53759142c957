"""The requestor's side of an association: our request, its answer, and the release."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dicomnode.dimse.channel import Proposal, Provider, RequestObserver
from dicomnode.errors import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationTimedOut,
    LocalProtocolError,
    TLSFailed,
)
from dicomnode.net.buffers import BufferPool
from dicomnode.net.connection import Connection
from dicomnode.net.ending import Deadlines, Ending, How
from dicomnode.net.taps import Taps
from dicomnode.ul.association import Association, State
from dicomnode.ul.events import AssociateAccepted, AssociateIndication, AssociateRejected
from dicomnode.ul.negotiation import concluded
from dicomnode.ul.pdu import AAssociateRQ


def peer_words(proposal: Proposal) -> str:
    """Name the peer for messages and logs."""
    return f"{proposal.called_ae_title} at {proposal.host}:{proposal.port}"


class RequestedConnection(Connection):
    """A connection that we make to a peer, with ``request`` for an association on it."""

    # Whoever asked for the association bounds how long it is kept.
    _idles_out = False
    _is_requested = True

    def __init__(
        self,
        number: int,
        association: Association,
        *,
        proposal: Proposal,
        request: AAssociateRQ,
        pool: BufferPool,
        deadlines: Deadlines,
        provider: Provider,
        observer: RequestObserver,
        on_closed: Callable[[Connection], None],
        taps: Taps | None = None,
    ) -> None:
        super().__init__(
            number,
            association,
            pool=pool,
            deadlines=deadlines,
            provider=provider,
            on_closed=on_closed,
            taps=taps,
        )
        self.calling_ae_title = proposal.calling_ae_title
        self.called_ae_title = proposal.called_ae_title
        self._peer = peer_words(proposal)
        self._request = request
        self._observer = observer
        self._error: AssociationError | None = None
        self._answered = asyncio.Event()
        self._over = asyncio.Event()
        association.request(request, self._loop.time())

    @property
    def peer_ae_title(self) -> str:
        return self.called_ae_title

    def _listen_in(self, taps: Taps) -> None:
        super()._listen_in(taps)
        self._peer_is_named(self.called_ae_title)

    async def answered(self) -> None:
        """Wait for the answer to our request; raises AssociationError when there is no yes."""
        seconds = self._deadlines.response
        try:
            async with asyncio.timeout(seconds):
                await self._answered.wait()
        except TimeoutError:
            why = f"no answer to the association request for {seconds:g} s"
            self.abort_as(Ending(How.TIMED_OUT, f"{why} (timeouts.response_seconds)"))
        if self._error is not None:
            raise self._error

    async def release(self) -> None:
        if self._ending is None and self._sender.is_streaming:
            self.abort("the association was given up while a data set was being sent")
        if self._ending is None and self._association.state is State.STA6:
            self._association.release(self._loop.time())
            self._flush()
        seconds = self._deadlines.response
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except asyncio.CancelledError:
            self.abort("nobody awaits the answer to A-RELEASE-RQ any more")
            raise
        except TimeoutError:
            why = f"no answer to A-RELEASE-RQ for {seconds:g} s (timeouts.response_seconds)"
            self.abort_as(Ending(How.TIMED_OUT, why))

    def _negotiate(
        self, event: AssociateIndication | AssociateAccepted | AssociateRejected
    ) -> None:
        match event:
            case AssociateAccepted(response):
                self._establish(concluded(self._request, response))
                self._answered.set()
                self._observer.requested(self)
            case AssociateRejected(response):
                self._error = AssociationRejected(
                    self._peer, response.result, response.source, response.reason, response.words
                )
                self._ending = Ending(How.REJECTED, response.words)
                self._end_association(self._ending)
            case AssociateIndication():
                raise LocalProtocolError("a requestor is asked for no association")

    def _report_ended(self, ending: Ending) -> None:
        self._over.set()
        self._observer.request_ended(self, ending.how, ending.why)

    def _report_failed(self, ending: Ending) -> None:
        if self._error is None and (fault := ending.fault) is not None:
            words = f"{self._peer}: {fault.words}"
            self._error = TLSFailed(words, fault.cause, fault.advice)
        elif self._error is None:
            timed_out = ending.how is How.TIMED_OUT
            error = AssociationTimedOut if timed_out else AssociationAborted
            self._error = error(f"{self._peer}: {ending.why or ending.how}")
        self._answered.set()
        self._over.set()
