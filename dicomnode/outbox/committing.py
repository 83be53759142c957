"""Asks destinations to commit to what they were sent, and deletes here what all of them keep."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.errors import CannotAsk
from dicomnode.forward_settings import ForwardingSettings
from dicomnode.index.commitment_requests import CommitmentRequests, Instance, State
from dicomnode.index.entry import InstanceRow
from dicomnode.outbox.commitments import CommitmentRows, Lacking, Sent
from dicomnode.services.removing import BATCH

# Objects that one request names.
_MOST_ASKED: Final = 5000
# What has been sent is gathered for so long, and reports are looked for as often.
_LOOK_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
# A report that has not come by then is asked for again.
_REPORT_SECONDS: Final = 24 * 3600.0

_T = TypeVar("_T")


class Requester(Protocol):
    """Asks for storage commitment; ``commitment_request.CommitmentRequester``."""

    requests: CommitmentRequests

    async def ask(self, peer_title: str, instances: Sequence[Instance]) -> str:
        """Ask a peer; return the Transaction UID. Raises CannotAsk, CatalogError."""


# Deletes those of the objects, given by UID, that are picked in the transaction.
Remove = Callable[
    [Sequence[str], Callable[[DBAPICursor, Sequence[InstanceRow]], Iterable[str]]],
    list[InstanceRow],
]


class Observer(Protocol):
    """Is told how it goes; called on the event loop."""

    def cannot_ask(self, destination: str, words: str) -> None:
        """A destination cannot be asked to commit to anything."""

    def not_committed(self, destination: str, count: int, words: str) -> None:
        """A destination does not keep objects that it took."""

    def deleted(self, rows: Sequence[InstanceRow]) -> None:
        """Objects have been deleted here, as all their destinations keep them."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""


class Committing:
    """One task for all destinations; ``remove`` takes an object out of the archive.

    ``wake`` has a destination look for what is due.
    """

    def __init__(
        self,
        rows: CommitmentRows,
        requester: Requester,
        remove: Remove,
        settings: ForwardingSettings,
        observer: Observer,
        threads: Executor,
        wake: Callable[[str], None],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._rows = rows
        self._requester = requester
        self._remove = remove
        self._settings = settings
        self._observer = observer
        self._threads = threads
        self._wake = wake
        self._now = now
        self._news = asyncio.Event()
        self._news.set()
        # How often in a row a destination did not take the request.
        self._refusals: Counter[str] = Counter()

    def sent(self) -> None:
        """There is something new to be committed."""
        self._news.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        pause: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()
                    pause = None
            self._news.clear()
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                waits = await self.look()
            except Exception as error:
                self._observer.internal_error("storage commitment of what was forwarded", error)
                waits = True
            longer = _LOOK_SECONDS if pause is None else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            pause = longer if waits else None

    async def look(self) -> bool:
        """Take every step that can be taken now; tell whether something is still waited for.

        Raises CatalogError.
        """
        unasked = await self._in_thread(self._rows.unasked, _MOST_ASKED)
        for destination, objects in unasked.items():
            await self._ask(destination, objects)
        for destination, transaction_uid in await self._in_thread(self._rows.transactions):
            await self._conclude(destination, transaction_uid)
        await self._delete()
        return await self._in_thread(self._rows.is_any)

    async def _in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)

    # -- asking ----------------------------------------------------------------------------------

    async def _ask(self, destination: str, objects: list[Sent]) -> None:
        gone = [one for one in objects if not one.sop_class_uid]
        await self._in_thread(self._rows.committed, gone)
        wanted = [one for one in objects if one.sop_class_uid]
        if not wanted:
            return
        instances = [(one.sop_class_uid, one.sop_instance_uid) for one in wanted]
        try:
            transaction_uid = await self._requester.ask(destination, instances)
        except CannotAsk as error:
            self._observer.cannot_ask(destination, str(error))
            await self._later(destination, wanted)
        else:
            await self._in_thread(self._rows.asked, wanted, transaction_uid)

    async def _later(self, destination: str, objects: list[Sent]) -> None:
        """Ask again after a pause, which grows."""
        pause = self._settings.pause(self._refusals[destination])
        self._refusals[destination] += 1
        await self._in_thread(self._rows.asked, objects, "", self._now() + pause)

    # -- answers ---------------------------------------------------------------------------------

    async def _conclude(self, destination: str, transaction_uid: str) -> None:
        requests = self._requester.requests
        request = await self._in_thread(requests.get, transaction_uid)
        late = request is not None and self._now() - request.asked_at > _REPORT_SECONDS
        if request is not None and request.state in (State.ASKING, State.WAITING) and not late:
            return
        objects = await self._in_thread(self._rows.of_transaction, destination, transaction_uid)
        if request is None or late or request.state is State.REFUSED:
            if request is not None:
                self._observer.cannot_ask(destination, request.why or "its report has not come")
            await self._later(destination, objects)
            return
        self._refusals.pop(destination, None)
        failed = await self._in_thread(requests.failed, transaction_uid)
        reasons = {uid: f"not committed: {reason:04X}H" for _, uid, reason in failed}
        unmentioned = await self._in_thread(requests.not_mentioned, transaction_uid)
        reasons |= {uid: "not committed: not mentioned in the report" for _, uid in unmentioned}
        kept = [one for one in objects if one.sop_instance_uid not in reasons]
        await self._in_thread(self._rows.committed, kept)
        lacking = [
            self._lacking(one, reasons[one.sop_instance_uid])
            for one in objects
            if one.sop_instance_uid in reasons
        ]
        await self._in_thread(self._rows.not_committed, lacking)
        if lacking:
            self._observer.not_committed(destination, len(lacking), lacking[0].words)
            self._wake(destination)

    def _lacking(self, one: Sent, words: str) -> Lacking:
        if one.attempts + 1 >= self._settings.max_refusals:
            return Lacking(one, words, None)
        return Lacking(one, words, self._now() + self._settings.pause(one.attempts))

    # -- deleting --------------------------------------------------------------------------------

    async def _delete(self) -> None:
        await self._in_thread(self._rows.forget_kept)
        while uids := await self._in_thread(self._rows.deletable):
            for start in range(0, len(uids), BATCH):
                removed = await self._in_thread(self._remove_all, uids[start : start + BATCH])
                self._observer.deleted(removed)

    def _remove_all(self, uids: Sequence[str]) -> list[InstanceRow]:
        def chosen(cursor: DBAPICursor, held: Sequence[InstanceRow]) -> list[str]:
            # Of all: the rows of one that is gone already go too.
            received = {row.sop_instance_uid: row.received_at for row in held}
            return [uid for uid in uids if self._rows.forget(cursor, uid, received.get(uid))]

        return self._remove(uids, chosen)
