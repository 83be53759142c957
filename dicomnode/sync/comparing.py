"""Compares what a peer has with what is held here: studies by their counts, objects by their UIDs.

Studies whose counts agree on both sides are taken for the same; of the others, and where the peer
gives no counts, series are compared, and of those that do not agree each object. What the peer
says is checked: UIDs that are none are counted and left out, what it says twice does no harm.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from dicomnode.errors import StatusError, Unreadable
from dicomnode.index.keys import BY_KEYWORD, COMPUTED_KEYS, Level
from dicomnode.storage.json_model import Attributes
from dicomnode.sync.own import OwnIndex, Study
from dicomnode.sync.tree import Held, TooManyMatches, Tree, held_of, text_in, uid_in
from dicomnode.sync.wish import Span, Wish

# Of so many studies the lists are held at once, where dates can tell them apart.
PAGE_STUDIES: Final = 2000
# Of a single day, or where no date is given.
MOST_STUDIES: Final = 200_000
_COMPARED_AT_ONCE: Final = 256
# With more studies that cannot be compared something is wrong with the peer.
_MOST_FAILED: Final = 1000
# A count that is longer is none.
_MOST_DIGITS: Final = 9
_TAGS: Final = {name: key.tag for name, key in BY_KEYWORD.items()} | {
    key.keyword: key.tag for key in COMPUTED_KEYS
}
_STUDY_KEYS: Final = (
    "StudyInstanceUID",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
)
_SERIES_KEYS: Final = ("SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances")


@dataclass(slots=True)
class Difference:
    """A study that is not the same on both sides; either side is None where it is not there.

    ``missing_here`` and ``missing_there`` count objects, once ``looked_into``.
    """

    uid: str
    here: Study | None
    there: Study | None
    missing_here: int = 0
    missing_there: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class SeriesToDo:
    """A series that is to be looked into; a count of 0 is that of a side that lacks it."""

    difference: Difference
    uid: str
    here: int
    there: int | None


@dataclass(slots=True)
class Lacking:
    """Objects that one side lacks, and how many each series has that they are of."""

    here: dict[str, Held] = field(default_factory=dict)
    found_of: Counter[tuple[str, str]] = field(default_factory=Counter)
    # By SOP Instance UID, the study of each.
    there: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many objects there are in all."""
        return len(self.here) + len(self.there)


# Studies and series that are still to be looked into, in that order.
Work = deque[Difference | SeriesToDo]


@dataclass(slots=True)
class Compared:
    """What has been compared so far.

    ``looked_into`` counts the studies whose counts do not say that they are the same, ``junk``
    the answers without the UID that they must have. ``undated_left_out`` tells that studies
    without a Study Date were not asked for, as the peer tells of so many only by dates.
    """

    studies: int = 0
    looked_into: int = 0
    junk: int = 0
    undated_left_out: bool = False
    # Of Study Instance UIDs, why they could not be compared.
    failed: dict[str, str] = field(default_factory=dict)


