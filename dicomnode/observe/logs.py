"""The log: lines are queued by whoever speaks and written by one thread of its own.

So a slow terminal, pipe or disk never holds up the event loop. The queue is bounded; lines that
find it full are counted and dropped. Text lines read::

    2026-11-21T10:00:00.123Z info  CT_1 -> DICOMNODE #7 C-STORE 3 0000 512KB 4ms key=value

Whatever a peer sent is escaped, so that it can neither begin a line nor steer a terminal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from dicomnode.observe.words import escape
from dicomnode.settings import LogSettings

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
# Lines that come within this time are written together: one write, one change of thread.
_GATHER_SECONDS = 0.02
_STOP_SECONDS = 5.0
# Libraries that warn of what peers send.
_OF_PEERS: Final = ("pydicom", "uvicorn")

PATIENT_FIELDS: Final = frozenset(
    {
        "accession_number",
        "birth_date",
        "issuer_of_patient_id",
        "other_patient_ids",
        "patient_birth_date",
        "patient_id",
        "patient_name",
        "patient_sex",
        "patient_value",
    }
)
"""Fields that are left out of every line unless ``log.patient_data`` is on."""


class Logger(structlog.BoundLoggerBase):
    """Says lines; may be used from any thread, and never waits.

    ``fields`` follow the message as ``key=value``, or are keys of the JSON object. The field
    ``details`` is a mapping whose keys only the JSON object gets: what the message already says.
    ``bind(**fields)`` gives a logger that adds ``fields`` to each of its lines.
    """

    def debug(self, message: str, **fields: object) -> None:
        """Say what only a developer wants to know."""
        self._proxy_to_logger("debug", message, **fields)

    def info(self, message: str, **fields: object) -> None:
        """Say what happens in the normal run of things."""
        self._proxy_to_logger("info", message, **fields)

    def warning(self, message: str, **fields: object) -> None:
        """Say what an operator may have to look into."""
        self._proxy_to_logger("warning", message, **fields)

    def error(self, message: str, **fields: object) -> None:
        """Say what an operator has to look into."""
        self._proxy_to_logger("error", message, **fields)

    def exception(self, message: str, error: BaseException, **fields: object) -> None:
        """Say that something of our own failed, with the traceback of ``error``."""
        # Formatted here: a queued traceback would keep every frame's buffers alive.
        text = "".join(traceback.format_exception(error))
        self._proxy_to_logger("error", message, exception=text, **fields)


class Log:
    """The log of one process: hands out ``logger`` and writes its lines to ``stream``.

    Lines said before ``start`` wait for it; lines said after ``stop`` are written at once.
    ``capacity`` is the number of lines that may wait.
    """

    def __init__(
        self, settings: LogSettings, *, stream: TextIO | None = None, capacity: int = 10_000
    ) -> None:
        self._stream = stream or sys.stderr
        self._capacity = capacity
        self._queue: deque[EventDict] = deque()
        self._dropped = 0
        self._reported = 0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._processors = _renderers(settings)
        self._library_handler = _LibraryHandler(self)
        self._threshold = _LEVELS[settings.level]
        self.logger: Logger = Logger(_Sink(self.put), [self._drop_below, _stamp], {})

    @property
    def dropped(self) -> int:
        """Lines that found the queue full, since start."""
        return self._dropped

    def set_level(self, level: str) -> None:
        """Leave out what is less than ``level`` from now on."""
        self._threshold = _LEVELS[level]

    def _drop_below(self, logger: WrappedLogger, level: str, line: EventDict) -> EventDict:
        if _LEVELS[level] < self._threshold:
            raise structlog.DropEvent
        return line

    def put(self, line: EventDict) -> None:
        """Queue ``line``; never waits."""
        if len(self._queue) >= self._capacity:
            self._dropped += 1
            return
        self._queue.append(line)
        if self._stopped:
            self._write_queued()
        elif not self._wake.is_set():
            self._wake.set()

    def start(self) -> None:
        """Start writing, and take over what libraries say through ``logging``."""
        logging.getLogger().addHandler(self._library_handler)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued and end the thread; gives up on a stream that takes nothing."""
        logging.getLogger().removeHandler(self._library_handler)
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
            self._stopped = not self._thread.is_alive()
            self._thread = None

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._stopping.wait(_GATHER_SECONDS)
            # Cleared first: a line that comes while we write sets it again.
            self._wake.clear()
            self._write_queued()
        self._write_queued()

    def _write_queued(self) -> None:
        with self._writing:
            rendered = [self._render(self._queue.popleft()) for _ in range(len(self._queue))]
            if (dropped := self._dropped) != self._reported:
                words = (
                    f"{dropped - self._reported} log lines dropped: they came faster than written"
                )
                line = {"event": words, "level": "warning", "timestamp": time.time()}
                rendered.append(self._render(line))
                self._reported = dropped
            # A stream that is closed or full must not end the node; there is nobody to tell.
            with contextlib.suppress(OSError, ValueError):
                self._stream.write("".join(rendered))
                self._stream.flush()

    def _render(self, line: EventDict) -> str:
        out: Any = line
        try:
            for processor in self._processors:
                out = processor(None, "", out)
        except Exception as error:
            # A value whose repr fails costs its line, not the log.
            return f"a log line could not be written: {type(error).__name__}\n"
        return f"{out}\n"


