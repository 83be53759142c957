"""Forwarding as a whole: applies the rules, and keeps one lane for each destination."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from dicomnode.dimse.channel import Requestor
from dicomnode.errors import CatalogError
from dicomnode.forward_settings import ForwardingSettings
from dicomnode.index.catalog import Attachment, Catalog, InstanceEntry, ObjectAttachment
from dicomnode.outbox.commitments import CommitmentRows
from dicomnode.outbox.committing import Committing, Remove, Requester
from dicomnode.outbox.committing import Observer as CommittingObserver
from dicomnode.outbox.items import Down
from dicomnode.outbox.lane import Lane, Observer, Shared
from dicomnode.outbox.messages import StoredMessages
from dicomnode.outbox.pace import Pace, Places
from dicomnode.outbox.queue import Queue
from dicomnode.outbox.rules import Order, Priority, Rules
from dicomnode.outbox.session import Sending
from dicomnode.registry import AE, Registry
from dicomnode.scu.conversion import Converters
from dicomnode.services.auditing import Auditing
from dicomnode.services.custody import Custodian
from dicomnode.services.stored_objects import StoredObjects
from dicomnode.services.verified_reads import VerifiedReads
from dicomnode.storage.files import FileStore
from dicomnode.storage.json_model import Attributes

_THREADS: Final = 8
# What is due later than after the longest pause, or time of day, and this was put off by a clock
# that was wrong.
_CLOCK_SECONDS: Final = 25 * 3600.0
# Among the titles that there is news for: no title, but studies that are not complete.
_UNSETTLED: Final = ""


class Outbox:
    """Applies the rules to what is received (``placing.Forwarding``).

    Callable from worker threads, also while nothing is sent yet. Making one blocks; raises
    CatalogError.
    """

    def __init__(self, catalog: Catalog, rules: Rules, custodian: Custodian | None = None) -> None:
        self.catalog = catalog
        self.custodian = custodian
        self.queue = Queue(catalog, custody=custodian.custody if custodian else None)
        self.rules = self._former = rules
        self.pace = Pace()
        # Called, in any thread, when rows for these destinations have been committed.
        self.on_queued: Callable[[Iterable[str]], None] = lambda titles: None

    @property
    def header_end(self) -> int:
        """The tag up to which headers are read for the rules."""
        return self.rules.header_end

    def follow(self, rules: Rules) -> None:
        """Apply other rules to what is received from now on."""
        self._former, self.rules = self.rules, rules

    def attachment(self, entry: InstanceEntry) -> ObjectAttachment | None:
        """Return the rows that belong to an object, None for none."""
        self.pace.received()
        rules = self.rules
        if entry.header.end < rules.header_end:
            # Its header was read before the rules changed, not as far as these look.
            rules = self._former
        orders = rules.orders(entry)
        if not orders:
            return None
        return self.queue.attachment(entry, orders, self._tell)

    def _tell(self, orders: Sequence[Order]) -> None:
        self.on_queued(
            order.destination if order.rule.stable_seconds is None else _UNSETTLED
            for order in orders
        )

    # -- performed procedure steps (``mpps.Forwarding``) -------------------------------------------

    def step_created(
        self, sop_instance_uid: str, attributes: Attributes, source: str
    ) -> Attachment | None:
        """Return the rows of an N-CREATE, None for none."""
        orders = self.rules.step_orders(attributes, source)
        if not orders:
            return None
        return self.queue.messages.created(
            sop_instance_uid, attributes, orders, lambda titles: self.on_queued(titles)
        )

    def step_changed(
        self, sop_instance_uid: str, changes: Attributes, *, is_over: bool
    ) -> Attachment | None:
        """Return the rows of an N-SET, None where its N-CREATE had none."""
        if not self.queue.messages.is_followed(sop_instance_uid):
            return None
        return self.queue.messages.changed(
            sop_instance_uid, changes, lambda titles: self.on_queued(titles), is_over=is_over
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings that forwarding follows; ``min_free_bytes`` is what conversions leave free."""

    settings: ForwardingSettings
    ae_title: str
    strict_ae_titles: bool
    response_seconds: float
    min_free_bytes: int


