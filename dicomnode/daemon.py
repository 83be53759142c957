"""The process of a node: its event loop, its signals, and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, cast

from dicomnode.errors import DicomnodeError
from dicomnode.hardening import harden
from dicomnode.node import Node
from dicomnode.reload import Configuration
from dicomnode.supervision import Supervisor, ask_for_time, feed_watchdog

# The interpreter's 5 ms would be what a worker waits for the loop, and the loop for a worker.
_SWITCH_INTERVAL_SECONDS = 0.002


def run(configuration: Configuration) -> int:
    """Run the node until SIGTERM or SIGINT; return the exit code.

    The first signal drains, a second one stops at once; SIGHUP reloads settings, registry, users
    and certificates.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    harden()
    supervisor = Supervisor.from_environment(os.environ)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(configuration, supervisor))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's, or asyncio's own where there is no uvloop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return cast(Callable[[], asyncio.AbstractEventLoop], uvloop.new_event_loop)


async def _serve(configuration: Configuration, supervisor: Supervisor) -> int:
    loop = asyncio.get_running_loop()
    node = Node(configuration)
    asked = asyncio.Event()
    asked_again = asyncio.Event()

    def stop() -> None:
        (asked_again if asked.is_set() else asked).set()

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop)
    # A reload that is asked for while the node recovers follows the start.
    reload_wanted = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, reload_wanted.set)
    try:
        async with _beside(ask_for_time(supervisor)):
            await node.start()
    except (DicomnodeError, OSError) as error:
        # Our own words need no number before them.
        words = str(error)
        if isinstance(error, OSError) and error.strerror and error.filename is None:
            words = error.strerror
        print(f"dicomnode: cannot start: {words}", file=sys.stderr)
        return 1
    # What is there now stays: a collection would look through all of it, for some 50 ms in which
    # nothing else runs.
    gc.collect()
    gc.freeze()
    await asyncio.to_thread(supervisor.ready, _status(node))
    async with _beside(feed_watchdog(supervisor, node.touch_index, node.log)):
        async with _beside(_reload_when(reload_wanted, node, supervisor)):
            await asked.wait()
        seconds = configuration.settings.timeouts.drain_seconds
        await asyncio.to_thread(supervisor.stopping, "letting associations finish", seconds)
        await _stop(node, asked_again)
    return 0


def _status(node: Node) -> str:
    host, port = node.dicom_address
    served = f"DICOM on {host}:{port}"
    return served if node.http_address is None else f"{served}, HTTP on port {node.http_address[1]}"


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have ``work`` done until the block ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _reload_when(wanted: asyncio.Event, node: Node, supervisor: Supervisor) -> None:
    """Reload whenever it is asked for, until cancelled."""
    while True:
        await wanted.wait()
        wanted.clear()
        await asyncio.to_thread(supervisor.reloading)
        try:
            taken = await node.reload()
        except Exception as error:
            taken = False
            node.log.exception("internal error while reloading", error)
        failed = "" if taken else "; the last reload failed, the old settings stay"
        await asyncio.to_thread(supervisor.ready, _status(node) + failed)


async def _stop(node: Node, at_once: asyncio.Event) -> None:
    """Let the node drain, until it is to stop at once."""
    draining = asyncio.create_task(node.stop())
    again = asyncio.create_task(at_once.wait())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not draining.done():
        node.abort_all()
    await draining
