"""What a query found, as a table, as CSV, or as DICOM JSON (PS3.18 Annex F)."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from typing import Final, Protocol

from rich.table import Table

from dicomnode.cli.terminal import console, plain
from dicomnode.observe.words import escape
from dicomnode.scu.keys import Path, name_of, path_name, texts_at
from dicomnode.storage.json_model import Attributes

# Rows that a table is laid out for at once, so that a long answer takes no more memory.
_ROWS_AT_ONCE: Final = 500


class Output(Protocol):
    """Where matches are written."""

    def add(self, match: Attributes) -> None:
        """Write a match."""

    def end(self) -> None:
        """There are no more."""


class AsJson:
    """A JSON array of the matches."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, match: Attributes) -> None:
        # What a terminal could take for commands is escaped; a file gets text as it is.
        written = json.dumps(match, ensure_ascii=sys.stdout.isatty())
        sys.stdout.write(("," if self._count else "[") + "\n" + written)
        self._count += 1

    def end(self) -> None:
        sys.stdout.write("\n]\n" if self._count else "[]\n")


class AsCsv:
    """A line for each match, below one with the keywords."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        self._writer.writerow([path_name(path) for path in paths])

    def add(self, match: Attributes) -> None:
        self._writer.writerow([escape(_cell(match, path)) for path in self._paths])

    def end(self) -> None:
        sys.stdout.flush()


class AsTable:
    """A table; where it is too wide for the terminal, a paragraph for each match."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._names = [name_of(path[-1]) for path in paths]
        self._rows: list[list[str]] = []
        self._console = console()

    def add(self, match: Attributes) -> None:
        self._rows.append([escape(_cell(match, path)) for path in self._paths])
        if len(self._rows) == _ROWS_AT_ONCE:
            self.end()

    def end(self) -> None:
        if not self._rows:
            return
        widths = [
            max(len(name), *(plain(row[place]).cell_len for row in self._rows))
            for place, name in enumerate(self._names)
        ]
        width = sum(widths) + 2 * len(widths)
        if self._console.is_terminal and width > self._console.width:
            self._paragraphs()
        else:
            table = Table(*self._names, box=None, padding=(0, 2, 0, 0), header_style="bold")
            for column in table.columns:
                column.no_wrap = True
            for row in self._rows:
                table.add_row(*map(plain, row))
            # A pipe is as wide as the table.
            self._console.width = max(width, self._console.width)
            self._console.print(table)
        self._rows.clear()

    def _paragraphs(self) -> None:
        longest = max(map(len, self._names))
        for row in self._rows:
            for name, cell in zip(self._names, row, strict=True):
                if cell:
                    self._console.print(plain(f"{name:<{longest}}  {cell}"), soft_wrap=True)
            self._console.print()


def _cell(match: Attributes, path: Path) -> str:
    return "; ".join(texts_at(match, path))
