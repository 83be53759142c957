"""An archive on disk, and scrubs of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from dicomnode.archive import make_scrub
from dicomnode.index.catalog import Catalog
from dicomnode.index.custody import Custody
from dicomnode.index.scrubbing import ScrubReport
from dicomnode.registry import Registry
from dicomnode.services.explanations import Explanations
from dicomnode.services.recovery import reconcile
from dicomnode.services.scrub import Scrub
from dicomnode.services.turns import Turns
from dicomnode.settings import Settings
from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import file_meta
from tests.index.entries import sqlite_url, waited
from tests.storage.objects import CT_STORAGE, EXPLICIT, data_set, encoded

# Slow enough that a run does not end while a test looks at it.
SLOW = {"bytes_per_second": 256 * 1024}
FAST = {"bytes_per_second": 10**9}


class Bench:
    """An archive on disk, and scrubs of it that come one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = FileStore(directory, durability="relaxed")
        self.catalog = Catalog(sqlite_url(directory), synchronous="OFF")
        self.errors: list[dict[str, object]] = []
        self.explanations = Explanations(Registry, patient_data=False, now=time.time)
        self.registry = CollectorRegistry()

    def open(self) -> None:
        self.files.open()
        self.catalog.open()

    def close(self) -> None:
        self.catalog.close()
        self.files.close()

    def put(self, number: int, study: str = "1.2.3", *, padding: int = 0) -> str:
        """Store an object, with so many bytes more; return its path."""
        more = {"EncapsulatedDocument": bytes(padding)} if padding else {}
        series, uid = f"{study}.4", f"{study}.4.{number}"
        file = self.files.begin(file_meta(CT_STORAGE, uid, EXPLICIT, source_ae_title="CT_1"))
        file.append([memoryview(encoded(data_set(number, study, series, **more)))])
        return file.place(study, series, uid)

    def index(self) -> None:
        reconcile(self.files, self.catalog, log=self)  # type: ignore[arg-type]

    def forget(self, uid: str) -> None:
        """Take an object out of the index."""
        waited(lambda done: self.catalog.remove(uid, done))

    def path(self, rel: str) -> Path:
        return self.directory / rel

    def scrub(self, **settings: object) -> Scrub:
        self.registry = CollectorRegistry()
        made = Settings.model_validate({"scrub": settings or FAST})
        log: Any = self
        return make_scrub(
            made,
            self.files,
            self.catalog,
            Turns(),
            log,
            self.registry,
            Custody(self.catalog),
            self.explanations,
        )

    def run(self) -> Scrub:
        """Run once through all files."""
        made = self.scrub()
        made.run_once(lambda scrub: None)
        return made

    def listed(self) -> dict[str, str]:
        """Return what is not whole, as somebody else reads it from the index."""
        with self.catalog.read():
            report = ScrubReport(self.catalog.read, self.catalog.byte_collation)
            return {each.path: each.kind.value for each in report.bad_files(100)}

    def metrics(self) -> str:
        return generate_latest(self.registry).decode()

    # The log.

    def error(self, message: str, **fields: object) -> None:
        self.errors.append({"message": message, **fields})

    def info(self, message: str, **fields: object) -> None:
        pass

    warning = info
