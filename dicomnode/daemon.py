"""The process of a node: its event loop, its signals, and its exit code."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from dicomnode.errors import DicomnodeError
from dicomnode.node import Node
from dicomnode.settings import Settings

# The interpreter's 5 ms would be what a worker waits for the loop, and the loop for a worker.
_SWITCH_INTERVAL_SECONDS = 0.002


def run(settings: Settings, registry_path: Path) -> int:
    """Run the node until SIGTERM or SIGINT; return the exit code.

    The first signal drains, a second one stops at once; SIGHUP reloads registry and certificates.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    os.umask(0o077)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings, registry_path))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's, or asyncio's own where there is no uvloop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return cast(Callable[[], asyncio.AbstractEventLoop], uvloop.new_event_loop)


async def _serve(settings: Settings, registry_path: Path) -> int:
    loop = asyncio.get_running_loop()
    node = Node(settings, registry_path)
    asked = asyncio.Event()
    asked_again = asyncio.Event()

    def stop() -> None:
        (asked_again if asked.is_set() else asked).set()

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop)
    # The registry is being read anyway; the signal must only not end the process.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    try:
        await node.start()
    except (DicomnodeError, OSError) as error:
        print(f"dicomnode: cannot start: {error}", file=sys.stderr)
        return 1
    # What is there now stays: a collection would look through all of it, for some 50 ms in which
    # nothing else runs.
    gc.collect()
    gc.freeze()
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(node.reload())
        reloads.add(task)  # the loop itself keeps no hold of it
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    await asked.wait()
    draining = asyncio.create_task(node.stop())
    again = asyncio.create_task(asked_again.wait())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not draining.done():
        node.abort_all()
    await draining
    return 0
