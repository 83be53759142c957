"""Retrieves what matches some keys, and is not there yet, from a peer by C-GET."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from dicomnode.scu.keys import Keys
from dicomnode.scu.names import FIND
from dicomnode.scu.receiving import ReceivedObject
from dicomnode.sync.bringing import Bringing, Place, Report, Series
from dicomnode.sync.source import Source
from dicomnode.sync.tree import Brought, Held, Tree, takes_whole_series

_SORTED_AT_ONCE: Final = 1000


class Taker(Place, Protocol):
    """A place that takes objects off the association that they come on."""

    async def receive(self, held: Held, arriving: ReceivedObject) -> Brought:
        """Take an object. Raises StatusError."""


class Getting:
    """Brings objects of ``source`` to ``place``; ``on_progress`` is called as they come."""

    def __init__(
        self,
        source: Source,
        place: Taker,
        *,
        verify: bool,
        on_progress: Callable[[Report], None],
    ) -> None:
        self._source = source
        self._place = place
        self._verify = verify
        self._on_progress = on_progress
        self.report = Report()
        self._missing: dict[str, Held] = {}
        self._found_of: Counter[Series] = Counter()

    async def get(self, wanted: Keys) -> Report:
        """Retrieve what ``wanted`` matches and is not there.

        Raises AssociationError, ContextNotAccepted, StatusError, Unreadable.
        """
        await self._look(wanted)
        bringing = Bringing(
            self._source,
            self._place,
            self.report,
            on_progress=self._on_progress,
            take=self._place.receive,
            by_series=takes_whole_series(wanted),
        )
        try:
            await bringing.bring(self._missing, self._found_of)
        finally:
            await self._place.close()
        return self.report

    async def _look(self, wanted: Keys) -> None:
        """Find out what the peer has, and what of it is missing here."""
        async with self._source.associated([FIND["study"]]) as association:
            tree = Tree(association, self._source.response_seconds)
            self.report.tells_digests = tree.is_dicomnode
            found: list[Held] = []
            async for held in tree.objects(wanted):
                found.append(held)
                if len(found) == _SORTED_AT_ONCE:
                    await self._sort(found)
                    found = []
            await self._sort(found)

    async def _sort(self, found: Sequence[Held]) -> None:
        there = await asyncio.to_thread(self._place.digests, found, verify=self._verify)
        self.report.found += len(found)
        for held in found:
            self._found_of[held.study_instance_uid, held.series_instance_uid] += 1
            digest = there.get(held.sop_instance_uid)
            if digest is None:
                self._missing[held.sop_instance_uid] = held
                continue
            self.report.there += 1
            expected = held.is_expected(held.transfer_syntax_uid, digest) if self._verify else None
            self.report.verified += expected is True
            if expected is False:
                self.report.differ.append(held.sop_instance_uid)
