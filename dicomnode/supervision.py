"""What a service manager is told: systemd's notify protocol (sd_notify(3), systemd.service(5)).

Each message is one datagram to the socket that NOTIFY_SOCKET names. Where there is none, nothing
is said, and nobody asks whether the node lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor

from dicomnode.observe.logs import Logger

# What the manager takes at once; it reads its socket as long as it lives.
_SEND_SECONDS = 5.0
# How often in the time after which it is given up the node says that it lives.
_FEEDS = 3
# While it starts or stops, the node asks for so much time again and again.
_EXTENSION_SECONDS = 60.0


class Supervisor:
    """The service manager of this process, if it has one that listens."""

    def __init__(self, address: str = "", watchdog_seconds: float | None = None) -> None:
        # A name that begins with @ is in the abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = watchdog_seconds if address else None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Supervisor:
        """Take what systemd set out of ``environment``, so that no child speaks for the node."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        process = environment.pop("WATCHDOG_PID", "")
        ours = process in ("", str(os.getpid()))
        watched = ours and microseconds.isdecimal() and int(microseconds) > 0
        return cls(address, int(microseconds) / 1e6 if watched else None)

    @property
    def is_there(self) -> bool:
        """Tell whether anybody listens."""
        return bool(self._address)

    def starting(self) -> None:
        """Ask for more time to start; recovery of a large archive takes long."""
        self._tell(f"EXTEND_TIMEOUT_USEC={_microseconds(_EXTENSION_SECONDS)}")

    def ready(self, status: str) -> None:
        """Say that start or reload is done; ``status`` is a line for systemctl status."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the settings are being read again."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reading the settings again")

    def stopping(self, status: str, seconds: float) -> None:
        """Say that the node stops, and takes up to ``seconds`` for it."""
        within = _microseconds(seconds + _EXTENSION_SECONDS)
        self._tell("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={within}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # Escapes have no meaning here, and a second line would be a second field.
        message = "\n".join(line.replace("\n", " ") for line in lines).encode()
        with (
            contextlib.suppress(OSError),  # it has gone, and there is nobody else to tell
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.settimeout(_SEND_SECONDS)
            sender.sendto(message, self._address)


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)


async def ask_for_time(supervisor: Supervisor) -> None:
    """Ask for more time to start until cancelled; a loop that hangs asks no more."""
    while supervisor.is_there:
        await asyncio.to_thread(supervisor.starting)
        await asyncio.sleep(_EXTENSION_SECONDS / _FEEDS)


async def feed_watchdog(
    supervisor: Supervisor, touch_index: Callable[[], object], log: Logger
) -> None:
    """Feed the watchdog until cancelled, as long as this loop runs and the index's writer works.

    ``touch_index`` returns, or raises, when the writer has come to what it was asked; it is called
    in a thread of its own, one call at a time. A writer that answers with an error lives.
    """
    if supervisor.watchdog_seconds is None:
        return
    pause = supervisor.watchdog_seconds / _FEEDS
    thread = ThreadPoolExecutor(1, "dicomnode-watchdog")
    loop, silent = asyncio.get_running_loop(), False
    try:
        while True:
            touched = loop.run_in_executor(thread, touch_index)
            done, _ = await asyncio.wait({touched}, timeout=pause)
            if not done:
                if not silent:
                    log.error(
                        "the index's writer does not answer; unless it does soon, the service"
                        f" manager ends this process (WatchdogSec={supervisor.watchdog_seconds:g})"
                    )
                silent = True
                await asyncio.wait({touched})
            if silent:
                log.warning("the index's writer answers again")
                silent = False
            touched.exception()  # an error is an answer
            await loop.run_in_executor(thread, supervisor.alive)
            await asyncio.sleep(pause)
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
