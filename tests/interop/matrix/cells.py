"""The matrix: which peer and which service, in which role, and what came of trying it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tests.interop.matrix.world import World

COLUMNS = (
    *("echo", "store", "find", "get", "move", "cancel", "worklist", "MPPS", "commitment"),
    *("TLS", "compressed", "character sets", "big object", "user identity"),
)


class Role(StrEnum):
    """What the node is: SCP, called by the peer, or SCU, which calls it."""

    SCP = "SCP"
    SCU = "SCU"


class Verdict(StrEnum):
    """What stands in a cell."""

    PASS = "pass"
    FAIL = "fail"
    NO = "not supported"
    NOT_TRIED = "not tried"


Try = Callable[[World], str | None]


@dataclass(frozen=True, slots=True)
class Cell:
    """One exchange to be tried; ``known`` says why it fails, where that is the peer's fault.

    ``attempt`` raises where anything is not as it should be, and may return a note.
    """

    peer: str
    role: Role
    column: str
    attempt: Try
    known: str = ""

    @property
    def name(self) -> str:
        """The cell in words."""
        return f"{self.peer} {self.column}, node as {self.role}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a cell: its verdict, the reason or a note, and whether it was foreseen."""

    verdict: Verdict
    words: str = ""
    foreseen: bool = True


Key = tuple[str, Role, str]


@dataclass(frozen=True, slots=True)
class Peer:
    """A row: how its version is found, and what it does not have or what nobody tries here."""

    name: str
    version: Callable[[], str]
    is_installed: Callable[[], bool]
    cells: dict[Key, Cell]
    without: dict[Key, Outcome]

    def cell(self, role: Role, column: str, *, known: str = "") -> Callable[[Try], Try]:
        """Enter a function as the attempt of a cell."""

        def enter(attempt: Try) -> Try:
            key = self._new_key(role, column)
            self.cells[key] = Cell(self.name, role, column, attempt, known)
            return attempt

        return enter

    def lacks(self, role: Role, *columns: str, why: str = "") -> None:
        """Say which services the peer does not have in the other role."""
        for column in columns:
            self.without[self._new_key(role, column)] = Outcome(Verdict.NO, why)

    def untried(self, role: Role, *columns: str, why: str) -> None:
        """Say which services of the peer are not tried, and why."""
        for column in columns:
            self.without[self._new_key(role, column)] = Outcome(Verdict.NOT_TRIED, why)

    def _new_key(self, role: Role, column: str) -> Key:
        key = (self.name, role, column)
        if column not in COLUMNS or key in self.cells or key in self.without:
            raise ValueError(f"{key} is no cell, or one already")
        return key


def new_peer(name: str, version: Callable[[], str], is_installed: Callable[[], bool]) -> Peer:
    """Return a row without cells."""
    return Peer(name, version, is_installed, {}, {})
