"""One destination of the outbox: what is due goes out, what fails waits, nothing is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from dicomnode.errors import AssociationError, CatalogError
from dicomnode.forward_settings import ForwardingSettings
from dicomnode.outbox.items import Down, Failure, Item, Settlement
from dicomnode.outbox.pace import Places
from dicomnode.outbox.queue import Queue
from dicomnode.outbox.rules import Rules
from dicomnode.outbox.session import Report, Sending, Session
from dicomnode.registry import AE

# Objects that are taken at once; of those under way a crash sends so many twice.
_BATCH: Final = 128
# Objects that come one by one are gathered for so long: looking for them has its price too.
_GATHER_SECONDS: Final = 0.1
_GATHER_BUSY_SECONDS: Final = 0.5
# So long an association is kept for objects that may follow.
_LINGER_SECONDS: Final = 2.0
_LONGEST_PAUSE_OF_LISTENER_SECONDS: Final = 300.0
# A clock that is set is noticed by then.
_LONGEST_SLEEP_SECONDS: Final = 60.0

_T = TypeVar("_T")


class Observer(Protocol):
    """Is told how forwarding goes; keeps logs and metrics. Called on the event loop."""

    def forwarded(self, destination: str, report: Report) -> None:
        """A batch of objects has been tried."""

    def set_aside(self, destination: str, failures: Sequence[Failure]) -> None:
        """Objects have been refused too often."""

    def destination_down(self, destination: str, down: Down) -> None:
        """A destination cannot be had."""

    def destination_up(self, destination: str, down: Down) -> None:
        """A destination that was ``down`` can be had again."""

    def given_up(self, destination: str, count: int, words: str) -> None:
        """So many objects have waited too long for a destination."""

    def redirected(self, destination: str, alternate: str, count: int) -> None:
        """So many objects go to the alternate of a destination that is down."""

    def session_ended(self, destination: str) -> None:
        """The association with a destination has been left."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all destinations share."""

    queue: Queue
    rules: Callable[[], Rules]
    settings: ForwardingSettings
    sending: Sending
    observer: Observer
    threads: Executor
    places: Places
    find: Callable[[str], AE | str]
    wake: Callable[[str], None]
    is_down: Callable[[str], bool]
    # Called when something has been sent that is to be committed.
    on_sent: Callable[[], None]
    now: Callable[[], float] = time.time


