"""Modality Worklist SCP (PS3.4 Annex K): C-FIND answered from the worklist items of the index."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Final

from dicomnode.index.reading import Stop
from dicomnode.index.worklist import State, WorklistItems
from dicomnode.registry import Registry
from dicomnode.services.answers import Repertoire
from dicomnode.services.dispatch import Operation
from dicomnode.services.identifier import Bounds
from dicomnode.services.outcomes import WORKLIST, Finding
from dicomnode.services.query import Search, Turn
from dicomnode.services.sop_classes import MODALITY_WORKLIST
from dicomnode.services.worklist_answers import identifiers
from dicomnode.services.worklist_findings import explained
from dicomnode.services.worklist_matching import matches, shown
from dicomnode.services.worklist_plan import Asked, Plan, make_plan

# Items read and decided on together, and answers sent together.
_LOOKED_AT: Final = 250
_BATCH: Final = 128


class Worklist:
    """The source of answers to worklist queries; ``in_progress`` shows steps under way as well."""

    def __init__(
        self,
        items: WorklistItems,
        bounds: Bounds,
        registry: Callable[[], Registry],
        *,
        in_progress: bool,
    ) -> None:
        self._items = items
        self._bounds = bounds
        self._registry = registry
        started = (State.IN_PROGRESS,) if in_progress else ()
        self._states = (State.SCHEDULED, State.DISCONTINUED, *started)

    def serves(self, sop_class_uid: str) -> bool:
        """Tell whether the SOP class is Modality Worklist Information Model - FIND."""
        return sop_class_uid == MODALITY_WORKLIST

    def asked(self, operation: Operation) -> Callable[[bytes], Search]:
        """Return what reads the identifier; that raises StatusError."""
        channel = operation.channel
        asked = Asked(
            operation.context.transfer_syntax, channel.called_ae_title.strip(" "), self._states
        )
        character_set = self._registry().character_set(channel.calling_ae_title)

        def read(data: bytes) -> Search:
            plan = make_plan(data, asked, self._bounds)
            chosen = character_set or plan.character_set
            repertoire = Repertoire(asked.transfer_syntax_uid, chosen, said=bool(chosen))
            return WorklistSearch(self._items, plan, repertoire)

        return read


class WorklistSearch:
    """One query of the worklist."""

    level = WORKLIST
    batch = _BATCH

    def __init__(self, items: WorklistItems, plan: Plan, repertoire: Repertoire) -> None:
        self._items = items
        self._plan = plan
        self._write = identifiers(plan.keys, repertoire)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keywords that are matched on."""
        return self._plan.matched

    @property
    def unsupported(self) -> tuple[int, ...]:
        """The tags that are not answered, or not matched."""
        return self._plan.unsupported

    def find(self, limit: int, stop: Stop, turn: Turn) -> array[int]:
        """Return the row ids of matches, the earliest first."""
        if self._plan.is_decided:
            return self._items.find(self._plan.narrowed, limit, stop=stop, turn=turn)
        found: array[int] = array("q")
        candidates = self._items.find(self._plan.narrowed, stop=stop, turn=turn)
        for at in range(0, len(candidates), _LOOKED_AT):
            stop.check()
            with turn():
                items = self._items.fetch(candidates[at : at + _LOOKED_AT])
                found.extend(item.row_id for item in items if matches(self._plan, shown(item)))
            if len(found) >= limit:
                break
        return found[:limit]

    def encoded(self, ids: Sequence[int], stop: Stop, turn: Turn) -> list[bytes]:
        """Return the identifiers of matches."""
        stop.check()
        with turn():
            items = self._items.fetch(ids)
            return [self._write(shown(item)) for item in items]

    def explained(self, stop: Stop) -> tuple[Finding, ...]:
        """Say which keys of which items do not match."""
        return explained(self._items, self._plan, stop)
