"""Tries cells one after another, and has what passed dissected."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.interop.matrix.cells import Cell, Key, Outcome, Peer, Role, Verdict
from tests.interop.matrix.traffic import Dissected, dissect
from tests.interop.matrix.world import World

_MOST_WORDS = 160
BOTH_WAYS = ("move", "commitment", "MPPS")
"""Columns in which the node and the peer call each other."""


@dataclass(slots=True)
class Result:
    """What came of a run, by cell, and what was dissected of it."""

    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    dissected: Dissected = field(default_factory=Dissected)

    @property
    def unforeseen(self) -> list[Key]:
        """Cells that failed and whose failure nobody can put down to the peer."""
        return [
            key
            for key, outcome in self.outcomes.items()
            if outcome.verdict is Verdict.FAIL and not outcome.foreseen
        ]


def run_matrix(world: World, peers: Sequence[Peer], tell: Callable[[str], None]) -> Result:
    """Try every cell of the peers that are installed."""
    result = Result()
    for peer in peers:
        result.outcomes |= peer.without
        for key, cell in peer.cells.items():
            if not peer.is_installed():
                outcome = Outcome(Verdict.NOT_TRIED, "not installed")
            else:
                outcome = run_cell(world, cell, result.dissected)
            result.outcomes[key] = outcome
            tell(f"{cell.name}: {outcome.verdict} {outcome.words}".rstrip())
    result.dissected.add(world.traffic.extra)
    return result


def run_cell(world: World, cell: Cell, dissected: Dissected) -> Outcome:
    """Try one cell; whatever it raises is its failure."""
    with world.traffic.recorded(cell.name) as capture:
        outcome = _attempted(world, cell)
    side: Literal["requestor", "acceptor"] = "requestor" if cell.role is Role.SCP else "acceptor"
    found = dissect(
        capture,
        has_fragments=cell.column == "compressed",
        is_big=cell.column == "big object",
        peer_is=None if cell.column in BOTH_WAYS else side,
    )
    if not found.faults and not found.of_peers:
        capture.unlink()
    if cell.column == "big object":
        world.tidy()
    dissected.add(found)
    if found.faults and outcome.verdict is Verdict.PASS:
        return Outcome(Verdict.FAIL, f"dissection: {found.faults[0]}", foreseen=False)
    return outcome


def _attempted(world: World, cell: Cell) -> Outcome:
    try:
        return Outcome(Verdict.PASS, cell.attempt(world) or "")
    except Exception as failure:  # a cell that fails is told on the page, and the next one tried
        words = f"{type(failure).__name__}: {failure}".splitlines()[0][:_MOST_WORDS]
        (world.directory / f"{cell.name}.txt").write_text(traceback.format_exc())
        return Outcome(Verdict.FAIL, cell.known or words, foreseen=bool(cell.known))
