"""How often the log tells of refused connections, which may come by the thousand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_QUIET_SECONDS: Final = 10.0
_MOST_ADDRESSES: Final = 1024


@dataclass(slots=True)
class _Told:
    at: float
    untold: int = 0


class Refusals:
    """Counts the refused connections of each address; ``now`` is monotonic, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by_address: OrderedDict[str, _Told] = OrderedDict()

    def told(self, address: str) -> int | None:
        """Return how many have not been told since the last one was, or None to say nothing."""
        now = self._now()
        before = self._by_address.get(address)
        if before is not None and now - before.at < _QUIET_SECONDS:
            before.untold += 1
            return None
        self._by_address[address] = _Told(now)
        self._by_address.move_to_end(address)
        if len(self._by_address) > _MOST_ADDRESSES:
            self._by_address.popitem(last=False)
        return before.untold if before is not None else 0
