"""One C-GET or C-MOVE, from its identifier to its final response (PS3.4 §C.4.2, §C.4.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final, Protocol

from dicomnode.dimse.channel import Channel, Proposal, Requestor
from dicomnode.dimse.command import CGetRQ, CMoveRQ
from dicomnode.dimse.status import Status
from dicomnode.errors import AssociationError, CatalogError, StatusError
from dicomnode.index.catalog import Catalog
from dicomnode.index.reading import SearchStopped, Stop
from dicomnode.observe.logs import Logger
from dicomnode.registry import AE, Registry
from dicomnode.scu.outgoing import associate
from dicomnode.scu.proposals import proposals
from dicomnode.scu.sending_contexts import SendingContexts
from dicomnode.services.auditing import Auditing
from dicomnode.services.custody import Custodian
from dicomnode.services.dispatch import Operation
from dicomnode.services.identifier import Bounds, parse, retrieve_keys
from dicomnode.services.outcomes import Finding, RetrieveOutcome
from dicomnode.services.selected import Rows, Selected
from dicomnode.services.sending import Link, Sender, StoreParameters
from dicomnode.services.sop_classes import QUERY_RETRIEVE, extended_answer
from dicomnode.services.stored_objects import StoredObjects
from dicomnode.services.sub_operations import SubOperations
from dicomnode.ul.items import PresentationContextRQ

# Sub-associations with one destination at once; further C-MOVEs wait for their turn.
_MAX_PER_DESTINATION: Final = 8
# So long the final response waits for a destination that takes its time with A-RELEASE.
_RELEASE_SECONDS: Final = 2.0
_SHOWN_VALUES: Final = 3


class Journal(Protocol):
    """Is told how retrievals end."""

    def retrieve_ended(self, operation: Operation, outcome: RetrieveOutcome) -> None:
        """``operation`` has its final response, or its association has ended."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own, to be logged with its traceback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings that retrievals follow; ``min_free_bytes`` is what conversions leave free."""

    ae_title: str
    strict_ae_titles: bool
    bounds: Bounds
    response_seconds: float
    min_free_bytes: int


@dataclass(slots=True, kw_only=True)
class Parts:
    """What all retrievals share; ``registry`` returns the one in force."""

    catalog: Catalog
    requestor: Requestor
    registry: Callable[[], Registry]
    journal: Journal
    log: Logger
    rules: Rules
    objects: StoredObjects
    searching: Executor
    reading: Executor
    auditing: Auditing | None = None
    custodian: Custodian | None = None
    destinations: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    releases: set[asyncio.Task[None]] = field(default_factory=set)

    def turn(self, destination: AE) -> asyncio.Semaphore:
        """Return what lets a number of retrievals at once use a destination."""
        turn = self.destinations.get(destination.title)
        if turn is None:
            turn = self.destinations[destination.title] = asyncio.Semaphore(_MAX_PER_DESTINATION)
        return turn

    async def release(self, channel: Channel) -> None:
        """Release an association; one that is slow about it is left to its deadline."""
        task = asyncio.create_task(channel.release())
        self.releases.add(task)
        task.add_done_callback(self.releases.discard)
        await asyncio.wait((task,), timeout=_RELEASE_SECONDS)


