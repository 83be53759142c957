"""Writes the figures as a table in Markdown, with the machine that they were taken on."""

from __future__ import annotations

import datetime
import os
import platform
import re
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


def page(figures: list[Figure], runs: int) -> str:
    """Return the whole of docs/benchmarks.md."""
    return f"""# Benchmarks

Written by `make bench` on {datetime.date.today().isoformat()}. All servers ran on the machine
that sent, took turns, and started empty each time; a time is the median of {runs}
run{"s" if runs != 1 else ""} of DCMTK's `storescu`, its own start included. A ratio is dicomnode's
figure divided by the peer's. `storescu`, `storescp` and Orthanc had `TCP_NODELAY=1` except where
the line says otherwise; peers have their default settings beyond that, Orthanc on SQLite.

{table(figures)}

- 516 x 512 KB, 1000 x 12 KB, 1 GB: CT images of noise, Explicit VR Little Endian.
- full: answered after file, directory entry and index row are flushed; relaxed: nothing flushed.
- Digest and index are on in every run of dicomnode.
- memory is resident memory of the whole process.

| machine | |
|---|---|
{_machine()}
"""


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
