"""Takes worklist items into the index, and out of it, whichever way they come.

One scheduled procedure step stands on a worklist once: an item for a step that another item is for
already is left out, as a modality would show it twice.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from dicomnode.index.steps import Steps
from dicomnode.index.worklist import NewItem, Step, WorklistItems
from dicomnode.services.worklist_items import MAX_STEPS, Unfit, UnfitItem
from dicomnode.storage.json_model import items_of, text_of

FILE: Final = "file"
"""The origin of items that come from worklist.directory."""

_NUMBER: Final = re.compile(r"#\d+\Z")


def source_key(key: str) -> str:
    """Return the key of what an item came in: its own, without the number of its step."""
    return _NUMBER.sub("", key)


def possible_keys(source: str) -> list[str]:
    """Return the keys that items of one source can have, given its key."""
    return [source, *(f"{source}#{number}" for number in range(2, MAX_STEPS + 1))]


class WorklistIntake:
    """Enters and removes worklist items; usable from any thread that may wait for the disk.

    Everything raises CatalogError where the index fails.
    """

    def __init__(self, items: WorklistItems, steps: Steps) -> None:
        self.items = items
        self._steps = steps
        # From the search for duplicates until what is new is durable.
        self._lock = threading.Lock()
        self._changes = 0

    def replace(self, entered: Sequence[NewItem], source: str) -> bool:
        """Enter the items of a source, durably, in the place of those it had; all or none.

        Returns whether there were some. Raises UnfitItem where one cannot be served.
        """
        with self._lock:
            for unfit in self._duplicates(entered).values():
                raise unfit
            keys = {item.key for item in entered}
            was_there = self.items.get(source) is not None
            self._put(entered)
            self.items.remove([key for key in possible_keys(source) if key not in keys])
            self._changes += 1
        return was_there

    def remove(self, keys: Sequence[str]) -> int:
        """Remove items; return how many there were, when that is durable."""
        with self._lock:
            removed = self.items.remove(keys)
            self._changes += bool(removed)
        return removed

    @property
    def changes(self) -> int:
        """How often something was entered or removed: whether looking again is worth while."""
        return self._changes

    def exchange(
        self, entered: Sequence[NewItem], removed: Collection[str]
    ) -> dict[str, UnfitItem]:
        """Remove the items with the keys ``removed``, enter others, durably.

        Items with the keys of new ones are replaced by them. Returns why some were left out, by
        key; there is no item with such a key then.
        """
        with self._lock:
            keys = {item.key for item in entered}
            gone = self.items.remove([key for key in removed if key not in keys])
            left_out = self._duplicates(entered)
            self._put([item for item in entered if item.key not in left_out])
            gone += self.items.remove(list(left_out))
            if gone or len(left_out) < len(entered):
                self._changes += 1
        return left_out

    def _put(self, entered: Sequence[NewItem]) -> None:
        """Enter items, those whose steps have been begun with the state of these."""
        self.items.put(entered, self._steps.begun)

    def _duplicates(self, entered: Sequence[NewItem]) -> dict[str, UnfitItem]:
        """Find the new items for whose step there is another item that the same callers see."""
        steps = [_step_of(item) for item in entered]
        keys = {step.key for step in steps}
        held = self.items.steps(list({step.study_instance_uid for step in steps}))
        holders = _Holders(step for step in held if step.key not in keys)
        left_out: dict[str, UnfitItem] = {}
        for step in steps:
            if (holder := holders.other_than(step)) is not None:
                left_out[step.key] = UnfitItem(
                    Unfit.DUPLICATE,
                    f"is for the same scheduled procedure step as {holder.key} (Study Instance UID"
                    f" {step.study_instance_uid}, Scheduled Procedure Step ID {step.step_id})",
                )
            else:
                holders.add(step)
        return left_out


class _Holders:
    """Which item each scheduled procedure step belongs to."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._held: dict[tuple[str, str], list[Step]] = {}
        for step in steps:
            self.add(step)

    def add(self, step: Step) -> None:
        self._held.setdefault((step.study_instance_uid, step.step_id), []).append(step)

    def other_than(self, step: Step) -> Step | None:
        """Return the item that has the step of ``step`` and that somebody sees beside it."""
        for other in self._held.get((step.study_instance_uid, step.step_id), ()):
            titles = {other.called_ae_title.upper(), step.called_ae_title.upper()}
            if len(titles) == 1 or "" in titles:
                return other
        return None


def _step_of(item: NewItem) -> Step:
    (step,) = items_of(item.attributes, "ScheduledProcedureStepSequence")
    return Step(
        key=item.key,
        called_ae_title=item.called_ae_title,
        study_instance_uid=text_of(item.attributes, "StudyInstanceUID"),
        step_id=text_of(step, "ScheduledProcedureStepID"),
    )
