"""Whether the clock may be believed: one that jumps ten years ahead makes everything old.

The last time that could be trusted is durable, and goes on while rules are applied. A clock that is
further from it than the settings allow, on either side, is not believed, until it comes back or
somebody says that it is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from dicomnode.retention.rules import DAY_SECONDS
from dicomnode.retention.state import States

ADVICE: Final = (
    "Set the clock of this machine right; if it is right (the node was off for long), say so with"
    " dicomnode retention --trust-clock."
)


def distrust(
    states: States, now: float, newest: Callable[[], float | None], allowed_seconds: float
) -> str:
    """Return why ``now`` is not believed, "" when it is.

    The first time it is compared with when the newest object was received (None: there is none).
    Blocks; raises CatalogError.
    """
    trusted = states.trusted_at()
    known, what = trusted, "when rules were applied last"
    if known is None:
        known, what = newest(), "when the newest object was received"
    if known is not None and abs(now - known) > allowed_seconds:
        words = "later" if now > known else "earlier"
        return (
            f"the clock says {_moment(now)}, {abs(now - known) / DAY_SECONDS:.1f} days {words} than"
            f" {_moment(known)}, {what} (deletion.max_clock_jump_days)"
        )
    return ""


def received_now(
    trusted_at: float | None,
    allowed_seconds: float,
    now: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Callable[[], float]:
    """Return what tells when objects are received, for a start: rules go by that later.

    A clock that is further behind ``trusted_at`` than allowed, as where a machine starts in 1970,
    would make them old as soon as it is set right. Until then it is taken to be ``trusted_at``,
    and to go on from there.
    """
    if trusted_at is None:
        return now
    began = monotonic()

    def tell() -> float:
        at, least = now(), trusted_at + monotonic() - began
        return at if at >= least - allowed_seconds else least

    return tell


def _moment(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s after 1970"
