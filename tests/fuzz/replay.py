"""Does damaged associations again: ``python -m tests.fuzz.replay SEED [NUMBER] [--quiet]``.

Prints what each does, and what a node of its own writes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.arena import arena
from tests.fuzz.live import Campaign
from tests.fuzz.mutations import course


def main() -> int:
    """Return 1 when the node did not bear them."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz.replay")
    options.add_argument("seed", type=int, help="the first course")
    options.add_argument("number", type=int, nargs="?", default=1, help="how many of them")
    options.add_argument("--quiet", action="store_true", help="without the node's log")
    chosen = options.parse_args()
    if chosen.number <= 20:
        for seed in range(chosen.seed, chosen.seed + chosen.number):
            print(course(seed))
    with tempfile.TemporaryDirectory() as scratch, arena(Path(scratch)) as running:
        try:
            print(Campaign(running, chosen.seed).run(0, chosen.number))
        except AssertionError as failure:
            print(failure)
            return 1
        finally:
            if not chosen.quiet:
                print("\n".join(running.node.lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
