"""Sends stored objects on one association after another, as sub-operations of a retrieval."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from dicomnode.dimse.channel import Channel
from dicomnode.dimse.command import CStoreRQ
from dicomnode.dimse.status import Category, category
from dicomnode.errors import (
    AssociationAborted,
    AssociationError,
    AssociationTimedOut,
    ConversionFailed,
    Unreadable,
)
from dicomnode.index.entry import InstanceRow
from dicomnode.observe.logs import Logger
from dicomnode.scu.requests import Requests
from dicomnode.scu.sending_contexts import Choice, NoContext, SendingContexts
from dicomnode.services.auditing import Auditing
from dicomnode.services.custody import Custodian
from dicomnode.services.outcomes import Finding
from dicomnode.services.selected import Rows
from dicomnode.services.stored_objects import Sendable, StoredObjects
from dicomnode.services.sub_operations import SubOperations

# After the loss of an association that took objects, another is asked for so often.
_MAX_RECONNECTS: Final = 3
_MAX_TOLD: Final = 20
_TAKEN: Final = (Category.SUCCESS, Category.WARNING)
_RESTORE: Final = "Send the object to the node again, or restore its file from a backup."


@dataclass(frozen=True, slots=True)
class Link:
    """An association that objects are sent on."""

    channel: Channel
    requests: Requests
    contexts: SendingContexts


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreParameters:
    """What every C-STORE-RQ of a retrieval has (PS3.7 §9.1.1.1).

    ``originator`` is the association on which the objects were asked for.
    """

    priority: int
    response_seconds: float
    originator: Channel
    move_originator_ae_title: str | None = None
    move_originator_message_id: int | None = None


class Control(Protocol):
    """Whether a retrieval goes on.

    ``storing`` is true while an object is being sent; it stays so when that was broken off.
    """

    storing: bool

    async def proceed(self) -> None:
        """Wait until another object may be sent; asyncio.CancelledError when none may."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An object ready to be sent, or why it cannot be."""

    row: InstanceRow
    sending: tuple[Choice, Sendable] | Finding


