"""Reports of storage commitments on their way to who asked (PS3.4 §J.3.3, N-EVENT-REPORT as SCP).

A report goes out on the requester's own association while that is open, else on a new one to the
address that the registry has for its AE title, with roles reversed. What is not taken is tried
again, with growing pauses and over restarts, until it is given up.
"""

from __future__ import annotations

import asyncio
import json
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from dicomnode.dimse.channel import Channel, Proposal, Requestor
from dicomnode.dimse.command import NEventReportRQ
from dicomnode.dimse.status import Category, category, describe
from dicomnode.errors import AssociationError, DicomnodeError
from dicomnode.index.commitments import Commitment, Commitments, Standing
from dicomnode.registry import AE, Registry
from dicomnode.scu.contexts import SENT_WITHOUT_LOSS
from dicomnode.scu.outgoing import OutgoingAssociation, associate
from dicomnode.scu.requests import Requests
from dicomnode.services.commitment_messages import Failure, Reference, Report, encode_report
from dicomnode.services.dispatch import Operation
from dicomnode.services.sop_classes import (
    STORAGE_COMMITMENT_PUSH_MODEL,
    STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
)
from dicomnode.ul.items import PresentationContextRQ, RoleSelection
from dicomnode.ul.negotiation import AcceptedContext

if TYPE_CHECKING:
    from dicomnode.retries import RetrySettings

_SENT_TOGETHER: Final = 50
_PUT_OFF_TOGETHER: Final = 1000
_MAX_DESTINATIONS: Final = 16
# After a fault of the index: it is asked again, but not at once.
_PAUSE_SECONDS: Final = 5.0
_MAX_SLEEP_SECONDS: Final = 3600.0
_CLOSE_SECONDS: Final = 5.0
# What is due later than after the longest pause and this was put off by a clock that was wrong.
_CLOCK_SECONDS: Final = 3600.0
# For so long it is known that a Transaction UID was used, and what was given up.
_KEPT_SECONDS: Final = 30 * 24 * 3600.0
_PRUNING_SECONDS: Final = 24 * 3600.0

_RELOAD: Final = "then send SIGHUP to the node"

_T = TypeVar("_T")


class NotTaken(DicomnodeError):
    """A report was not delivered; ``advice`` is a sentence that says what to change.

    Without advice it is for want of an association.
    """

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(why)
        self.advice = advice


