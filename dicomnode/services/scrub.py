"""The scrub: all stored files are read again, over and over, and compared with what was received.

One thread, at a bounded rate, off the event loop. It goes through the directories in their order
and keeps how far it is, so that a restart goes on there. What it finds it puts on a list
(``bad_files``); it changes no file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from dicomnode.errors import CatalogError, OutOfResources
from dicomnode.index.catalog import Catalog, InstanceRow
from dicomnode.index.scrubbing import ScrubPass, ScrubRecords
from dicomnode.observe.scrub_metrics import ScrubMetrics
from dicomnode.services.bad_files import BadFiles
from dicomnode.services.wholeness import Wholeness
from dicomnode.storage.files import FileStore
from dicomnode.storage.paths import stem

_DAY_SECONDS: Final = 86400.0
# Opening a file takes the disk and the processor as long as so many bytes do.
_LEAST_BYTES: Final = 64 * 1024
# What was not read while nothing could be is not caught up on.
_MOST_AHEAD_SECONDS: Final = 1.0
_KEEP_SECONDS: Final = 10.0
# What is on the list may have been sent again, or restored.
_LOOK_AGAIN_SECONDS: Final = 600.0
_PAUSE_AFTER_FAILURE_SECONDS: Final = 60.0
# At full speed: reading one file while another is hashed.
_READERS: Final = 3
_BY: Final = "scrub"


class Stopped(Exception):
    """The scrub is to end."""


class Journal(Protocol):
    """Is told of faults; called from the scrub's thread."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""


class Log(Protocol):
    """Is told how runs end."""

    def info(self, message: str, **fields: object) -> None: ...
    def warning(self, message: str, **fields: object) -> None: ...
    def error(self, message: str, **fields: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """How fast files are read, and how often; None bytes: as fast as the disk gives them."""

    bytes_per_second: int | None
    every_seconds: float
    enabled: bool = True