class _LibraryHandler(logging.Handler):
    """Takes warnings and errors of libraries (asyncio, uvicorn, SQLAlchemy) into the log.

    Not the warnings of those that read what others send, data sets and HTTP requests: a hostile
    one causes thousands, and pydicom's quote values.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_OF_PEERS) and record.levelno < logging.ERROR:
            return
        line: EventDict = {
            "event": record.getMessage(),
            "level": "error" if record.levelno >= logging.ERROR else "warning",
            "timestamp": record.created,
            "library": record.name,
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        self._log.put(line)


class _Sink:
    """Names the methods that structlog calls: one for each level, all the same."""

    __slots__ = ("debug", "error", "info", "warning")

    def __init__(self, put: Callable[[EventDict], None]) -> None:
        self.debug = self.info = self.warning = self.error = put


def _stamp(logger: WrappedLogger, level: str, line: EventDict) -> tuple[tuple[EventDict], Any]:
    line["level"] = level
    line["timestamp"] = time.time()
    return (line,), {}


def _renderers(settings: LogSettings) -> list[Callable[[Any, str, EventDict], Any]]:
    """Return what turns a queued line into text, on the writing thread."""
    last: Callable[[Any, str, EventDict], Any]
    last = _as_json if settings.format == "json" else _as_text
    return [last] if settings.patient_data else [_without_patient_data, last]


def _without_patient_data(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    kept = {key: value for key, value in line.items() if key not in PATIENT_FIELDS}
    if isinstance(details := kept.get("details"), Mapping):
        kept["details"] = {k: v for k, v in details.items() if k not in PATIENT_FIELDS}
    return kept


_SHORT_LEVELS = {"debug": "debug", "info": "info ", "warning": "warn ", "error": "error"}


def _as_text(_: WrappedLogger, __: str, line: EventDict) -> str:
    when, level, message = line.pop("timestamp"), line.pop("level"), str(line.pop("event"))
    line.pop("details", None)
    exception = line.pop("exception", None)
    parts = [_time(when), _SHORT_LEVELS[level], escape(message)]
    parts += [f"{key}={_value(value)}" for key, value in line.items()]
    rows = [" ".join(parts)]
    if exception:
        rows += ["    " + escape(row) for row in exception.rstrip().split("\n")]
    return "\n".join(rows)


def _value(value: object) -> str:
    text = str(value)
    if text and text.isascii() and text.isprintable() and not set(text) & set(" \"'="):
        return text
    return '"' + escape(text).replace('"', '\\"') + '"'


def _as_json(_: WrappedLogger, __: str, line: EventDict) -> str:
    record: dict[str, Any] = {
        "time": _time(line.pop("timestamp")),
        "level": line.pop("level"),
        "message": line.pop("event"),
    }
    details = line.pop("details", {})
    record |= {key: value for key, value in (line | details).items() if key not in record}
    # ASCII only: json escapes every other control character, bidirectional marks included.
    return json.dumps(record, default=str).replace("\x7f", "\\u007f")


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
