"""Sending what is in the outbox on one association after another with their destination."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from dicomnode.dimse.channel import Proposal, Requestor
from dicomnode.dimse.command import Priority as DimsePriority
from dicomnode.dimse.status import Status
from dicomnode.errors import AssociationError, ConversionFailed, Unreadable
from dicomnode.integrity.record import Happening
from dicomnode.outbox.items import Item
from dicomnode.outbox.messages import Outgoing, StoredMessages, is_known, send
from dicomnode.outbox.pace import Pace
from dicomnode.outbox.rules import Priority
from dicomnode.registry import AE
from dicomnode.scu.answers import Answer
from dicomnode.scu.association import Association
from dicomnode.scu.objects import Instance
from dicomnode.scu.outgoing import OutgoingAssociation, associate
from dicomnode.scu.proposals import Kind, proposals
from dicomnode.scu.sending_contexts import NoContext, SendingContexts
from dicomnode.services.auditing import Auditing
from dicomnode.services.custody import Custodian
from dicomnode.services.sop_classes import (
    MODALITY_PERFORMED_PROCEDURE_STEP,
    MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
)
from dicomnode.services.stored_objects import StoredObjects
from dicomnode.storage.encoding import EXPLICIT_VR_LITTLE_ENDIAN
from dicomnode.ul.items import AsynchronousOperationsWindow

# Objects under way at once, where the destination lets us; each may take memory.
_WINDOW: Final = 4
# The kinds of objects that came lately are proposed again; one association takes them all.
_REMEMBERED_KINDS: Final = 40
# Messages of performed steps, and looking at what has become of one.
_STEPS: Final[tuple[Kind, ...]] = (
    (MODALITY_PERFORMED_PROCEDURE_STEP, EXPLICIT_VR_LITTLE_ENDIAN),
    (MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE, EXPLICIT_VR_LITTLE_ENDIAN),
)
_DIMSE_PRIORITY: Final = {
    Priority.HIGH: DimsePriority.HIGH,
    Priority.NORMAL: DimsePriority.MEDIUM,
    Priority.LOW: DimsePriority.LOW,
}


@dataclass(slots=True)
class Report:
    """What became of the objects of a batch; whatever is not here was not sent.

    ``refused`` says of objects why they cannot be sent, or how the destination answered; ``lost``
    are those that it may take another time: it has no room, or the association ended first.
    ``happenings`` tells the custody log of those that were sent.
    """

    sent: list[Item] = field(default_factory=list)
    sent_bytes: int = 0
    refused: list[tuple[Item, str]] = field(default_factory=list)
    lost: list[tuple[Item, str]] = field(default_factory=list)
    answered: int = 0
    happenings: list[Happening] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What sending takes: whom to ask for associations and objects, and as whom."""

    requestor: Requestor
    objects: StoredObjects
    messages: StoredMessages
    calling_ae_title: str
    response_seconds: float
    pace: Pace
    auditing: Auditing | None = None
    custodian: Custodian | None = None


@dataclass(frozen=True, slots=True)
class _Link:
    ae: AE
    outgoing: OutgoingAssociation
    association: Association
    contexts: SendingContexts
    kinds: frozenset[Kind]


@dataclass(frozen=True, slots=True)
class _Prepared:
    item: Item
    what: Instance | Outgoing | None = None
    why: str = ""


