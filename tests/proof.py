"""The long form of tests: what `make test` does some times, `make proof` does hundreds of times.

A test with a long form is marked ``proof`` and asks here how often. DICOMNODE_PROOF=1 chooses the
long form; a smaller share of it, as 0.1, is for who has less time.
"""

from __future__ import annotations

import os

share = float(os.environ.get("DICOMNODE_PROOF") or 0)
"""How much of the long form is asked for: 0 is the short form, 1 the whole long one."""
long = share > 0


def count(short: int, long: int) -> int:
    """Return how often something is to be done: ``long`` times its share, never below ``short``."""
    return max(short, round(long * share))
