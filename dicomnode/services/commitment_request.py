"""Asking other nodes to keep what they were sent (PS3.4 §J.3.2, as SCU).

A request is durable before it is made, as its report may come at any time from then on. The
association is kept for a while, so that the peer can report on it; a later report comes on one of
the peer's own. Only addresses of the registry are called.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from dicomnode.dimse.channel import Proposal, Requestor
from dicomnode.dimse.command import NActionRQ, NEventReportRQ
from dicomnode.dimse.status import Category, Status, category, describe
from dicomnode.errors import AssociationError, CannotAsk, CatalogError
from dicomnode.index.catalog import Catalog
from dicomnode.index.commitment_requests import CommitmentRequests, Instance, State
from dicomnode.observe.logs import Logger
from dicomnode.registry import AE, Registry
from dicomnode.scu.contexts import SENT_WITHOUT_LOSS
from dicomnode.scu.outgoing import OutgoingAssociation, associate
from dicomnode.services.commitment_messages import (
    MAX_REFERENCES,
    REQUEST_ACTION,
    Reference,
    Request,
    encode_request,
)
from dicomnode.services.commitment_results import CommitmentResults
from dicomnode.services.custody import Custodian
from dicomnode.services.dispatch import Dispatcher, Journal
from dicomnode.services.outcomes import Finding
from dicomnode.services.sop_classes import (
    STORAGE_COMMITMENT_PUSH_MODEL,
    STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
)
from dicomnode.storage.paths import valid_uid
from dicomnode.ul.items import PresentationContextRQ

_CONTEXT: Final = PresentationContextRQ(1, STORAGE_COMMITMENT_PUSH_MODEL, SENT_WITHOUT_LOSS[:2])
_MOST_AT_ONCE: Final = 32
_READ_TOGETHER: Final = 1000
_KEPT_SECONDS: Final = 90 * 24 * 3600.0
_CLOSE_SECONDS: Final = 2.0
_RELOAD: Final = "then send SIGHUP to the node"
_FAULT: Final = "the node itself failed"
_FAULT_ADVICE: Final = "See its log, then ask again."
_INTERRUPTED: Final = "the node stopped before the request was answered: ask again"


class Explainer(Protocol):
    """Keeps what is to be explained; ``explanations.Explanations``."""

    def not_committed(
        self, peer_ae_title: str, peer_address: str, answer: str, findings: Sequence[Finding]
    ) -> None:
        """A peer does not keep all that it was asked to keep."""

    def advice_on(self, called_ae_title: str) -> str:
        """Return what to change so that a peer can be called, "" when it could be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRules:
    """The settings that requests follow."""

    ae_title: str
    strict_ae_titles: bool
    response_seconds: float


