"""Recordings of associations for Wireshark: ``dicomnode trace``.

They hold patients' data. So one is made only when it is asked for, of one AE, bounded in size and
time; it is announced, and kept in a file without a name, which is gone with the process.

The event loop copies what passes and goes on; a thread makes packets of it and writes them. What
finds the thread too far behind is left out, and the file says so.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from dicomnode import __version__
from dicomnode.errors import TraceRefused
from dicomnode.observe import pcapng
from dicomnode.observe.logs import Logger
from dicomnode.observe.words import duration, escape, size

MOST_TRACES: Final = 4
"""How many recordings are made at once."""

# What waits for the thread of one recording.
_WAITING_BYTES: Final = 32 * 1024 * 1024
# What a step takes besides its data: a peer may send it byte by byte.
_STEP_BYTES: Final = 512
# Kept free in a file for what is said at its end.
_END_BYTES: Final = 8 * 1024
_READ_BYTES: Final = 256 * 1024
# The reader is told of what has been written so often at most.
_NEWS_BYTES: Final = 1024 * 1024
_REMEMBERED: Final = 20
_UNREAD_SECONDS: Final = 60.0

_NOTE: Final = (
    "Holds patients' data. Recorded by a DICOM node between its upper layer and TCP or TLS:"
    " Ethernet, IP and TCP are made up, with 104 as the port of the side that accepted the"
    " connection."
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be recorded: the next ``count`` associations with an AE, whoever asks for them.

    ``network`` is where the AE's other end has to be (None: anywhere). ``asked_by`` says who wants
    it, for the log.
    """

    ae_title: str
    count: int
    seconds: float
    max_bytes: int
    network: Network | None = None
    asked_by: str = ""

    def takes(self, peer_ae_title: str, address: str) -> bool:
        """Tell whether an association is one of these."""
        if peer_ae_title.strip().casefold() != self.ae_title.strip().casefold():
            return False
        return self.network is None or _is_within(address, self.network)


def _is_within(address: str, network: Network) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found) in network


class Ends(Protocol):
    """The two ends of a connection (``net.taps.Ends``)."""

    @property
    def ours(self) -> tuple[str, int]: ...

    @property
    def theirs(self) -> tuple[str, int]: ...

    @property
    def requested(self) -> bool: ...

    @property
    def encrypted(self) -> bool: ...


# What the thread does with one thing that happened: the blocks to be written.
_Step = Callable[[], Iterable[bytes]]


