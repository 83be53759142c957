"""Operations on an association of ours: their turns, their deadlines, and how they are given up."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from dicomnode.dimse.command import CFindRQ, CGetRQ, CMoveRQ, Request
from dicomnode.dimse.status import Category
from dicomnode.errors import AssociationTimedOut, LocalProtocolError
from dicomnode.scu.answers import Answer
from dicomnode.scu.outgoing import OutgoingAssociation
from dicomnode.scu.requests import Data, Exchange

# As many as one association has outstanding where the peer sets no limit.
_MOST_OPERATIONS: Final = 256

T = TypeVar("T", covariant=True)

# Presentation context, request, data set.
Prepared = tuple[int, Request, Data]


@dataclass(slots=True)
class Outcome:
    """Where an operation leaves its final response."""

    answer: Answer | None = None


class Responses(Generic[T]):
    """What a C-FIND, C-GET or C-MOVE yields while it goes on; it begins with the first item.

    Leaving it early cancels the operation: at once with ``aclose``, soon where the loop over it
    is left with ``break`` and nothing refers to it any more.
    """

    def __init__(
        self, course: AsyncGenerator[T, None], outcome: Outcome, registered: weakref.WeakSet[Any]
    ) -> None:
        self._course = course
        self._outcome = outcome
        self._registered = registered
        self.task: asyncio.Task[Any] | None = None

    @property
    def answer(self) -> Answer | None:
        """The final response; None before it is there."""
        return self._outcome.answer

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            item = await anext(self._course)
        except BaseException:
            self._registered.discard(self)
            raise
        self.task = asyncio.current_task()
        self._registered.add(self)
        return item

    async def aclose(self) -> None:
        """Cancel the operation if it is under way, and wait for the peer's last word on it."""
        self._registered.discard(self)
        await self._course.aclose()

    async def finished(self) -> Answer:
        """Let the operation go on to its end; return the final response."""
        async for _ in self:
            pass
        assert self._outcome.answer is not None
        return self._outcome.answer


class Operations:
    """Performs requests on one association, as many at once as the peer granted.

    ``response_seconds`` is how long the peer may leave an operation without a response, and
    ``cancel_seconds`` how long it may go on after C-CANCEL: then the association is aborted.
    """

    def __init__(
        self, association: OutgoingAssociation, *, response_seconds: float, cancel_seconds: float
    ) -> None:
        self._association = association
        self._response_seconds = response_seconds
        self._cancel_seconds = cancel_seconds
        granted = association.negotiated.max_operations_invoked or _MOST_OPERATIONS
        self._window = asyncio.Semaphore(min(granted, _MOST_OPERATIONS))
        self._open: set[Exchange] = set()
        self.iterating: weakref.WeakSet[Responses[Any]] = weakref.WeakSet()

    async def perform(
        self, context_id: int, request: Request, data_set: Data = None, seconds: float | None = None
    ) -> Answer:
        """Send ``request``, with a Message ID of its own, and return its one response.

        Raises AssociationAborted, AssociationTimedOut; after either the association is over.
        """
        await self._turn()
        return await self._perform(context_id, request, data_set, seconds)

    async def perform_prepared(
        self, prepare: Callable[[], Awaitable[Prepared]], seconds: float | None = None
    ) -> Answer:
        """Perform as ``perform`` does what ``prepare`` returns when its turn has come."""
        await self._turn()
        try:
            context_id, request, data_set = await prepare()
        except BaseException:
            self._window.release()
            raise
        return await self._perform(context_id, request, data_set, seconds)

    async def _perform(
        self, context_id: int, request: Request, data_set: Data, seconds: float | None
    ) -> Answer:
        exchange = self._begin(context_id, request)
        try:
            await self._association.requests.send(exchange, data_set)
            return await self._answer(exchange, seconds)
        finally:
            exchange.abandon()

    async def stream(
        self,
        context_id: int,
        request: CFindRQ | CGetRQ | CMoveRQ,
        identifier: bytes,
        outcome: Outcome,
        *,
        seconds: float | None = None,
        on_begin: Callable[[Exchange], None] | None = None,
    ) -> AsyncGenerator[Answer, None]:
        """Yield the Pending responses of ``request``; leave the final one in ``outcome``.

        A generator that is closed before that sends C-CANCEL. Raises as ``perform`` does.
        """
        await self._turn()
        exchange = self._begin(context_id, request)
        try:
            if on_begin is not None:
                on_begin(exchange)
            await self._association.requests.send(exchange, identifier)
            while True:
                answer = await self._answer(exchange, seconds)
                if answer.category is not Category.PENDING:
                    outcome.answer = answer
                    return
                yield answer
        finally:
            await self._cancel(exchange)

    async def _turn(self) -> None:
        self.refuse_nesting()
        await self._window.acquire()

    def _begin(self, context_id: int, request: Request) -> Exchange:
        """Expect responses to ``request``, which has its turn."""
        requests = self._association.requests
        try:
            request = replace(request, message_id=requests.next_message_id())
            exchange = requests.open(context_id, request, self._end)
        except BaseException:
            self._window.release()
            raise
        self._open.add(exchange)
        return exchange

    def _end(self) -> None:
        self._open = {exchange for exchange in self._open if not exchange.is_over}
        self._window.release()

    def refuse_nesting(self) -> None:
        """Refuse an operation that would wait for what the same task is in the middle of."""
        task = asyncio.current_task()
        if any(responses.task is task for responses in self.iterating):
            raise LocalProtocolError(
                "an operation inside the loop over another one's responses would wait for ever:"
                " end that loop and aclose() what it ran over, or use another association"
            )

    async def _answer(self, exchange: Exchange, seconds: float | None) -> Answer:
        try:
            return await exchange.answer(seconds or self._response_seconds)
        except AssociationTimedOut as error:
            self._association.channel.abort(str(error))
            raise

    # -- giving up -------------------------------------------------------------------------------

    async def _cancel(self, exchange: Exchange) -> None:
        """Send C-CANCEL, and wait for the final response or abort the association."""
        if exchange.is_over:
            exchange.abandon()
            return
        exchange.cancel()
        await self._in_time(
            exchange.over.wait(), f"no answer to C-CANCEL of {exchange.request.service}"
        )

    async def _in_time(self, waiting: Coroutine[Any, Any, Any], why: str) -> None:
        seconds = self._cancel_seconds
        try:
            async with asyncio.timeout(seconds):
                await waiting
        except TimeoutError:
            self._association.channel.abort(f"{why} for {seconds:g} s")
        except asyncio.CancelledError:
            self._association.channel.abort(f"{why} was awaited any longer")
            raise

    async def close(self) -> None:
        """Cancel whatever can be, and wait for what cannot; abort if that takes too long."""
        for exchange in self._open:
            if isinstance(exchange.request, CFindRQ | CGetRQ | CMoveRQ):
                exchange.cancel()
        left = list(self._open)
        if left:
            await self._in_time(_all_over(left), f"no answer to {left[0].request.service}")

    async def release(self, *, in_time: bool) -> None:
        """Release the association; ``in_time`` is within ``cancel_seconds``."""
        channel = self._association.channel
        if in_time:
            await self._in_time(channel.release(), "no answer to A-RELEASE-RQ")
        else:
            await channel.release()


async def _all_over(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        await exchange.over.wait()
