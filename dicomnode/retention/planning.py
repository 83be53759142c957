"""What is due: the one way in which a dry run and a run find out what goes, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from dicomnode.index.aging import Aging, AgingStudy
from dicomnode.index.catalog import Catalog
from dicomnode.index.entry import InstanceRow
from dicomnode.index.pending import Look, Pending
from dicomnode.observe.words import size
from dicomnode.retention.rules import DAY_SECONDS, Kept, Rule, Rules

# What is pending is looked for of so many objects at once.
_OBJECTS_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class Due:
    """The objects of a study that are under one rule; they go together or not at all.

    ``due_at`` is in seconds since 1970 UTC. ``held`` says of UIDs why they may not go now;
    ``look`` is what that was seen in. ``words`` say why they go, or are to go.
    """

    rule: Rule
    study: AgingStudy
    rows: tuple[InstanceRow, ...]
    due_at: float
    words: str
    look: Look
    held: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        """The size of the files."""
        return sum(row.size_bytes for row in self.rows)


@dataclass(slots=True)
class _Space:
    """What is free, and what has been, or would be, made free since it was asked for."""

    free_bytes: int
    freed_bytes: int = 0

    def is_short(self, wanted: int | None) -> bool:
        return wanted is None or self.free_bytes + self.freed_bytes < wanted


@dataclass(slots=True)
class Planner:
    """Finds what is due; ``free_bytes`` tells what is free now."""

    catalog: Catalog
    free_bytes: Callable[[], int]
    aging: Aging = field(init=False)
    pending: Pending = field(init=False)

    def __post_init__(self) -> None:
        self.aging, self.pending = Aging(self.catalog), Pending(self.catalog)

    def due(self, rules: Rules, now: float, *, within_seconds: float = 0.0) -> Iterator[Due]:
        """Yield what is due, and what will be ``within_seconds``; the oldest study first.

        What is not due yet, and what is held back, comes too. What a rule with ``free_bytes`` has
        no need of does not. Raises CatalogError, OutOfResources.
        """
        if not rules.all:
            return
        space = _Space(self.free_bytes())
        waiting: list[Due] = []
        for study in self.aging.older(now + within_seconds - rules.protect_seconds):
            waiting += self._of_study(rules, study, now + within_seconds)
            if sum(len(each.rows) for each in waiting) >= _OBJECTS_AT_ONCE:
                yield from self._settled(rules, waiting, space, now)
                waiting = []
        yield from self._settled(rules, waiting, space, now)

    def _of_study(self, rules: Rules, study: AgingStudy, until: float) -> Iterator[Due]:
        under: dict[str, list[InstanceRow]] = {}
        by_name: dict[str, Rule] = {}
        for row, modality in self.aging.objects(study.study_instance_uid):
            rule = rules.of(Kept(row.sop_class_uid, row.source_ae, modality))
            if rule is not None:
                by_name[rule.name] = rule
                under.setdefault(rule.name, []).append(row)
        for name, rows in under.items():
            rule = by_name[name]
            due_at = rule.due_at(study.received_at, study.study_date, rules.protect_seconds)
            if due_at is not None and due_at <= until:
                words = _words(rule)
                yield Due(rule, study, tuple(rows), due_at, words, Look({}, 0, (), ()), {})

    def _settled(
        self, rules: Rules, waiting: list[Due], space: _Space, now: float
    ) -> Iterator[Due]:
        """Say of each why it may not go, and leave out what there is room for."""
        uids = [row.sop_instance_uid for each in waiting for row in each.rows]
        look = self.pending.look(uids)
        for each in waiting:
            if not space.is_short(each.rule.free_bytes):
                continue
            held = self._held(rules, each, look)
            if not held and each.due_at <= now:
                space.freed_bytes += each.size_bytes
            yield Due(each.rule, each.study, each.rows, each.due_at, each.words, look, held)

    def _held(self, rules: Rules, due: Due, look: Look) -> dict[str, str]:
        held = {
            row.sop_instance_uid: look.held[row.sop_instance_uid]
            for row in due.rows
            if row.sop_instance_uid in look.held
        }
        if due.rule.committed:
            committed = self.aging.committed(due.rows)
            for row in due.rows:
                titles = set(map(rules.fold, committed.get(row.sop_instance_uid, ())))
                if lacking := [each for each in due.rule.committed if each not in titles]:
                    words = f"is not committed by {', '.join(lacking)}"
                    held.setdefault(row.sop_instance_uid, words)
        return held


def _words(rule: Rule) -> str:
    assert rule.keep_seconds is not None
    since = "the date of the study" if rule.by_study_date else "it was received"
    words = f"{rule.keep_seconds / DAY_SECONDS:g} days after {since}"
    if rule.free_bytes is not None:
        words += f", as less than {size(rule.free_bytes)} are free"
    if rule.committed:
        words += f", committed by {', '.join(rule.committed)}"
    return words
