"""Worklist items as people and programs enter, see and remove them one by one."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any, Final

from dicomnode.errors import DicomnodeError
from dicomnode.index.steps import PerformedStep, Steps
from dicomnode.index.worklist import Item
from dicomnode.services.worklist_intake import (
    FILE,
    WorklistIntake,
    possible_keys,
    source_key,
)
from dicomnode.services.worklist_items import (
    Source,
    Unfit,
    UnfitItem,
    data_sets_of,
    is_ae_title,
    new_items,
)
from dicomnode.storage.json_model import items_of, text_of

ORIGINS: Final = ("http", "command")
"""Where items come from that are entered here."""
MOST_LISTED: Final = 1000

_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")

Shown = dict[str, Any]


class NoSuchItem(DicomnodeError):
    """There is no item with the key."""


class ItemOfFile(DicomnodeError):
    """The item is what a file says; the message names it."""


class WorklistDesk:
    """Enters, shows and removes items; blocks, so not for the event loop.

    Everything raises CatalogError where the index fails.
    """

    def __init__(self, intake: WorklistIntake, steps: Steps) -> None:
        self._intake = intake
        self._steps = steps

    def put(self, key: str, value: Any, *, origin: str, called_ae_title: str = "") -> bool:
        """Enter the items of a data set (DICOM JSON model); return whether ``key`` is new.

        Raises UnfitItem, ItemOfFile.
        """
        _refuse_file(key)
        if not _KEY.match(key):
            words = "the key must be 1 to 64 letters, digits, dots, dashes or underscores"
            raise UnfitItem(Unfit.INVALID, words)
        if called_ae_title and not is_ae_title(called_ae_title):
            raise UnfitItem(Unfit.INVALID, "the called AE title is no AE title")
        source = Source(key, origin, called_ae_title=called_ae_title)
        return not self._intake.replace(new_items(data_sets_of(value), source), key)

    def remove(self, key: str) -> None:
        """Remove what was entered with a key. Raises NoSuchItem, ItemOfFile."""
        _refuse_file(key)
        if source_key(key) != key or not self._intake.remove(possible_keys(key)):
            raise _no_such(key)

    def listed(self, limit: int, after: str = "") -> Shown:
        """Return up to ``limit`` items in the order of their keys, and where the next ones begin.

        ``limit`` is at most ``MOST_LISTED``; ``after`` is the ``next`` of the list before.
        """
        items = self._intake.items.listed(limit=limit + 1, after=after)
        is_more = len(items) > limit
        return {
            "items": [summary(item) for item in items[:limit]],
            "next": items[limit - 1].key if is_more else None,
        }

    def show(self, key: str) -> Shown:
        """Return an item with its attributes and performed steps. Raises NoSuchItem."""
        item = self._intake.items.get(key)
        if item is None:
            raise _no_such(key)
        shown = summary(item)
        performed = self._steps.steps_of(
            shown["study_instance_uid"],
            shown["scheduled_procedure_step_id"],
            shown["accession_number"],
        )
        return shown | {
            "entered_at": item.entered_at,
            "changed_at": item.changed_at,
            "performed_steps": [_performed(step) for step in performed],
            "attributes": item.attributes,
        }


def summary(item: Item) -> Shown:
    """Return what a list shows of an item."""
    whole = item.attributes
    (step,) = items_of(whole, "ScheduledProcedureStepSequence")
    return {
        "key": item.key,
        "origin": item.origin,
        "called_ae_title": item.called_ae_title,
        "state": item.state.value,
        "start_date": text_of(step, "ScheduledProcedureStepStartDate"),
        "start_time": text_of(step, "ScheduledProcedureStepStartTime"),
        "station_ae_titles": text_of(step, "ScheduledStationAETitle").split("\\"),
        "modality": text_of(step, "Modality"),
        "description": text_of(step, "ScheduledProcedureStepDescription")
        or text_of(whole, "RequestedProcedureDescription"),
        "patient_name": text_of(whole, "PatientName"),
        "patient_id": text_of(whole, "PatientID"),
        "accession_number": text_of(whole, "AccessionNumber"),
        "requested_procedure_id": text_of(whole, "RequestedProcedureID"),
        "scheduled_procedure_step_id": text_of(step, "ScheduledProcedureStepID"),
        "study_instance_uid": text_of(whole, "StudyInstanceUID"),
    }


def _performed(step: PerformedStep) -> Shown:
    kept = ("sop_instance_uid", "source_ae_title", "created_at", "changed_at")
    figures = asdict(step)
    return {name: figures[name] for name in kept} | {
        "status": step.status.value,
        "started": step.started,
        "ended": step.ended,
        "station": step.station,
        "series": step.series,
        "instances": step.instances,
    }


def _refuse_file(key: str) -> None:
    origin, colon, path = source_key(key).partition(":")
    if origin == FILE and colon:
        raise ItemOfFile(
            f"{key} is what the file {path} in worklist.directory says: change or remove that file"
        )


def _no_such(key: str) -> NoSuchItem:
    return NoSuchItem(f"there is no worklist item {key}")
