"""Notes the head of the chain of custody where whoever writes to the index does not reach.

Whoever can write to the index can write a whole chain anew, with hashes that fit. The heads that
stand in the log, and in the audit trail, on other machines if they go there, do not fit then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from dicomnode.errors import CatalogError
from dicomnode.observe.logs import Logger
from dicomnode.services.custody import Custodian

_EVERY_SECONDS: Final = 24 * 3600.0


class Anchors:
    """Notes the head at the start, once a day, and at the stop; ``audited`` gets it as text."""

    def __init__(self, custodian: Custodian, log: Logger, audited: Callable[[str], None]) -> None:
        self._custodian = custodian
        self._log = log
        self._audited = audited

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Note heads while it is entered."""
        await self._note("start")
        task = asyncio.create_task(self._daily(), name="custody heads")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._custodian.settled()
            await self._note("stop")

    async def _daily(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            await self._note("daily")

    async def _note(self, occasion: str) -> None:
        try:
            sequence, own = await asyncio.to_thread(self._custodian.custody.head)
        except CatalogError as error:
            self._log.error(f"the head of the chain of custody cannot be noted: {error}")
            return
        words = f"head of the chain of custody ({occasion}): {sequence}:{own}"
        self._log.info(words)
        self._audited(words)
