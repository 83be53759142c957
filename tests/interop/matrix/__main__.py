"""``python -m tests.interop.matrix``: fill in the matrix, and with --write docs/interop.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.interop.matrix import packages
from tests.interop.matrix.page import write_page
from tests.interop.matrix.rows import ROWS
from tests.interop.matrix.running import run_matrix
from tests.interop.matrix.world import BIG_WORDS, new_world

PAGE = Path(__file__).parents[3] / "docs" / "interop.md"


def main() -> int:
    """Run the matrix; return 1 when a cell failed that should not have, or traffic was faulty."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.matrix", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/interop.md")
    parser.add_argument("--only", metavar="PEER", help="run the row of one peer")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work here, and leave all of it")
    chosen = parser.parse_args()
    if chosen.write and chosen.only:
        parser.error("a page of one row is none")
    rows = [row for row in ROWS if chosen.only in (None, row.name)]
    begun = time.monotonic()

    def tell(words: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {words}", flush=True)

    with tempfile.TemporaryDirectory() as made:
        directory = chosen.keep or Path(made)
        directory.mkdir(parents=True, exist_ok=True)
        with new_world(directory) as world:
            result = run_matrix(world, rows, tell)
    if chosen.write:
        PAGE.write_text(write_page(result, rows, packages.version("tshark"), BIG_WORDS))
    found = result.dissected
    print(f"{found.packets} packets, {found.pdus} PDUs, faults: {found.faults or 'none'}")
    return 1 if result.unforeseen or found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
