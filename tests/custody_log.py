"""What a node has recorded, read beside it or after its end."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from dicomnode.cli.held import custody_records
from dicomnode.integrity.record import CustodyRecord, Event
from dicomnode.settings import Settings
from tests.faults.scu import Image


def settings_of(store_directory: Path) -> Settings:
    """Return the settings of a node that keeps its objects there."""
    return Settings.model_validate({"storage": {"directory": store_directory}})


def recorded(store_directory: Path) -> list[CustodyRecord]:
    """Return all records, once the chain has been checked."""
    with closing(sqlite3.connect(store_directory / "index.sqlite")) as index:
        index.execute("PRAGMA query_only = ON")
        studies = index.execute("SELECT DISTINCT study_instance_uid FROM custody").fetchall()
    with custody_records(settings_of(store_directory)) as log:
        assert not list(log.check())
        found = [record for (study,) in studies for record in log.of_study(study)]
    return sorted(found, key=lambda record: record.sequence)


def events(store_directory: Path, image: Image) -> list[Event]:
    """Return what happened to an image."""
    with custody_records(settings_of(store_directory)) as log:
        return [record.event for record in log.of_instance(image.uid)]
