"""Sending objects of the outbox on one association after another with their destination."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from dicomnode.dimse.channel import Proposal, Requestor
from dicomnode.dimse.command import Priority as DimsePriority
from dicomnode.dimse.status import Category, Status
from dicomnode.errors import AssociationError, ConversionFailed, Unreadable
from dicomnode.index.entry import InstanceRow
from dicomnode.outbox.pace import Pace
from dicomnode.outbox.queue import Item
from dicomnode.outbox.rules import Priority
from dicomnode.registry import AE
from dicomnode.scu.association import Association
from dicomnode.scu.objects import Instance
from dicomnode.scu.outgoing import OutgoingAssociation, associate
from dicomnode.scu.proposals import Kind, proposals
from dicomnode.scu.sending_contexts import NoContext, SendingContexts
from dicomnode.services.stored_objects import StoredObjects
from dicomnode.ul.items import AsynchronousOperationsWindow

# Objects under way at once, where the destination lets us; each may take memory.
_WINDOW: Final = 4
# The kinds of objects that came lately are proposed again; one association takes them all.
_REMEMBERED_KINDS: Final = 40
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
    """

    sent: list[Item] = field(default_factory=list)
    sent_bytes: int = 0
    refused: list[tuple[Item, str]] = field(default_factory=list)
    lost: list[tuple[Item, str]] = field(default_factory=list)
    answered: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What sending takes: whom to ask for associations and objects, and as whom."""

    requestor: Requestor
    objects: StoredObjects
    calling_ae_title: str
    response_seconds: float
    pace: Pace


@dataclass(frozen=True, slots=True)
class _Link:
    outgoing: OutgoingAssociation
    association: Association
    contexts: SendingContexts
    kinds: frozenset[Kind]


@dataclass(frozen=True, slots=True)
class _Prepared:
    item: Item
    instance: Instance | None = None
    why: str = ""


class Session:
    """Associations with one destination, one at a time; kept while objects of its kinds come."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending
        self._link: _Link | None = None
        self._lately: dict[Kind, None] = {}

    async def send(self, ae: AE, items: Sequence[Item], report: Report) -> None:
        """Send objects, telling ``report``. Raises AssociationError when that cannot go on."""
        for item in items:
            if item.row is None:
                report.refused.append((item, "the object is no longer in the archive"))
        waiting = [item for item in items if item.row is not None]
        while waiting:
            link = await self._link_for(ae, _kinds_of(waiting))
            served = [item for item in waiting if _kind(item.row) in link.kinds]
            waiting = [item for item in waiting if _kind(item.row) not in link.kinds]
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
        if link is not None and not ended and next(iter(kinds)) in link.kinds:
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
        self._link = _Link(outgoing, association, accepted, served)
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
                await self._store(link, prepared, report)
        finally:
            if ahead is not None and not ahead.cancel() and not ahead.cancelled():
                ahead.exception()  # it was done: nobody else asks for what it raised

    def _begin(self, link: _Link, item: Item | None) -> asyncio.Task[_Prepared] | None:
        return asyncio.create_task(self._prepare(link, item)) if item is not None else None

    async def _prepare(self, link: _Link, item: Item) -> _Prepared:
        row = item.row
        assert row is not None
        choice = link.contexts.choose(row.sop_class_uid, row.transfer_syntax_uid)
        if isinstance(choice, NoContext):
            return _Prepared(item, why=f"{choice.words}. {choice.advice}")
        try:
            sendable = await self._sending.objects.fetch(row, choice.transfer_syntax_uid)
        except (Unreadable, ConversionFailed) as error:
            return _Prepared(item, why=str(error))
        instance = Instance(
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            transfer_syntax_uid=choice.transfer_syntax_uid,
            data_set=sendable.data_set,
            size=sendable.size,
        )
        return _Prepared(item, instance)

    async def _store(self, link: _Link, prepared: _Prepared, report: Report) -> None:
        item, instance = prepared.item, prepared.instance
        if instance is None:
            report.refused.append((item, prepared.why))
            return
        began = time.monotonic()
        priority = _DIMSE_PRIORITY[Priority(item.priority)]
        try:
            answer = await link.association.store(instance, priority=priority)
        except AssociationError as error:
            report.lost.append((item, str(error)))
            raise
        report.answered += 1
        self._sending.pace.sent(time.monotonic() - began, instance.size)
        if answer.category in (Category.SUCCESS, Category.WARNING):
            report.sent.append(item)
            report.sent_bytes += instance.size
            return
        comment = f": {answer.comment}" if answer.comment else ""
        words = f"answered with {answer.status:04X}H {answer.words}{comment}"
        (report.lost if _may_pass(answer.status) else report.refused).append((item, words))


def _may_pass(status: int) -> bool:
    """Tell whether a refusal is for want of resources (PS3.4 Table B.2-1, PS3.7 §C.5.20)."""
    return status & 0xFF00 == 0xA700 or status == Status.RESOURCE_LIMITATION


def _kind(row: InstanceRow | None) -> Kind:
    assert row is not None
    return row.sop_class_uid, row.transfer_syntax_uid


def _kinds_of(items: Sequence[Item]) -> dict[Kind, None]:
    return dict.fromkeys(_kind(item.row) for item in items)
