"""The acceptor's side of an association: admission, and the slot that it takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from dicomnode.dimse.channel import Admission, Deferred, Observer, Provider, Refused
from dicomnode.errors import LocalProtocolError
from dicomnode.net.buffers import BufferPool
from dicomnode.net.connection import Connection
from dicomnode.net.ending import Deadlines, Ending, How
from dicomnode.net.taps import Taps
from dicomnode.ul.association import Association, State
from dicomnode.ul.events import AssociateAccepted, AssociateIndication, AssociateRejected
from dicomnode.ul.negotiation import Negotiated
from dicomnode.ul.pdu import AAssociateRQ


class AcceptedConnection(Connection):
    """A connection that a peer made to us."""

    def __init__(
        self,
        number: int,
        association: Association,
        *,
        pool: BufferPool,
        deadlines: Deadlines,
        admission: Admission,
        provider: Provider,
        observer: Observer,
        on_closed: Callable[[Connection], None],
        on_made: Callable[[Connection], None] = lambda connection: None,
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
        self._admission = admission
        self._observer = observer
        self._on_made = on_made
        self._release_slot: Callable[[], None] | None = None
        self._deciding: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._on_made(self)

    @property
    def peer_ae_title(self) -> str:
        return self.calling_ae_title

    def _negotiate(
        self, event: AssociateIndication | AssociateAccepted | AssociateRejected
    ) -> None:
        if not isinstance(event, AssociateIndication):
            raise LocalProtocolError("an acceptor requested no association")
        if self._association.state is State.STA3:
            self._answer(event.request)
        # Otherwise the peer ended it in the same breath; the next event says how.

    def _answer(self, request: AAssociateRQ) -> None:
        self._peer_is_named(request.calling_ae_title)
        answer = self._admission.admit(request, self.peer_address, self.secured)
        if isinstance(answer, Refused):
            self._reject(request, answer)
            return
        self._release_slot = answer.release
        if isinstance(answer, Deferred):
            self._deciding = self._loop.create_task(self._answer_later(request, answer))
        else:
            self._accept(answer.negotiated)

    async def _answer_later(self, request: AAssociateRQ, deferred: Deferred) -> None:
        try:
            answer = await deferred.decide()
            # The peer may have left meanwhile, or the node may be about to stop.
            if self._closed or self._ending or self._association.state is not State.STA3:
                return
            if isinstance(answer, Refused):
                self._give_slot_back()
                self._reject(request, answer)
            else:
                self._accept(answer)
            self._flush()
        except Exception as error:
            self._fault(error)

    def _reject(self, request: AAssociateRQ, refused: Refused) -> None:
        self._observer.rejected(self.peer_address, request, refused)
        self._ending = Ending(How.REJECTED, refused.why)
        self._association.reject(refused.rejection, self._loop.time())

    def _accept(self, negotiated: Negotiated) -> None:
        self._received.trust()
        self._association.accept(negotiated.response, self._loop.time())
        self._establish(negotiated)
        self._observer.accepted(self)

    def _report_ended(self, ending: Ending) -> None:
        with contextlib.ExitStack() as each:
            each.callback(self._give_slot_back)
            self._observer.ended(self, ending.how, ending.why)

    def _report_failed(self, ending: Ending) -> None:
        with contextlib.ExitStack() as each:
            each.callback(self._give_slot_back)
            # A load balancer's check connects and closes: nothing to report.
            if ending.how not in (How.REJECTED, How.LOST):
                self._observer.failed(self.peer_address, ending.how, ending.why)

    def _give_slot_back(self) -> None:
        if self._deciding is not None and self._deciding is not asyncio.current_task():
            self._deciding.cancel()
        release_slot, self._release_slot = self._release_slot, None
        if release_slot is not None:
            release_slot()
