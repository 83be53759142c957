"""One synchronization with a peer, from the first query to the last object.

It goes in turns: look until there is enough that one side lacks, then move that. What has been
moved is there, so that one that was broken off goes on where it was when it is begun again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from dicomnode.errors import AssociationError, AssociationRejected
from dicomnode.scu.association import Association
from dicomnode.scu.names import FIND, GET, MOVE
from dicomnode.sync.bringing import (
    FIRST_PAUSE_SECONDS,
    MOST_LOSSES,
    Bringing,
    Place,
    Report,
    Take,
)
from dicomnode.sync.comparing import Compared, Comparing, Difference, Lacking, Work
from dicomnode.sync.own import Here, OwnIndex
from dicomnode.sync.source import Source
from dicomnode.sync.tree import Tree
from dicomnode.sync.wish import Direction, Wish

_MODEL: Final = "study"
# Objects that are moved before the next studies are looked into.
BATCH: Final = 1000
_MOST_PROBLEMS: Final = 1000
# Of so many batches in a row nothing came: the peer says the same of the next ones.
_EMPTY_BATCHES: Final = 2


class Mode(StrEnum):
    """How objects come here; AUTO is C-GET where the peer accepts it, else C-MOVE."""

    AUTO = "auto"
    GET = "get"
    MOVE = "move"


class Away(Protocol):
    """What sends objects to the peer."""

    async def send(self, objects: Mapping[str, str]) -> Mapping[str, str]:
        """Send objects, given by SOP Instance UID with the UID of their study.

        Returns those that were not sent, and why. Raises AssociationError when the peer cannot
        be had, CatalogError.
        """


@dataclass(slots=True)
class Summary:
    """What came of it. Objects are counted, studies where it says so.

    ``incomplete`` are the studies of which one side still lacks something, ``problems`` says of
    objects and studies why. ``interrupted`` tells that it was left before the end.
    """

    compared: Compared = field(default_factory=Compared)
    missing_here: int = 0
    missing_there: int = 0
    pulled: int = 0
    pulled_bytes: int = 0
    pushed: int = 0
    failed: int = 0
    incomplete: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False

    def problem(self, uid: str, why: str) -> None:
        """Keep why something was not done, as long as there is room."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems[uid] = why


def _nothing(difference: Difference) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Course:
    """How it is done.

    Objects come by C-MOVE to ``ae_title``, or by C-GET: to ``place`` through ``take``, or without
    these by a way of their own. They leave by ``away``. With ``dry_run`` nothing is moved.
    ``on_difference`` is called for each study that has been looked into and is not the same,
    ``on_progress`` as objects move, and ``may_go_on`` before each further step.
    """

    direction: Direction
    mode: Mode
    ae_title: str
    away: Away
    place: Place | None = None
    take: Take | None = None
    dry_run: bool = False
    on_difference: Callable[[Difference], None] = _nothing
    on_progress: Callable[[Summary], None] = lambda summary: None
    may_go_on: Callable[[], bool] = lambda: True


