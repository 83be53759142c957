"""Queries of the archive: the information models of Query/Retrieve (PS3.4 §C.6), from the index.

Attributes that only objects have, asked for at the IMAGE level, are read from their files.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from dicomnode.index.catalog import Catalog
from dicomnode.index.keys import Level
from dicomnode.index.reading import Stop
from dicomnode.registry import Registry
from dicomnode.services.answers import Further
from dicomnode.services.attributes import read_attributes
from dicomnode.services.dispatch import Operation
from dicomnode.services.identifier import Bounds, Identifier, parse
from dicomnode.services.outcomes import Finding
from dicomnode.services.query import Search, Turn
from dicomnode.services.query_plan import Asked, Plan, make_plan
from dicomnode.services.sop_classes import QUERY_RETRIEVE, extended_answer
from dicomnode.storage.files import FileStore

_BATCH: Final = 128
# Files are read for these matches: a batch of them takes longer.
_BATCH_WITH_FILES: Final = 16
_STORED_VALUES: Final = 5
# After an empty answer this many keys are looked into.
_EXPLAINED_KEYS: Final = 8


class Archive:
    """The source of answers to Query/Retrieve queries."""

    def __init__(
        self,
        catalog: Catalog,
        files: FileStore,
        ae_title: str,
        bounds: Bounds,
        registry: Callable[[], Registry],
    ) -> None:
        self.catalog = catalog
        self.files = files
        self._ae_title = ae_title
        self._bounds = bounds
        self._registry = registry

    def serves(self, sop_class_uid: str) -> bool:
        """Tell whether the SOP class is one of Query/Retrieve - FIND."""
        service = QUERY_RETRIEVE.get(sop_class_uid)
        return service is not None and service[0] == "find"

    def asked(self, operation: Operation) -> Callable[[bytes], Search]:
        """Return what reads the identifier; that raises StatusError."""
        channel, context = operation.channel, operation.context
        sop_class = context.abstract_syntax
        proposed = channel.negotiated.extended.get(sop_class, b"")
        relational, combined, *_ = *(extended_answer(sop_class, proposed) or b""), 0, 0
        asked = Asked(
            transfer_syntax_uid=context.transfer_syntax,
            retrieve_ae_title=self._ae_title,
            relational=bool(relational),
            combined=bool(combined),
            character_set=self._registry().character_set(channel.calling_ae_title),
        )
        root = QUERY_RETRIEVE[sop_class][1]

        def read(data: bytes) -> Search:
            identifier = parse(data, asked.transfer_syntax_uid, root, self._bounds)
            return ArchiveSearch(self, identifier, asked)

        return read


class ArchiveSearch:
    """One query of the archive."""

    def __init__(self, archive: Archive, identifier: Identifier, asked: Asked) -> None:
        self._archive = archive
        self._identifier = identifier
        self._asked = asked
        self._plan: Plan | None = None

    @property
    def level(self) -> str:
        """The Query/Retrieve Level."""
        return self._identifier.level

    @property
    def keys(self) -> tuple[str, ...]:
        """The keywords that are matched on."""
        return tuple(keyword for keyword, _, _ in self._plan.conditions) if self._plan else ()

    @property
    def unsupported(self) -> tuple[int, ...]:
        """The tags that are not answered, or not matched."""
        return self._plan.unsupported if self._plan else ()

    @property
    def batch(self) -> int:
        """How many matches are fetched together."""
        return _BATCH_WITH_FILES if self._plan and self._plan.file_tags else _BATCH

    def find(self, limit: int, stop: Stop, turn: Turn) -> array[int]:
        """Work out what is asked for, and return the row ids of matches."""
        plan = self._plan = make_plan(self._identifier, self._asked)
        conditions = [condition for _, _, condition in plan.conditions]
        return self._archive.catalog.find(plan.level, conditions, limit, stop)

    def encoded(self, ids: Sequence[int], stop: Stop, turn: Turn) -> list[bytes]:
        """Return the identifiers of matches."""
        plan = self._plan
        assert plan is not None
        encode = plan.layout.encode
        with turn():
            rows = self._archive.catalog.fetch(plan.wanted, ids, stop)
            if not plan.wanted.stored:
                return [encode(row) for row in rows]
        answers = []
        for row in rows:
            stop.check()
            answers.append(
                encode(row[:-_STORED_VALUES], self._further(plan, row[-_STORED_VALUES:]))
            )
        return answers

    def _further(self, plan: Plan, stored: Sequence[str | int]) -> list[Further]:
        """Return the elements that come from the file, and those of our private block."""
        elements = plan.layout.elements
        further: list[Further] = []
        if plan.file_tags:
            path = str(stored[0])
            further = read_attributes(self._archive.files, path, plan.file_tags, elements)
        for tag, vr, place in plan.private:
            written = elements.element(tag, vr, str(stored[place]).encode())
            further.append((tag, partial(_constant, written)))
        return further

    def explained(self, stop: Stop) -> tuple[Finding, ...]:
        """Say which keys match nothing, each for itself."""
        plan = self._plan
        if plan is None or not plan.conditions:
            return ()
        find = self._archive.catalog.find
        findings = tuple(
            _nothing_has(plan.level, keyword, value)
            for keyword, value, condition in plan.conditions[:_EXPLAINED_KEYS]
            if not find(plan.level, [condition], 1, stop)
        )
        if findings or len(plan.conditions) > _EXPLAINED_KEYS:
            return findings
        return (Finding(f"each key matches some {plan.level}, but none matches all of them"),)


def _nothing_has(level: Level, keyword: str, value: str) -> Finding:
    """Say that a key matches nothing; a UID is no patient data."""
    if keyword.endswith("UID") and "\\" not in value:
        return Finding(f"no {level} has this {keyword} {value}")
    return Finding(f"no {level} has this {keyword}", value)


def _constant(written: bytes, encodings: tuple[str, ...]) -> bytes:
    return written
