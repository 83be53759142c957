"""The objects that a peer has, found level by level (PS3.4 §C.6), so that every SCP understands."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from dicomnode import IMPLEMENTATION_CLASS_UID
from dicomnode.errors import Unreadable, UnreadableAttributes
from dicomnode.index.keys import BY_KEYWORD, Level
from dicomnode.scu.association import Association
from dicomnode.scu.keys import UNIQUE_KEYS, Keys, name_of, texts_at
from dicomnode.scu.names import FIND
from dicomnode.storage.encoding import DEFLATED
from dicomnode.storage.json_model import Attributes, decode_attributes
from dicomnode.storage.paths import valid_uid

_MODEL: Final = "study"
# What a dicomnode tells of an object: see "Checking what was retrieved" in docs/operating.md.
_PRIVATE: Final = ("0099,0010=DICOMNODE", "0099,1001", "0099,1003")
_SHA_256, _TRANSFER_SYNTAX = (0x0099_1001,), (0x0099_1003,)
# Of one query: of the studies that match, of the series of one, of the objects of one series.
MOST_MATCHES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Held:
    """An object that the peer has; what it does not tell is ""."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    sha256: str

    def is_expected(self, transfer_syntax_uid: str, sha256: str) -> bool | None:
        """Tell whether bytes are those that the peer holds; None where that cannot be told.

        It cannot of a converted object, nor of a deflated one, which gets the null that it may
        lack when it is sent (PS3.5 §A.5).
        """
        if not self.sha256 or transfer_syntax_uid != self.transfer_syntax_uid:
            return None
        return True if sha256 == self.sha256 else None if transfer_syntax_uid == DEFLATED else False


@dataclass(frozen=True, slots=True)
class Brought:
    """An object that was received: bytes of its data set, and ``Held.is_expected`` of them."""

    size: int
    is_expected: bool | None


class TooManyMatches(Unreadable):
    """A query has more matches than are taken."""


class Tree:
    """Queries ``association``, which has a context for C-FIND in Study Root."""

    def __init__(self, association: Association, response_seconds: float) -> None:
        self._association = association
        self._seconds = response_seconds
        self._syntax = association.syntax_for(FIND[_MODEL])
        implementation = association.negotiated.peer_implementation_class_uid
        self.is_dicomnode = implementation == IMPLEMENTATION_CLASS_UID

    async def objects(self, wanted: Keys) -> AsyncIterator[Held]:
        """Yield the objects that ``wanted`` matches, study by study.

        Its keys may be of any level. Raises StatusError when a query fails, Unreadable for
        answers that cannot be read or lack the UIDs that they must have.
        """
        by_level = _by_level(wanted)
        for study in await self._uids(Level.STUDY, by_level, []):
            above = [f"StudyInstanceUID={study}"]
            for series in await self._uids(Level.SERIES, by_level, above):
                within = [*above, f"SeriesInstanceUID={series}"]
                for held in await self._instances(study, series, by_level, within):
                    yield held

    async def _uids(
        self, level: Level, by_level: dict[Level, list[str]], above: list[str]
    ) -> list[str]:
        unique = UNIQUE_KEYS[level.value]
        match by_level[level]:
            case [key] if key.startswith(f"{unique}=") and not set("*?") & set(key):
                # UIDs that are known need no query.
                uids = key.partition("=")[2].split("\\")
                if wrong := [uid for uid in uids if not valid_uid(uid)]:
                    raise Unreadable(f"{unique}: {wrong[0]!r} is no UID")
                return uids
        query = self.matches(level, [unique, *above, *by_level[level]])
        async with aclosing(query) as matches:
            return [_uid(match, unique) async for match in matches]

    async def _instances(
        self, study: str, series: str, by_level: dict[Level, list[str]], within: list[str]
    ) -> list[Held]:
        keys = [*self.instance_keys, *within, *by_level[Level.INSTANCE]]
        query = self.matches(Level.INSTANCE, keys)
        async with aclosing(query) as matches:
            return [
                held_of(match, study, series, _uid(match, "SOPInstanceUID"))
                async for match in matches
            ]

    @property
    def instance_keys(self) -> tuple[str, ...]:
        """What is asked of each object."""
        return ("SOPInstanceUID", "SOPClassUID", *(_PRIVATE if self.is_dicomnode else ()))

    async def matches(
        self, level: Level, keys: Iterable[str], most: int = MOST_MATCHES
    ) -> AsyncGenerator[Attributes, None]:
        """Yield what a query answers with, as it comes; what cannot be read is yielded empty.

        Raises StatusError when it fails, Unreadable when there are more than ``most``.
        """
        query = Keys()
        query.set("QueryRetrieveLevel", level.value)
        for key in keys:
            query.add(key)
        matches = self._association.find_encoded(
            query.encoded(self._syntax), model=_MODEL, response_seconds=self._seconds
        )
        count = 0
        async with aclosing(matches):
            async for match in matches:
                if (count := count + 1) > most:
                    raise TooManyMatches(f"more than {most} matches of one query")
                try:
                    yield decode_attributes(match.data, match.transfer_syntax_uid)
                except UnreadableAttributes:
                    yield {}
        assert matches.answer is not None
        matches.answer.raise_for_status()


def takes_whole_series(wanted: Keys) -> bool:
    """Tell whether ``wanted`` matches each object of a series of which it matches one."""
    return not _by_level(wanted)[Level.INSTANCE]


def _by_level(wanted: Keys) -> dict[Level, list[str]]:
    """Return the keys with a value as they are written, by the level that they belong to."""
    found: dict[Level, list[str]] = {level: [] for level in Level}
    levels = {key.tag: key.level for key in BY_KEYWORD.values()}
    for path in wanted.paths:
        name, text = name_of(path[0]), wanted.text(path)
        if len(path) == 1 and text and name != "QueryRetrieveLevel":
            level = levels.get(path[0], Level.STUDY)
            found[Level.STUDY if level is Level.PATIENT else level].append(f"{name}={text}")
    return found


def held_of(match: Attributes, study: str, series: str, sop_instance_uid: str) -> Held:
    """Return the object that a match tells of."""
    return Held(
        study,
        series,
        sop_instance_uid,
        uid_in(match, "SOPClassUID"),
        _uid_or_none(text_in(match, _TRANSFER_SYNTAX)),
        text_in(match, _SHA_256).lower(),
    )


def uid_in(match: Attributes, keyword: str) -> str:
    """Return a UID of a match; "" where it has none, or has one that is no UID."""
    return _uid_or_none(text_in(match, (BY_KEYWORD[keyword].tag,)))


def _uid_or_none(text: str) -> str:
    return text if valid_uid(text) else ""


def _uid(match: Attributes, keyword: str) -> str:
    uid = uid_in(match, keyword)
    if not uid:
        raise Unreadable(f"a match without {keyword}, or with one that is no UID")
    return uid


def text_in(match: Attributes, path: tuple[int, ...]) -> str:
    """Return the value of an attribute of a match, "" for none."""
    return next(texts_at(match, path), "").strip()
