"""Writes figures as tables in Markdown, with the machine that they were taken on.

Each benchmark replaces its own section of docs/performance.md, between two comments.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

from dicomnode import __version__
from tests import peers


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; ``value`` is what ``limit`` bounds, from above unless ``at_least``.

    Without a limit it is there to be compared with.
    """

    what: str
    node: str
    peer: str
    value: float
    limit: float | None
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the target is met, if there is one."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> str:
        """Return the line of the table."""
        bound = met = ""
        if self.limit is not None:
            bound = f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}"
            met = "yes" if self.met else "**no**"
        return (
            f"| {self.what} | {self.node} | {self.peer} | {self.value:.2f}{self.unit} "
            f"| {bound} | {met} |"
        )


def table(figures: list[Figure]) -> str:
    """Return the table."""
    head = ["| measured | dicomnode | peer | figure | target | met |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(figure.row() for figure in figures)])


@dataclass(frozen=True, slots=True)
class Section:
    """What one benchmark writes of the page: a heading, how it was measured, and notes."""

    name: str
    title: str
    method: str
    notes: str = ""

    def text(self, figures: list[Figure], runs: int) -> str:
        """Return the section with its table."""
        times = f"{runs} run{'s' if runs != 1 else ''}"
        method = filled(f"{self.method} Medians of {times}.")
        parts = [f"## {self.title}", method, table(figures), self.notes]
        return "\n\n".join(part for part in parts if part)


PAGE = Path(__file__).parent.parent / "docs" / "performance.md"

_ORDER = (
    *("limits", "breakdown", "store", "query", "growth", "retrieve", "send", "worklist"),
    *("commitment", "verify", "load"),
)
_HEAD = """# Performance

Written by `make bench`. All servers ran on the machine that asked, and took turns. A ratio is
dicomnode's figure divided by the peer's. DCMTK and Orthanc had `TCP_NODELAY=1` except where the
line says otherwise; peers have their default settings beyond that, Orthanc on SQLite. Where
nothing else is said, so has dicomnode: a flush before each answer, SHA-256 of each object, an
index on SQLite.

![How many times as fast as each peer](performance/ratios.svg)"""


def sections(page: str) -> dict[str, str]:
    """Return what the page has of each benchmark, by its name."""
    return {
        name: found[1].strip()
        for name in _ORDER
        if (found := re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page, re.DOTALL))
    }


def write(name: str, text: str) -> None:
    """Put a section with today's figures into the page, in the place of the one before."""
    written = sections(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    written[name] = f"{text}\n\n{_circumstances()}"
    marked = [
        f"<!-- {name} -->\n{written[name]}\n<!-- /{name} -->" for name in _ORDER if name in written
    ]
    page = "\n\n".join([_HEAD, *marked]) + "\n"
    PAGE.write_text(page, encoding="utf-8")


def _circumstances() -> str:
    """Return when and on what this was measured: no name of a machine, but all else."""
    today = datetime.date.today().isoformat()
    machine = f"{_processor()}, {os.cpu_count()} cores, {_filesystem(Path(tempfile.gettempdir()))}"
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    others = f"DCMTK {_version('storescu')}, Orthanc {_version('Orthanc')}"
    return filled(f"Measured on {today}: {machine}; {system}; dicomnode {__version__}, {others}.")


def filled(text: str) -> str:
    """Break one paragraph into lines."""
    return textwrap.fill(text, 99, break_long_words=False, break_on_hyphens=False)


def _filesystem(directory: Path) -> str:
    """Return the type of the filesystem that a directory is on."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "an unknown filesystem"
    within = [each for each in reversed(mounts) if directory.is_relative_to(each[1])]
    # Of two on one place the later one is what is seen.
    return max(within, key=lambda each: len(Path(each[1]).parts))[2]


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _version(program: str) -> str:
    output = peers.run_tool(program, "--version").output
    found = re.search(r"\d+\.\d+\.\d+", output)
    return found[0] if found else "unknown"