class Retrieval:
    """Performs ``operation``; ``cancel`` is for C-CANCEL and the end of the association.

    A C-CANCEL ends whatever is waited for, but not the sending of an object: that is waited for,
    and then nothing more is sent.
    """

    def __init__(self, operation: Operation, request: CGetRQ | CMoveRQ, parts: Parts) -> None:
        destination = request.move_destination if isinstance(request, CMoveRQ) else ""
        self._operation = operation
        self._request = request
        self._parts = parts
        self._account = SubOperations(operation, destination)
        self._stop = Stop()
        self._task: asyncio.Task[None] | None = None
        # The association on which it was asked for has ended, or is about to.
        self._lost = False
        self.storing = False

    def cancel(self) -> None:
        """Go on no further than must be."""
        self._stop.stop()
        if self._task is not None and (self._operation.ended or not self.storing):
            self._task.cancel()

    async def proceed(self) -> None:
        """Tell the requester how far it is, no faster than it reads.

        Raises asyncio.CancelledError when the requester has cancelled it, or is gone.
        """
        self._check()
        self._account.pending()
        await self._operation.channel.drained()

    def _check(self) -> None:
        if self._operation.cancelled_by_peer or self._operation.ended:
            raise asyncio.CancelledError

    async def run(self, data: bytes, turn: asyncio.Lock) -> None:
        """Wait for its ``turn``, retrieve what the identifier ``data`` names, and answer."""
        self._task = asyncio.current_task()
        operation, account = self._operation, self._account
        try:
            self._check()
            async with turn:
                await self._perform(data)
        except (asyncio.CancelledError, SearchStopped):
            if operation.cancelled_by_peer:
                await self._recorded()
                account.cancelled()
            elif not operation.ended:
                words = "the node is shutting down"
                self._fail(StatusError(words, status=Status.OUT_OF_RESOURCES_FOR_SUB_OPERATIONS))
        except StatusError as error:
            self._fail(error)
        except Exception as error:
            self._parts.journal.internal_error(operation.service, error)
            self._fail(StatusError("internal error", status=Status.UNABLE_TO_PROCESS))
        finally:
            account.stop()
            self._parts.journal.retrieve_ended(operation, account.outcome())

    async def _recorded(self) -> None:
        """Wait for the custody log: what the final response says has been sent is recorded.

        Where that fails the log has said so, and the response is what it is: the objects have gone.
        """
        if self._parts.custodian is None:
            return
        # All has been sent: a C-CANCEL comes too late.
        self.storing = True
        try:
            await self._parts.custodian.settled()
        finally:
            self.storing = False

    def _fail(self, error: StatusError) -> None:
        self._account.stop()
        self._operation.outcome = self._account.outcome()
        self._operation.fail(error)

    async def _perform(self, data: bytes) -> None:
        request, account = self._request, self._account
        destination = self._destination(request) if isinstance(request, CMoveRQ) else None
        loop = asyncio.get_running_loop()
        selected = await loop.run_in_executor(
            self._parts.searching, self._select, data, destination is not None
        )
        self._check()
        if not selected.ids:
            account.note(self._nothing_found(selected.keys))
        account.begin(len(selected.ids))
        try:
            if destination is None:
                await self._send_back(selected)
            else:
                async with self._parts.turn(destination):
                    await self._send_to(destination, selected)
        except CatalogError as error:
            self._parts.log.error(f"a retrieval cannot go on: {error}")
            account.fail_rest("the index failed")
        if self._lost:
            return
        account.fail_rest("the object was removed or replaced meanwhile", "Retrieve it again.")
        await self._recorded()
        account.conclude()

    # -- which objects -----------------------------------------------------------------------------

    def _destination(self, request: CMoveRQ) -> AE:
        title, rules = request.move_destination, self._parts.rules
        registry = self._parts.registry()
        ae = registry.lookup(title, strict=rules.strict_ae_titles)
        caller = self._operation.channel.calling_ae_title
        if ae is not None and not registry.may_move(caller, ae, rules.strict_ae_titles):
            raise self._forbidden(caller, ae)
        if ae is not None and ae.host is not None:
            return ae
        words = "is not in ae.toml" if ae is None else "has no host in ae.toml"
        self._account.note(Finding(f"move destination {title!r} {words}"))
        raise StatusError(
            f"move destination {title.strip()} {words}", status=Status.MOVE_DESTINATION_UNKNOWN
        )

    def _forbidden(self, caller: str, destination: AE) -> StatusError:
        words = f"{destination.title} is not among the move_destinations of {caller}"
        self._account.note(Finding(f"{words} in ae.toml"))
        return StatusError(
            words,
            status=Status.NOT_AUTHORIZED,
            rule="move_destinations",
            advice=f'If {caller} may, add "{destination.title}" to its move_destinations in'
            " ae.toml, then send SIGHUP to the node.",
        )

    def _select(self, data: bytes, look: bool) -> Found:
        """Read the identifier and find what it names; runs in a thread. Raises StatusError."""
        operation, parts = self._operation, self._parts
        sop_class_uid = self._request.affected_sop_class_uid
        root = QUERY_RETRIEVE[sop_class_uid][1]
        proposed = operation.channel.negotiated.extended.get(sop_class_uid, b"")
        relational = (extended_answer(sop_class_uid, proposed) or b"")[:1] == b"\1"
        syntax = operation.context.transfer_syntax
        identifier = parse(data, syntax, root, parts.rules.bounds)
        self._account.level = identifier.level
        _, keys = retrieve_keys(identifier, relational=relational)
        try:
            found = Found(parts.catalog.select_instances(keys, self._stop), keys=keys)
            if look:
                found.look(parts.catalog, self._stop)
        except CatalogError as error:
            parts.log.error(f"a retrieval failed: {error}")
            raise StatusError(
                "the index failed", status=Status.OUT_OF_RESOURCES_FOR_MATCHES
            ) from error
        return found

    def _nothing_found(self, keys: Mapping[str, Sequence[str]]) -> Finding:
        uids = [
            f"{keyword} {_some(values)}" for keyword, values in keys.items() if "UID" in keyword
        ]
        patients = keys.get("PatientID", ())
        named = [*(["that PatientID"] if patients else []), *uids]
        words = f"no instance is held under {', '.join(named)}"
        return Finding(words, patient_value=_some(patients) if patients else "")

    # -- sending -----------------------------------------------------------------------------------

    def _sender(self) -> Sender:
        request, channel = self._request, self._operation.channel
        moving = isinstance(request, CMoveRQ)
        parameters = StoreParameters(
            priority=request.priority,
            response_seconds=self._parts.rules.response_seconds,
            originator=channel,
            move_originator_ae_title=channel.calling_ae_title if moving else None,
            move_originator_message_id=request.message_id if moving else None,
        )
        return Sender(
            self._account,
            self._parts.objects,
            parameters,
            self,
            self._parts.log,
            self._parts.auditing,
            self._parts.custodian,
        )

    def _rows(self, selected: Selected, kinds: frozenset[tuple[str, str]] | None = None) -> Rows:
        return Rows(selected, self._parts.catalog, self._parts.reading, kinds)

    async def _send_back(self, selected: Selected) -> None:
        """Send the objects on the association on which they were asked for."""
        operation = self._operation
        title = operation.channel.calling_ae_title
        contexts = SendingContexts(
            operation.channel.negotiated.contexts.values(),
            "the requester in the SCP role",
            lambda what: f"Let {title} propose {what} with SCP role selection.",
        )
        link = Link(operation.channel, operation.requests, contexts)
        try:
            await self._sender().send(self._rows(selected), link)
        except AssociationError:
            self._lost = True

    async def _send_to(self, destination: AE, selected: Selected) -> None:
        """Send the objects on as many associations as their presentation contexts need."""
        needed = proposals(selected.kinds, destination.transfer_syntaxes, destination.receives)
        for kinds, contexts in needed:
            rows = self._rows(selected, kinds)
            try:
                await self._send_over(destination, contexts, rows)
            except AssociationError as error:
                # All that is left has this one reason: read it only to name the objects.
                while (row := await rows.next()) is not None:
                    self._account.fail(str(error), row.sop_instance_uid)
                    if self._account.list_is_full and len(needed) == 1:
                        self._account.fail_rest(str(error))
                        return

    async def _send_over(
        self, destination: AE, contexts: tuple[PresentationContextRQ, ...], rows: Rows
    ) -> None:
        link: Link | None = None

        async def connect() -> Link:
            nonlocal link
            self._check()
            link = await self._connect(destination, contexts)
            return link

        try:
            await self._sender().send(rows, await connect(), connect)
            # All has been sent: a C-CANCEL from here on comes too late.
            self.storing = True
            if link is not None:
                await self._parts.release(link.channel)
        except BaseException:
            await self._leave(link)
            raise
        finally:
            self.storing = False

    async def _connect(self, destination: AE, contexts: tuple[PresentationContextRQ, ...]) -> Link:
        assert destination.host is not None
        proposal = Proposal(
            host=destination.host,
            port=destination.port,
            tls=destination.over_tls,
            called_ae_title=destination.title,
            calling_ae_title=self._parts.rules.ae_title,
            contexts=contexts,
        )
        association = await associate(self._parts.requestor, proposal)
        return Link(
            association.channel,
            association.requests,
            SendingContexts(
                association.negotiated.contexts.values(),
                destination.title,
                lambda what: f"Let {destination.title} accept {what}.",
                destination.transfer_syntaxes,
            ),
        )

    async def _leave(self, link: Link | None) -> None:
        """End a sub-association whose retrieval ends early."""
        if link is None:
            return
        if self._operation.ended:
            link.channel.abort("the requester of the C-MOVE is gone")
        elif self.storing:
            link.channel.abort("the C-MOVE was ended in the middle of an object")
        else:
            await self._parts.release(link.channel)


@dataclass(slots=True, kw_only=True)
class Found(Selected):
    """The objects selected, and by which keys."""

    keys: Mapping[str, Sequence[str]]


def _some(values: Sequence[str]) -> str:
    shown = ", ".join(values[:_SHOWN_VALUES])
    return shown if len(values) <= _SHOWN_VALUES else f"{shown} and {len(values) - 3} more"
