"""One custody record: what happened to an object, and the hash that chains it to the one before.

A record shown alone proves its own content against its hash; records that follow one another prove
their order as well, as each names the hash of the one before. Needs neither index nor network.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from dicomnode.storage.paths import valid_uid

NOTHING_BEFORE: Final = "0" * 64
"""What the first record of a chain names as the hash before it."""

# Bounds of what is read from elsewhere; records of ours stay far below them.
_MAX_SEQUENCE: Final = 2**63 - 1
_MAX_DETAILS: Final = 64
_MAX_CHARACTERS: Final = 4096
_KEYS: Final = frozenset(
    {
        "sequence",
        "at",
        "event",
        "study_instance_uid",
        "sop_instance_uid",
        "details",
        "previous",
        "hash",
    }
)
_AT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_DETAIL: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

_encode: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode

Detail = str | int


class Event(StrEnum):
    """What can happen to an object.

    RECEIVED: stored and indexed, from the network. RECEIVED_AGAIN: the same bytes came once more.
    REPLACED: other bytes took the place of those held. QUARANTINED: it was kept aside and is not in
    the archive. ENTERED: indexed from a stored file of which nothing was recorded. FORWARDED: a
    destination has it. RETRIEVED: handed out by C-GET or C-MOVE. COMMITTED: somebody has answered
    for its keeping. EXPORTED: written to files. VERIFIED: compared with its digest. DAMAGED,
    MISSING, UNREADABLE, WHOLE_AGAIN: what was found as its file was read again. DELETED: removed.
    """

    RECEIVED = "received"
    RECEIVED_AGAIN = "received_again"
    REPLACED = "replaced"
    QUARANTINED = "quarantined"
    ENTERED = "entered"
    FORWARDED = "forwarded"
    RETRIEVED = "retrieved"
    COMMITTED = "committed"
    EXPORTED = "exported"
    VERIFIED = "verified"
    DAMAGED = "damaged"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    WHOLE_AGAIN = "whole_again"
    DELETED = "deleted"


def now() -> str:
    """Return the time as records have it: ISO 8601 in UTC, with microseconds and "Z"."""
    return datetime.now(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


@dataclass(frozen=True, slots=True)
class Happening:
    """What is to be recorded: a record before it has its place in the chain.

    ``sop_instance_uid`` is "" for what happened to a study as a whole; names of ``details`` are
    such as ``calling_ae_title`` (lower case, digits, underscores).
    """

    event: Event
    study_instance_uid: str
    sop_instance_uid: str
    details: Mapping[str, Detail] = field(default_factory=dict)
    at: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class CustodyRecord:
    """One link of the chain; ``previous`` and ``hash`` are hex, ``at`` is as ``now`` says it.

    ``sequence`` counts 1, 2, 3 without a gap over all objects of a node.
    """

    sequence: int
    at: str
    event: Event
    study_instance_uid: str
    sop_instance_uid: str
    details: Mapping[str, Detail]
    previous: str
    hash: str

    def digest(self) -> str:
        """Return the hash that the content makes, which ``hash`` should be."""
        return hash_of(
            self.sequence,
            self.at,
            self.event,
            self.study_instance_uid,
            self.sop_instance_uid,
            details_text(self.details),
            self.previous,
        ).hex()

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON value; ``from_json`` reads it."""
        return {
            "sequence": self.sequence,
            "at": self.at,
            "event": self.event.value,
            "study_instance_uid": self.study_instance_uid,
            "sop_instance_uid": self.sop_instance_uid,
            "details": dict(self.details),
            "previous": self.previous,
            "hash": self.hash,
        }

    @classmethod
    def from_json(cls, value: object) -> CustodyRecord:
        """Read a record of unknown origin; raises ValueError, which says what is wrong.

        Nothing is believed but its shape: ``faults`` looks at the hashes.
        """
        if not isinstance(value, dict) or value.keys() != _KEYS:
            raise ValueError(f"a custody record has exactly the keys {', '.join(sorted(_KEYS))}")
        sequence = value["sequence"]
        if not _is_integer(sequence) or not 0 < sequence <= _MAX_SEQUENCE:
            raise ValueError("sequence must be an integer from 1 on")
        _match(_AT, "at", value["at"], "a UTC time such as 2026-01-31T12:00:00.000000Z")
        for name in ("previous", "hash"):
            _match(_HASH, name, value[name], "64 hexadecimal digits in lower case")
        study, instance = value["study_instance_uid"], value["sop_instance_uid"]
        if not isinstance(study, str) or not valid_uid(study):
            raise ValueError("study_instance_uid must be a UID")
        if not isinstance(instance, str) or (instance and not valid_uid(instance)):
            raise ValueError("sop_instance_uid must be a UID, or empty")
        try:
            event = Event(value["event"])
        except ValueError:
            raise ValueError("event is none that this program knows") from None
        return cls(
            sequence,
            value["at"],
            event,
            study,
            instance,
            checked_details(value["details"]),
            value["previous"],
            value["hash"],
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the record ``sequence``, or what is missing before it, in ``words``."""

    sequence: int
    words: str


def faults(records: Iterable[CustodyRecord]) -> Iterator[Fault]:
    """Yield what is wrong with records that are in order, but may not be all of a chain."""
    before: CustodyRecord | None = None
    for record in records:
        if record.digest() != record.hash:
            yield Fault(record.sequence, "its content is not what its hash says")
        if before is not None and record.sequence <= before.sequence:
            yield Fault(record.sequence, f"it follows record {before.sequence}")
        elif before is not None and record.sequence == before.sequence + 1:
            if record.previous != before.hash:
                yield Fault(record.sequence, "the record before it is not the one that it names")
        elif record.sequence == 1 and record.previous != NOTHING_BEFORE:
            yield Fault(1, "it is the first, but names one before it")
        before = record


def hash_of(
    sequence: int,
    at: str,
    event: str,
    study_instance_uid: str,
    sop_instance_uid: str,
    details: str,
    previous: str,
) -> bytes:
    """Return the SHA-256 of a record's canonical JSON: all but its hash, with sorted keys.

    ``details`` is text as ``details_text`` makes it. UTF-8, no blanks, nothing escaped that need
    not be.
    """
    return hashlib.sha256(
        f'{{"at":{_encode(at)},"details":{details},"event":{_encode(event)}'
        f',"previous":{_encode(previous)},"sequence":{sequence}'
        f',"sop_instance_uid":{_encode(sop_instance_uid)}'
        f',"study_instance_uid":{_encode(study_instance_uid)}}}'.encode()
    ).digest()


def details_text(details: Mapping[str, Detail]) -> str:
    """Return details as canonical JSON; what is no Unicode text becomes question marks.

    A text is cut where it is longer than ``checked_details`` takes: some come from peers.
    """
    text = _encode(dict(details))
    if len(text) > _MAX_CHARACTERS:
        text = _encode(
            {
                name: value[:_MAX_CHARACTERS] if isinstance(value, str) else value
                for name, value in details.items()
            }
        )
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def checked_details(value: object) -> dict[str, Detail]:
    """Return details of unknown origin; raises ValueError, which says what is wrong."""
    if not isinstance(value, dict) or len(value) > _MAX_DETAILS:
        raise ValueError(f"details must be an object with at most {_MAX_DETAILS} members")
    for name, detail in value.items():
        if not _DETAIL.fullmatch(name):
            raise ValueError("names of details have lower case letters, digits and underscores")
        if _is_integer(detail):
            if abs(detail) > _MAX_SEQUENCE:
                raise ValueError(f"the detail {name} is too large")
        elif not isinstance(detail, str) or not _is_text(detail):
            raise ValueError(
                f"the detail {name} must be an integer or a text of at most {_MAX_CHARACTERS}"
                " characters"
            )
    return value


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: str) -> bool:
    if len(value) > _MAX_CHARACTERS:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _match(pattern: re.Pattern[str], name: str, value: object, words: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{name} must be {words}")