class Syncing:
    """Synchronizes with ``source``; ``summary`` is up to date at any time."""

    def __init__(self, source: Source, own: OwnIndex, wish: Wish, course: Course) -> None:
        self._source = source
        self._course = course
        self._here = Here(own)
        direction, dry_run = course.direction, course.dry_run
        self._comparing = Comparing(
            own,
            wish,
            pulls=direction.pulls or dry_run,
            pushes=direction.pushes or dry_run,
        )
        self.summary = Summary(self._comparing.compared)
        self._work: Work = deque()
        self._by_get = course.mode is Mode.GET
        self._is_reached = False
        self._empty_batches = 0

    async def run(self) -> Summary:
        """Compare, and move what is missing.

        Raises AssociationError when the peer cannot be had, StatusError, ContextNotAccepted,
        Unreadable and CatalogError; what was moved until then is in ``summary``.
        """
        try:
            while self._work or not self._comparing.is_done:
                if not self._course.may_go_on():
                    self.summary.interrupted = True
                    break
                lacking = await self._look()
                await self._move(lacking)
        finally:
            if self._course.place is not None:
                await self._course.place.close()
        for uid, why in self._comparing.compared.failed.items():
            self.summary.incomplete.add(uid)
            self.summary.problem(uid, why)
        return self.summary

    # -- looking -----------------------------------------------------------------------------------

    async def _look(self) -> Lacking:
        """Look until there is a batch to be moved, or nothing more to be looked into."""
        lacking = Lacking()
        losses = 0
        while True:
            before = self._comparing.steps
            try:
                await self._look_over_one(lacking)
            except AssociationRejected:
                raise
            except AssociationError:
                losses = losses + 1 if self._comparing.steps == before else 1
                if losses > MOST_LOSSES or not self._is_reached:
                    raise
                await asyncio.sleep(FIRST_PAUSE_SECONDS * 2 ** (losses - 1))
            else:
                return lacking

    async def _look_over_one(self, lacking: Lacking) -> None:
        contexts = [service[_MODEL] for service in (FIND, GET, MOVE)]
        async with self._source.associated(contexts) as association:
            self._is_reached = True
            self._choose(association)
            tree = Tree(association, self._source.response_seconds)
            while lacking.count < BATCH and self._course.may_go_on():
                if self._work:
                    done = await self._comparing.look(tree, self._work, lacking)
                    if done is not None:
                        self._looked_into(done)
                elif self._comparing.is_done:
                    return
                else:
                    self._work.extend(await self._comparing.next_page(tree))

    def _choose(self, association: Association) -> None:
        if self._course.mode is Mode.AUTO:
            can_move = bool(association.syntax_for(MOVE[_MODEL]))
            self._by_get = bool(association.syntax_for(GET[_MODEL])) or not can_move

    def _looked_into(self, difference: Difference) -> None:
        summary = self.summary
        summary.missing_here += difference.missing_here
        summary.missing_there += difference.missing_there
        if difference.missing_here or difference.missing_there:
            self._course.on_difference(difference)
        self._course.on_progress(summary)

    # -- moving ------------------------------------------------------------------------------------

    async def _move(self, lacking: Lacking) -> None:
        course, summary = self._course, self.summary
        if course.dry_run:
            summary.incomplete.update(held.study_instance_uid for held in lacking.here.values())
            summary.incomplete.update(lacking.there.values())
            return
        if lacking.here and course.direction.pulls:
            await self._pull(lacking)
        if lacking.there and course.direction.pushes:
            failed = await course.away.send(lacking.there)
            summary.pushed += len(lacking.there) - len(failed)
            summary.failed += len(failed)
            for uid, why in failed.items():
                summary.incomplete.add(lacking.there[uid])
                summary.problem(uid, why)
        course.on_progress(summary)

    async def _pull(self, lacking: Lacking) -> None:
        course, summary, report = self._course, self.summary, Report()
        pulled, pulled_bytes = summary.pulled, summary.pulled_bytes

        def progress(report: Report) -> None:
            summary.pulled = pulled + report.received
            summary.pulled_bytes = pulled_bytes + report.received_bytes
            course.on_progress(summary)

        if self._empty_batches < _EMPTY_BATCHES:
            bringing = Bringing(
                self._source,
                (self._by_get and course.place) or self._here,
                report,
                on_progress=progress,
                take=course.take if self._by_get else None,
                move_to="" if self._by_get else course.ae_title,
            )
            await bringing.bring(lacking.here, lacking.found_of)
            progress(report)
            self._empty_batches = 0 if report.received else self._empty_batches + 1
        else:
            report.missing |= dict.fromkeys(lacking.here, "not asked for, as nothing comes")
        for held in lacking.here.values():
            summary.incomplete.add(held.study_instance_uid)
            summary.problem(held.sop_instance_uid, report.missing[held.sop_instance_uid])
        summary.failed += len(lacking.here)
        for words, count in report.refusals.items():
            if words in summary.refusals or len(summary.refusals) < _MOST_PROBLEMS:
                summary.refusals[words] += count
