"""The event loop of commands: its end waits for no name server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def run(course: Coroutine[Any, Any, T]) -> T:
    """Run ``course`` to its end as ``asyncio.run`` does."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(course)


class _Loop(asyncio.SelectorEventLoop):
    """Looks names up in threads that nobody waits for: a lookup cannot be broken off.

    In those of asyncio, which its end waits for, a name server that does not answer holds up a
    command long after it has failed.
    """

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        found = self.create_future()

        def settle(put: Callable[[Any], None], result: Any) -> None:
            if not found.done():
                put(result)

        def look_up() -> None:
            put: Callable[[Any], None] = found.set_result
            result: Any
            try:
                result = socket.getaddrinfo(host, port, **hints)
            except (OSError, UnicodeError) as error:
                put, result = found.set_exception, error
            with suppress(RuntimeError):  # the loop is closed: nobody asks any more
                self.call_soon_threadsafe(settle, put, result)

        threading.Thread(target=look_up, daemon=True).start()
        return await found
