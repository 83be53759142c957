"""Deletion on order: shown first, then carried out batch by batch, whatever comes between.

What an order is about is fixed when it is given, and durable: the objects that were shown, by UID
and digest. Objects that come for the same study later are not meant, nor is one that took
another's place. An order that a crash broke off is gone on with at the next start.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.errors import DicomnodeError
from dicomnode.index.catalog import Catalog
from dicomnode.index.deletions import Deletions, Marked, Order
from dicomnode.index.entry import InstanceRow
from dicomnode.index.pending import Look, Pending
from dicomnode.index.summaries import patients_of, summaries
from dicomnode.services.removing import BATCH, Cause, Remover, Why

KEYWORDS: Final = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "instance": "SOPInstanceUID",
}
"""The levels at which can be deleted, with what names the objects."""

MOST_OBJECTS: Final = 1_000_000
MOST_NAMED: Final = 100
MAX_REASON: Final = 500
"""Bounds of one order: its objects, the studies or objects listed, characters of its reason."""

_LOOKED_AT_ONCE: Final = 1000
_ROWS_AT_ONCE: Final = 1000
# Enough to tell an object from one that took its place.
_MARK_DIGITS: Final = 16
# As long as a batch took the archive is left to others, and no longer than this.
_MOST_REST_SECONDS: Final = 0.2
_TURN_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 5.0
_KEPT_SECONDS: Final = 90 * 24 * 3600.0
_LISTED: Final = 20
_NAMED: Final = 3


class NotDeleted(DicomnodeError):
    """An order is not taken; the message says why."""


class Observer(Protocol):
    """Is told how orders go; called from threads."""

    def refused(self, what: str, asked_by: str, words: str, pending: Mapping[str, str]) -> None:
        """An order was not taken, as objects (by UID) may not go, and why."""

    def ordered(self, order: Order) -> None:
        """An order was taken, or is gone on with."""

    def carried_out(self, order: Order) -> None:
        """An order is through."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an order would delete; ``pending`` says of UIDs why they may not go now."""

    what: str
    objects: tuple[Marked, ...]
    total_bytes: int
    series: int
    by_study: Mapping[str, tuple[int, int]]
    pending: Mapping[str, str]

    @property
    def mark(self) -> str:
        """What tells this plan from every other, so that what was shown is what goes."""
        lines = "\n".join(sorted(" ".join(each) for each in self.objects))
        return hashlib.sha256(lines.encode()).hexdigest()