class Trace:
    """One recording, into ``file``; all but the thread's part runs on the event loop.

    Making one starts its thread.
    """

    def __init__(
        self,
        number: int,
        wanted: Wanted,
        file: io.FileIO,
        on_over: Callable[[Trace], None],
        *,
        now: Callable[[], float] = time.time,
        waiting_bytes: int = _WAITING_BYTES,
    ) -> None:
        self.number = number
        self.wanted = wanted
        self.why = ""
        self.begun = self.ended = 0
        self.packets = self.dropped_bytes = self.written_bytes = 0
        self._now = now
        self._on_over = on_over
        self._most_waiting = waiting_bytes
        self._loop = asyncio.get_running_loop()
        self._file = file
        self._reading = threading.Lock()
        self._steps: queue.SimpleQueue[tuple[int, _Step] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._is_full = False
        self._news = asyncio.Event()
        self._unheard_bytes = 0
        self._is_written = False
        self._is_read = False
        self._timer = self._loop.call_later(wanted.seconds, self.finish, "its time is over")
        self._thread = threading.Thread(target=self._write_all, name="dicomnode-trace", daemon=True)
        self._put(0, lambda: [pcapng.header(f"dicomnode {__version__}", _NOTE)])
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is recorded."""
        return bool(self.why)

    def figures(self) -> dict[str, Any]:
        """Return what has been recorded so far."""
        return {
            "number": self.number,
            "ae_title": self.wanted.ae_title,
            "associations": self.begun,
            "packets": self.packets,
            "bytes": self.written_bytes,
            "dropped_bytes": self.dropped_bytes,
            "over": self.is_over,
            "why": self.why,
        }

    # -- on the event loop -------------------------------------------------------------------------

    def wants(self, peer_ae_title: str, address: str) -> bool:
        """Tell whether an association is to be recorded."""
        has_room = not self.is_over and self.begun < self.wanted.count
        return has_room and self.wanted.takes(peer_ae_title, address)

    def begin(self, ends: Ends, at: float, peer_ae_title: str) -> pcapng.Conversation:
        """Take up one association."""
        self.begun += 1
        talk = pcapng.Conversation(ends.ours, ends.theirs, requested=ends.requested)
        way = "requested by this node of" if ends.requested else "requested by"
        how = "over TLS, decrypted" if ends.encrypted else "not over TLS"
        words = (
            f"Association {way} {escape(peer_ae_title)} at {_spelled(ends.theirs)}, this node at"
            f" {_spelled(ends.ours)}, {how}"
        )
        self._put(0, lambda: talk.opened(at, words))
        return talk

    def take(self, talk: pcapng.Conversation, at: float, is_ours: bool, data: bytes) -> bool:
        """Record what one side said; False when there is no room for it."""
        if self.is_over:
            return False
        taken = len(data) + _STEP_BYTES
        with self._lock:
            fits = not self._is_full and self._waiting_bytes + taken <= self._most_waiting
        if fits:
            self._put(taken, lambda: talk.data(at, is_ours, data))
        elif not self._is_full:
            self.dropped_bytes += len(data)
        return fits

    def break_off(self, talk: pcapng.Conversation, at: float) -> None:
        """Say in the file that an association is not recorded any further."""
        words = "From here on this association is not recorded: it went faster than it was written"
        self._put(0, lambda: [talk.remark(at, words)])

    def end(self, talk: pcapng.Conversation | None, at: float) -> None:
        """An association has ended; None for one that was broken off."""
        self.ended += 1
        if talk is not None:
            self._put(0, lambda: talk.closed(at))
        if self.ended >= self.wanted.count:
            self.finish("all associations that were asked for are recorded")

    def finish(self, why: str) -> None:
        """Record nothing more."""
        if self.is_over:
            return
        self.why = why
        self._timer.cancel()
        self._steps.put(None)
        self._on_over(self)
        # Whoever asked for it reads it from the start; nobody comes later than this.
        self._timer = self._loop.call_later(_UNREAD_SECONDS, self.give_up)

    def give_up(self) -> None:
        """Drop a recording that is over and that nobody reads."""
        self._timer.cancel()
        if not self._is_read:
            self._is_read = True
            self._loop.run_in_executor(None, self._close)

    def _put(self, count: int, step: _Step) -> None:
        if self.is_over:
            return
        with self._lock:
            self._waiting_bytes += count
        self._steps.put((count, step))

    def join(self) -> None:
        """Wait until all of it is written; blocks."""
        self._thread.join()

    async def content(self) -> AsyncIterator[bytes]:
        """Return the file as it grows; once. Whoever stops listening ends the recording."""
        self._is_read = True
        offset = 0
        try:
            while not self._file.closed:
                self._news.clear()
                written = self._is_written
                while data := await asyncio.to_thread(self._read, offset):
                    offset += len(data)
                    yield data
                if written:
                    return
                await self._news.wait()
        finally:
            self.finish("whoever asked for it has gone")
            # Not awaited, as this may be the end of a task that was cancelled.
            self._loop.run_in_executor(None, self._close)

    def _read(self, offset: int) -> bytes:
        with self._reading:
            if self._file.closed:
                return b""
            return os.pread(self._file.fileno(), _READ_BYTES, offset)

    def _close(self) -> None:
        self.join()
        with self._reading:
            self._file.close()

    # -- in the thread -----------------------------------------------------------------------------

    def _write_all(self) -> None:
        try:
            while (found := self._steps.get()) is not None:
                count, step = found
                self._write(step)
                with self._lock:
                    self._waiting_bytes -= count
                if self._unheard_bytes > _NEWS_BYTES or self._steps.empty():
                    self._tell()
            self._write_end()
        except Exception as error:
            # Of the disk, or a fault of our own: nobody else is to notice it.
            words = f"it could not be written: {error}"
            self._is_full = True
            self._call(lambda: self.finish(words))
        self._is_written = True
        self._tell()

    def _write(self, step: _Step) -> None:
        """Write the packets of a step, as far as they fit."""
        if self._is_full:
            return
        for block in step():
            if self.written_bytes + len(block) + _END_BYTES > self.wanted.max_bytes:
                self._is_full = True
                self._call(lambda: self.finish("it has all the bytes that it may have"))
                return
            self._append(block)
            self.packets += 1

    def _append(self, block: bytes) -> None:
        rest = memoryview(block)
        while rest:
            rest = rest[self._file.write(rest) :]
        self.written_bytes += len(block)
        self._unheard_bytes += len(block)

    def _write_end(self) -> None:
        self.packets -= 1  # the header of the file
        words = f"The recording ended: {self.why}."
        if self.dropped_bytes:
            words += (
                f" {size(self.dropped_bytes)} were not recorded, as they came faster than they"
                " could be written."
            )
        self._append(pcapng.statistics(self._now(), self.packets, self.dropped_bytes, words))

    def _tell(self) -> None:
        self._unheard_bytes = 0
        self._call(self._news.set)

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function)


def _spelled(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Recording:
    """Listens to one connection (``net.taps.Tap``) for all recordings that want it."""

    def __init__(self, ends: Ends, traces: Sequence[Trace], now: Callable[[], float]) -> None:
        self._ends = ends
        self._traces = traces
        self._now = now
        self._since = now()
        self._first = bytearray()
        self._talks: list[tuple[Trace, pcapng.Conversation | None]] | None = None

    def begins(self, peer_ae_title: str) -> bool:
        self._talks = [
            (trace, trace.begin(self._ends, self._since, peer_ae_title))
            for trace in self._traces
            if trace.wants(peer_ae_title, self._ends.theirs[0])
        ]
        first, self._first = self._first, bytearray()
        self._take(False, (first,))
        return bool(self._talks)

    def received(self, data: memoryview) -> None:
        if self._talks is None:
            # The A-ASSOCIATE-RQ; whose it is will be said in a moment.
            self._first += data
        else:
            self._take(False, (data,))

    def sent(self, buffers: Sequence[bytes | memoryview]) -> None:
        self._take(True, buffers)

    def ended(self, unread: memoryview) -> None:
        if self._talks is None:
            return
        self._take(False, (unread,))
        talks, self._talks = self._talks, []
        for trace, talk in talks:
            trace.end(talk, self._now())

    def _take(self, is_ours: bool, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        talks = self._talks
        # An association may go on for long after its recording is over.
        if talks is None or all(trace.is_over for trace, _ in talks):
            return
        at, data = self._now(), b"".join(buffers)
        for number, (trace, talk) in enumerate(talks if data else ()):
            if talk is None:
                trace.dropped_bytes += len(data)
            elif not trace.take(talk, at, is_ours, data) and not trace.is_over:
                # With a hole in it nothing after would make sense.
                trace.break_off(talk, at)
                talks[number] = trace, None


class Tracing:
    """Makes recordings; the ``net.taps.Taps`` of a node.

    Files are made in ``directory``, on whose disk ``min_free_bytes`` stay free. ``audited`` is told
    of each recording when it begins and when it is over.
    """

    def __init__(
        self,
        directory: Path,
        log: Logger,
        *,
        min_free_bytes: int = 0,
        audited: Callable[[Trace], None] = lambda trace: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._log = log
        self._min_free_bytes = min_free_bytes
        self._audited = audited
        self._now = now
        self._running: list[Trace] = []
        # What became of the last ones, by number.
        self._past: dict[int, Trace] = {}
        self._is_closed = False
        self._count = 0

    @property
    def is_listening(self) -> bool:
        """Whether anything is being recorded."""
        return bool(self._running)

    def connected(self, ends: Ends) -> _Recording | None:
        """Return what listens to a new connection, None when nothing is being recorded."""
        return _Recording(ends, list(self._running), self._now) if self._running else None

    async def start(self, wanted: Wanted) -> Trace:
        """Record from now on what is ``wanted``. Raises TraceRefused."""
        try:
            # The others may still take what they were promised.
            promised = sum(each.wanted.max_bytes - each.written_bytes for each in self._running)
            file = await asyncio.to_thread(self._open, wanted.max_bytes + promised)
        except OSError as error:
            raise TraceRefused(f"no file can be made in {self._directory}: {error}") from None
        if self._is_closed or len(self._running) >= MOST_TRACES:
            file.close()
            raise TraceRefused(
                "the node stops"
                if self._is_closed
                else f"{MOST_TRACES} recordings are being made already"
            )
        self._count += 1
        trace = Trace(self._count, wanted, file, self._over, now=self._now)
        self._running.append(trace)
        noun = "association" if wanted.count == 1 else f"{wanted.count} associations"
        self._log.warning(
            f"trace {trace.number} begins: it records the next {noun} with {wanted.ae_title},"
            f" patients' data included, up to {size(wanted.max_bytes)} in"
            f" {duration(wanted.seconds)}",
            asked_by=wanted.asked_by,
        )
        self._audited(trace)
        return trace

    def _open(self, needed_bytes: int) -> io.FileIO:
        free = shutil.disk_usage(self._directory).free
        if free < needed_bytes + self._min_free_bytes:
            raise TraceRefused(
                f"{self._directory} has {size(free)} free, the recordings may take"
                f" {size(needed_bytes)}, and {size(self._min_free_bytes)} are to stay free"
                " (storage.min_free_bytes): ask for fewer bytes"
            )
        # Without a name, and for nobody else: nothing is left of it when the process ends.
        descriptor, name = tempfile.mkstemp(prefix="trace-", dir=self._directory)
        os.unlink(name)
        return io.FileIO(descriptor, "r+")

    def figures(self, number: int) -> dict[str, Any] | None:
        """Return how far a recording is or what became of it; None for one long ago."""
        found = next((trace for trace in self._running if trace.number == number), None)
        found = found or self._past.get(number)
        return found.figures() if found is not None else None

    def end(self, number: int) -> bool:
        """End a recording; False when there is no such one."""
        found = next((trace for trace in self._running if trace.number == number), None)
        if found is not None:
            found.finish("it was ended by whoever asked for it")
        return found is not None

    def close(self) -> None:
        """End all recordings, and make no more."""
        self._is_closed = True
        for trace in list(self._running):
            trace.finish("the node stops")
        for trace in self._past.values():
            trace.give_up()

    def _over(self, trace: Trace) -> None:
        self._running.remove(trace)
        self._past[trace.number] = trace
        while len(self._past) > _REMEMBERED:
            del self._past[next(iter(self._past))]
        noun = "association" if trace.begun == 1 else "associations"
        self._log.warning(
            f"trace {trace.number} of {trace.wanted.ae_title} is over: {trace.why};"
            f" {trace.begun} {noun} recorded",
            asked_by=trace.wanted.asked_by,
        )
        self._audited(trace)
