"""Requests of ours on one association, and the responses that come to them.

Used on associations that we asked for, and for the sub-operations that we perform on those of
others. Responses are kept until they are read; past a bound the association is not read until
they have been.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from dicomnode.dimse.channel import Channel, DataSetSink, DataSetSource, Progress
from dicomnode.dimse.command import CCancelRQ, CFindRQ, CGetRQ, CMoveRQ, Request, Response
from dicomnode.dimse.identifier import IdentifierSink
from dicomnode.dimse.status import Category, category
from dicomnode.errors import (
    AssociationAborted,
    AssociationError,
    AssociationTimedOut,
    RemoteProtocolError,
)
from dicomnode.scu.answers import Answer, Encoded
from dicomnode.scu.sources import InTurns
from dicomnode.ul.framing import fragment_size

_MAX_MESSAGE_ID: Final = 0xFFFF
# Answers that wait to be read, of one request; more of them wait with the peer.
_MAX_UNREAD: Final = 64
_MAX_UNREAD_BYTES: Final = 1024 * 1024
# A Failed SOP Instance UID List may name all objects of a retrieval.
_MAX_FINAL_BYTES: Final = 16 * 1024 * 1024
_SERIAL: Final = (CFindRQ, CGetRQ, CMoveRQ)
# What is longer is cut up with others having their turn, if it makes more PDUs than this: a peer
# may take as little as 2 bytes in one, and 10 MB would hold up the event loop for seconds.
_SHORT_BYTES: Final = 16 * 1024
_PDUS_TOGETHER: Final = 500

Data = bytes | memoryview | DataSetSource | None


class Exchange:
    """One request and its responses; it stays open until the final one, whoever waits for that.

    ``on_over`` is called once, when the final response or the end of the association is there.
    While ``is_our_turn`` the peer waits for us, and its time does not run.
    """

    __slots__ = (
        "_answers",
        "_failure",
        "_is_cancelled",
        "_is_unwanted",
        "_paused",
        "_requests",
        "_unread_bytes",
        "_waiter",
        "context_id",
        "heard_at",
        "is_our_turn",
        "is_over",
        "on_over",
        "over",
        "request",
        "started",
    )

    def __init__(
        self, requests: Requests, context_id: int, request: Request, on_over: Callable[[], None]
    ) -> None:
        self._requests = requests
        self.context_id = context_id
        self.request = request
        self.started = time.monotonic()
        self.on_over = on_over
        self.is_over = False
        self.over = asyncio.Event()
        self.heard_at = 0.0
        self.is_our_turn: Callable[[], bool] = lambda: False
        self._answers: deque[Answer] = deque()
        self._unread_bytes = 0
        self._paused = False
        self._is_unwanted = False
        self._is_cancelled = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # -- for whoever made the request ------------------------------------------------------------

    async def answer(self, seconds: float) -> Answer:
        """Return the next response.

        Raises AssociationAborted when the association ends first, and AssociationTimedOut when
        the peer sends nothing that belongs to the request for ``seconds``: the caller then
        aborts, or lets the answer come late.
        """
        if not self._answers and self._failure is None:
            await self._wait(seconds)
        if not self._answers:
            assert self._failure is not None
            raise self._failure
        answer = self._answers.popleft()
        if answer.encoded is not None:
            self._unread_bytes -= len(answer.encoded.data)
        if self._paused and len(self._answers) <= _MAX_UNREAD // 2:
            self._resume()
        return answer

    def give_up(self, why: Exception) -> None:
        """Raise ``why`` to whoever reads the responses; those that come are dropped."""
        self._is_unwanted = True
        self._failure = self._failure or why
        self._answers.clear()
        self._unread_bytes = 0
        self._resume()
        self._wake()

    def abandon(self) -> None:
        """Drop the responses that still come."""
        self.give_up(AssociationAborted(f"the {self.request.service} was given up"))

    def cancel(self) -> None:
        """Ask the peer to end the operation (PS3.7 §9.3.2.3); what it still answers is dropped."""
        self.abandon()
        if not self.is_over and not self._is_cancelled:
            self._is_cancelled = True
            cancel = CCancelRQ(message_id_being_responded_to=self.request.message_id)
            self._requests.channel.send(self.context_id, cancel)

    def heard(self) -> None:
        """The peer is at work on the request: the time for its next response begins anew."""
        self.heard_at = asyncio.get_running_loop().time()

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        self.heard_at = loop.time()
        timer = loop.call_later(seconds, self._time_out, waiter, seconds)
        try:
            await waiter
        finally:
            self._waiter = None
            timer.cancel()

    def _time_out(self, waiter: asyncio.Future[None], seconds: float) -> None:
        loop = asyncio.get_running_loop()
        left = seconds if self.is_our_turn() else self.heard_at + seconds - loop.time()
        if waiter.done():
            return
        if left > 0:
            loop.call_later(left, self._time_out, waiter, seconds)
            return
        why = f"no answer to {self.request.service} {self.request.message_id} for {seconds:g} s"
        hint = self._requests.unread() or "timeouts.response_seconds"
        waiter.set_exception(AssociationTimedOut(f"{why} ({hint})"))

    # -- for whoever hears the peer --------------------------------------------------------------

    def take(self, answer: Answer, is_final: bool) -> None:
        """Take a whole response."""
        if not self._is_unwanted:
            self._answers.append(answer)
            if answer.encoded is not None:
                self._unread_bytes += len(answer.encoded.data)
        if is_final:
            self._end()
        elif not self._paused and self.is_full:
            self._paused = True
            self._requests.channel.pause()
        self._wake()

    def fail(self, error: AssociationError) -> None:
        """The association ended before the final response."""
        self._failure = self._failure or error
        self._end()
        self._wake()

    @property
    def is_full(self) -> bool:
        """Whether as many responses wait to be read as may."""
        return len(self._answers) >= _MAX_UNREAD or self._unread_bytes >= _MAX_UNREAD_BYTES

    def _end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.over.set()
            self.on_over()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._requests.channel.resume()


class Requests:
    """Requests of ours on one association, and the responses that they wait for.

    A data set of up to ``max_data_set_bytes`` is taken with a response; a longer one ends the
    association. ``ended`` is set when the association has ended.
    """

    def __init__(self, channel: Channel, max_data_set_bytes: int = 1024 * 1024) -> None:
        self.channel = channel
        self._max_data_set_bytes = max_data_set_bytes
        self._open: dict[int, Exchange] = {}
        self._last_message_id = 0
        self.ended = asyncio.Event()
        self._closed_because: str | None = None

    def next_message_id(self) -> int:
        """Return a Message ID (0000,0110) that no request without a response has, and not 0."""
        message_id = self._last_message_id
        while True:
            message_id = message_id % _MAX_MESSAGE_ID + 1
            if message_id not in self._open:
                self._last_message_id = message_id
                return message_id

    def open(
        self, context_id: int, request: Request, on_over: Callable[[], None] = lambda: None
    ) -> Exchange:
        """Expect responses to ``request``, which is not sent yet.

        Raises AssociationAborted when the association has ended.
        """
        if self._closed_because is not None:
            raise AssociationAborted(self._closed_because)
        exchange = self._open[request.message_id] = Exchange(self, context_id, request, on_over)
        return exchange

    async def send(self, exchange: Exchange, data_set: Data) -> None:
        """Send the request of ``exchange``; return once the peer takes more again."""
        channel = self.channel
        if isinstance(data_set, bytes | memoryview) and len(data_set) > _SHORT_BYTES:
            data_set = self._in_turns(data_set)
        if data_set is None or isinstance(data_set, bytes | memoryview):
            channel.send(exchange.context_id, exchange.request, data_set)
        else:
            await channel.stream(exchange.context_id, exchange.request, data_set)
        await channel.drained()

    def _in_turns(self, data_set: bytes | memoryview) -> bytes | memoryview | InTurns:
        """Return what is to be sent in turns, where all of it at once would take too long."""
        size = _PDUS_TOGETHER * fragment_size(self.channel.negotiated.peer_maximum_length)
        return data_set if len(data_set) <= size else InTurns(data_set, size)

    async def perform(
        self, context_id: int, request: Request, data_set: Data, *, seconds: float
    ) -> Response:
        """Send ``request``, which has one response, and return that; raises as ``answer`` does.

        The time for the answer begins when the peer has been sent all of it: whether it still
        takes what is sent is the channel's to watch.
        """
        exchange = self.open(context_id, request)
        await self.send(exchange, data_set)
        return (await exchange.answer(seconds)).response

    def progress(self) -> list[Progress]:
        """Return the requests that have no final response yet."""
        return [
            Progress(
                service=exchange.request.service,
                message_id=message_id,
                by_peer=False,
                started=exchange.started,
            )
            for message_id, exchange in self._open.items()
        ]

    def unread(self) -> str:
        """Say which responses keep the association from being read, "" when none do."""
        full = [one.request for one in self._open.values() if one.is_full]
        return f"the answers to {full[0].service} {full[0].message_id} are not read" if full else ""

    # -- for whoever hears the peer --------------------------------------------------------------

    def response(self, context_id: int, response: Response) -> DataSetSink | None:
        """Take a response that arrived; return the sink of its data set.

        Raises RemoteProtocolError when nothing asked for it.
        """
        message_id = response.message_id_being_responded_to
        exchange = self._open.get(message_id)
        if exchange is None or exchange.request.service != response.service:
            raise RemoteProtocolError(
                f"a {response.service} response to message {message_id},"
                " but nothing was requested with that",
                source=0,
            )
        is_final = category(response.status) is not Category.PENDING
        if not is_final and not isinstance(exchange.request, _SERIAL):
            raise RemoteProtocolError(
                f"a {response.service} response with status {response.status:04X}H", source=0
            )
        exchange.heard()
        if not response.has_data_set:
            self._take(exchange, Answer(response), is_final)
            return None
        if context_id != exchange.context_id:
            raise RemoteProtocolError(
                f"the data set of a {response.service} response on context {context_id},"
                f" where it was requested on {exchange.context_id}",
                source=0,
            )
        return self._collector(exchange, response, is_final)

    def _collector(self, exchange: Exchange, response: Response, is_final: bool) -> DataSetSink:
        syntax = self.channel.negotiated.contexts[exchange.context_id].transfer_syntax
        long = is_final and isinstance(exchange.request, CGetRQ | CMoveRQ)
        most = _MAX_FINAL_BYTES if long else self._max_data_set_bytes

        def whole(data: bytes) -> None:
            self._take(exchange, Answer(response, Encoded(data, syntax)), is_final)

        def too_long() -> None:
            raise RemoteProtocolError(
                f"a {response.service} response with a data set of more than {most} bytes", source=0
            )

        return IdentifierSink(most, whole, too_long)

    def _take(self, exchange: Exchange, answer: Answer, is_final: bool) -> None:
        if is_final:
            self._open.pop(exchange.request.message_id, None)
        exchange.take(answer, is_final)

    def closed(self, why: str) -> None:
        """Let whoever waits know that the association has ended."""
        self._closed_because = why
        self.ended.set()
        waiting, self._open = self._open, {}
        for exchange in waiting.values():
            exchange.fail(AssociationAborted(why))
