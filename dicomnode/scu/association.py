"""An association with a peer, and the operations that can be asked of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Self

from dicomnode.dimse.command import CEchoRQ, CFindRQ, CGetRQ, CMoveRQ, CStoreRQ, Priority
from dicomnode.scu import names
from dicomnode.scu.answers import Answer, Encoded, Progress
from dicomnode.scu.calling import syntax_of
from dicomnode.scu.normalized import Normalized
from dicomnode.scu.objects import Instance, instance_of
from dicomnode.scu.operations import Outcome, Prepared, Responses
from dicomnode.scu.outgoing import OutgoingAssociation
from dicomnode.scu.peers import named_title
from dicomnode.scu.receiving import Receive, Receiver
from dicomnode.scu.requests import Exchange
from dicomnode.scu.storing import Outbound
from dicomnode.storage.encoding import DEFLATED

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from dicomnode.scu.calling import Identifier

# Reading more than this takes a thread, not the event loop; so does what may inflate to more.
_LONG_BYTES = 64 * 1024


class Association(Normalized):
    """An association that we asked for; made by ``dicomnode.open_association``.

    Operations may run at once, in tasks of their own: as many as the peer granted
    (``negotiated.max_operations_invoked``) are under way, the others wait for their turn. Every
    operation raises AssociationAborted or AssociationTimedOut when it gets no answer, and
    ContextNotAccepted when the peer accepted no presentation context for it. A failure status is
    no exception: see ``Answer``. SOP classes are given as UIDs or as keywords of PS3.6.
    ``response_seconds`` is how long the peer may be silent, where it is not the association's.
    """

    def __init__(
        self,
        outgoing: OutgoingAssociation,
        *,
        response_seconds: float = 60.0,
        cancel_seconds: float = 5.0,
    ) -> None:
        super().__init__(outgoing, response_seconds=response_seconds, cancel_seconds=cancel_seconds)
        self._outbound = Outbound(outgoing.negotiated)
        # Nothing in a C-STORE-RQ tells which C-GET it belongs to.
        self._get_turn = asyncio.Lock()

    async def close(self, *, in_time: bool = False) -> None:
        """Give up the operations that are under way, and release the association.

        A peer that does not end them within ``cancel_seconds`` is aborted, and with ``in_time``
        one that takes longer over the release; without, it has the requestor's deadline for that.
        """
        try:
            await self._operations.close()
            await self._operations.release(in_time=in_time)
        finally:
            await self._outbound.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close it; in time where the block was left by an exception."""
        await self.close(in_time=kind is not None)

    # -- composite operations (PS3.7 §9.1) -------------------------------------------------------

    async def echo(self, *, response_seconds: float | None = None) -> Answer:
        """Perform C-ECHO."""
        context_id = self._context(names.VERIFICATION)
        request = CEchoRQ(message_id=0, affected_sop_class_uid=names.VERIFICATION)
        return await self._operations.perform(context_id, request, None, response_seconds)

    async def store(
        self,
        what: str | os.PathLike[str] | Dataset | Instance,
        *,
        priority: Priority = Priority.MEDIUM,
        move_originator_ae_title: str | None = None,
        move_originator_message_id: int | None = None,
        response_seconds: float | None = None,
    ) -> Answer:
        """Perform C-STORE with a Part 10 file, a pydicom Dataset, or bytes as an ``Instance``.

        It goes in its own transfer syntax where that was accepted, else converted to one that
        was. Raises Unreadable, ConversionFailed, and ValueError for a Dataset that cannot be sent.
        """

        async def prepare() -> Prepared:
            context_id, instance = await self._outbound.prepare(await instance_of(what))
            request = CStoreRQ(
                has_data_set=True,
                message_id=0,
                affected_sop_class_uid=instance.sop_class_uid,
                affected_sop_instance_uid=instance.sop_instance_uid,
                priority=priority,
                move_originator_ae_title=move_originator_ae_title,
                move_originator_message_id=move_originator_message_id,
            )
            return context_id, request, instance.data_set

        # Only now, or as many objects would be in memory as somebody wants to send.
        return await self._operations.perform_prepared(prepare, response_seconds)

    def find(
        self,
        identifier: Identifier,
        *,
        model: str = "study",
        priority: Priority = Priority.MEDIUM,
        response_seconds: float | None = None,
    ) -> Responses[Dataset]:
        """Perform C-FIND; iterate over the matches.

        ``model`` is a word of ``names.FIND`` or a SOP class; ``identifier`` a Dataset, a mapping
        of keywords or tags to values, or encoded. Raises Unreadable for a match that is none.
        """
        outcome = Outcome()
        matches = self._find(identifier, model, priority, response_seconds, outcome)
        return Responses(_decoded(matches), outcome, self._operations.iterating)

    def find_encoded(
        self,
        identifier: Identifier,
        *,
        model: str = "study",
        priority: Priority = Priority.MEDIUM,
        response_seconds: float | None = None,
    ) -> Responses[Encoded]:
        """Perform C-FIND as ``find`` does; iterate over the matches as bytes, not decoded."""
        outcome = Outcome()
        matches = self._find(identifier, model, priority, response_seconds, outcome)
        return Responses(matches, outcome, self._operations.iterating)

    async def _find(
        self,
        identifier: Identifier,
        model: str,
        priority: Priority,
        seconds: float | None,
        outcome: Outcome,
    ) -> AsyncGenerator[Encoded, None]:
        uid = names.model_uid(names.FIND, model)
        context_id = self._context(uid, syntax=syntax_of(identifier))
        data = await self._encoded(context_id, identifier)
        request = CFindRQ(
            has_data_set=True, message_id=0, affected_sop_class_uid=uid, priority=priority
        )
        course = self._operations.stream(context_id, request, data, outcome, seconds=seconds)
        async with aclosing(course) as answers:
            async for answer in answers:
                if answer.encoded is not None:
                    yield answer.encoded

    def move(
        self,
        identifier: Identifier,
        destination: str,
        *,
        model: str = "study",
        priority: Priority = Priority.MEDIUM,
        response_seconds: float | None = None,
    ) -> Responses[Progress]:
        """Perform C-MOVE to the AE title ``destination``; iterate over the progress."""
        outcome = Outcome()
        uid = names.model_uid(names.MOVE, model)
        request = CMoveRQ(
            has_data_set=True,
            message_id=0,
            affected_sop_class_uid=uid,
            priority=priority,
            move_destination=named_title(destination),
        )
        course = self._retrieve(request, identifier, outcome, response_seconds)
        return Responses(course, outcome, self._operations.iterating)

    def get(
        self,
        identifier: Identifier,
        receive: Receive | None = None,
        *,
        model: str = "study",
        priority: Priority = Priority.MEDIUM,
        response_seconds: float | None = None,
    ) -> Responses[Progress]:
        """Perform C-GET; iterate over the progress, while ``receive`` takes the objects.

        Their SOP classes must have been proposed with the SCP role. Without ``receive`` they go
        to the provider that the association was made with. Gets follow one another. What
        ``receive`` raises, other than a StatusError, ends the C-GET and is raised here.
        """
        outcome = Outcome()
        uid = names.model_uid(names.GET, model)
        request = CGetRQ(
            has_data_set=True, message_id=0, affected_sop_class_uid=uid, priority=priority
        )
        if receive is None:
            course = self._retrieve(request, identifier, outcome, response_seconds)
        else:
            course = self._get(request, identifier, receive, outcome, response_seconds)
        return Responses(course, outcome, self._operations.iterating)

    async def _retrieve(
        self,
        request: CMoveRQ | CGetRQ,
        identifier: Identifier,
        outcome: Outcome,
        seconds: float | None,
        receiving: _Receiving | None = None,
    ) -> AsyncGenerator[Progress, None]:
        context_id = self._context(request.affected_sop_class_uid, syntax=syntax_of(identifier))
        data = await self._encoded(context_id, identifier)
        course = self._operations.stream(
            context_id,
            request,
            data,
            outcome,
            seconds=seconds,
            on_begin=receiving.begin if receiving is not None else None,
        )
        async with aclosing(course) as answers:
            async for answer in answers:
                yield Progress.of(answer.response)

    async def _get(
        self,
        request: CGetRQ,
        identifier: Identifier,
        receive: Receive,
        outcome: Outcome,
        seconds: float | None,
    ) -> AsyncGenerator[Progress, None]:
        self._operations.refuse_nesting()
        async with self._get_turn:
            receiving = _Receiving(self._outgoing, receive)
            course = self._retrieve(request, identifier, outcome, seconds, receiving)
            try:
                async with aclosing(course) as progress:
                    try:
                        async for one in progress:
                            yield one
                    finally:
                        if outcome.answer is None:
                            receiving.stop()
                await receiving.finished()
            finally:
                await receiving.end()


