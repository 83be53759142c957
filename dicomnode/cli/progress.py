"""Progress bars: on a terminal only, and on standard error, so that results stay alone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress


class Bar(Protocol):
    """What a command tells of its progress."""

    def update(self, done: int, total: int | None, size: int | None = None) -> None:
        """So many of ``total`` objects are done, ``size`` bytes in all."""


class _Silent:
    def update(self, done: int, total: int | None, size: int | None = None) -> None:
        pass


class _Shown:
    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=None, amount="")

    def update(self, done: int, total: int | None, size: int | None = None) -> None:
        from dicomnode.observe.words import size as written

        amount = "" if size is None else f"{written(size)}, {written(self._rate(size))}/s"
        self._progress.update(self._task, completed=done, total=total, amount=amount)

    def _rate(self, size: int) -> int:
        return int(size / max(self._progress.tasks[0].elapsed or 0.0, 0.001))


@contextlib.contextmanager
def bar(what: str) -> Iterator[Bar]:
    """Show a bar for what goes on in the block; nothing where no one watches."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    # Late: it takes as long to load as a hundred objects to be sent.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        # An AE title may have brackets.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        yield _Shown(progress, what)
