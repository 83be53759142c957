"""Chains of custody for tests, hashed here as the page on them says and not by our own code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from dicomnode.integrity.record import CustodyRecord, Event, Happening

STUDY = "1.2.3"
AT = "2026-01-31T12:00:00.000000Z"


def happening(number: int = 1, event: Event = Event.RECEIVED, **details: str | int) -> Happening:
    """Return what happened to object ``number`` of one study."""
    return Happening(event, STUDY, f"{STUDY}.{number}", details, AT)


def digest(content: dict[str, Any]) -> str:
    """Return SHA-256 of the canonical JSON of a record without its hash."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def chain(happenings: Iterable[Happening]) -> list[CustodyRecord]:
    """Return the records of happenings, from the first of a chain on."""
    previous, records = "0" * 64, []
    for sequence, one in enumerate(happenings, start=1):
        content = {
            "sequence": sequence,
            "at": one.at,
            "event": one.event.value,
            "study_instance_uid": one.study_instance_uid,
            "sop_instance_uid": one.sop_instance_uid,
            "details": dict(one.details),
            "previous": previous,
        }
        previous = digest(content)
        records.append(CustodyRecord.from_json(content | {"hash": previous}))
    return records
