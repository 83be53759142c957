"""A directory of worklist files and the index that follows it, for tests."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from dicomnode.index.catalog import Catalog
from dicomnode.index.steps import Steps
from dicomnode.index.worklist import Item, WorklistItems
from dicomnode.observe.logs import Log
from dicomnode.services.worklist_files import WorklistFiles
from dicomnode.services.worklist_intake import WorklistIntake
from dicomnode.settings import LogSettings

# A file that is not as it should be is believed at the third look.
LOOKS = 3


class Ward:
    """A directory of worklist files, the index that follows it, and the log."""

    def __init__(self, directory: Path, catalog: Catalog) -> None:
        self.directory = directory
        self.items = WorklistItems(catalog)
        self.steps = Steps(catalog, self.items)
        self.intake = WorklistIntake(self.items, self.steps)
        self.now = 0.0
        self.stream = io.StringIO()
        self.restart()

    def restart(self) -> None:
        log = Log(LogSettings(level="info"), stream=self.stream)
        log.start()
        log.stop()  # from now on lines are written at once
        self.logger = log.logger
        self.files = WorklistFiles(
            self.directory,
            self.intake,
            self.logger,
            pause=lambda seconds: None,
            clock=lambda: self.now,
        )

    def poll(self, times: int = 1) -> None:
        for _ in range(times):
            self.files.poll()

    @property
    def keys(self) -> list[str]:
        return [item.key for item in self.held]

    @property
    def held(self) -> list[Item]:
        return self.items.listed(limit=1000)

    @property
    def log(self) -> str:
        return self.stream.getvalue()

    @property
    def left_out(self) -> dict[str, str]:
        return dict(self.files.figures.left_out)


@contextlib.contextmanager
def worklist_ward(directory: Path) -> Iterator[Ward]:
    """Make a ward whose files are in ``directory``/worklist."""
    files = directory / "worklist"
    files.mkdir()
    with Catalog(f"sqlite:///{directory / 'index.sqlite'}", synchronous="OFF") as catalog:
        yield Ward(files, catalog)
