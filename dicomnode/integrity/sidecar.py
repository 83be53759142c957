"""The sidecar beside an exported file: its digest, and what is recorded of the object.

A sidecar stands alone: with it, the file can be checked anywhere. It is canonical JSON and ends
with a digest of itself, so that no byte of it can be changed unnoticed, a blank or an escape
neither.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dicomnode.integrity import canonical
from dicomnode.integrity.findings import Differs, Kind
from dicomnode.integrity.record import CustodyRecord, Event, faults

# As many records as an object that is handed out every hour for years has.
MAX_BYTES: Final = 64 * 1024 * 1024
_VERSION: Final = 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_CONTENTS: Final = frozenset((Event.RECEIVED, Event.REPLACED, Event.ENTERED))
_KEYS: Final = frozenset(
    ("dicomnode_sidecar", "file", "sha256", "size", "snapshot", "snapshot_sha256", "seal")
)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is said of a file of ``size`` bytes: its name, SHA-256 (hex) and custody records."""

    name: str
    sha256: str
    size: int
    records: tuple[CustodyRecord, ...]

    def encoded(self) -> bytes:
        """Return the file's content."""
        snapshot = [record.to_json() for record in self.records]
        value: dict[str, Any] = {
            "dicomnode_sidecar": _VERSION,
            "file": self.name,
            "sha256": self.sha256,
            "size": self.size,
            "snapshot": snapshot,
            "snapshot_sha256": _digest(snapshot),
        }
        return canonical.encode(value | {"seal": _digest(value)}) + b"\n"


def parse(data: bytes) -> Sidecar:
    """Read a sidecar of unknown origin. Raises Differs where it is not what ``encoded`` wrote."""
    value = _value(data)
    snapshot = value["snapshot"]
    if _digest(snapshot) != value["snapshot_sha256"]:
        raise Differs(Kind.SNAPSHOT, "the custody records are not those that were exported")
    seal = value.pop("seal")
    if _digest(value) != seal:
        raise Differs(Kind.SIDECAR, "it has been changed")
    try:
        records = tuple(CustodyRecord.from_json(each) for each in snapshot)
    except ValueError as error:
        raise Differs(Kind.SNAPSHOT, f"a custody record cannot be read: {error}") from None
    check_records(records)
    if (told := recorded_sha256(records)) is not None and told != value["sha256"]:
        raise Differs(Kind.SNAPSHOT, "the custody records tell of a file with another SHA-256")
    return Sidecar(value["file"], value["sha256"], value["size"], records)


def check_records(records: Iterable[CustodyRecord]) -> None:
    """Raise Differs when the hashes of records, or their order, are not right."""
    for fault in faults(records):
        raise Differs(Kind.SNAPSHOT, f"custody record {fault.sequence}: {fault.words}")


def recorded_sha256(records: Sequence[CustodyRecord]) -> str | None:
    """Return the SHA-256 (hex) of an object's file as records tell; None where none tells."""
    told = [record.details for record in records if record.event in _CONTENTS]
    return str(told[-1].get("file_sha256")) if told else None


def _value(data: bytes) -> dict[str, Any]:
    value: dict[str, Any]
    try:
        if not data.endswith(b"\n"):
            raise ValueError("it is cut short")
        value = canonical.decode(data[:-1])
    except ValueError as error:
        words = str(error) if not isinstance(error, UnicodeError) else "it is no UTF-8"
        raise Differs(Kind.SIDECAR, f"it cannot be read: {words}") from None
    match value:
        case {
            "dicomnode_sidecar": 1,
            "file": str(),
            "sha256": str(sha256),
            "size": int(),
            "snapshot": list(),
            "snapshot_sha256": str(),
            "seal": str(),
        } if value.keys() == _KEYS and _DIGEST.fullmatch(sha256):
            return value
        case {"dicomnode_sidecar": int(version)} if version > _VERSION:
            raise Differs(Kind.SIDECAR, f"it is of version {version}: a newer program is needed")
        case _:
            raise Differs(Kind.SIDECAR, "it is no sidecar of dicomnode")


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical.encode(value)).hexdigest()
