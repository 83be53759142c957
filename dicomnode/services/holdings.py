"""The archive as metrics, status and readiness checks tell of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from dicomnode.errors import DicomnodeError
from dicomnode.index.catalog import Catalog
from dicomnode.observe.http import OK
from dicomnode.storage.files import FileStore

_LISTED_CONFLICTS = 100


class Holdings:
    """Reads the figures; everything blocks. ``patient_data`` lets patients be named."""

    def __init__(self, catalog: Catalog, files: FileStore, patient_data: bool) -> None:
        self._catalog = catalog
        self._files = files
        self._patient_data = patient_data

    def figures(self) -> dict[str, int]:
        """Return how much there is, and how much room is left."""
        counts = self._catalog.counts()
        return {
            "patients": counts.patients,
            "studies": counts.studies,
            "series": counts.series,
            "instances": counts.instances,
            "bytes": counts.bytes,
            "identity_conflicts": counts.identity_conflicts,
            "unsettled": counts.unsettled,
            "unsettled_bytes": counts.unsettled_bytes,
            "free_bytes": self._files.free_bytes(),
        }

    def identity_conflicts(self) -> list[dict[str, object]]:
        """Return the latest identity conflicts. Raises CatalogError."""
        conflicts = self._catalog.identity_conflicts()[-_LISTED_CONFLICTS:]
        figures = [dataclasses.asdict(conflict) for conflict in conflicts]
        if self._patient_data:
            return figures
        told = ("study_instance_uid", "sop_instance_uid", "source_ae", "noticed_at")
        return [{key: conflict[key] for key in told} for conflict in figures]

    def check_storage(self) -> str:
        """Return "ok" when files can be written, or else what is wrong."""
        return _said(self._files.check_writable)

    def check_index(self) -> str:
        """Return "ok" when the index answers, or else what is wrong."""
        return _said(self._catalog.check)


def _said(check: Callable[[], None]) -> str:
    try:
        check()
    except (DicomnodeError, OSError) as error:
        return str(error)
    return OK
