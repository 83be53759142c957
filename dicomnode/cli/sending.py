"""Sends many objects to one peer: over as many associations as they need, whatever breaks.

One object that fails keeps none of the others; an association that is lost is made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dicomnode.cli.associating import associated, words
from dicomnode.cli.peers import Called, Options
from dicomnode.cli.sources import Item
from dicomnode.dimse.command import Priority
from dicomnode.dimse.status import describe
from dicomnode.errors import (
    AssociationError,
    ContextNotAccepted,
    ConversionFailed,
    StatusError,
    Unreadable,
)
from dicomnode.scu.answers import Answer
from dicomnode.scu.association import Association
from dicomnode.scu.objects import Instance
from dicomnode.scu.proposals import proposals
from dicomnode.ul.items import PresentationContextRQ

# What objects are counted under that the peer has not answered.
NOT_SENT: Final = "not sent"
# Associations in a row that were lost before a single object got through.
_MOST_LOSSES: Final = 5
_FIRST_PAUSE_SECONDS: Final = 0.5
# An object during which the association was lost so often is given up: it may be the cause.
_MOST_TRIES: Final = 3
# Objects that are opened before it is their turn.
_AHEAD: Final = 2
# Objects that one turn of a thread opens: to change threads takes longer than to read a small one.
_OPENED_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one object; ``status`` is None where the peer answered none."""

    item: Item
    status: int | None
    ok: bool
    words: str

    @property
    def summary(self) -> str:
        """What it is counted under."""
        if self.status is None:
            return NOT_SENT
        return f"{self.status:04X}H {describe(self.status, 'C-STORE')}"


class Sending:
    """Sends to ``called``; ``on_result`` is told of each object, once."""

    def __init__(
        self,
        called: Called,
        options: Options,
        *,
        window: int,
        priority: Priority,
        on_result: Callable[[Result], None],
    ) -> None:
        self._called = called
        self._options = options
        self._window = window
        self._priority = priority
        self._on_result = on_result
        self._tries: dict[int, int] = {}
        self._is_reached = False

    async def send(self, items: Sequence[Item]) -> None:
        """Send all of them. Raises AssociationError when the peer cannot be had from the start."""
        kinds = dict.fromkeys(item.kind for item in items)
        for served, contexts in proposals(kinds):
            await self._send_on([item for item in items if item.kind in served], contexts)

    async def _send_on(
        self, items: Sequence[Item], contexts: Sequence[PresentationContextRQ]
    ) -> None:
        self._tries.clear()
        left = dict(enumerate(items))
        losses = 0
        while left:
            before = len(left)
            try:
                await self._send_over_one(left, contexts)
            except AssociationError as error:
                if not self._is_reached:
                    raise
                losses = losses + 1 if len(left) == before else 1
                suspects = [number for number, tries in self._tries.items() if tries >= _MOST_TRIES]
                self._give_up(left, list(left) if losses > _MOST_LOSSES else suspects, error)
                if left:
                    await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2 ** (losses - 1))

    async def _send_over_one(
        self, left: dict[int, Item], contexts: Sequence[PresentationContextRQ]
    ) -> None:
        """Send what is ``left`` on one association; what has a result is taken out of it."""
        async with associated(
            self._called, self._options, contexts, max_operations=self._window
        ) as association:
            self._is_reached = True
            granted = association.negotiated.max_operations_invoked or self._window
            # After a loss one at a time, so that it shows which object was the cause.
            at_once = 1 if self._tries else min(granted, self._window)
            opened: asyncio.Queue[_Opened | None] = asyncio.Queue(max(_AHEAD, at_once))
            tasks = [asyncio.create_task(_open(list(left.items()), opened, at_once))]
            tasks += [
                asyncio.create_task(self._work(association, opened, left)) for _ in range(at_once)
            ]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(
        self,
        association: Association,
        opened: asyncio.Queue[_Opened | None],
        left: dict[int, Item],
    ) -> None:
        while (one := await opened.get()) is not None:
            result = await self._store(association, one)
            del left[one.number]
            self._on_result(result)

    async def _store(self, association: Association, one: _Opened) -> Result:
        if isinstance(one.instance, Exception):
            return _not_sent(one.item, one.instance)
        try:
            answer = await association.store(
                one.instance,
                priority=self._priority,
                response_seconds=self._options.response_seconds,
            )
        except AssociationError:
            self._tries[one.number] = self._tries.get(one.number, 0) + 1
            raise
        except (ContextNotAccepted, ConversionFailed, StatusError, Unreadable, OSError) as error:
            return _not_sent(one.item, error)
        return _answered(one.item, answer)

    def _give_up(
        self, left: dict[int, Item], numbers: Iterable[int], error: AssociationError
    ) -> None:
        for number in numbers:
            self._tries.pop(number, None)
            if (item := left.pop(number, None)) is not None:
                self._on_result(Result(item, None, False, words(error, self._called)))


@dataclass(frozen=True, slots=True)
class _Opened:
    """An object that is ready to be sent, or why it is not."""

    number: int
    item: Item
    instance: Instance | Exception


async def _open(
    items: Sequence[tuple[int, Item]], opened: asyncio.Queue[_Opened | None], workers: int
) -> None:
    """Open the objects one after the other, a few ahead of those who send them."""
    for start in range(0, len(items), _OPENED_AT_ONCE):
        for one in await asyncio.to_thread(_load, items[start : start + _OPENED_AT_ONCE]):
            await opened.put(one)
    for _ in range(workers):
        await opened.put(None)


def _load(items: Sequence[tuple[int, Item]]) -> list[_Opened]:
    loaded: list[_Opened] = []
    for number, item in items:
        instance: Instance | Exception
        try:
            instance = item.load()
        except (Unreadable, OSError) as error:
            instance = error
        loaded.append(_Opened(number, item, instance))
    return loaded


def _not_sent(item: Item, error: Exception) -> Result:
    return Result(item, None, False, str(error).removeprefix(f"{item.name}: "))


def _answered(item: Item, answer: Answer) -> Result:
    comment = f": {answer.comment}" if answer.comment else ""
    return Result(item, answer.status, answer.ok, f"{answer.status:04X}H {answer.words}{comment}")
