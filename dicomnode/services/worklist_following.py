"""The thread that looks at the directory of worklist files again and again."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Final

from dicomnode.observe.logs import Logger
from dicomnode.services.worklist_files import WorklistFiles
from dicomnode.services.worklist_intake import FILE, WorklistIntake

# Looking takes a fifth of the thread's time at most, however many files there are.
_PAUSES_PER_LOOK: Final = 4
_FAULT_SECONDS: Final = 60.0
# A file server that does not answer must not hold up the end.
_STOP_SECONDS: Final = 5.0


class WorklistFollowing:
    """Keeps the worklist in step with ``directory``; None: no file says anything."""

    def __init__(
        self, directory: Path | None, poll_seconds: float, intake: WorklistIntake, log: Logger
    ) -> None:
        self._intake = intake
        self._log = log
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._looked = threading.Event()
        self._files: WorklistFiles | None = None
        if directory is not None:
            self._files = WorklistFiles(directory, intake, log, pause=self._stopping.wait)
        self._thread = threading.Thread(target=self._run, name="worklist-files", daemon=True)

    def start(self, patience_seconds: float) -> None:
        """Start looking; returns after the first look, or when that takes too long; blocks.

        Raises CatalogError.
        """
        if self._files is None:
            self._forget()
            return
        self._thread.start()
        if not self._looked.wait(patience_seconds):
            self._log.warning(
                f"worklist: {self._files.figures.directory} has not been read within"
                f" {patience_seconds:g} s; what it said before is served meanwhile"
            )

    def stop(self) -> None:
        """End the thread; blocks."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)

    def reasons(self) -> dict[str, int]:
        """Return how many files are left out, by reason; takes no query."""
        return dict(self._files.figures.reasons) if self._files is not None else {}

    def figures(self) -> dict[str, Any]:
        """Return what the last look found, for /api/status; {} without a directory."""
        if self._files is None:
            return {}
        figures = self._files.figures
        return {
            "directory": figures.directory,
            "trouble": figures.trouble,
            "files": figures.files,
            "files_left_out": sum(figures.reasons.values()),
            "left_out": [{"file": path, "why": words} for path, words in figures.left_out],
        }

    def _forget(self) -> None:
        """Remove what files said while there was a directory."""
        if keys := list(self._intake.items.sources(FILE)):
            number = self._intake.remove(keys)
            self._log.info(f"worklist.directory is not set; items of files removed: {number}")

    def _run(self) -> None:
        assert self._files is not None
        pause = 0.0
        while not self._stopping.wait(pause):
            started = time.monotonic()
            try:
                self._files.poll()
                took = time.monotonic() - started
                pause = max(self._poll_seconds, _PAUSES_PER_LOOK * took)
            except Exception as error:
                # The thread has to outlive a fault: the next look may find another directory.
                self._log.exception("the worklist files could not be followed", error)
                pause = _FAULT_SECONDS
            self._looked.set()
