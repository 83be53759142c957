"""Writes figures as tables in Markdown, with the machine that they were taken on.

Each benchmark replaces its own section of docs/benchmarks.md, between two comments.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tests import peers


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; ``value`` is what ``limit`` bounds, from above unless ``at_least``."""

    what: str
    node: str
    peer: str
    value: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> str:
        """Return the line of the table."""
        bound = "≥" if self.at_least else "≤"
        return (
            f"| {self.what} | {self.node} | {self.peer} | {self.value:.2f}{self.unit} "
            f"| {bound} {self.limit:g}{self.unit} | {'yes' if self.met else '**no**'} |"
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
        method = textwrap.fill(f"{self.method} Medians of {times}.", 99)
        parts = [f"## {self.title}", method, table(figures), self.notes]
        return "\n\n".join(part for part in parts if part)


_ORDER = ("store", "query", "retrieve", "send", "worklist", "commitment", "verify")
_HEAD = """# Benchmarks

Written by `make bench`. All servers ran on the machine that asked, and took turns. A ratio is
dicomnode's figure divided by the peer's. DCMTK and Orthanc had `TCP_NODELAY=1` except where the
line says otherwise; peers have their default settings beyond that, Orthanc on SQLite."""


def write(path: Path, section: Section, figures: list[Figure], runs: int) -> None:
    """Put a section with today's figures into the page, in the place of the one before."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    sections = {
        name: found[1].strip()
        for name in _ORDER
        if (found := re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", before, re.DOTALL))
    }
    today = datetime.date.today().isoformat()
    sections[section.name] = f"{section.text(figures, runs)}\n\nMeasured on {today}."
    marked = [
        f"<!-- {name} -->\n{sections[name]}\n<!-- /{name} -->"
        for name in _ORDER
        if name in sections
    ]
    machine = f"| machine | |\n|---|---|\n{_machine()}"
    path.write_text("\n\n".join([_HEAD, *marked, machine]) + "\n", encoding="utf-8")


def _machine() -> str:
    rows = {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "DCMTK": _version("storescu"),
        "Orthanc": _version("Orthanc"),
    }
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


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