class Forwarding:
    """Sends what the outbox holds; ``registry`` returns the one in force."""

    def __init__(
        self,
        outbox: Outbox,
        files: FileStore,
        requestor: Requestor,
        registry: Callable[[], Registry],
        observer: Observer,
        options: Options,
        *,
        now: Callable[[], float] = time.time,
        auditing: Auditing | None = None,
        verified: VerifiedReads | None = None,
    ) -> None:
        self._outbox = outbox
        self._queue = outbox.queue
        self._queue.longest_wait_seconds = options.settings.max_retry_seconds + _CLOCK_SECONDS
        self._registry = registry
        self._strict = options.strict_ae_titles
        self._observer = observer
        self._threads = ThreadPoolExecutor(_THREADS, "dicomnode-outbox")
        self._converters = Converters(files, options.min_free_bytes)
        self._lanes: dict[str, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._others: list[asyncio.Task[None]] = []
        self._committing: Committing | None = None
        self._unsettled = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._news: set[str] = set()
        self._now = now
        self._shared = Shared(
            queue=outbox.queue,
            rules=lambda: outbox.rules,
            settings=options.settings,
            sending=Sending(
                requestor=requestor,
                objects=StoredObjects(
                    files, self._converters, self._threads, verified, "forwarding"
                ),
                messages=StoredMessages(
                    outbox.queue.messages.get,
                    lambda title: registry().character_set(title),
                    self._threads,
                ),
                calling_ae_title=options.ae_title,
                response_seconds=options.response_seconds,
                pace=outbox.pace,
                auditing=auditing,
                custodian=outbox.custodian,
            ),
            observer=observer,
            threads=self._threads,
            places=Places(options.settings.max_associations),
            find=self._find,
            wake=self._wake,
            on_sent=self._on_sent,
            is_down=lambda title: title in self._lanes and self._lanes[title].down is not None,
            now=now,
        )

    def commit_with(
        self, requester: Requester, remove: Remove, observer: CommittingObserver
    ) -> None:
        """Ask for storage commitment through ``requester``; to be called before ``start``."""
        self._committing = Committing(
            CommitmentRows(self._outbox.catalog),
            requester,
            remove,
            self._shared.settings,
            observer,
            self._threads,
            self._wake,
        )

    def _on_sent(self) -> None:
        if self._committing is not None:
            self._committing.sent()

    async def start(self) -> None:
        """Begin with what is left from before. Raises CatalogError."""
        self._outbox.on_queued = self._queued
        downs = await self._in_thread(self._queue.downs)
        named = self._outbox.rules.titles
        for title in sorted(named | set(await self._in_thread(self._queue.destinations))):
            self._open(title, downs.get(title))
        self._others = [asyncio.create_task(self._watch_studies(), name="outbox studies")]
        if self._committing is not None:
            self._others += [asyncio.create_task(self._committing.run(), name="outbox commitment")]

    def follow(self, rules: Rules) -> None:
        """Go by other rules from now on; what is queued already stays queued."""
        self._outbox.follow(rules)
        for title in rules.titles | set(self._lanes):
            # Windows and alternates may be others.
            self._wake(title)
        self._unsettled.set()

    def _open(self, title: str, down: Down | None = None) -> Lane:
        lane = self._lanes[title] = Lane(title, self._shared, down)
        task = asyncio.create_task(lane.run(), name=f"outbox {title}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return lane

    async def stop(self, seconds: float) -> None:
        """Finish the batches that are being sent within ``seconds``, then give them up."""
        for task in self._others:
            task.cancel()
        await asyncio.gather(*self._others, return_exceptions=True)
        for lane in self._lanes.values():
            lane.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._converters.close()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    # -- news --------------------------------------------------------------------------------------

    def _queued(self, titles: Iterable[str]) -> None:
        """Rows have been committed; callable from any thread."""
        with self._lock:
            is_first = not self._news
            self._news.update(titles)
        if is_first:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        with self._lock:
            news, self._news = self._news, set()
        for title in news:
            if title == _UNSETTLED:
                self._unsettled.set()
            else:
                self._wake(title)

    def _wake(self, title: str) -> None:
        (self._lanes.get(title) or self._open(title)).wake()

    def _find(self, title: str) -> AE | str:
        """Return a destination's entry, or why there is none to call."""
        ae = self._registry().lookup(title, self._strict)
        if ae is None:
            return f"{title} is not in ae.toml"
        return ae if ae.host is not None else f"{ae.title} has no host in ae.toml"

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._loop.run_in_executor(self._threads, function, *arguments)

    def registry_reloaded(self) -> None:
        """Try every destination that could not be had: it may have another address now."""
        for lane in self._lanes.values():
            lane.hurry()

    # -- studies that are to be complete -----------------------------------------------------------

    async def _watch_studies(self) -> None:
        """Let studies go when nothing has come for them for a while."""
        while True:
            self._unsettled.clear()
            seconds = {
                rule.name: rule.stable_seconds
                for rule in self._outbox.rules.all
                if rule.stable_seconds is not None
            }
            shortest = min(seconds.values(), default=1.0)
            following: float | None
            try:
                titles, following = await self._in_thread(self._queue.release_studies, seconds)
            except CatalogError as error:
                self._observer.internal_error("the outbox", error)
                titles, following = set(), self._now() + 1.0
            for title in titles:
                self._wake(title)
            if following is None:
                await self._unsettled.wait()
            else:
                await asyncio.sleep(min(max(following - self._now(), 0.0), shortest))

    # -- looking and stepping in -------------------------------------------------------------------

    @property
    def queue(self) -> Queue:
        """What waits."""
        return self._queue

    def down(self, title: str) -> Down | None:
        """Return since when and why a destination cannot be had, None if it can."""
        lane = self._lanes.get(title)
        return lane.down if lane is not None else None

    async def send(self, destination: str, rule: str, objects: Mapping[str, str]) -> dict[str, str]:
        """Queue objects that are held, given by SOP Instance UID with the UID of their study.

        Returns those that cannot be queued, and why. Raises CatalogError.
        """
        why_not: dict[str, str] = await self._in_thread(
            self._queue.enqueue, destination, rule, Priority.LOW, objects
        )
        self._wake(destination)
        return why_not

    async def retry(self, destination: str) -> int:
        """Send to a destination now what waits or was set aside; return how much that is.

        Raises CatalogError.
        """
        count: int = await self._in_thread(self._queue.revive, destination)
        if destination in self._lanes:
            self._lanes[destination].retry()
        elif count:
            self._open(destination)
        return count

    async def drop(self, destination: str, *, dead_only: bool) -> int:
        """Remove what is to be sent to a destination; return how much. Raises CatalogError."""
        count: int = await self._in_thread(
            lambda: self._queue.drop(destination, dead_only=dead_only)
        )
        if destination in self._lanes:
            # What is dropped may have kept back what follows it.
            self._wake(destination)
        return count

    @property
    def titles(self) -> list[str]:
        """The destinations that something has been, or can be, queued for."""
        return sorted(self._lanes)
