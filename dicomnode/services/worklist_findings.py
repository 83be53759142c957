"""Why a worklist query got no answer: the keys that the nearest items do not match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Final

from dicomnode.index.reading import Stop
from dicomnode.index.worklist import Narrowed, Scheduled, State, WorklistItems
from dicomnode.services.outcomes import Finding
from dicomnode.services.worklist_matching import Miss, misses, shown
from dicomnode.services.worklist_plan import START_DATE, STATION_AE_TITLE, Plan
from dicomnode.storage.json_model import key_of, name_of

_Find = Callable[..., Sequence[int]]

# Stand for the keys of misses that keep an item from whoever asks.
_HIDING: Final = ("state", "title")
_TOLD_ITEMS: Final = 5
_TOLD_KEYS: Final = 3
_MOST_CHARACTERS: Final = 64
# Items looked at for each part of the query that is left out, and for no part at all.
_LOOKED_AT: Final = 100
_LOOKED_AT_OF_ALL: Final = 500
# Everything else may say who the patient is.
_NO_PATIENT_DATA: Final = frozenset(
    key_of(keyword)
    for keyword in (
        "Modality",
        "RequestedProcedureID",
        "RequestedProcedurePriority",
        "ScheduledProcedureStepID",
        "ScheduledProcedureStepLocation",
        "ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepStartTime",
        "ScheduledProcedureStepStatus",
        "ScheduledStationAETitle",
        "ScheduledStationName",
        "StudyInstanceUID",
    )
)
_ADVICE: Final = {
    STATION_AE_TITLE: (
        "Let the modality ask for the station AE title that its items are scheduled for, or"
        " schedule them for the one that it asks for."
    ),
    START_DATE: "See whether date and time of the modality are right.",
    key_of("Modality"): (
        "Let the modality ask for the Modality that its items have, or correct it in the items."
    ),
}
_NO_ITEMS_ADVICE: Final = (
    "See `dicomnode worklist list` for what there is, and worklist.directory for where items come"
    " from."
)
_IN_PROGRESS_ADVICE: Final = (
    'worklist.in_progress = "show" keeps steps on the list that are being performed.'
)
_TITLE_ADVICE: Final = (
    "Let the modality call the AE title that the items are for, or enter them for every title."
)


def explained(items: WorklistItems, plan: Plan, stop: Stop) -> tuple[Finding, ...]:
    """Say which keys the nearest items do not match. Raises CatalogError, SearchStopped."""
    counts = items.counts()
    if not any(counts.values()):
        return (Finding("there are no worklist items", advice=_NO_ITEMS_ADVICE),)
    anywhere = replace(plan.narrowed, columns={}, sieves={}, stations=(), dates=None)
    if not items.find(anywhere, 1):
        return (_none_to_be_seen(items, plan.narrowed),)
    nearest = sorted(_near(items, plan, stop), key=_distance)[:_TOLD_ITEMS]
    return tuple(_finding(item, missed) for item, missed in nearest)


def _none_to_be_seen(items: WorklistItems, narrowed: Narrowed) -> Finding:
    """Say why the requester sees no item at all, whatever it asks for."""
    title = narrowed.called_ae_title
    if not items.find(Narrowed(title, tuple(State), {}), 1):
        words = f"no worklist item is for the called AE title {title}"
        return Finding(words, advice=_TITLE_ADVICE)
    started = Narrowed(title, (State.IN_PROGRESS,), {})
    advice = _IN_PROGRESS_ADVICE if items.find(started, 1) else _NO_ITEMS_ADVICE
    words = f"every worklist item for the called AE title {title} is in progress or completed"
    return Finding(words, advice=advice)


def _near(
    items: WorklistItems, plan: Plan, stop: Stop
) -> Iterator[tuple[Scheduled, tuple[Miss, ...]]]:
    """Yield items that come near to what is asked for, and the keys that they do not match."""
    seen: set[int] = set()
    for row_ids in _row_ids(partial(items.find, stop=stop), plan.narrowed):
        stop.check()
        ids = [row_id for row_id in row_ids if row_id not in seen]
        seen.update(ids)
        for item in items.fetch(ids):
            missed = (*_hidden(item, plan.narrowed), *misses(plan, shown(item)))
            # Without a miss it has come, or come back, since the query was answered.
            if missed:
                yield item, missed


def _distance(found: tuple[Scheduled, tuple[Miss, ...]]) -> tuple[int, bool]:
    """Order by the number of misses; of as many, first what would match but is not shown."""
    missed = found[1]
    return len(missed), not any(miss.key in _HIDING for miss in missed)


def _row_ids(find: _Find, narrowed: Narrowed) -> Iterator[Sequence[int]]:
    """Yield what the search finds, then with each of its parts left out, then with all."""
    yield find(narrowed, _LOOKED_AT)
    if narrowed.dates is not None:
        yield _around(find, narrowed, *narrowed.dates)
    if narrowed.stations:
        yield find(replace(narrowed, stations=()), _LOOKED_AT)
    for name in narrowed.columns:
        columns = {other: held for other, held in narrowed.columns.items() if other != name}
        yield find(replace(narrowed, columns=columns), _LOOKED_AT)
    for name in narrowed.sieves:
        sieves = {other: match for other, match in narrowed.sieves.items() if other != name}
        yield find(replace(narrowed, sieves=sieves), _LOOKED_AT)
    yield find(replace(narrowed, states=tuple(State)), _LOOKED_AT)
    yield find(replace(narrowed, called_ae_title=None), _LOOKED_AT)
    anywhere = replace(narrowed, columns={}, sieves={}, stations=(), dates=None)
    yield find(anywhere, _LOOKED_AT_OF_ALL)


def _around(find: _Find, narrowed: Narrowed, first: str, last: str) -> list[int]:
    """Return what lies nearest to a range of dates, by turns before and after it."""
    before, after = replace(narrowed, dates=("", first)), replace(narrowed, dates=(last, "9" * 8))
    earlier = find(before, _LOOKED_AT // 2, latest_first=True)
    later = find(after, _LOOKED_AT // 2)
    turns = zip_longest(earlier, later)
    return [row_id for turn in turns for row_id in turn if row_id is not None]


def _hidden(item: Scheduled, narrowed: Narrowed) -> Iterator[Miss]:
    """Yield what keeps an item from the requester whatever it asks for."""
    if item.state not in narrowed.states:
        yield Miss("state", item.state, " or ".join(narrowed.states))
    if narrowed.called_ae_title and item.called_ae_title not in (
        "",
        narrowed.called_ae_title.upper(),
    ):
        yield Miss("title", item.called_ae_title, narrowed.called_ae_title)


def _finding(item: Scheduled, missed: Sequence[Miss]) -> Finding:
    told = missed[:_TOLD_KEYS]
    more = f"; {len(missed) - len(told)} more keys do not match" if len(missed) > len(told) else ""
    words = "; ".join(map(_words, told))
    values = "; ".join(_values(miss) for miss in told if not _may_be_told(miss))
    advice = next((advice for miss in told if (advice := _advice(miss))), "")
    return Finding(f"item {item.key}: {words}{more}", values, advice)


def _words(miss: Miss) -> str:
    match miss.key:
        case "state":
            return f"its step is {miss.held.lower()}"
        case "title":
            return f"it is for the called AE title {miss.held}, called was {miss.asked}"
        case _ if _may_be_told(miss):
            return _values(miss)
        case _:
            return f"{name_of(miss.key)} does not match"


def _values(miss: Miss) -> str:
    held = f"is {_short(miss.held)}" if miss.held else "has no value"
    return f"{name_of(miss.key)} {held}, asked for {_short(miss.asked)}"


def _may_be_told(miss: Miss) -> bool:
    return miss.key in _HIDING or miss.key in _NO_PATIENT_DATA


def _advice(miss: Miss) -> str:
    match miss.key:
        case "title":
            return _TITLE_ADVICE
        case "state" if miss.held == State.IN_PROGRESS:
            return _IN_PROGRESS_ADVICE
        case _:
            return _ADVICE.get(miss.key, "")


def _short(value: str) -> str:
    return value if len(value) <= _MOST_CHARACTERS else f"{value[:_MOST_CHARACTERS]}…"