class Lane:
    """Sends what is queued for ``title``, one association at a time."""

    def __init__(self, title: str, shared: Shared, down: Down | None) -> None:
        self.title = title
        self.down = down
        self._shared = shared
        self._session = Session(shared.sending)
        self._woken = asyncio.Event()
        self._stopping = False
        self._retried = False
        # Objects over which associations ended since something was last answered.
        self._suspects: set[int] = set()

    def wake(self) -> None:
        """Look at the queue: there is something new."""
        self._woken.set()

    def retry(self) -> None:
        """Forget that the destination was down, and look at the queue."""
        self._retried = True
        self._woken.set()

    def hurry(self) -> None:
        """Try a destination that is down at once."""
        if self.down is not None:
            self.down = replace(self.down, not_before=0.0)
            self._woken.set()

    def stop(self) -> None:
        """Take no further batch."""
        self._stopping = True
        self._woken.set()

    async def run(self) -> None:
        """Send until stopped."""
        while not self._stopping:
            try:
                until = await self._send_due()
            except CatalogError as error:
                self._shared.observer.internal_error("the outbox", error)
                until = self._shared.now() + self._shared.settings.retry_seconds
            except Exception as error:
                self._shared.observer.internal_error("forwarding", error)
                until = self._shared.now() + self._shared.settings.retry_seconds
            await self._wait(until)

    async def _wait(self, until: float | None) -> None:
        """Wait until there is something new, or for a time."""
        left = _LONGEST_SLEEP_SECONDS
        if until is not None:
            left = min(max(until - self._shared.now(), 0.0), left)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._woken.wait()
                self._woken.clear()
                # Others come with it: they are taken together.
                busy = self._shared.sending.pace.is_busy
                await asyncio.sleep(_GATHER_BUSY_SECONDS if busy else _GATHER_SECONDS)

    async def _in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._shared.threads, function, *arguments)

    # -- sending -----------------------------------------------------------------------------------

    async def _send_due(self) -> float | None:
        """Send what is due; return when to look again, None for when there is something new."""
        if self._retried:
            self._retried, self.down = False, None
            await self._in_thread(self._shared.queue.set_down, self.title, None)
        if self.down is not None and self._is_left_alone(self.down):
            await self._divert(self.down)
            return self._next_look(self.down)
        items = await self._take()
        if items:
            async with self._shared.places:
                try:
                    while items and not self._stopping:
                        await self._send(items)
                        if self._shared.places.are_wanted:
                            return self._shared.now()
                        items = await self._take_next()
                except AssociationError as error:
                    await self._went_down(str(error))
                    assert self.down is not None
                    return self._next_look(self.down)
                finally:
                    await self._session.close()
                    self._shared.observer.session_ended(self.title)
        return await self._in_thread(self._shared.queue.next_due, self.title)

    def _is_left_alone(self, down: Down) -> bool:
        left = down.not_before - self._shared.now()
        # Later than any pause ends: the clock was wrong.
        return 0 < left <= self._shared.queue.longest_wait_seconds

    async def _take(self) -> list[Item]:
        """Take the next objects; those whose rule's time is not now are put off."""
        queue, now = self._shared.queue, datetime.fromtimestamp(self._shared.now())
        while True:
            items = await self._in_thread(queue.take, self.title, _BATCH)
            deferred = [
                (item, opening.timestamp())
                for item in items
                if (opening := self._opening(item.rule, now)) is not None
            ]
            if not deferred:
                return items
            await self._in_thread(queue.settle, Settlement(deferred=deferred))
            put_off = {item.id for item, _ in deferred}
            if left := [item for item in items if item.id not in put_off]:
                return left

    def _opening(self, rule_name: str, now: datetime) -> datetime | None:
        """Return when objects of a rule may be sent next, None for now."""
        rule = self._shared.rules().by_name.get(rule_name)
        if rule is None or rule.window is None or rule.window.is_open(now):
            return None
        return rule.window.opening(now)

    async def _take_next(self) -> list[Item]:
        """Take more objects; the association waits for them a little, unless others want it."""
        items = await self._take()
        leaving = self._shared.now() + _LINGER_SECONDS
        while not items and not self._stopping and not self._shared.places.are_taken:
            due = await self._in_thread(self._shared.queue.next_due, self.title)
            await self._wait(leaving if due is None else min(due, leaving))
            items = await self._take()
            if self._shared.now() >= leaving:
                break
        return items

    async def _send(self, items: list[Item]) -> None:
        """Send a batch and write down what became of it.

        Raises AssociationError when the destination cannot be had. One whose associations end
        over one object can: that object waits, the others go on.
        """
        report = Report()
        ae = self._shared.find(self.title)
        if isinstance(ae, str):
            raise AssociationError(ae)
        try:
            await self._session.send(ae, items, report)
        except AssociationError:
            self._suspects.update(item.id for item, _ in report.lost)
            if not report.answered and (not report.lost or len(self._suspects) > 1):
                raise
        finally:
            await asyncio.shield(asyncio.ensure_future(self._settle(report)))
        if not report.answered:
            return
        self._suspects.clear()
        if self.down is not None:
            await self._came_up(self.down)

    async def _settle(self, report: Report) -> None:
        settlement = Settlement(done=report.sent, happenings=report.happenings)
        settlement.failed += [self._failed(*pair, refused=True) for pair in report.refused]
        settlement.failed += [self._failed(*pair, refused=False) for pair in report.lost]
        observer = self._shared.observer
        observer.forwarded(self.title, report)
        if dead := [each for each in settlement.failed if each.not_before is None]:
            observer.set_aside(self.title, dead)
        await self._in_thread(self._shared.queue.settle, settlement)
        if any(item.to_commit for item in report.sent):
            self._shared.on_sent()

    def _failed(self, item: Item, words: str, *, refused: bool) -> Failure:
        """Work out when an object that failed is tried again, if it is."""
        settings, now = self._shared.settings, self._shared.now()
        too_often = refused and item.attempts + 1 >= settings.max_refusals
        too_late = now - item.queued_at > settings.give_up_seconds
        if too_often or too_late:
            return Failure(item, words, None)
        return Failure(item, words, now + settings.pause(item.attempts))

    # -- a destination that cannot be had ----------------------------------------------------------

    async def _went_down(self, words: str) -> None:
        now, before = self._shared.now(), self.down
        failures = before.failures if before is not None else 0
        pause = self._shared.settings.pause(failures)
        if self._suspects:
            # It listens: it may be the objects, and others will come.
            pause = min(pause, _LONGEST_PAUSE_OF_LISTENER_SECONDS)
        self.down = Down(
            since=min(before.since, now) if before is not None else now,
            failures=failures + 1,
            not_before=now + pause,
            words=words,
        )
        self._shared.observer.destination_down(self.title, self.down)
        queue = self._shared.queue
        await self._in_thread(queue.set_down, self.title, self.down)
        give_up = self._shared.settings.give_up_seconds
        if now - self.down.since > give_up:
            count = await self._in_thread(queue.give_up, self.title, now - give_up, words)
            if count:
                self._shared.observer.given_up(self.title, count, words)
        await self._divert(self.down)

    async def _came_up(self, down: Down) -> None:
        self.down = None
        self._shared.observer.destination_up(self.title, down)
        await self._in_thread(self._shared.queue.set_down, self.title, None)

    def _next_look(self, down: Down) -> float:
        """Return when a destination that is down is tried again, or given its alternate."""
        diverting = down.since + self._shared.settings.alternate_after_seconds
        if self._alternates() and diverting > self._shared.now():
            return min(down.not_before, diverting)
        return down.not_before

    async def _divert(self, down: Down) -> None:
        """Give what waits to the alternates, where there are any that can be had."""
        if self._shared.now() < down.since + self._shared.settings.alternate_after_seconds:
            return
        for alternate, rules in self._alternates().items():
            if self._shared.is_down(alternate) or isinstance(self._shared.find(alternate), str):
                continue
            queue = self._shared.queue
            count = await self._in_thread(queue.redirect, self.title, alternate, rules)
            if count:
                self._shared.observer.redirected(self.title, alternate, count)
                self._shared.wake(alternate)

    def _alternates(self) -> dict[str, list[str]]:
        """Return the rules that name an alternate of this destination, by that."""
        found: dict[str, list[str]] = {}
        for rule in self._shared.rules().all:
            if (alternate := rule.alternates.get(self.title)) is not None:
                found.setdefault(alternate, []).append(rule.name)
        return found