class _Receiving:
    """Where the objects of one C-GET go."""

    def __init__(self, outgoing: OutgoingAssociation, receive: Receive) -> None:
        self._outgoing = outgoing
        self._receive = receive
        self._exchange: Exchange
        self._receiver: Receiver | None = None
        self._fault: Exception | None = None

    def begin(self, exchange: Exchange) -> None:
        """Receive objects from now on."""
        self._exchange = exchange
        self._receiver = Receiver(
            self._outgoing.channel, self._receive, exchange.heard, self._failed
        )
        exchange.is_our_turn = self._receiver.is_our_turn
        self._outgoing.receive(self._receiver)

    def _failed(self, fault: Exception) -> None:
        self._fault = self._fault or fault
        self._exchange.give_up(fault)

    async def finished(self) -> None:
        """Wait until the last object has been taken; raises what taking one did."""
        if self._receiver is not None:
            await self._receiver.wait()
        if self._fault is not None:
            raise self._fault

    def stop(self) -> None:
        """Refuse what still comes."""
        if self._receiver is not None:
            self._receiver.close()

    async def end(self) -> None:
        """The C-GET is over: receive nothing more, and let what is under way clean up."""
        self.stop()
        self._outgoing.receive(None)
        if self._receiver is not None:
            await self._receiver.wait()


async def _decoded(matches: AsyncGenerator[Encoded, None]) -> AsyncGenerator[Dataset, None]:
    async with aclosing(matches) as encoded:
        async for one in encoded:
            if len(one.data) > _LONG_BYTES or one.transfer_syntax_uid == DEFLATED:
                yield await asyncio.to_thread(one.decode)
            else:
                yield one.decode()