class Session:
    """Associations with one destination, one at a time; kept while objects of its kinds come."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending
        self._link: _Link | None = None
        self._lately: dict[Kind, None] = {}

    async def send(self, ae: AE, items: Sequence[Item], report: Report) -> None:
        """Send objects, telling ``report``. Raises AssociationError when that cannot go on."""
        waiting = []
        for item in items:
            if item.row is None and not item.operation:
                report.refused.append((item, "the object is no longer in the archive"))
            else:
                waiting.append(item)
        while waiting:
            link = await self._link_for(ae, _kinds_of(waiting))
            served = [item for item in waiting if _kind(item) in link.kinds]
            waiting = [item for item in waiting if _kind(item) not in link.kinds]
            await self._send_over(link, served, report)

    async def close(self) -> None:
        """Release the association, if there is one."""
        link, self._link = self._link, None
        if link is not None:
            await link.association.close()

    # -- associations ------------------------------------------------------------------------------

    async def _link_for(self, ae: AE, kinds: dict[Kind, None]) -> _Link:
        """Return an association for the first of ``kinds``, and for as many as it takes."""
        link = self._link
        ended = link is not None and link.outgoing.requests.ended.is_set()
        same_peer = link is not None and link.ae == ae
        if link is not None and same_peer and not ended and next(iter(kinds)) in link.kinds:
            return link
        await self.close()
        self._lately = dict(list((self._lately | kinds).items())[-_REMEMBERED_KINDS:])
        wanted = kinds | self._lately
        served, contexts = proposals(wanted, ae.transfer_syntaxes, ae.receives)[0]
        assert ae.host is not None
        proposal = Proposal(
            host=ae.host,
            port=ae.port,
            tls=ae.over_tls,
            called_ae_title=ae.title,
            calling_ae_title=self._sending.calling_ae_title,
            contexts=contexts,
            window=AsynchronousOperationsWindow(_WINDOW, 1),
        )
        outgoing = await associate(self._sending.requestor, proposal)
        accepted = SendingContexts(
            outgoing.negotiated.contexts.values(),
            ae.title,
            lambda what: f"Let {ae.title} accept {what}.",
            ae.transfer_syntaxes,
        )
        seconds = self._sending.response_seconds
        association = Association(outgoing, response_seconds=seconds)
        self._link = _Link(ae, outgoing, association, accepted, served)
        return self._link

    # -- objects -----------------------------------------------------------------------------------

    async def _send_over(self, link: _Link, items: list[Item], report: Report) -> None:
        granted = link.association.negotiated.max_operations_invoked or _WINDOW
        feed = iter(items)
        senders = [
            asyncio.ensure_future(self._send_each(link, feed, report))
            for _ in range(min(granted, _WINDOW, len(items)))
        ]
        try:
            await asyncio.gather(*senders)
        except BaseException as error:
            self._link = None
            link.association.channel.abort(f"forwarding was broken off: {error}")
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)
            raise

    async def _send_each(self, link: _Link, feed: Iterator[Item], report: Report) -> None:
        """Send what ``feed`` yields, reading one object ahead of the one that is being sent."""
        item = next(feed, None)
        ahead = self._begin(link, item)
        try:
            while ahead is not None:
                prepared = await ahead
                ahead = self._begin(link, next(feed, None))
                await self._sending.pace.turn()
                await self._perform(link, prepared, report)
        finally:
            if ahead is not None and not ahead.cancel() and not ahead.cancelled():
                ahead.exception()  # it was done: nobody else asks for what it raised

    def _begin(self, link: _Link, item: Item | None) -> asyncio.Task[_Prepared] | None:
        return asyncio.create_task(self._prepare(link, item)) if item is not None else None

    async def _prepare(self, link: _Link, item: Item) -> _Prepared:
        choice = link.contexts.choose(*_kind(item))
        if isinstance(choice, NoContext):
            return _Prepared(item, why=f"{choice.words}. {choice.advice}")
        syntax = choice.transfer_syntax_uid
        if item.operation:
            title = link.association.channel.called_ae_title
            try:
                message = await self._sending.messages.fetch(item.id, title, syntax)
            except ValueError as error:
                return _Prepared(item, why=f"it cannot be written as a data set: {error}")
            return _Prepared(item, message, why="it was dropped meanwhile")
        row = item.row
        assert row is not None
        try:
            sendable = await self._sending.objects.fetch(row, syntax)
        except (Unreadable, ConversionFailed) as error:
            return _Prepared(item, why=str(error))
        instance = Instance(
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            transfer_syntax_uid=syntax,
            data_set=sendable.data_set,
            size=sendable.size,
        )
        return _Prepared(item, instance)

    async def _perform(self, link: _Link, prepared: _Prepared, report: Report) -> None:
        item, what = prepared.item, prepared.what
        if what is None:
            report.refused.append((item, prepared.why))
            return
        began = time.monotonic()
        auditing, channel, row = self._sending.auditing, link.association.channel, item.row
        if auditing is not None and row is not None:
            auditing.instance_sending(channel, row)
        try:
            answer, taken = await _ask(link.association, item, what)
        except AssociationError as error:
            report.lost.append((item, str(error)))
            if auditing is not None and row is not None:
                auditing.instance_sent(channel, row, str(error))
            raise
        if auditing is not None and row is not None:
            auditing.instance_sent(channel, row, answer.status)
        report.answered += 1
        self._sending.pace.sent(time.monotonic() - began, what.size)
        if taken:
            report.sent.append(item)
            report.sent_bytes += what.size
            if (custodian := self._sending.custodian) is not None and isinstance(what, Instance):
                assert row is not None
                syntax = what.transfer_syntax_uid
                report.happenings.append(custodian.forwarded(row, channel, item.rule, syntax))
            return
        comment = f": {answer.comment}" if answer.comment else ""
        words = f"answered with {answer.status:04X}H {answer.words}{comment}"
        may_pass = _may_pass(answer.status, is_object=not item.operation)
        (report.lost if may_pass else report.refused).append((item, words))


async def _ask(
    association: Association, item: Item, what: Instance | Outgoing
) -> tuple[Answer, bool]:
    """Ask for what is to be done; return the answer and whether it is done now."""
    if isinstance(what, Instance):
        priority = _DIMSE_PRIORITY[Priority(item.priority)]
        answer = await association.store(what, priority=priority)
        return answer, answer.ok
    answer = await send(association, what)
    return answer, answer.ok or await is_known(association, what.message, answer)


def _may_pass(status: int, *, is_object: bool) -> bool:
    """Tell whether a refusal is for want of resources (PS3.4 Table B.2-1, PS3.7 §C.5.20)."""
    return status == Status.RESOURCE_LIMITATION or (is_object and status & 0xFF00 == 0xA700)


def _kind(item: Item) -> Kind:
    if item.operation:
        return _STEPS[0]
    row = item.row
    assert row is not None
    return row.sop_class_uid, row.transfer_syntax_uid


def _kinds_of(items: Sequence[Item]) -> dict[Kind, None]:
    """Return what contexts are needed for, that of the first item first."""
    kinds = dict.fromkeys(map(_kind, items))
    return kinds | dict.fromkeys(_STEPS) if _STEPS[0] in kinds else kinds
