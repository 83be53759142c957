"""What the node itself holds, as its index has it; everything here blocks."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from dicomnode.index.conditions import Condition, condition
from dicomnode.index.entry import InstanceRow
from dicomnode.index.keys import BY_KEYWORD, COMPUTED_KEYS, Level
from dicomnode.index.matching import Texts
from dicomnode.index.reading import Stop, batches
from dicomnode.index.search import Row, Wanted
from dicomnode.scu.keys import Keys
from dicomnode.scu.proposals import Kind
from dicomnode.services.identifier import Bounds, parse
from dicomnode.services.query_plan import Asked, make_plan
from dicomnode.services.sop_classes import Root
from dicomnode.storage.encoding import EXPLICIT_VR_LITTLE_ENDIAN
from dicomnode.sync.tree import Held
from dicomnode.sync.wish import Wish

# So many values make a statement that is kept.
_UIDS_AT_ONCE: Final = 64
_ROWS_AT_ONCE: Final = 500
_MOST_SERIES: Final = 100_000
_MOST_STUDIES: Final = 1_000_000
_COMPUTED: Final = {key.keyword: key for key in COMPUTED_KEYS}
_STUDIES: Final = Wanted(
    Level.STUDY,
    (BY_KEYWORD["StudyInstanceUID"], BY_KEYWORD["StudyDate"]),
    (
        _COMPUTED["ModalitiesInStudy"],
        _COMPUTED["NumberOfStudyRelatedSeries"],
        _COMPUTED["NumberOfStudyRelatedInstances"],
    ),
)
_SERIES: Final = Wanted(
    Level.SERIES,
    (BY_KEYWORD["SeriesInstanceUID"],),
    (_COMPUTED["NumberOfSeriesRelatedInstances"],),
)
_BOUNDS: Final = Bounds(max_identifier_bytes=1024 * 1024, max_list_values=10_000)


@dataclass(frozen=True, slots=True)
class Study:
    """A study as one side tells of it; a count is None where it is not told."""

    uid: str
    date: str = ""
    modalities: str = ""
    series: int | None = None
    instances: int | None = None


class Reading(Protocol):
    """What is read of an index: the node's ``Catalog``, or one that nothing is written to."""

    def find(
        self, level: Level, conditions: Sequence[Condition], limit: int, stop: Stop
    ) -> array[int]:
        """Return the row ids of what satisfies all conditions."""

    def fetch(self, wanted: Wanted, ids: Sequence[int], stop: Stop) -> list[Row]:
        """Return the values of ``wanted`` for each of ``ids``."""

    def select_instances(
        self, unique_keys: Mapping[str, Sequence[str]], stop: Stop | None
    ) -> array[int]:
        """Return the row ids of the objects that have, of each key, one of the values."""

    def instance_rows(self, ids: Sequence[int]) -> list[InstanceRow]:
        """Return the rows of ``ids``."""


class OwnIndex:
    """Answers questions about what is held. All of them raise CatalogError."""

    def __init__(self, index: Reading) -> None:
        self._index = index

    def counts(self, study_instance_uids: Sequence[str]) -> dict[str, Study]:
        """Return what is held of each of some studies; those of which nothing is are left out."""
        found: dict[str, Study] = {}
        for uids in batches(study_instance_uids, _UIDS_AT_ONCE):
            among = _among("StudyInstanceUID", uids)
            # One UID may have come with several patients.
            ids = self._index.find(Level.STUDY, [among], _MOST_STUDIES, Stop())
            for study in self._studies(ids):
                found[study.uid] = _sum(found.get(study.uid), study)
        return found

    def studies(self, wish: Wish) -> Iterator[list[Study]]:
        """Yield the studies that are wanted, some at a time. Raises StatusError for bad keys."""
        keys = Keys()
        keys.set("QueryRetrieveLevel", Level.STUDY.value)
        for key in wish.query(wish.span):
            keys.add(key)
        encoded = keys.encoded(EXPLICIT_VR_LITTLE_ENDIAN)
        identifier = parse(encoded.data, encoded.transfer_syntax_uid, Root.STUDY, _BOUNDS)
        plan = make_plan(identifier, Asked(EXPLICIT_VR_LITTLE_ENDIAN, ""))
        conditions = [each for _, _, each in plan.conditions]
        ids = self._index.find(Level.STUDY, conditions, _MOST_STUDIES, Stop())
        for some in batches(ids, _ROWS_AT_ONCE):
            yield list(self._studies(some))

    def _studies(self, ids: Sequence[int]) -> Iterator[Study]:
        for some in batches(ids, _ROWS_AT_ONCE):
            for uid, date, modalities, series, instances in self._index.fetch(
                _STUDIES, some, Stop()
            ):
                yield Study(uid, date, modalities, series, instances)

    def series(self, study_instance_uid: str) -> dict[str, int]:
        """Return the series of a study, and how many objects each has."""
        among = _among("StudyInstanceUID", [study_instance_uid])
        ids = self._index.find(Level.SERIES, [among], _MOST_SERIES, Stop())
        counts: dict[str, int] = {}
        for some in batches(ids, _ROWS_AT_ONCE):
            for uid, count in self._index.fetch(_SERIES, some, Stop()):
                counts[uid] = counts.get(uid, 0) + count
        return counts

    def instances(self, study_instance_uid: str, series_instance_uid: str) -> list[str]:
        """Return the SOP Instance UIDs of a series."""
        keys = {
            "StudyInstanceUID": [study_instance_uid],
            "SeriesInstanceUID": [series_instance_uid],
        }
        return [row.sop_instance_uid for row in self._rows(keys)]

    def present(self, sop_instance_uids: Sequence[str]) -> dict[str, str]:
        """Return the SHA-256 of those objects that are held, by UID, wherever they belong."""
        found: dict[str, str] = {}
        for uids in batches(sop_instance_uids, _ROWS_AT_ONCE):
            found |= {row.sop_instance_uid: row.sha256 for row in self.rows(uids)}
        return found

    def rows(self, sop_instance_uids: Sequence[str]) -> list[InstanceRow]:
        """Return the rows of some objects; those that are gone are left out."""
        return list(self._rows({"SOPInstanceUID": sop_instance_uids}))

    def _rows(self, unique_keys: Mapping[str, Sequence[str]]) -> Iterator[InstanceRow]:
        for ids in batches(self._index.select_instances(unique_keys, None), _ROWS_AT_ONCE):
            yield from self._index.instance_rows(ids)


class Here:
    """The node's store, where objects come by a way of their own: a ``bringing.Place``."""

    def __init__(self, own: OwnIndex) -> None:
        self._own = own

    def digests(self, objects: Sequence[Held], *, verify: bool) -> dict[str, str]:
        """Return the SHA-256 of those of ``objects`` that are held; blocks. Raises CatalogError."""
        return self._own.present([held.sop_instance_uid for held in objects])

    async def begin(self, kinds: Iterable[Kind]) -> None:
        """Whatever comes is received as the node receives everything."""

    async def close(self) -> None:
        """Nothing has been opened."""


def _among(keyword: str, values: Sequence[str]) -> Condition:
    return condition(BY_KEYWORD[keyword], Texts(frozenset(values), (), multiple=False))


def _sum(one: Study | None, other: Study) -> Study:
    if one is None:
        return other
    return Study(
        other.uid,
        one.date or other.date,
        one.modalities or other.modalities,
        (one.series or 0) + (other.series or 0),
        (one.instances or 0) + (other.instances or 0),
    )