class Journal(Protocol):
    """Is told what becomes of reports."""

    def commitment_reported(self, standing: Standing, where: str) -> None:
        """The requester has taken the report."""

    def commitment_not_taken_here(self, standing: Standing, why: NotTaken) -> None:
        """The requester refused the report on its own association; a new one is tried."""

    def commitment_put_off(
        self, standings: Sequence[Standing], why: NotTaken, seconds: float
    ) -> None:
        """One requester has not taken these reports; they are tried again in ``seconds``."""

    def commitment_given_up(self, standing: Standing, why: NotTaken) -> None:
        """The requester has not, and it is not tried again."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRules:
    """The settings that delivery follows; ``retrieve_ae_title`` is ours."""

    retrieve_ae_title: str
    strict_ae_titles: bool
    response_seconds: float
    retries: RetrySettings

    @property
    def longest_wait_seconds(self) -> float:
        """How far from now an attempt can be due."""
        return self.retries.max_retry_seconds + _CLOCK_SECONDS


@dataclass(slots=True)
class Asked:
    """The association on which a commitment was asked for, which may end at any time.

    ``answered`` is set once the request has its response: no report may precede that.
    """

    requests: weakref.ref[Requests]
    channel: weakref.ref[Channel]
    context: AcceptedContext
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def on(cls, operation: Operation) -> Asked:
        """Return where ``operation`` came from; does not keep its association alive."""
        return cls(
            weakref.ref(operation.requests), weakref.ref(operation.channel), operation.context
        )


class Reporter:
    """Delivers the reports of checked commitments.

    Of each requester one at a time, on a new association; beside that, on the association of a
    request while that is open. ``registry`` returns the one in force.
    """

    def __init__(
        self,
        commitments: Commitments,
        requestor: Requestor,
        registry: Callable[[], Registry],
        journal: Journal,
        rules: ReportRules,
        threads: Executor,
    ) -> None:
        self._commitments = commitments
        self._requestor = requestor
        self._registry = registry
        self._journal = journal
        self._rules = rules
        self._threads = threads
        self._asked: dict[tuple[str, str], Asked] = {}
        # Commitments whose reports are being sent on the association that they came on.
        self._here: set[int] = set()
        # What has been taken, and where, while that is not durable: it is not sent again.
        self._taken: dict[int, str] = {}
        self._turns: weakref.WeakKeyDictionary[Requests, asyncio.Lock] = weakref.WeakKeyDictionary()
        self._running: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._next_pruning = 0.0
        self._closing = False
        self._scheduler: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Go on with what an earlier run of the node has left."""
        self._scheduler = asyncio.get_running_loop().create_task(self._schedule())

    async def close(self) -> None:
        """Begin nothing more; what is being sent has some seconds left."""
        self._closing = True
        if self._scheduler is not None:
            self._scheduler.cancel()
            await asyncio.gather(self._scheduler, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what there is to report -------------------------------------------------------------------

    def expect(self, requester: str, transaction_uid: str, asked: Asked) -> bool:
        """Note where a commitment is asked for; False where the same one is noted already."""
        key = requester, transaction_uid
        return self._asked.setdefault(key, asked) is asked

    def forget(self, requester: str, transaction_uid: str) -> None:
        """The commitment did not come to be."""
        self._asked.pop((requester, transaction_uid), None)

    def checked(self, standing: Standing) -> None:
        """A commitment has been checked: its report can go out."""
        asked = self._asked.pop((standing.requester, standing.transaction_uid), None)
        if asked is None or asked.requests() is None or self._closing:
            self._news.set()
            return
        self._here.add(standing.id)
        self._spawn(self._report_here(standing, asked))

    def look(self) -> None:
        """Look for what is due: times have changed."""
        self._news.set()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _schedule(self) -> None:
        while True:
            self._news.clear()
            try:
                wait = await self._start_due()
            except Exception as error:
                self._journal.internal_error("the reports of storage commitments", error)
                wait = _PAUSE_SECONDS
            try:
                async with asyncio.timeout(wait):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _start_due(self) -> float:
        """Start on every requester whose reports are due; return the seconds until the next."""
        now = time.time()
        if now >= self._next_pruning:
            self._next_pruning = now + _PRUNING_SECONDS
            await self._in_thread(partial(self._commitments.prune, now - _KEPT_SECONDS))
        destinations = partial(self._commitments.destinations, now, self._latest(now))
        requesters, following = await self._in_thread(destinations)
        for requester in requesters:
            if len(self._running) >= _MAX_DESTINATIONS:
                break
            if requester not in self._running:
                self._running.add(requester)
                self._spawn(self._report_to(requester))
        if following is None:
            return _MAX_SLEEP_SECONDS
        return min(max(following - time.time(), 0.0), _MAX_SLEEP_SECONDS)

    # -- on the requester's association ------------------------------------------------------------

    async def _report_here(self, standing: Standing, asked: Asked) -> None:
        """Report where it was asked; where that fails, a new association is the next to try."""
        try:
            await asked.answered.wait()
            requests = asked.requests()
            if requests is not None:
                async with self._turns.setdefault(requests, asyncio.Lock()):
                    await self._send(standing, requests, asked.context)
                await self._delivered(standing, "on the requester's association")
        except AssociationError as error:
            if (channel := asked.channel()) is not None:
                channel.abort(str(error))  # of one that has ended nothing more is said
        except NotTaken as error:
            self._journal.commitment_not_taken_here(standing, error)
        except Exception as error:
            self._journal.internal_error("the report of a storage commitment", error)
        finally:
            self._here.discard(standing.id)
            self._news.set()

    # -- on a new association ----------------------------------------------------------------------

    async def _report_to(self, requester: str) -> None:
        """Report all that is due to a requester, on as few associations as can be."""
        news = False
        try:
            while not self._closing:
                standings = await self._due(requester, time.time(), _SENT_TOGETHER)
                if not standings:
                    break
                news = True
                taken = [each for each in standings if each.id in self._taken]
                if taken:
                    for each in taken:
                        await self._delivered(each, self._taken[each.id])
                    continue
                title = standings[0].called_ae_title
                alike = [each for each in standings if each.called_ae_title == title]
                if (why := await self._report_together(alike)) is not None:
                    await self._put_off_all(requester, why)
        except Exception as error:
            self._journal.internal_error("the reports of storage commitments", error)
            await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            # What goes out where it was asked for is due meanwhile, and no news until it ends.
            if news or len(self._running) >= _MAX_DESTINATIONS:
                self._news.set()
            self._running.discard(requester)

    async def _due(self, requester: str, now: float, limit: int) -> list[Standing]:
        """Return what is due, but for what is going out, or will, where it was asked for."""
        limit += len(self._here)
        due = partial(self._commitments.due, requester, now, self._latest(now), limit)
        standings = await self._in_thread(due)
        return [
            each
            for each in standings
            if each.id not in self._here
            and (each.requester, each.transaction_uid) not in self._asked
        ]

    def _latest(self, now: float) -> float:
        return now + self._rules.longest_wait_seconds

    async def _report_together(self, standings: Sequence[Standing]) -> NotTaken | None:
        """Report to one requester on one association; return why there is none, or no more."""
        try:
            association, context = await self._associate(standings[0])
            try:
                for standing in standings:
                    if self._closing:
                        break
                    await self._report_there(standing, association, context)
            except BaseException as error:
                association.channel.abort(str(error) or "the node stops")
                raise
            await association.channel.release()
        except AssociationError as error:
            return NotTaken(str(error))
        except NotTaken as error:
            return error
        return None

    async def _put_off_all(self, requester: str, why: NotTaken) -> None:
        """Put off whatever is due to a requester, so that it is not called for each report."""
        now = time.time()
        while standings := await self._due(requester, now, _PUT_OFF_TOGETHER):
            await self._put_off(standings, why)

    async def _report_there(
        self, standing: Standing, association: OutgoingAssociation, context: AcceptedContext
    ) -> None:
        """Report on our association; a report that the requester refuses is put off alone."""
        try:
            await self._send(standing, association.requests, context)
        except NotTaken as error:
            await self._put_off([standing], error)
        else:
            await self._delivered(standing, "on a new association")

    async def _associate(self, standing: Standing) -> tuple[OutgoingAssociation, AcceptedContext]:
        """Make an association with the requester. Raises NotTaken, AssociationError."""
        entry = self._entry(standing.requester)
        assert entry.host is not None
        uid = STORAGE_COMMITMENT_PUSH_MODEL
        association = await associate(
            self._requestor,
            Proposal(
                host=entry.host,
                port=entry.port,
                tls=entry.over_tls,
                called_ae_title=entry.title,
                calling_ae_title=standing.called_ae_title,
                contexts=(PresentationContextRQ(1, uid, SENT_WITHOUT_LOSS[:2]),),
                # PS3.7 §D.3.3.4: we are the SCP, though we ask for the association.
                roles=(RoleSelection(uid, scu=False, scp=True),),
            ),
        )
        # Many leave out their answer to the role selection and take reports all the same.
        for context in association.negotiated.contexts.values():
            return association, context
        await association.channel.release()
        raise NotTaken(
            f"{entry.title} accepts no presentation context for storage commitment",
            f"Let {entry.title} take storage commitment reports from {standing.called_ae_title}"
            " on an association of their own, with roles reversed.",
        )

    def _entry(self, requester: str) -> AE:
        """Return who asked, with an address. Raises NotTaken."""
        entry = self._registry().lookup(requester, self._rules.strict_ae_titles)
        if entry is None:
            raise NotTaken(
                f"{requester} is not in the registry",
                f"Add an [[ae]] with title = {json.dumps(requester)}, host and port to ae.toml,"
                f" {_RELOAD}.",
            )
        if entry.host is None:
            raise NotTaken(
                f"{requester} has no host in the registry",
                f"Give {entry.title} in ae.toml its host and port, {_RELOAD}.",
            )
        return entry

    # -- one report --------------------------------------------------------------------------------

    async def _send(self, standing: Standing, requests: Requests, context: AcceptedContext) -> None:
        """Send a report and await its response. Raises NotTaken, AssociationError."""
        commitment = await self._in_thread(partial(self._commitments.get, standing.id))
        if commitment is None:
            raise NotTaken("its instances are gone")
        event, data_set = await self._in_thread(
            partial(self._encoded, commitment, context.transfer_syntax)
        )
        request = NEventReportRQ(
            has_data_set=True,
            message_id=requests.next_message_id(),
            affected_sop_class_uid=STORAGE_COMMITMENT_PUSH_MODEL,
            affected_sop_instance_uid=STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
            event_type_id=event,
        )
        response = await requests.perform(
            context.context_id, request, data_set, seconds=self._rules.response_seconds
        )
        if category(response.status) not in (Category.SUCCESS, Category.WARNING):
            words = describe(response.status, request.service)
            comment = f" ({response.error_comment})" if response.error_comment else ""
            raise NotTaken(
                f"answered with {response.status:04X}H {words}{comment}",
                f"See what {standing.requester} says of transaction {standing.transaction_uid}.",
            )

    def _encoded(self, commitment: Commitment, transfer_syntax_uid: str) -> tuple[int, bytes]:
        """Return the Event Type ID and the data set of a report."""
        references = [Reference(*each) for each in commitment.references]
        reasons = commitment.reasons
        report = Report(
            commitment.standing.transaction_uid,
            tuple(each for place, each in enumerate(references) if place not in reasons),
            tuple(Failure(references[place], reason) for place, reason in reasons.items()),
            self._rules.retrieve_ae_title,
        )
        return report.event_type_id, encode_report(report, transfer_syntax_uid)

    async def _delivered(self, standing: Standing, where: str) -> None:
        self._taken[standing.id] = where
        await self._in_thread(partial(self._commitments.deliver, standing.id))
        del self._taken[standing.id]
        self._journal.commitment_reported(standing, where)

    async def _put_off(self, standings: Sequence[Standing], why: NotTaken) -> None:
        """Have what was not taken tried again later, or give it up."""
        now = time.time()
        retries = self._rules.retries
        last = now - retries.give_up_seconds
        waiting = [each for each in standings if each.due_since > last]
        if waiting:
            pause = retries.pause(max(each.attempts for each in waiting))
            put_off = partial(self._commitments.put_off, waiting, now + pause, str(why))
            await self._in_thread(put_off)
            self._journal.commitment_put_off(waiting, why, pause)
        for standing in standings:
            if standing.due_since <= last:
                await self._in_thread(partial(self._commitments.give_up, standing.id, str(why)))
                self._journal.commitment_given_up(standing, why)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