class CommitmentRequester:
    """Asks for storage commitment.

    ``results`` takes the reports, on either kind of association; ``requests`` is what is kept.
    """

    def __init__(
        self,
        catalog: Catalog,
        requestor: Requestor,
        registry: Callable[[], Registry],
        journal: Journal,
        explainer: Explainer,
        log: Logger,
        rules: RequestRules,
        custodian: Custodian | None = None,
    ) -> None:
        self._catalog = catalog
        self.requests = CommitmentRequests(catalog)
        self.results = CommitmentResults(self.requests, journal, explainer, log, custodian)
        self._requestor = requestor
        self._registry = registry
        self._journal = journal
        self._explainer = explainer
        self._log = log
        self._rules = rules
        # What a peer may ask on an association of ours.
        self._provider = Dispatcher({NEventReportRQ: (self.results,)}, journal)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    # -- asking ----------------------------------------------------------------------------------

    async def ask_for(
        self, peer_title: str, study_instance_uid: str, series_instance_uid: str = ""
    ) -> tuple[str, int]:
        """Ask a peer to keep all that is held of a study, or of one series of it.

        Returns the Transaction UID and the number of objects; the rest goes on by itself. Raises
        CannotAsk, CatalogError.
        """
        self._peer(peer_title)
        instances = await asyncio.to_thread(self._held, study_instance_uid, series_instance_uid)
        return await self.ask(peer_title, instances), len(instances)

    async def ask(self, peer_title: str, instances: Sequence[Instance]) -> str:
        """Ask a peer to keep ``instances``; return the Transaction UID once that is durable.

        The rest goes on by itself. Raises CannotAsk, CatalogError.
        """
        peer = self._peer(peer_title)
        if len(self._tasks) >= _MOST_AT_ONCE:
            raise CannotAsk(f"{_MOST_AT_ONCE} requests are under way: ask again later")
        # PS3.5 §B.2: a UUID needs no root of ours.
        request = Request(f"2.25.{uuid.uuid4().int}", tuple(Reference(*one) for one in instances))
        await asyncio.to_thread(self._enter, peer, request.transaction_uid, instances)
        task = asyncio.create_task(self._perform(peer, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return request.transaction_uid

    def _enter(self, peer: AE, transaction_uid: str, instances: Sequence[Instance]) -> None:
        self.requests.prune(time.time() - _KEPT_SECONDS)
        self.requests.enter(transaction_uid, peer.title, instances)

    def _peer(self, title: str) -> AE:
        """Return whom to ask; raises CannotAsk."""
        peer = self._registry().lookup(title, self._rules.strict_ae_titles)
        if self._stopping.is_set():
            raise CannotAsk("the node is shutting down")
        if peer is None:
            raise CannotAsk(
                f"{title[:16]!r} is not in ae.toml: add an [[ae]] with its title, host and port,"
                f" {_RELOAD}"
            )
        if peer.host is None:
            raise CannotAsk(
                f"{peer.title} has no address: give it host and port in ae.toml, {_RELOAD}"
            )
        if not peer.allows("commitment"):
            raise CannotAsk(
                f'{peer.title} may not report: add "commitment" to its services in ae.toml,'
                f" {_RELOAD}"
            )
        return peer

    def _held(self, study_instance_uid: str, series_instance_uid: str) -> list[Instance]:
        """Return what is held of a study or series. Blocks. Raises CannotAsk, CatalogError."""
        keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": series_instance_uid}
        given = {keyword: [uid] for keyword, uid in keys.items() if uid}
        for [uid] in given.values():
            if not valid_uid(uid):
                raise CannotAsk(f"{uid[:64]!r} is no UID")
        ids = self._catalog.select_instances(given)
        what = f"series {series_instance_uid}" if series_instance_uid else "the study"
        if not ids:
            raise CannotAsk(f"the node holds nothing of {what} {study_instance_uid}")
        if len(ids) > MAX_REFERENCES:
            raise CannotAsk(
                f"{len(ids)} objects are more than one request may name ({MAX_REFERENCES}): ask"
                " series by series"
            )
        return [
            (row.sop_class_uid, row.sop_instance_uid)
            for start in range(0, len(ids), _READ_TOGETHER)
            for row in self._catalog.instance_rows(ids[start : start + _READ_TOGETHER])
        ]

    # -- one request -----------------------------------------------------------------------------

    async def _perform(self, peer: AE, request: Request) -> None:
        uid = request.transaction_uid
        reported = self.results.expect(uid)
        try:
            refusal = await self._exchange(peer, request, reported)
        except AssociationError as error:
            refusal = Finding(str(error), advice=self._explainer.advice_on(peer.title))
        except Exception as error:
            self._journal.internal_error("a request for storage commitment", error)
            refusal = Finding(_FAULT, advice=_FAULT_ADVICE)
        finally:
            self.results.forget(uid)
        if refusal is not None:
            await self._refused(peer, uid, refusal)

    async def _exchange(
        self, peer: AE, request: Request, reported: asyncio.Event
    ) -> Finding | None:
        """Make the request and await its report; return why it was not taken."""
        association = await associate(self._requestor, self._proposal(peer), self._provider)
        try:
            refusal = await self._ask(association, peer, request)
            if refusal is None:
                await self._await_report(association, reported)
        except BaseException:
            association.channel.abort("the request for storage commitment was given up")
            raise
        await association.channel.release()
        return refusal

    def _proposal(self, peer: AE) -> Proposal:
        assert peer.host is not None
        return Proposal(
            host=peer.host,
            port=peer.port,
            tls=peer.over_tls,
            called_ae_title=peer.title,
            calling_ae_title=self._rules.ae_title,
            contexts=(_CONTEXT,),
        )

    async def _ask(
        self, association: OutgoingAssociation, peer: AE, request: Request
    ) -> Finding | None:
        """Send the N-ACTION request; return why it was not taken."""
        context = association.negotiated.contexts.get(_CONTEXT.context_id)
        if context is None:
            words = f"{peer.title} accepted no presentation context for storage commitment"
            advice = f"Let {peer.title} serve storage commitment to {self._rules.ae_title}."
            return Finding(words, advice=advice)
        data = await asyncio.to_thread(encode_request, request, context.transfer_syntax)
        action = NActionRQ(
            message_id=association.requests.next_message_id(),
            requested_sop_class_uid=STORAGE_COMMITMENT_PUSH_MODEL,
            requested_sop_instance_uid=STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
            action_type_id=REQUEST_ACTION,
            has_data_set=True,
        )
        response = await association.requests.perform(
            context.context_id, action, data, seconds=self._rules.response_seconds
        )
        status = response.status
        if category(status) not in (Category.SUCCESS, Category.WARNING):
            comment = f": {response.error_comment}" if response.error_comment else ""
            words = f"{status:04X}H {describe(status, 'N-ACTION')}{comment}"
            advice = f"See what the log of {peer.title} says of the request."
            if status == Status.NOT_AUTHORIZED:
                advice = f"Let {peer.title} allow storage commitment to {self._rules.ae_title}."
            return Finding(f"{peer.title} answered {words}", advice=advice)
        uid, number = request.transaction_uid, len(request.references)
        await asyncio.to_thread(self.requests.answered, uid, State.WAITING)
        self._log.info(f"asked {peer.title} to commit {number} objects, transaction {uid}")
        return None

    async def _await_report(
        self, association: OutgoingAssociation, reported: asyncio.Event
    ) -> None:
        """Keep the association for a while; a report that has begun is awaited to its end."""
        ended, seconds = association.requests.ended, self._rules.response_seconds
        await _first((reported, ended, self._stopping), seconds)
        if association.handler.outstanding:
            await _first((reported, ended), seconds)

    async def _refused(self, peer: AE, transaction_uid: str, refusal: Finding) -> None:
        """Keep and tell why a request was not taken."""
        self._log.warning(
            f"{peer.title} did not take a request for storage commitment, transaction"
            f" {transaction_uid}: {refusal.words}",
            advice=refusal.advice,
        )
        answer = "the request was not taken"
        self._explainer.not_committed(peer.title, peer.host or "", answer, [refusal])
        why = f"{refusal.words}. {refusal.advice}".strip()
        try:
            await asyncio.to_thread(self.requests.answered, transaction_uid, State.REFUSED, why)
        except CatalogError as error:
            self._journal.internal_error("a request for storage commitment", error)

    # -- start and stop --------------------------------------------------------------------------

    def recover(self) -> None:
        """Note which requests nobody will answer any more. Blocks. Raises CatalogError.

        A report on them counts all the same: the peer may have taken the request.
        """
        for request in self.requests.in_state(State.ASKING):
            self.requests.answered(request.transaction_uid, State.REFUSED, _INTERRUPTED)

    async def close(self) -> None:
        """Release the associations that wait for a report, end what is being asked."""
        self._stopping.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.results.close()


async def _first(events: Sequence[asyncio.Event], seconds: float) -> None:
    """Return when one of ``events`` is set, and after ``seconds`` at the latest."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
