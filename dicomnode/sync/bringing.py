"""Has a peer hand over objects that are known, by C-GET or C-MOVE, whatever breaks on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Protocol

from dicomnode.errors import AssociationError, AssociationRejected, StatusError
from dicomnode.scu.answers import Encoded, Progress
from dicomnode.scu.association import Association
from dicomnode.scu.contexts import COMPRESSED, MAX_CONTEXTS, USUAL, Wanted, receiving
from dicomnode.scu.keys import Keys
from dicomnode.scu.names import GET, MOVE
from dicomnode.scu.operations import Responses
from dicomnode.scu.proposals import Kind
from dicomnode.scu.receiving import ReceivedObject
from dicomnode.sync.source import Source, refused
from dicomnode.sync.tree import Brought, Held
from dicomnode.ul.items import RoleSelection

_MODEL: Final = "study"
_STORAGE_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
# UIDs in one request; some peers take no long lists.
_UIDS_AT_ONCE: Final = 200
# Associations in a row that were lost before a single object came.
MOST_LOSSES: Final = 5
FIRST_PAUSE_SECONDS: Final = 0.5

Series = tuple[str, str]


class Place(Protocol):
    """Where objects are brought."""

    def digests(self, objects: Sequence[Held], *, verify: bool) -> dict[str, str]:
        """Return, for those of ``objects`` that are there, the SHA-256 of their data sets."""

    async def begin(self, kinds: Iterable[Kind]) -> None:
        """Be ready for objects of ``kinds``."""

    async def close(self) -> None:
        """Nothing more comes."""


# Takes an object as it arrives; raises StatusError.
Take = Callable[[Held, ReceivedObject], Awaitable[Brought]]


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


class Bringing:
    """Brings objects of ``source`` to ``place``; ``on_progress`` is called as they come.

    With ``take`` that takes them off the association of a C-GET; without, they come to ``place``
    by a way of their own, which then says what is there. ``move_to`` is the AE title that they
    are sent to by C-MOVE; without one they come by C-GET.
    """

    def __init__(
        self,
        source: Source,
        place: Place,
        report: Report,
        *,
        on_progress: Callable[[Report], None],
        take: Take | None = None,
        move_to: str = "",
        by_series: bool = True,
    ) -> None:
        self._source = source
        self._place = place
        self._report = report
        self._on_progress = on_progress
        self._take = take
        self._move_to = move_to
        self._by_series = by_series
        self._missing: dict[str, Held] = {}
        self._found_of: Mapping[Series, int] = {}
        self._requested = ("", "")

    async def bring(self, missing: dict[str, Held], found_of: Mapping[Series, int]) -> None:
        """Bring ``missing``, by SOP Instance UID; what has come is taken out of it.

        ``found_of`` is how many objects each series has. Raises AssociationError when the peer
        cannot be had, ContextNotAccepted, Unreadable, and what ``place`` raises.
        """
        self._missing, self._found_of = missing, found_of
        for chunk in [Chunk(_sorted(missing.values()))] if self._move_to else chunks(missing):
            await self._bring_chunk(chunk)
        for uid in missing:
            self._report.missing.setdefault(uid, "not sent")

    async def _bring_chunk(self, chunk: Chunk) -> None:
        losses = 0
        while True:
            before = len(self._missing)
            try:
                await self._bring_over_one(chunk)
            except AssociationRejected:
                raise
            except AssociationError as error:
                losses = losses + 1 if len(self._missing) == before else 1
                if losses > MOST_LOSSES:
                    why = self._source.words(error)
                    self._report.missing |= dict.fromkeys(self._missing, why)
                    return
                await asyncio.sleep(FIRST_PAUSE_SECONDS * 2 ** (losses - 1))
            else:
                return

    async def _bring_over_one(self, chunk: Chunk) -> None:
        service = (MOVE if self._move_to else GET)[_MODEL]
        async with self._source.associated(
            [service, *chunk.contexts], roles=chunk.roles
        ) as association:
            await self._place.begin(
                (context.abstract_syntax, context.transfer_syntax)
                for context in association.negotiated.contexts.values()
                if context.as_scp
            )
            syntax = association.syntax_for(service)
            for wanted, request in self._requests(chunk):
                try:
                    await self._request(association, request.encoded(syntax))
                except AssociationError:
                    await self._look_for(wanted)
                    raise
                await self._look_for(wanted)

    async def _request(self, association: Association, identifier: Encoded) -> None:
        course: Responses[Progress]
        if self._move_to:
            seconds = self._source.move_seconds
            course = association.move(
                identifier, self._move_to, model=_MODEL, response_seconds=seconds
            )
        else:
            course = association.get(
                identifier,
                self._receive if self._take is not None else None,
                model=_MODEL,
                response_seconds=self._source.response_seconds,
            )
        async with aclosing(course):
            answer = await course.finished()
        if not answer.ok:
            self._report.refusals[refused(answer, self._source.title)] += 1

    def _requests(self, chunk: Chunk) -> Iterator[tuple[list[Held], Keys]]:
        """Yield an identifier for each series that lacks all, or for each list of what it lacks."""
        for (study, series), group in groupby(chunk.objects, key=_series):
            lacking = [held for held in group if held.sop_instance_uid in self._missing]
            if not lacking:
                continue
            self._requested = study, series
            keys = Keys()
            keys.set("StudyInstanceUID", study)
            keys.set("SeriesInstanceUID", series)
            if self._by_series and len(lacking) == self._found_of.get((study, series)):
                keys.set("QueryRetrieveLevel", "SERIES")
                yield lacking, keys
                continue
            keys.set("QueryRetrieveLevel", "IMAGE")
            for start in range(0, len(lacking), _UIDS_AT_ONCE):
                asked = lacking[start : start + _UIDS_AT_ONCE]
                keys.set("SOPInstanceUID", "\\".join(held.sop_instance_uid for held in asked))
                yield asked, keys

    async def _receive(self, arriving: ReceivedObject) -> None:
        assert self._take is not None
        uid = arriving.sop_instance_uid
        # What has come to the peer since it was asked belongs to the series too.
        held = self._missing.get(uid) or Held(*self._requested, uid, "", "", "")
        try:
            brought = await self._take(held, arriving)
        except StatusError as error:
            self._report.missing[uid] = error.comment
            raise
        self._has_come(uid)
        self._report.received_bytes += brought.size
        self._report.verified += brought.is_expected is True
        self._on_progress(self._report)

    async def _look_for(self, wanted: Sequence[Held]) -> None:
        """Find out what of ``wanted`` has come by its own way, unless it was taken here."""
        if self._take is not None:
            return
        there = await asyncio.to_thread(self._place.digests, wanted, verify=False)
        for uid in there:
            self._has_come(uid)
        self._on_progress(self._report)

    def _has_come(self, uid: str) -> None:
        self._missing.pop(uid, None)
        self._report.missing.pop(uid, None)
        self._report.received += 1


def _series(held: Held) -> Series:
    return held.study_instance_uid, held.series_instance_uid


def _sorted(objects: Iterable[Held]) -> tuple[Held, ...]:
    return tuple(sorted(objects, key=_series))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Objects that one association can bring, series by series, and its contexts."""

    objects: tuple[Held, ...]
    contexts: tuple[Wanted, ...] = ()
    roles: tuple[RoleSelection, ...] = ()


def chunks(objects: Mapping[str, Held]) -> list[Chunk]:
    """Distribute objects over as few associations as their SOP classes need."""
    by_class: dict[str, list[Held]] = {}
    for held in objects.values():
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
        Chunk(_sorted(members), tuple(contexts), tuple(roles)) for members, contexts, roles in found
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