class Comparing:
    """Compares by ``wish``; ``pulls`` and ``pushes`` say which side's lack is of interest."""

    def __init__(self, own: OwnIndex, wish: Wish, *, pulls: bool, pushes: bool) -> None:
        self._own = own
        self._wish = wish
        self._pulls = pulls
        self._pushes = pushes
        self._spans = [wish.span]
        self.compared = Compared()
        # Goes up with all that gets done, so that it shows whether an association got anywhere.
        self.steps = 0

    # -- studies -----------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether all studies have been compared."""
        return not self._spans

    async def next_page(self, tree: Tree) -> list[Difference]:
        """Return the studies of some dates that differ.

        Raises AssociationError, after which it can be called again; StatusError, CatalogError,
        and Unreadable when the peer tells of more than can be taken.
        """
        while self._spans:
            span = self._spans[-1]
            halves = span.halves()
            # Studies without a date would be lost.
            most = PAGE_STUDIES if halves is not None and span.is_bounded else MOST_STUDIES
            try:
                page = await self._compare(tree, span, most)
            except (TooManyMatches, StatusError) as error:
                if halves is None or not _is_too_many(error):
                    raise
                self.compared.undated_left_out |= not span.is_bounded
                self._spans[-1:] = reversed(halves)
                self.steps += 1
                continue
            self._spans.pop()
            self.steps += 1
            return page
        return []

    async def _compare(self, tree: Tree, span: Span, most: int) -> list[Difference]:
        # By UID: what is told twice is looked into once.
        page: dict[str, Difference] = {}
        compared = Compared()
        # All of them only where those are looked for that the peer lacks.
        told: set[str] = set()
        async with aclosing(self._peer_studies(tree, span, most, compared)) as peer_studies:
            async for some in peer_studies:
                if self._pushes:
                    told.update(some)
                here = await asyncio.to_thread(self._own.counts, list(some))
                page |= {
                    uid: Difference(uid, here.get(uid), there)
                    for uid, there in some.items()
                    if not _is_same(here.get(uid), there)
                }
        if self._pushes:
            page |= await asyncio.to_thread(self._own_alone, span, told, compared)
        self.compared.studies += compared.studies
        self.compared.junk += compared.junk
        self.compared.looked_into += len(page)
        return list(page.values())

    async def _peer_studies(
        self, tree: Tree, span: Span, most: int, compared: Compared
    ) -> AsyncGenerator[dict[str, Study], None]:
        """Yield what the peer tells of its studies, some at a time."""
        some: dict[str, Study] = {}
        keys = [*_STUDY_KEYS, *self._wish.query(span)]
        async with aclosing(tree.matches(Level.STUDY, keys, most)) as matches:
            async for match in matches:
                study = _study(match)
                if study is None:
                    compared.junk += 1
                elif self._is_wanted(study, span) and study.uid not in some:
                    compared.studies += 1
                    some[study.uid] = study
                if len(some) == _COMPARED_AT_ONCE:
                    yield some
                    some = {}
        yield some

    def _is_wanted(self, study: Study, span: Span) -> bool:
        """Tell whether a study is what was asked for: not every peer knows every key."""
        modalities = study.modalities.split("\\") if study.modalities else []
        of_modality = not (self._wish.modality and modalities) or self._wish.modality in modalities
        return of_modality and span.includes(study.date)

    def _own_alone(self, span: Span, told: set[str], compared: Compared) -> dict[str, Difference]:
        """Return the studies that are held here and that the peer did not tell of; blocks."""
        wish = Wish(self._wish.keys, span, self._wish.modality)
        found: dict[str, Difference] = {}
        for some in self._own.studies(wish):
            for study in some:
                if study.uid not in told:
                    found[study.uid] = Difference(study.uid, study, None)
        compared.studies += len(found)
        return found

    # -- objects -----------------------------------------------------------------------------------

    async def look(self, tree: Tree, work: Work, lacking: Lacking) -> Difference | None:
        """Look into the next of ``work``, and add what either side lacks to ``lacking``.

        Returns a study once all of it has been looked into. What is done is taken out of
        ``work``. Raises AssociationError, CatalogError.
        """
        item = work[0]
        difference = item if isinstance(item, Difference) else item.difference
        try:
            if isinstance(item, Difference):
                series = list(await self._series(tree, item))
                item.left = len(series)
                work.popleft()
                work.extendleft(reversed(series))
            else:
                await self._look_into(tree, item, lacking)
                work.popleft()
                difference.left -= 1
        except (StatusError, Unreadable) as error:
            if len(self.compared.failed) >= _MOST_FAILED:
                raise
            self.compared.failed.setdefault(difference.uid, str(error))
            while work and _is_of(work[0], difference):
                work.popleft()
            difference.left = 0
        self.steps += 1
        return None if difference.left else difference

    async def _series(self, tree: Tree, difference: Difference) -> Iterable[SeriesToDo]:
        """Return the series of a study that are not the same on both sides."""
        uid = difference.uid
        here = await asyncio.to_thread(self._own.series, uid)
        there: dict[str, int | None] = {}
        modalities: set[str] = set()
        keys = [*_SERIES_KEYS, f"StudyInstanceUID={uid}"]
        async with aclosing(tree.matches(Level.SERIES, keys)) as matches:
            async for match in matches:
                series_uid = uid_in(match, "SeriesInstanceUID")
                if not series_uid or not _is_of_study(match, uid):
                    self.compared.junk += 1
                    continue
                modalities.add(_text(match, "Modality"))
                there[series_uid] = _count(match, "NumberOfSeriesRelatedInstances")
        if not self._is_of_modality(difference, modalities):
            return []
        return self._different(difference, here, there)

    def _is_of_modality(self, difference: Difference, modalities: set[str]) -> bool:
        """Tell whether a study is wanted, where the peer did not tell its modalities before."""
        wanted, there = self._wish.modality, difference.there
        told = there is None or there.modalities
        return not wanted or bool(told) or wanted in modalities

    def _different(
        self, difference: Difference, here: dict[str, int], there: dict[str, int | None]
    ) -> Iterator[SeriesToDo]:
        for uid, count in there.items():
            if here.get(uid, 0) != count:
                yield SeriesToDo(difference, uid, here.get(uid, 0), count)
        if self._pushes:
            for uid in here.keys() - there.keys():
                yield SeriesToDo(difference, uid, here[uid], 0)

    async def _look_into(self, tree: Tree, item: SeriesToDo, lacking: Lacking) -> None:
        study, series = item.difference.uid, item.uid
        there = await self._instances(tree, study, series) if item.there != 0 else {}
        if self._pulls and there:
            present = await asyncio.to_thread(self._own.present, list(there))
            lacks = {uid: held for uid, held in there.items() if uid not in present}
            lacking.here |= lacks
            lacking.found_of[study, series] = len(there)
            item.difference.missing_here += len(lacks)
        if self._pushes and item.here:
            here = await asyncio.to_thread(self._own.instances, study, series)
            lacked = [uid for uid in here if uid not in there]
            lacking.there |= dict.fromkeys(lacked, study)
            item.difference.missing_there += len(lacked)

    async def _instances(self, tree: Tree, study: str, series: str) -> dict[str, Held]:
        found: dict[str, Held] = {}
        keys = [*tree.instance_keys, f"StudyInstanceUID={study}", f"SeriesInstanceUID={series}"]
        async with aclosing(tree.matches(Level.INSTANCE, keys)) as matches:
            async for match in matches:
                uid = uid_in(match, "SOPInstanceUID")
                if uid and _is_of_study(match, study):
                    found[uid] = held_of(match, study, series, uid)
                else:
                    self.compared.junk += 1
        return found


