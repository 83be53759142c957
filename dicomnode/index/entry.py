"""What goes into the index and comes out of it, as values."""

from __future__ import annotations

import json
import operator
from dataclasses import dataclass
from typing import NamedTuple

from dicomnode.index.backend import Value
from dicomnode.index.keys import ITEM_KEYS, Key
from dicomnode.index.names import fold, groups
from dicomnode.storage.header import Header

# Longer values are clipped in the index; the file has them whole. An LT may have 10,240
# characters (PS3.5 Table 6.2-1).
_MAX_CHARACTERS = 1024
_MAX_CHARACTERS_LT = 10_240


@dataclass(frozen=True, slots=True)
class InstanceEntry:
    """One object for the index.

    ``path`` is relative to the storage directory, ``size_bytes`` counts the whole file,
    ``data_set_bytes`` and ``sha256`` (hex) the data set alone; ``file_sha256`` (hex) is of the
    whole file. ``received_at`` is in seconds since 1970 UTC. The keys are taken from ``header``
    when they are needed: most objects belong to a series that is known.
    """

    header: Header
    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    path: str
    size_bytes: int
    data_set_bytes: int
    sha256: str
    file_sha256: str
    source_ae: str
    received_at: float

    @classmethod
    def from_header(
        cls,
        header: Header,
        *,
        transfer_syntax_uid: str,
        path: str,
        size_bytes: int,
        data_set_bytes: int,
        sha256: str,
        file_sha256: str,
        source_ae: str,
        received_at: float,
    ) -> InstanceEntry:
        """Return the entry of an object whose header has been read; its UIDs are the header's."""
        return cls(
            header,
            header.sop_instance_uid,
            header.sop_class_uid,
            header.study_instance_uid,
            header.series_instance_uid,
            transfer_syntax_uid,
            path,
            size_bytes,
            data_set_bytes,
            sha256,
            file_sha256,
            source_ae,
            received_at,
        )


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One object as the index holds it; units as in ``InstanceEntry``."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    path: str
    size_bytes: int
    data_set_bytes: int
    sha256: str
    file_sha256: str
    source_ae: str
    received_at: float


@dataclass(frozen=True, slots=True)
class Added:
    """The object is in the index, durably; ``replaced`` is the row that gave way to it."""

    replaced: InstanceRow | None = None


@dataclass(frozen=True, slots=True)
class AlreadyHeld:
    """The SOP Instance UID was in the index, which has not changed; ``row`` is what it holds."""

    row: InstanceRow


AddOutcome = Added | AlreadyHeld


class Counts(NamedTuple):
    """How much the index holds; ``bytes`` sums the sizes of the files.

    ``unsettled`` are those of ``instances`` whose files the index keeps as well.
    """

    patients: int = 0
    studies: int = 0
    series: int = 0
    instances: int = 0
    bytes: int = 0
    identity_conflicts: int = 0
    unsettled: int = 0
    unsettled_bytes: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sums of both."""
        return Counts(*map(operator.add, self, other))

    def minus(self, other: Counts) -> Counts:
        """Return the differences."""
        return Counts(*map(operator.sub, self, other))


NOTHING = Counts()


@dataclass(frozen=True, slots=True)
class IdentityConflict:
    """One Patient ID came with two different names and birth dates.

    The study and the object are the ones that brought the other identity.
    """

    patient_id: str
    issuer_of_patient_id: str
    held_name: str
    held_birth_date: str
    other_name: str
    other_birth_date: str
    study_instance_uid: str
    sop_instance_uid: str
    source_ae: str
    noticed_at: float


def key_values(header: Header, keys: tuple[Key, ...]) -> list[Value]:
    """Return the values of ``keys`` in their order, each name followed by its folded forms."""
    values: list[Value] = []
    raw = header.values
    for key in keys:
        if key.vr in ("IS", "US"):
            values.append(header.integer(key.tag, key.vr) if key.tag in raw else None)
            continue
        text = _text(header, key) if key.tag in raw else ""
        values.append(text)
        if key.vr == "PN":
            folded = fold(text)
            values.extend((folded,) if key.multiple else groups(folded))
    return values


def _text(header: Header, key: Key) -> str:
    if key.vr == "SQ":
        return _flat(header, key.tag)
    if key.vr == "UI":
        return header.uid(key.tag)
    text = header.text(key.tag, key.vr)
    text = text[: _MAX_CHARACTERS_LT if key.vr == "LT" else _MAX_CHARACTERS]
    # The ACR-NEMA spellings, still met (PS3.5 Table 6.2-1, DA and TM).
    if key.vr == "DA":
        return text.replace(".", "")
    if key.vr == "TM":
        return text.replace(":", "")
    return text


def _flat(header: Header, tag: int) -> str:
    """Return the items of a sequence as a JSON array of objects by keyword, "" for none."""
    items = [
        {
            keyword: text
            for item_tag, keyword, vr in ITEM_KEYS[tag]
            if (text := item.text(item_tag, vr)[:_MAX_CHARACTERS])
        }
        for item in header.items(tag)
    ]
    return json.dumps(items, ensure_ascii=False) if any(items) else ""
