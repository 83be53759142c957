"""C-FIND SCP (PS3.7 §9.1.2), whatever is asked for; the sources of answers know what that is.

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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol, TypeVar

from dicomnode.dimse.channel import DataSetSink
from dicomnode.dimse.command import Response, answer
from dicomnode.dimse.identifier import IdentifierSink
from dicomnode.dimse.status import Status
from dicomnode.errors import CatalogError, OutOfResources, StatusError
from dicomnode.index.reading import SearchStopped, Stop
from dicomnode.services.auditing import Auditing
from dicomnode.services.dispatch import Operation
from dicomnode.services.identifier import mismatch
from dicomnode.services.outcomes import Finding, QueryOutcome

_THREADS: Final = 32
# One thread at a time makes answers: more would only take the interpreter from the event loop.
# Whoever has waited this long goes on all the same, so that a slow one holds up no other.
_TURN_SECONDS: Final = 0.25
_NO_LIMIT: Final = 2**62
# An empty answer is looked into for this long, while no more queries than these are running.
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


# Waits, in a thread, for the turn to make answers.
Turn = Callable[[], AbstractContextManager[None]]


class Search(Protocol):
    """One query of a source. All but the attributes is called in threads, one call at a time.

    ``level`` is for logs; ``keys`` are the keywords that are matched on and ``unsupported`` the
    tags that are not matched or not answered, both known when ``find`` returns. ``batch`` answers
    are worth a change of threads.
    """

    @property
    def level(self) -> str: ...

    @property
    def keys(self) -> tuple[str, ...]: ...

    @property
    def unsupported(self) -> tuple[int, ...]: ...

    @property
    def batch(self) -> int: ...

    def find(self, limit: int, stop: Stop, turn: Turn) -> array[int]:
        """Return the row ids of matches. Raises StatusError, CatalogError, SearchStopped."""

    def encoded(self, ids: Sequence[int], stop: Stop, turn: Turn) -> list[bytes]:
        """Return the identifiers of matches. Raises CatalogError, SearchStopped."""

    def explained(self, stop: Stop) -> tuple[Finding, ...]:
        """Say why nothing matched. Raises CatalogError, SearchStopped."""


class Source(Protocol):
    """What answers the queries of some SOP classes."""

    def serves(self, sop_class_uid: str) -> bool:
        """Tell whether the SOP class is one of this source."""

    def asked(self, operation: Operation) -> Callable[[bytes], Search]:
        """Return what reads the identifier, in a thread; that raises StatusError."""


@dataclass(frozen=True, slots=True)
class QueryRules:
    """The settings that queries follow; ``max_matches`` 0 means no limit."""

    max_matches: int
    max_identifier_bytes: int


class Query:
    """Answers C-FIND requests from its sources."""

    def __init__(
        self,
        sources: Sequence[Source],
        journal: Journal,
        rules: QueryRules,
        auditing: Auditing | None = None,
    ) -> None:
        self._sources = sources
        self.journal = journal
        self.rules = rules
        self._auditing = auditing
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
        return any(source.serves(sop_class_uid) for source in self._sources)

    def begin(self, operation: Operation) -> DataSetSink | None:
        """Collect the identifier, then run the query."""
        if not operation.request.has_data_set:
            raise mismatch("the request has no identifier")
        limit = self.rules.max_identifier_bytes
        too_long = mismatch(f"identifier longer than limits.max_identifier_bytes ({limit})")
        return IdentifierSink(
            limit,
            lambda data: self._start(operation, data),
            lambda: operation.fail(too_long),
        )

    def _start(self, operation: Operation, data: bytes) -> None:
        operation.received_bytes = len(data)
        if self._auditing is not None:
            self._auditing.query_asked(operation, data)
        if self.waiting_bytes and self.waiting_bytes + len(data) > _MAX_WAITING_BYTES:
            operation.fail(OutOfResources("too many queries are waiting"))
            return
        self.waiting_bytes += len(data)
        number, sop_class_uid = operation.channel.number, operation.context.abstract_syntax
        source = next(source for source in self._sources if source.serves(sop_class_uid))
        run = Run(self, operation, data, source.asked(operation))
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
    """What the first step in a thread comes to; ``ids`` are those of all matches."""

    search: Search
    ids: array[int]
    over_limit: bool
    answers: list[bytes]


class Run:
    """One query, from its identifier to its final response."""

    def __init__(
        self, query: Query, operation: Operation, data: bytes, asked: Callable[[bytes], Search]
    ) -> None:
        self._query = query
        self._operation = operation
        self._data = data
        self._asked = asked
        self.answered = asyncio.Event()
        self._stop = Stop()
        self._started = time.monotonic()
        self._search: Search | None = None
        self._matches = 0
        self._sent_bytes = 0
        operation.progress = lambda: {"matches": self._matches}

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
            if self._search is not None and not self._matches and final.status == Status.SUCCESS:
                outcome = replace(outcome, findings=await self._findings(self._search))
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
        search = begun.search
        pending = _pending(operation, search)
        answers, at = begun.answers, search.batch
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
            ids = begun.ids[at : at + search.batch]
            answers = await query.in_thread(partial(search.encoded, ids, stop, query.turn))
            at += search.batch
        if not begun.over_limit:
            return _response(operation, Status.SUCCESS)
        limit = query.rules.max_matches
        comment = f"more than {limit} matches (limits.max_matches)"
        return replace(_response(operation, Status.OUT_OF_RESOURCES), error_comment=comment)

    def _begin(self) -> _Begun:
        """Read the identifier, find the matches, and make the first answers; in a thread."""
        query, stop = self._query, self._stop
        search = self._search = self._asked(self._data)
        self._data = b""
        limit = query.rules.max_matches or _NO_LIMIT
        ids = search.find(limit + 1, stop, query.turn)
        over_limit = len(ids) > limit
        ids = ids[:limit]
        answers = search.encoded(ids[: search.batch], stop, query.turn) if ids else []
        return _Begun(search, ids, over_limit, answers)

    async def _findings(self, search: Search) -> tuple[Finding, ...]:
        """Find out why nothing matches, unless there is more to do."""
        query = self._query
        if query.running + query.explaining >= _BUSY_QUERIES:
            return ()
        stop = Stop()
        query.explaining += 1
        deadline = asyncio.get_running_loop().call_later(_EXPLAINED_SECONDS, stop.stop)
        try:
            return await query.in_thread(partial(search.explained, stop))
        except (SearchStopped, CatalogError):
            return ()
        finally:
            query.explaining -= 1
            deadline.cancel()

    def _outcome(self) -> QueryOutcome:
        search = self._search
        return QueryOutcome(
            level=search.level if search else "",
            keys=search.keys if search else (),
            unsupported=search.unsupported if search else (),
            matches=self._matches,
            sent_bytes=self._sent_bytes,
            seconds=time.monotonic() - self._started,
        )


def _response(operation: Operation, status: Status) -> Response:
    response = answer(operation.request, status)
    assert isinstance(response, Response)
    return response


def _pending(operation: Operation, search: Search) -> Response:
    status = Status.PENDING_WARNING if search.unsupported else Status.PENDING
    return replace(_response(operation, status), has_data_set=True)


def _failure(operation: Operation, error: StatusError) -> Response:
    return replace(
        _response(operation, Status(error.status)),
        error_comment=error.comment,
        offending_element=error.offending,
    )
