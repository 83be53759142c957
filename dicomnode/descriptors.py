"""File descriptors: how many the node may want, gets, and lets its peers have."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass

# Index, log, HTTP, converters, lanes of forwarding; and as many connections as are accepted in one
# go before the first of them can be closed.
_OWN = 512
# The connection, the file that is written, the file that is read.
_EACH = 3


@dataclass(frozen=True, slots=True)
class Shares:
    """How many connections may be open: ``total``, and of one address; and what is lacking.

    ``lacking`` is a sentence for the log, "" when there are descriptors enough.
    """

    total: int
    per_address: int
    lacking: str = ""


def connection_shares(max_associations: int) -> Shares:
    """Return how many connections are admitted for so many associations.

    Raises this process's limit of descriptors as far as it may. What cannot be had is taken off
    the connections: closed ones harm less than files that cannot be opened.
    """
    # Beside the associations: connections that are refused, or that have not asked for one yet.
    wanted = 2 * max_associations + 64
    needed = wanted + (_EACH - 1) * max_associations + _OWN
    had = _raise_limit(needed)
    if had >= needed:
        return Shares(wanted, max_associations + 32)
    total = max(min(wanted, (had - _OWN) // _EACH), 8)
    words = (
        f"{had} file descriptors are allowed, limits.max_associations = {max_associations} may"
        f" need {needed} (LimitNOFILE, ulimit -n): no more than {total} connections are admitted"
    )
    return Shares(total, max(total // 2, 1), words)


def _raise_limit(wanted: int) -> int:
    """Let the process have ``wanted`` descriptors where it may; return how many it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