def _is_of(item: Difference | SeriesToDo, difference: Difference) -> bool:
    return item is difference or (isinstance(item, SeriesToDo) and item.difference is difference)


def _is_of_study(match: Attributes, uid: str) -> bool:
    """Tell whether a match is of the study that was asked for, as far as it says."""
    return uid_in(match, "StudyInstanceUID") in ("", uid)


def _is_same(here: Study | None, there: Study) -> bool:
    """Tell whether counts say that both sides hold the same; without counts they do not."""
    if here is None or there.instances is None:
        return there.instances == 0
    same_series = there.series is None or there.series == here.series
    return there.instances == here.instances and same_series


def _is_too_many(error: StatusError | TooManyMatches) -> bool:
    """Tell whether a query has too many matches: for us, or for the peer (A7xxH, PS3.4 §C.4.1)."""
    return isinstance(error, TooManyMatches) or error.status & 0xFF00 == 0xA700


def _study(match: Attributes) -> Study | None:
    uid = uid_in(match, "StudyInstanceUID")
    if not uid:
        return None
    return Study(
        uid,
        _text(match, "StudyDate"),
        _text(match, "ModalitiesInStudy"),
        _count(match, "NumberOfStudyRelatedSeries"),
        _count(match, "NumberOfStudyRelatedInstances"),
    )


def _text(match: Attributes, keyword: str) -> str:
    return text_in(match, (_TAGS[keyword],))


def _count(match: Attributes, keyword: str) -> int | None:
    """Return a count; None where there is none, or what is there is none."""
    text = _text(match, keyword)
    is_count = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if is_count else None
