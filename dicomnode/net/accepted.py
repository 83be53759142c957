"""The acceptor's side of an association: admission, and the slot that it takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from dicomnode.dimse.channel import Admission, Observer, Provider, Refused
from dicomnode.errors import LocalProtocolError
from dicomnode.net.buffers import BufferPool
from dicomnode.net.connection import Connection
from dicomnode.net.ending import Deadlines, Ending, How
from dicomnode.net.taps import Taps
from dicomnode.ul.association import Association, State
from dicomnode.ul.events import AssociateAccepted, AssociateIndication, AssociateRejected
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
        now = self._loop.time()
        self._peer_is_named(request.calling_ae_title)
        answer = self._admission.admit(request, self.peer_address, self.secured)
        if isinstance(answer, Refused):
            self._observer.rejected(self.peer_address, request, answer)
            self._ending = Ending(How.REJECTED, answer.why)
            self._association.reject(answer.rejection, now)
            return
        self._release_slot = answer.release
        self._received.trust()
        self._association.accept(answer.negotiated.response, now)
        self._establish(answer.negotiated)
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
        release_slot, self._release_slot = self._release_slot, None
        if release_slot is not None:
            release_slot()
