"""C-FIND SCP (PS3.4 §C.4.1, PS3.7 §9.1.2).

A query runs in a thread of its own pool, so that a slow one holds up no other; of one association
one at a time. Answers go out in batches, no faster than the peer takes them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol, TypeVar

from dicomnode.dimse.channel import DataSetSink
from dicomnode.dimse.command import Response, answer
from dicomnode.dimse.identifier import IdentifierSink
from dicomnode.dimse.status import Status
from dicomnode.errors import CatalogError, OutOfResources, StatusError
from dicomnode.index.catalog import Catalog, SearchStopped, Stop
from dicomnode.index.keys import Level
from dicomnode.registry import Registry
from dicomnode.services.answers import Further
from dicomnode.services.attributes import read_attributes
from dicomnode.services.dispatch import Operation
from dicomnode.services.identifier import Bounds, mismatch, parse
from dicomnode.services.outcomes import Finding, QueryOutcome
from dicomnode.services.query_plan import Asked, Plan, make_plan
from dicomnode.services.sop_classes import QUERY_RETRIEVE, extended_answer
from dicomnode.storage.files import FileStore

_THREADS: Final = 32
# One thread at a time makes answers: more would only take the interpreter from the event loop.
# Whoever has waited this long goes on all the same, so that a slow one holds up no other.
_TURN_SECONDS: Final = 0.25
_BATCH: Final = 128
# Files are read for these matches: a batch of them takes longer.
_BATCH_WITH_FILES: Final = 16
_STORED_VALUES: Final = 4
_NO_LIMIT: Final = 2**62
# What is looked into after an empty answer: this many keys, for this long, while no more queries
# than these are running.
_EXPLAINED_KEYS: Final = 8
_EXPLAINED_SECONDS: Final = 2.0
_BUSY_QUERIES: Final = 4
# Identifiers of queries that have not begun, of all associations together.
_MAX_WAITING_BYTES: Final = 64 * 1024 * 1024

_T = TypeVar("_T")


class Journal(Protocol):
    """Is told how queries ended."""

    def query_ended(self, operation: Operation, outcome: QueryOutcome) -> None:
        """``operation`` has its final response, or none because the association ended."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own, to be logged with its traceback."""


@dataclass(frozen=True, slots=True)
class QueryRules:
    """The settings that queries follow; ``max_matches`` 0 means no limit."""

    ae_title: str
    max_matches: int
    bounds: Bounds