class Sender:
    """Sends the objects of a retrieval, reading one ahead of the one that is being sent."""

    def __init__(
        self,
        account: SubOperations,
        objects: StoredObjects,
        parameters: StoreParameters,
        control: Control,
        log: Logger,
        auditing: Auditing | None = None,
        custodian: Custodian | None = None,
    ) -> None:
        self._custodian = custodian
        self._account = account
        self._objects = objects
        self._parameters = parameters
        self._control = control
        self._log = log
        self._auditing = auditing
        self._told: set[str] = set()

    async def send(
        self, rows: Rows, link: Link, reconnect: Callable[[], Awaitable[Link]] | None = None
    ) -> Link:
        """Send all of ``rows``; return the association that was last used.

        Raises AssociationError when that was lost; what ``rows`` still has has not been counted.
        Raises CatalogError.
        """
        row = await rows.next()
        ahead = self._begin(row, link)
        reconnects, taken = 0, False
        try:
            while row is not None:
                following = await rows.next()
                assert ahead is not None
                prepared = await ahead
                ahead = self._begin(following, link)
                try:
                    taken = await self._store(prepared, link) or taken
                except AssociationError as error:
                    self._fail(str(error), row, link)
                    row = following
                    timed_out = isinstance(error, AssociationTimedOut)
                    if timed_out:
                        link.channel.abort(str(error))
                    hopeless = timed_out or not taken or reconnects >= _MAX_RECONNECTS
                    if row is None or hopeless or not reconnect:
                        raise
                    _drop(ahead)
                    link, reconnects, taken = await reconnect(), reconnects + 1, False
                    ahead = self._begin(following, link)
                row = following
                if row is not None:
                    await self._control.proceed()
        except AssociationError as error:
            # The one that was read ahead is no longer among ``rows``.
            if row is not None:
                self._fail(str(error), row, link)
            raise
        finally:
            _drop(ahead)
        return link

    def _begin(self, row: InstanceRow | None, link: Link) -> asyncio.Task[_Prepared] | None:
        return asyncio.create_task(self._prepare(row, link)) if row is not None else None

    async def _prepare(self, row: InstanceRow, link: Link) -> _Prepared:
        choice = link.contexts.choose(row.sop_class_uid, row.transfer_syntax_uid)
        if isinstance(choice, NoContext):
            return _Prepared(row, Finding(choice.words, advice=choice.advice))
        try:
            sendable = await self._objects.fetch(row, choice.transfer_syntax_uid)
        except Unreadable as error:
            self._log.error(
                f"a stored object cannot be read: {error}",
                sop_instance_uid=row.sop_instance_uid,
                path=row.path,
            )
            return _Prepared(row, Finding(str(error), advice=_RESTORE))
        except ConversionFailed as error:
            self._tell(str(error), row, choice)
            return _Prepared(row, Finding(str(error), advice=error.advice))
        return _Prepared(row, (choice, sendable))

    def _tell(self, why: str, row: InstanceRow, choice: Choice) -> None:
        """Log why an object could not be converted: the first of those with the same reason."""
        if why in self._told or len(self._told) >= _MAX_TOLD:
            return
        self._told.add(why)
        self._log.warning(
            f"a stored object cannot be converted: {why}",
            sop_instance_uid=row.sop_instance_uid,
            stored=row.transfer_syntax_uid,
            wanted=choice.transfer_syntax_uid,
        )

    async def _store(self, prepared: _Prepared, link: Link) -> bool:
        """Perform one sub-operation; tell whether the peer answered it. Raises AssociationError."""
        row, sending = prepared.row, prepared.sending
        if isinstance(sending, Finding):
            self._fail(sending.words, row, link, sending.advice)
            return False
        choice, sendable = sending
        parameters = self._parameters
        request = CStoreRQ(
            has_data_set=True,
            message_id=link.requests.next_message_id(),
            affected_sop_class_uid=row.sop_class_uid,
            affected_sop_instance_uid=row.sop_instance_uid,
            priority=parameters.priority,
            move_originator_ae_title=parameters.move_originator_ae_title,
            move_originator_message_id=parameters.move_originator_message_id,
        )
        moving = parameters.move_originator_ae_title is not None
        if self._auditing is not None:
            self._auditing.instance_sending(link.channel, row, parameters.originator)
        self._control.storing = True
        try:
            response = await link.requests.perform(
                choice.context_id,
                request,
                sendable.data_set,
                seconds=parameters.response_seconds,
            )
        except AssociationError as error:
            self._control.storing = False
            if isinstance(error, AssociationAborted):
                whose = link.channel.called_ae_title if moving else "the requester"
                words = f"the association with {whose} ended: {error}"
                raise AssociationAborted(words) from error
            raise
        self._control.storing = False
        self._account.stored(response.status, sendable.size, row.sop_instance_uid)
        if self._custodian is not None and category(response.status) in _TAKEN:
            self._custodian.retrieved(
                row,
                link.channel,
                parameters.originator,
                choice.transfer_syntax_uid,
                response.status,
            )
        self._audit(row, link, response.status)
        self._log.debug(
            "a sub-operation was answered",
            association=link.channel.number,
            message_id=request.message_id,
            sop_instance_uid=row.sop_instance_uid,
            transfer_syntax_uid=choice.transfer_syntax_uid,
            size=sendable.size,
            status=response.status,
        )
        return True

    def _audit(self, row: InstanceRow, link: Link, how: int | str) -> None:
        if self._auditing is not None:
            originator = self._parameters.originator
            self._auditing.instance_sent(link.channel, row, how, originator)

    def _fail(self, reason: str, row: InstanceRow, link: Link, advice: str = "") -> None:
        self._account.fail(reason, row.sop_instance_uid, advice)
        self._audit(row, link, reason)
        self._log.debug(
            "a sub-operation failed",
            association=link.channel.number,
            sop_instance_uid=row.sop_instance_uid,
            reason=reason,
        )


def _drop(ahead: asyncio.Task[_Prepared] | None) -> None:
    if ahead is not None and not ahead.cancel() and not ahead.cancelled():
        ahead.exception()  # it was done: nobody else asks for what it raised
