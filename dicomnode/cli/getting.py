"""Retrieves what is missing here from a peer by C-GET, whatever breaks on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Protocol

from dicomnode.cli.associating import associated, refused, words
from dicomnode.cli.keys import Keys
from dicomnode.cli.peers import Called, Options
from dicomnode.cli.queries import syntax_for
from dicomnode.cli.tree import Brought, Held, Tree, takes_whole_series
from dicomnode.errors import AssociationError, AssociationRejected, StatusError
from dicomnode.scu.contexts import COMPRESSED, MAX_CONTEXTS, USUAL, Wanted, receiving
from dicomnode.scu.names import FIND, GET
from dicomnode.scu.proposals import Kind
from dicomnode.scu.receiving import ReceivedObject
from dicomnode.ul.items import RoleSelection

_MODEL: Final = "study"
_STORAGE_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
# UIDs in one request; some peers take no long lists.
_UIDS_AT_ONCE: Final = 200
_SORTED_AT_ONCE: Final = 1000
# Associations in a row that were lost before a single object came.
_MOST_LOSSES: Final = 5
_FIRST_PAUSE_SECONDS: Final = 0.5


class Place(Protocol):
    """Where objects are brought."""

    def digests(self, objects: Sequence[Held], *, verify: bool) -> dict[str, str]:
        """Return, for those of ``objects`` that are there, the SHA-256 of their data sets."""

    async def begin(self, kinds: Iterable[Kind]) -> None:
        """Be ready for objects of ``kinds``."""

    async def receive(self, held: Held, arriving: ReceivedObject) -> Brought:
        """Take an object. Raises StatusError."""

    async def close(self) -> None:
        """Nothing more comes."""


@dataclass
class Report:
    """What was retrieved and what was not."""

    found: int = 0
    there: int = 0
    received: int = 0
    verified: int = 0
    received_bytes: int = 0
    differ: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    missing: dict[str, str] = field(default_factory=dict)
    tells_digests: bool = False


class Getting:
    """Brings objects of ``called`` to ``place``; ``on_progress`` is called as they come."""

    def __init__(
        self,
        called: Called,
        options: Options,
        place: Place,
        *,
        verify: bool,
        on_progress: Callable[[Report], None],
    ) -> None:
        self._called = called
        self._options = options
        self._place = place
        self._verify = verify
        self._on_progress = on_progress
        self.report = Report()
        self._missing: dict[str, Held] = {}
        self._found_of: Counter[tuple[str, str]] = Counter()
        self._requested = ("", "")
        self._by_series = False

    async def get(self, wanted: Keys) -> Report:
        """Retrieve what ``wanted`` matches and is not there.

        Raises AssociationError, ContextNotAccepted, StatusError, Unreadable.
        """
        await self._look(wanted)
        try:
            for chunk in chunks(self._missing.values()):
                await self._get_chunk(chunk)
        finally:
            await self._place.close()
        for uid in self._missing:
            self.report.missing.setdefault(uid, "not sent")
        return self.report

    async def _look(self, wanted: Keys) -> None:
        """Find out what the peer has, and what of it is missing here."""
        async with associated(self._called, self._options, [FIND[_MODEL]]) as association:
            tree = Tree(association, self._options.response_seconds)
            self.report.tells_digests = tree.is_dicomnode
            self._by_series = takes_whole_series(wanted)
            found: list[Held] = []
            async for held in tree.objects(wanted):
                found.append(held)
                if len(found) == _SORTED_AT_ONCE:
                    await self._sort(found)
                    found = []
            await self._sort(found)

    async def _sort(self, found: Sequence[Held]) -> None:
        there = await asyncio.to_thread(self._place.digests, found, verify=self._verify)
        self.report.found += len(found)
        for held in found:
            self._found_of[_series(held)] += 1
            digest = there.get(held.sop_instance_uid)
            if digest is None:
                self._missing[held.sop_instance_uid] = held
                continue
            self.report.there += 1
            expected = held.is_expected(held.transfer_syntax_uid, digest) if self._verify else None
            self.report.verified += expected is True
            if expected is False:
                self.report.differ.append(held.sop_instance_uid)

    async def _get_chunk(self, chunk: Chunk) -> None:
        losses = 0
        while True:
            before = len(self._missing)
            try:
                await self._get_over_one(chunk)
            except AssociationRejected:
                raise
            except AssociationError as error:
                losses = losses + 1 if len(self._missing) == before else 1
                if losses > _MOST_LOSSES:
                    why = words(error, self._called)
                    self.report.missing |= dict.fromkeys(self._missing, why)
                    return
                await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2 ** (losses - 1))
            else:
                return

    async def _get_over_one(self, chunk: Chunk) -> None:
        contexts: list[Wanted] = [GET[_MODEL], *chunk.contexts]
        async with associated(
            self._called, self._options, contexts, roles=chunk.roles
        ) as association:
            await self._place.begin(
                (context.abstract_syntax, context.transfer_syntax)
                for context in association.negotiated.contexts.values()
                if context.as_scp
            )
            syntax = syntax_for(association, GET[_MODEL])
            for request in self._requests(chunk):
                getting = association.get(
                    request.encoded(syntax),
                    self._receive,
                    model=_MODEL,
                    response_seconds=self._options.response_seconds,
                )
                async with aclosing(getting):
                    answer = await getting.finished()
                if not answer.ok:
                    self.report.refusals[refused(answer, self._called)] += 1

    def _requests(self, chunk: Chunk) -> Iterator[Keys]:
        """Yield an identifier for each series that lacks all, or for each list of what it lacks."""
        for (study, series), group in groupby(chunk.objects, key=_series):
            lacking = [held.sop_instance_uid for held in group]
            lacking = [uid for uid in lacking if uid in self._missing]
            if not lacking:
                continue
            self._requested = study, series
            keys = Keys()
            keys.set("StudyInstanceUID", study)
            keys.set("SeriesInstanceUID", series)
            if self._by_series and len(lacking) == self._found_of[study, series]:
                keys.set("QueryRetrieveLevel", "SERIES")
                yield keys
                continue
            keys.set("QueryRetrieveLevel", "IMAGE")
            for start in range(0, len(lacking), _UIDS_AT_ONCE):
                keys.set("SOPInstanceUID", "\\".join(lacking[start : start + _UIDS_AT_ONCE]))
                yield keys

    async def _receive(self, arriving: ReceivedObject) -> None:
        uid = arriving.sop_instance_uid
        # What has come to the peer since it was asked belongs to the series too.
        held = self._missing.get(uid) or Held(*self._requested, uid, "", "", "")
        try:
            brought = await self._place.receive(held, arriving)
        except StatusError as error:
            self.report.missing[uid] = error.comment
            raise
        self._missing.pop(uid, None)
        self.report.missing.pop(uid, None)
        self.report.received += 1
        self.report.received_bytes += brought.size
        self.report.verified += brought.is_expected is True
        self._on_progress(self.report)


def _series(held: Held) -> tuple[str, str]:
    return held.study_instance_uid, held.series_instance_uid


@dataclass(frozen=True, slots=True)
class Chunk:
    """Objects that one association can bring, series by series, and its contexts."""

    objects: tuple[Held, ...]
    contexts: tuple[Wanted, ...]
    roles: tuple[RoleSelection, ...]


def chunks(objects: Iterable[Held]) -> list[Chunk]:
    """Distribute objects over as few associations as their SOP classes need."""
    by_class: dict[str, list[Held]] = {}
    for held in objects:
        by_class.setdefault(held.sop_class_uid, []).append(held)
    found: list[tuple[list[Held], list[Wanted], list[RoleSelection]]] = []
    for sop_class_uid, members in by_class.items():
        contexts, roles = _contexts(sop_class_uid, members)
        # One is for C-GET itself.
        if not found or len(found[-1][1]) + len(contexts) > MAX_CONTEXTS - 1:
            found.append(([], [], []))
        found[-1][0].extend(members)
        found[-1][1].extend(contexts)
        found[-1][2].extend(roles)
    return [
        Chunk(tuple(sorted(members, key=_series)), tuple(contexts), tuple(roles))
        for members, contexts, roles in found
    ]


def _contexts(
    sop_class_uid: str, members: Iterable[Held]
) -> tuple[list[Wanted], list[RoleSelection]]:
    if not sop_class_uid:
        return receiving([(uid, (*USUAL, *COMPRESSED)) for uid in _storage_classes()])
    syntaxes = sorted({held.transfer_syntax_uid for held in members})
    if not all(syntaxes):
        return receiving([sop_class_uid])
    # One for each, so that what is held comes as it is (PS3.8 §9.3.3.2); one to fall back on.
    exact: list[Wanted] = [(sop_class_uid, (syntax,)) for syntax in syntaxes[: MAX_CONTEXTS // 2]]
    return receiving([*exact, (sop_class_uid, USUAL)])


def _storage_classes() -> list[str]:
    """Return the storage SOP classes, for peers that do not tell of which their objects are."""
    from pydicom._uid_dict import UID_dictionary

    storage = [
        uid
        for uid, (name, kind, _, retired, _) in UID_dictionary.items()
        if uid.startswith(_STORAGE_ROOT)
        and kind == "SOP Class"
        and not retired
        and name.endswith("Storage")
    ]
    return storage[: MAX_CONTEXTS - 1]
