"""``dicomnode`` with a fault on demand: SIGUSR1 hangs the event loop, SIGUSR2 the index's writer.

Each hangs until the file that DICOMNODE_TEST_GO names is there.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from dicomnode.cli import main
from dicomnode.index.writer import Writer

_go = Path(os.environ.pop("DICOMNODE_TEST_GO"))
_writer_hangs = threading.Event()
_commit = Writer._commit


def _hang(what: str) -> None:
    print(f"{what} hangs", flush=True)
    while not _go.exists():
        time.sleep(0.02)


def _commit_late(self: Writer, batch: list[Any]) -> None:
    if _writer_hangs.is_set():
        _hang("the writer")
    _commit(self, batch)


Writer._commit = _commit_late  # type: ignore[method-assign]
# Python's handlers run in the main thread, which is the event loop's.
signal.signal(signal.SIGUSR1, lambda *_: _hang("the loop"))
signal.signal(signal.SIGUSR2, lambda *_: _writer_hangs.set())
main()
