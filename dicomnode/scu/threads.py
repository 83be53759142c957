"""Work in threads that is over when its caller goes on, whatever becomes of that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(function: Callable[..., T], *arguments: object) -> T:
    """Run ``function`` in a thread and return what it does.

    Whoever is cancelled meanwhile waits for the thread all the same, so that it no longer uses
    what is closed or removed next.
    """
    loop = asyncio.get_running_loop()
    working = loop.run_in_executor(None, partial(function, *arguments))
    cancelled: asyncio.CancelledError | None = None
    while not working.done():
        try:
            await asyncio.wait([working])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        working.exception()
        raise cancelled
    return working.result()