class Query:
    """Answers C-FIND requests from the index."""

    def __init__(
        self,
        catalog: Catalog,
        files: FileStore,
        journal: Journal,
        rules: QueryRules,
        registry: Callable[[], Registry],
    ) -> None:
        self.catalog = catalog
        self.files = files
        self.journal = journal
        self.rules = rules
        self._registry = registry
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="dicomnode-query")
        self._turn = threading.Lock()
        self._last: dict[int, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.running = 0
        self.explaining = 0
        self.waiting_bytes = 0

    def close(self) -> None:
        """End the threads; blocks until the searches that run have noticed."""
        self._executor.shutdown(cancel_futures=True)

    def serves(self, sop_class_uid: str) -> bool:
        """Tell whether the SOP class is one of queries."""
        service = QUERY_RETRIEVE.get(sop_class_uid)
        return service is not None and service[0] == "find"

    def begin(self, operation: Operation) -> DataSetSink | None:
        """Collect the identifier, then run the query."""
        if not operation.request.has_data_set:
            raise mismatch("the request has no identifier")
        limit = self.rules.bounds.max_identifier_bytes
        too_long = mismatch(f"identifier longer than limits.max_identifier_bytes ({limit})")
        return IdentifierSink(
            limit,
            lambda data: self._start(operation, data),
            lambda: operation.fail(too_long),
        )

    def _start(self, operation: Operation, data: bytes) -> None:
        operation.received_bytes = len(data)
        if self.waiting_bytes and self.waiting_bytes + len(data) > _MAX_WAITING_BYTES:
            operation.fail(OutOfResources("too many queries are waiting"))
            return
        self.waiting_bytes += len(data)
        number = operation.channel.number
        run = Run(self, operation, data, self._asked(operation))
        operation.on_cancel = run.cancel
        task = asyncio.get_running_loop().create_task(run.perform(self._last.get(number)))
        self._last[number] = run
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def answered(self, run: Run, number: int) -> None:
        """Let the next query of association ``number`` begin."""
        run.answered.set()
        if self._last.get(number) is run:
            del self._last[number]

    def _asked(self, operation: Operation) -> Asked:
        channel = operation.channel
        sop_class = operation.context.abstract_syntax
        proposed = channel.negotiated.extended.get(sop_class, b"")
        relational, combined, *_ = *(extended_answer(sop_class, proposed) or b""), 0, 0
        ae = self._registry().lookup(channel.calling_ae_title)
        return Asked(
            transfer_syntax_uid=operation.context.transfer_syntax,
            retrieve_ae_title=self.rules.ae_title,
            relational=bool(relational),
            combined=bool(combined),
            character_set=(ae.character_set or "").encode() if ae else b"",
        )

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait, in a thread, for the turn to make answers, but not for long."""
        taken = self._turn.acquire(timeout=_TURN_SECONDS)
        try:
            yield
        finally:
            if taken:
                self._turn.release()

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """Run ``work`` in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


@dataclass(slots=True)
class _Begun:
    """What the first step in a thread comes to; ``ids`` are those of matches not yet encoded."""

    plan: Plan
    ids: array[int]
    over_limit: bool
    answers: list[bytes]


class Run:
    """One query, from its identifier to its final response."""

    def __init__(self, query: Query, operation: Operation, data: bytes, asked: Asked) -> None:
        self._query = query
        self._operation = operation
        self._data = data
        self._asked = asked
        self.answered = asyncio.Event()
        self._stop = Stop()
        self._started = time.monotonic()
        self._level = ""
        self._plan: Plan | None = None
        self._matches = 0
        self._sent_bytes = 0

    def cancel(self) -> None:
        """Stop at once: the peer cancelled, or the association has ended."""
        self._stop.stop()
        if self._operation.cancelled_by_peer:
            self._operation.outcome = self._outcome()
            self._operation.respond(Status.CANCEL)

    async def perform(self, earlier: Run | None) -> None:
        """Run the query once ``earlier``, of the same association, has been answered."""
        query, operation = self._query, self._operation
        if earlier is not None:
            await earlier.answered.wait()
        query.waiting_bytes -= len(self._data)
        query.running += 1
        try:
            final = await self._final()
        finally:
            query.running -= 1
            operation.outcome = outcome = self._outcome()
            query.answered(self, operation.channel.number)
        if final is not None and not self._stop.stopped:
            operation.conclude(final)
            if self._plan is not None and not self._matches and final.status == Status.SUCCESS:
                outcome = replace(outcome, findings=await self._findings(self._plan))
        query.journal.query_ended(operation, outcome)

    async def _final(self) -> Response | None:
        """Answer; return the final response, None when the peer waits for none any more."""
        query, operation = self._query, self._operation
        try:
            return await self._answer()
        except SearchStopped:
            return None
        except StatusError as error:
            return _failure(operation, error)
        except CatalogError as error:
            query.journal.internal_error(operation.service, error)
            unable = StatusError("the index failed", status=Status.UNABLE_TO_PROCESS)
            return _failure(operation, unable)
        except Exception as error:
            query.journal.internal_error(operation.service, error)
            unable = StatusError("internal error", status=Status.UNABLE_TO_PROCESS)
            return _failure(operation, unable)

    async def _answer(self) -> Response:
        """Send a Pending response for each match; return the final one."""
        query, operation, stop = self._query, self._operation, self._stop
        stop.check()
        begun = await query.in_thread(self._begin)
        plan = self._plan = begun.plan
        size = _batch_size(plan)
        pending = _pending(operation, plan)
        answers, at = begun.answers, size
        while True:
            stop.check()
            for identifier in answers:
                operation.pending(pending, identifier)
                self._matches += 1
                self._sent_bytes += len(identifier)
            if at >= len(begun.ids):
                break
            await operation.channel.drained()
            stop.check()
            answers = await query.in_thread(partial(self._encoded, plan, begun.ids[at : at + size]))
            at += size
        if not begun.over_limit:
            return _response(operation, Status.SUCCESS)
        limit = query.rules.max_matches
        comment = f"more than {limit} matches (limits.max_matches)"
        return replace(_response(operation, Status.OUT_OF_RESOURCES), error_comment=comment)

    # -- in a thread -----------------------------------------------------------------------------

    def _begin(self) -> _Begun:
        rules = self._query.rules
        root = QUERY_RETRIEVE[self._operation.context.abstract_syntax][1]
        identifier = parse(self._data, self._asked.transfer_syntax_uid, root, rules.bounds)
        self._level = identifier.level
        plan = make_plan(identifier, self._asked)
        self._data = b""
        conditions = [condition for _, _, condition in plan.conditions]
        limit = rules.max_matches or _NO_LIMIT
        ids = self._query.catalog.find(plan.level, conditions, limit + 1, self._stop)
        over_limit = len(ids) > limit
        ids = ids[:limit]
        return _Begun(plan, ids, over_limit, self._encoded(plan, ids[: _batch_size(plan)]))

    def _encoded(self, plan: Plan, ids: Sequence[int]) -> list[bytes]:
        """Return the identifiers of some matches."""
        if not ids:
            return []
        fetch, encode = self._query.catalog.fetch, plan.layout.encode
        with self._query.turn():
            rows = fetch(plan.wanted, ids, self._stop)
            if not plan.wanted.stored:
                return [encode(row) for row in rows]
        answers = []
        for row in rows:
            self._stop.check()
            answers.append(
                encode(row[:-_STORED_VALUES], self._further(plan, row[-_STORED_VALUES:]))
            )
        return answers

    def _further(self, plan: Plan, stored: Sequence[str | int]) -> list[Further]:
        """Return the elements that come from the file, and those of our private block."""
        elements = plan.layout.elements
        further: list[Further] = []
        if plan.file_tags:
            path = str(stored[0])
            further = read_attributes(self._query.files, path, plan.file_tags, elements)
        for tag, vr, place in plan.private:
            written = elements.element(tag, vr, str(stored[place]).encode())
            further.append((tag, partial(_constant, written)))
        return further

    # -- afterwards ------------------------------------------------------------------------------

    async def _findings(self, plan: Plan) -> tuple[Finding, ...]:
        """Find out which keys match nothing, each for itself, unless there is more to do."""
        query = self._query
        if not plan.conditions or query.running + query.explaining >= _BUSY_QUERIES:
            return ()
        stop = Stop()
        query.explaining += 1
        deadline = asyncio.get_running_loop().call_later(_EXPLAINED_SECONDS, stop.stop)
        try:
            return await query.in_thread(partial(self._explained, plan, stop))
        except (SearchStopped, CatalogError):
            return ()
        finally:
            query.explaining -= 1
            deadline.cancel()

    def _explained(self, plan: Plan, stop: Stop) -> tuple[Finding, ...]:
        find = self._query.catalog.find
        findings = tuple(
            _nothing_has(plan.level, keyword, value)
            for keyword, value, condition in plan.conditions[:_EXPLAINED_KEYS]
            if not find(plan.level, [condition], 1, stop)
        )
        if findings or len(plan.conditions) > _EXPLAINED_KEYS:
            return findings
        return (Finding(f"each key matches some {plan.level}, but none matches all of them"),)

    def _outcome(self) -> QueryOutcome:
        plan = self._plan
        return QueryOutcome(
            level=self._level,
            keys=tuple(keyword for keyword, _, _ in plan.conditions) if plan else (),
            unsupported=plan.unsupported if plan else (),
            matches=self._matches,
            sent_bytes=self._sent_bytes,
            seconds=time.monotonic() - self._started,
        )


def _batch_size(plan: Plan) -> int:
    return _BATCH_WITH_FILES if plan.file_tags else _BATCH


def _response(operation: Operation, status: Status) -> Response:
    response = answer(operation.request, status)
    assert isinstance(response, Response)
    return response


def _pending(operation: Operation, plan: Plan) -> Response:
    status = Status.PENDING_WARNING if plan.unsupported else Status.PENDING
    return replace(_response(operation, status), has_data_set=True)


def _failure(operation: Operation, error: StatusError) -> Response:
    return replace(
        _response(operation, Status(error.status)),
        error_comment=error.comment,
        offending_element=error.offending,
    )


def _nothing_has(level: Level, keyword: str, value: str) -> Finding:
    """Say that a key matches nothing; a UID is no patient data."""
    if keyword.endswith("UID") and "\\" not in value:
        return Finding(f"no {level} has this {keyword} {value}")
    return Finding(f"no {level} has this {keyword}", value)


def _constant(written: bytes, encodings: tuple[str, ...]) -> bytes:
    return written
