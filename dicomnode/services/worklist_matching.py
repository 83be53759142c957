"""Whether a worklist item is what a query asks for, and if not, by which keys (PS3.4 §K.2.2.1.1).

An attribute without a value is matched by no key that has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dicomnode.index.matching import Match, Numbers, accepts_combined
from dicomnode.index.worklist import Scheduled, State
from dicomnode.services.worklist_plan import (
    SCHEDULED_PROCEDURE_STEP_SEQUENCE,
    START_DATE,
    START_TIME,
    Key,
    Plan,
)
from dicomnode.storage.json_model import Attributes, items_of, key_of, text_of

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}\Z")
_STEP: Final = key_of("ScheduledProcedureStepSequence")
_STATUS_TAG: Final = 0x0040_0020
_STATUS: Final = key_of(_STATUS_TAG)


@dataclass(frozen=True, slots=True)
class Miss:
    """A key that an item does not match: what the item has, and what is asked for."""

    key: str
    held: str
    asked: str


def shown(item: Scheduled) -> Attributes:
    """Return an item's attributes with the status of its step as it is now.

    Scheduled Procedure Step Status (0040,0020), PS3.3 §C.4.10: STARTED while in progress, else
    what the item came with.
    """
    started = item.state is State.IN_PROGRESS
    steps = items_of(item.attributes, SCHEDULED_PROCEDURE_STEP_SEQUENCE)
    if not started and all(text_of(step, _STATUS_TAG) for step in steps):
        return item.attributes
    status = {"vr": "CS", "Value": ["STARTED" if started else "SCHEDULED"]}
    return {
        **item.attributes,
        _STEP: {"vr": "SQ", "Value": [{**step, _STATUS: status} for step in steps]},
    }


def matches(plan: Plan, attributes: Attributes) -> bool:
    """Tell whether an item is what is asked for."""
    return next(misses(plan, attributes), None) is None


def misses(plan: Plan, attributes: Attributes) -> Iterator[Miss]:
    """Yield the keys that do not match, in the order of tags."""
    for key in plan.keys:
        if key.is_matched:
            yield from _misses(key, attributes)
    if plan.moment is not None:
        step = next(iter(items_of(attributes, SCHEDULED_PROCEDURE_STEP_SEQUENCE)), {})
        date, time = (text_of(step, int(key, 16)) for key in (START_DATE, START_TIME))
        if not accepts_combined(plan.moment.interval, date, time):
            yield Miss(START_DATE, f"{date} {time}", plan.moment.asked)


def _misses(key: Key, attributes: Attributes) -> Iterator[Miss]:
    tag = int(key.key, 16)
    if key.match is not None:
        held = text_of(attributes, tag)
        if not _accepts(key.match, held):
            yield Miss(key.key, held, key.asked)
        return
    # One item must match all keys (PS3.4 §C.2.2.2.6); of several the nearest is told.
    nearest: list[Miss] | None = None
    for item in items_of(attributes, tag) or ({},):
        missed = [miss for each in key.keys if each.is_matched for miss in _misses(each, item)]
        if not missed:
            return
        if nearest is None or len(missed) < len(nearest):
            nearest = missed
    yield from nearest or ()


def _accepts(match: Match, held: str) -> bool:
    if isinstance(match, Numbers):
        return any(match.accepts(int(part)) for part in held.split("\\") if _INTEGER.match(part))
    return match.accepts(held)