class Deleting:
    """Takes orders, and carries them out one after the other in a thread of its own."""

    def __init__(self, catalog: Catalog, remover: Remover, observer: Observer) -> None:
        self._catalog = catalog
        self._remover = remover
        self._observer = observer
        self._orders = Deletions(catalog)
        self._pending = Pending(catalog)
        self._stopping = threading.Event()
        self._news = threading.Event()
        # Between what is found pending and the order nothing else is ordered.
        self._ordering = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="deletion", daemon=True)

    def start(self) -> None:
        """Go on with what was broken off, and take orders."""
        self._thread.start()

    def stop(self) -> None:
        """End after the batch that is under way; the next start goes on. Blocks."""
        self._stopping.set()
        self._news.set()
        self._thread.join()

    # -- orders ------------------------------------------------------------------------------------

    def plan(self, level: str, values: Sequence[str]) -> Plan:
        """Return what deleting these would delete. Raises NotDeleted, CatalogError."""
        if not all(value.strip() for value in values):
            # Objects without an ID are of anybody.
            raise NotDeleted(f"an empty {KEYWORDS[level]} names nothing")
        what = _what(level, values)
        for value in values if level == "patient" else ():
            if (number := patients_of(self._catalog.read, value)) > 1:
                raise NotDeleted(
                    f"{number} patients have the ID {value!r}: delete their studies one by one"
                )
        ids = self._catalog.select_instances({KEYWORDS[level]: values})
        if len(ids) > MOST_OBJECTS:
            raise NotDeleted(f"{len(ids)} objects are too many at once: at most {MOST_OBJECTS}")
        marked: list[Marked] = []
        by_study: dict[str, tuple[int, int]] = {}
        series: set[tuple[str, str]] = set()
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            for row in self._catalog.instance_rows(ids[start : start + _ROWS_AT_ONCE]):
                marked.append((row.sop_instance_uid, _mark(row)))
                count, total = by_study.get(row.study_instance_uid, (0, 0))
                by_study[row.study_instance_uid] = count + 1, total + row.size_bytes
                series.add((row.study_instance_uid, row.series_instance_uid))
        pending: dict[str, str] = {}
        for start in range(0, len(marked), _LOOKED_AT_ONCE):
            some = [uid for uid, _ in marked[start : start + _LOOKED_AT_ONCE]]
            pending |= self._pending.look(some).held
        total_bytes = sum(size for _, size in by_study.values())
        return Plan(what, tuple(marked), total_bytes, len(series), by_study, pending)

    def shown(self, plan: Plan) -> dict[str, Any]:
        """Return a plan as JSON values. Raises CatalogError."""
        studies = [
            {
                **asdict(each),
                "going": plan.by_study[each.study_instance_uid][0],
                "going_bytes": plan.by_study[each.study_instance_uid][1],
            }
            for each in summaries(self._catalog, list(plan.by_study)[:MOST_NAMED])
        ]
        return {
            "what": plan.what,
            "mark": plan.mark,
            "objects": len(plan.objects),
            "bytes": plan.total_bytes,
            "series": plan.series,
            "studies": len(plan.by_study),
            "study_list": studies,
            "pending": len(plan.pending),
            "pending_list": _named(plan.pending),
        }

    def order(
        self, level: str, values: Sequence[str], reason: str, asked_by: str, mark: str
    ) -> Order:
        """Have deleted what a plan with this ``mark`` showed.

        Raises NotDeleted when that is no longer what would go, or may not go; CatalogError.
        """
        if not reason.strip() or len(reason) > MAX_REASON or not reason.isprintable():
            raise NotDeleted(
                f"a reason is a printable text, on one line, of 1 to {MAX_REASON} characters"
            )
        with self._ordering:
            plan = self.plan(level, values)
            if not plan.objects:
                raise NotDeleted(f"nothing is held of {plan.what}")
            if plan.pending:
                uid, why = next(iter(plan.pending.items()))
                words = (
                    f"{len(plan.pending)} of {len(plan.objects)} objects may not go: {uid} {why}"
                )
                self._observer.refused(plan.what, asked_by, words, plan.pending)
                raise NotDeleted(words)
            if plan.mark != mark:
                raise NotDeleted(
                    f"what would go has changed: now it is {len(plan.objects)} objects; look again"
                )
            number = self._orders.add(plan.what, reason, asked_by, plan.objects, plan.total_bytes)
            order = self._orders.get(number)
            assert order is not None
        self._news.set()
        return order

    def get(self, number: int) -> Order | None:
        """Return an order, as far as it has come. Raises CatalogError."""
        return self._orders.get(number)

    def latest(self) -> list[Order]:
        """Return the last orders, the last first. Raises CatalogError."""
        return self._orders.latest(_LISTED)

    def figures(self) -> list[dict[str, Any]]:
        """Return what anybody may see of the orders that are not through. Raises CatalogError.

        A reason may say who a patient is.
        """
        return [
            {name: value for name, value in asdict(order).items() if name != "reason"}
            for order in self._orders.unfinished()
        ]

    # -- carrying out ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._news.clear()
            seconds = _TURN_SECONDS
            try:
                self.carry_out()
                self._remover.finish()
            except Exception as error:  # the thread must outlive it
                self._observer.internal_error("deleting", error)
                seconds = _RETRY_SECONDS
            if not self._stopping.is_set():
                self._news.wait(seconds)

    def carry_out(self, progress: Callable[[Order], None] = lambda order: None) -> None:
        """Carry out all that was ordered. Blocks; raises CatalogError."""
        for order in self._orders.unfinished():
            self._observer.ordered(order)
            done = self._carry_out(order, progress)
            if done is None:
                return
            self._orders.end(done)
            self._observer.carried_out(replace(done, ended_at=time.time()))
        self._orders.prune(time.time() - _KEPT_SECONDS)

    def _carry_out(self, order: Order, progress: Callable[[Order], None]) -> Order | None:
        """Return how it ended; None when it is to be gone on with later."""
        objects = self._orders.objects(order.id)
        look, looked_to = Look({}, 0, (), ()), order.position
        while order.position < len(objects):
            if self._stopping.is_set():
                return None
            began = time.monotonic()
            if order.position >= looked_to:
                some = objects[looked_to : looked_to + _LOOKED_AT_ONCE]
                look, looked_to = (
                    self._pending.look([uid for uid, _ in some]),
                    looked_to + len(some),
                )
            order = self._delete_some(order, objects[order.position : looked_to][:BATCH], look)
            progress(order)
            self._stopping.wait(min(time.monotonic() - began, _MOST_REST_SECONDS))
        return order

    def _delete_some(self, order: Order, objects: Sequence[Marked], look: Look) -> Order:
        why = Why(Cause.COMMAND, order.reason, order.asked_by)
        marks = dict(objects)
        reached = order

        def chosen(cursor: DBAPICursor, rows: Sequence[InstanceRow]) -> list[str]:
            nonlocal reached
            held_back = dict(look.held) | dict.fromkeys(
                self._pending.since(cursor, look), "is still to be sent, or answered for"
            )
            kept: Counter[str] = Counter()
            picked: list[str] = []
            for row in rows:
                uid = row.sop_instance_uid
                if uid in held_back:
                    kept[f"{uid} {held_back[uid]}"] += 1
                elif _mark(row) != marks[uid]:
                    kept[f"{uid} has been replaced since it was ordered"] += 1
                else:
                    picked.append(uid)
            reached = replace(
                order,
                position=order.position + len(objects),
                kept=order.kept + sum(kept.values()),
                last_error=next(iter(kept), order.last_error),
            )
            return picked

        def also(cursor: DBAPICursor, rows: Sequence[InstanceRow]) -> None:
            nonlocal reached
            reached = replace(
                reached,
                deleted=order.deleted + len(rows),
                deleted_bytes=order.deleted_bytes + sum(row.size_bytes for row in rows),
            )
            self._orders.advance(cursor, reached)

        self._remover.remove(list(marks), chosen, why, also)
        return reached


def _what(level: str, values: Sequence[str]) -> str:
    """Say what an order is about; patients are not named in logs, nor to whoever asks."""
    if level == "patient":
        return f"{len(values)} {'patient' if len(values) == 1 else 'patients'}"
    more = len(values) - _NAMED
    return f"{level} {', '.join(values[:_NAMED])}" + (f" and {more} more" if more > 0 else "")


def _mark(row: InstanceRow) -> str:
    return row.sha256[:_MARK_DIGITS]


def _named(pending: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"sop_instance_uid": uid, "why": why} for uid, why in list(pending.items())[:MOST_NAMED]
    ]
