"""Storage Commitment Push Model SCP (PS3.4 Annex J): takes requests, and has the rest done.

A request is answered once it is durable. Then its instances are checked (``commitment_check``)
and the outcome is reported (``commitment_reports``), whatever the node goes through meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from dicomnode.dimse.channel import DataSetSink, Requestor
from dicomnode.dimse.command import NActionRQ
from dicomnode.dimse.status import Status
from dicomnode.errors import CatalogError, StatusError
from dicomnode.index.catalog import Catalog
from dicomnode.index.commitments import UNFINISHED, Commitments, Standing, State, Waiting
from dicomnode.registry import Registry
from dicomnode.services import commitment_reports
from dicomnode.services.commitment_check import Checked, Checker
from dicomnode.services.commitment_intake import CommitmentIntake, check_instance
from dicomnode.services.commitment_messages import (
    REQUEST_ACTION,
    TRANSACTION_UID,
    Request,
    decode_request,
)
from dicomnode.services.commitment_reports import Asked, Reporter, ReportRules
from dicomnode.services.custody import Custodian
from dicomnode.services.dispatch import Operation
from dicomnode.services.sop_classes import STORAGE_COMMITMENT_PUSH_MODEL
from dicomnode.services.verified_reads import VerifiedReads
from dicomnode.storage.files import FileStore

# Requests and reports are read and written in one: more would only take the interpreter from the
# event loop.
_THREADS: Final = 1
_MAX_UNFINISHED: Final = 100_000
_LISTED: Final = 20

_T = TypeVar("_T")


class Journal(commitment_reports.Journal, Protocol):
    """Is told what becomes of commitments."""

    def commitment_asked(self, operation: Operation, request: Request) -> None:
        """A request is durable and has its answer."""

    def commitment_checked(self, standing: Standing, checked: Checked) -> None:
        """The instances of a commitment have been checked; the outcome is durable."""


class StorageCommitment:
    """Performs N-ACTION of the Storage Commitment Push Model, and what follows from it.

    ``registry`` returns the one in force. ``start`` and ``close`` belong to the event loop.
    """

    def __init__(
        self,
        catalog: Catalog,
        files: FileStore,
        requestor: Requestor,
        registry: Callable[[], Registry],
        journal: Journal,
        rules: ReportRules,
        custodian: Custodian | None = None,
        verified: VerifiedReads | None = None,
    ) -> None:
        self._journal = journal
        self._threads = ThreadPoolExecutor(_THREADS, "dicomnode-commitment")
        self._intake = CommitmentIntake(self._take, journal)
        # Read, a request takes ten times its bytes: the next one is not read before it is kept.
        self._one_request = asyncio.Lock()
        self._commitments = Commitments(catalog)
        self._reporter = Reporter(
            self._commitments, requestor, registry, journal, rules, self._threads
        )
        self._checker = Checker(
            *(self._commitments, catalog, files, journal, self._checked_in_thread),
            custodian,
            verified,
        )
        self._loop: asyncio.AbstractEventLoop

    async def start(self) -> None:
        """Go on with what an earlier run of the node has left. Raises CatalogError."""
        self._loop = asyncio.get_running_loop()
        await self._in_thread(self._commitments.open)
        self._reporter.start()
        self._checker.start()

    async def close(self) -> None:
        """Leave what is not finished for the next start."""
        await self._intake.close()
        await asyncio.to_thread(self._checker.close)
        await self._reporter.close()
        await asyncio.to_thread(self._threads.shutdown)

    def counts(self) -> dict[State, int]:
        """Return how many commitments are in each state; callable from any thread."""
        return self._commitments.counts()

    async def figures(self) -> dict[str, Any]:
        """Return what /api/status shows. Raises CatalogError."""
        # Not in the thread that may be reading a long request.
        given_up = await asyncio.to_thread(self._commitments.given_up, _LISTED)
        return {
            **{state.replace(" ", "_"): number for state, number in self.counts().items()},
            "given_up_list": [
                {
                    "requester": standing.requester,
                    "transaction_uid": standing.transaction_uid,
                    "objects": standing.instances,
                    "requested": standing.requested_at,
                    "why": standing.last_error,
                }
                for standing in given_up
            ],
        }

    # -- the reports that wait (``outbox.desk.Reports``) -------------------------------------------

    def waiting(self, state: State) -> list[Waiting]:
        """Return by requester how many reports wait, or were given up; blocks."""
        return self._commitments.waiting(state)

    def given_up(self, requester: str | None, limit: int) -> list[Standing]:
        """Return what was given up; blocks."""
        return self._commitments.given_up(limit, requester)

    async def retry(self, requester: str) -> int:
        """Send what waits or was given up now; return how much that is. Raises CatalogError."""
        count = await asyncio.to_thread(self._commitments.retry, requester)
        self._reporter.look()
        return count

    async def drop(self, requester: str, *, dead_only: bool) -> int:
        """Forget reports; return how many. Raises CatalogError."""
        states = (State.GIVEN_UP,) if dead_only else (State.GIVEN_UP, State.CHECKED)
        return await asyncio.to_thread(self._commitments.drop, requester, states)

    async def registry_reloaded(self) -> None:
        """Try every report that waits: its destination may have another address now."""
        try:
            await self._in_thread(self._commitments.make_due)
        except CatalogError as error:
            self._journal.internal_error("the reports of storage commitments", error)
        self._reporter.look()

    # -- dispatch.Service --------------------------------------------------------------------------

    def serves(self, sop_class_uid: str) -> bool:
        return sop_class_uid == STORAGE_COMMITMENT_PUSH_MODEL

    def begin(self, operation: Operation) -> DataSetSink | None:
        """Collect the request, then take it up; raises StatusError for what it cannot be."""
        request = operation.request
        assert isinstance(request, NActionRQ)
        check_instance(request.sop_instance_uid)
        if request.action_type_id != REQUEST_ACTION:
            words = f"action type {request.action_type_id}, not 1"
            raise StatusError(words, status=Status.NO_SUCH_ACTION_TYPE)
        if not request.has_data_set:
            words = "a request without action information"
            raise StatusError(words, status=Status.MISSING_ATTRIBUTE, offending=(TRANSACTION_UID,))
        return self._intake.collect(operation)

    async def _take(self, operation: Operation, data: bytes) -> None:
        async with self._one_request:
            await self._keep(operation, data)

    async def _keep(self, operation: Operation, data: bytes) -> None:
        """Read a request, make it durable, then answer it. Raises StatusError, CatalogError."""
        if operation.ended:
            return  # nobody will know that it was asked for
        syntax = operation.context.transfer_syntax
        request = await self._in_thread(partial(decode_request, data, syntax))
        counts = self.counts()
        if sum(counts[state] for state in UNFINISHED) >= _MAX_UNFINISHED:
            words = "too many storage commitments are waiting"
            raise StatusError(words, status=Status.RESOURCE_LIMITATION)
        if operation.ended:
            return
        channel = operation.channel
        requester, uid = channel.calling_ae_title.strip(" "), request.transaction_uid
        asked = Asked.on(operation)
        if not self._reporter.expect(requester, uid, asked):
            raise _duplicate()
        add = partial(
            self._commitments.add,
            requester,
            channel.called_ae_title.strip(" "),
            uid,
            [(each.sop_class_uid, each.sop_instance_uid) for each in request.references],
        )
        added = False
        try:
            added = await self._in_thread(add)
        finally:
            if not added:
                self._reporter.forget(requester, uid)
        if not added:
            raise _duplicate()
        operation.respond(Status.SUCCESS)
        asked.answered.set()
        self._journal.commitment_asked(operation, request)
        self._checker.wake()

    def _checked_in_thread(self, standing: Standing, checked: Checked) -> None:
        self._loop.call_soon_threadsafe(self._checked, standing, checked)

    def _checked(self, standing: Standing, checked: Checked) -> None:
        self._journal.commitment_checked(standing, checked)
        self._reporter.checked(standing)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _duplicate() -> StatusError:
    """Return the error for a Transaction UID that the requester has used before."""
    words = "the transaction UID has been used before"
    return StatusError(words, status=Status.DUPLICATE_TRANSACTION_UID, offending=(TRANSACTION_UID,))
