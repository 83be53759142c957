"""``dicomnode`` with one of its promises broken, to see that the tests of these promises notice.

The first argument says which. Nothing in the product can do this.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from dicomnode.cli import main
from dicomnode.index.backend import Backend
from dicomnode.index.catalog import Added, Catalog
from dicomnode.storage import disk

_COMMIT_SECONDS = 0.3


def nothing(*arguments: object) -> int:
    """Do as if it were done."""
    return 0


def files_are_not_flushed() -> None:
    """No file and no directory is; what SQLite flushes is."""
    directories_are_not_flushed()
    os.fdatasync = nothing  # type: ignore[assignment]
    disk._syncfs = nothing


def directories_are_not_flushed() -> None:
    """Nor is any other file flushed by ``fsync``: only directories are."""
    os.fsync = nothing  # type: ignore[assignment]


def the_index_is_flushed_at_checkpoints_only() -> None:
    """SQLite with synchronous=NORMAL."""
    made = Backend.__init__

    def make(self: Backend, url: Any, synchronous: str) -> None:
        made(self, url, "NORMAL")  # type: ignore[arg-type]

    Backend.__init__ = make  # type: ignore[method-assign]


def the_answer_comes_before_the_commit() -> None:
    """An object is told to be in the index, and enters it a moment later."""
    add = Catalog.add

    def add_late(
        self: Catalog, entry: Any, done: Callable[[Any], None], *more: Any, **also: Any
    ) -> None:
        threading.Timer(_COMMIT_SECONDS, add, (self, entry, nothing, *more), also).start()
        done(Added())

    Catalog.add = add_late  # type: ignore[assignment]


def writes_are_short() -> None:
    """No promise is broken by this: a file takes half of what is written, and again half."""
    writev = os.writev

    def write_half(fd: int, buffers: Sequence[memoryview | bytes]) -> int:
        print("short writes", flush=True)
        first = buffers[0]
        return writev(fd, [first[: len(first) // 2 or 1]])

    os.writev = write_half


CONTROLS = {
    control.__name__: control
    for control in (
        files_are_not_flushed,
        directories_are_not_flushed,
        the_index_is_flushed_at_checkpoints_only,
        the_answer_comes_before_the_commit,
    )
}

if __name__ == "__main__":
    {**CONTROLS, "writes_are_short": writes_are_short}[sys.argv.pop(1)]()
    main()
