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

# What a table is laid out for at once, so that a long answer takes no more memory.
_ROWS_AT_ONCE: Final = 500
_CHARACTERS_AT_ONCE: Final = 1_000_000


class Output(Protocol):
    """Where the matches of one query after the other are written."""

    def begin(self, paths: Sequence[Path]) -> None:
        """The matches of a query for ``paths`` come next."""

    def add(self, match: Attributes) -> None:
        """Write a match."""

    def flush(self) -> None:
        """Let all that has been added be seen."""

    def end(self) -> None:
        """There are no more queries."""


class AsJson:
    """A JSON array of the matches, of all queries in one."""

    def __init__(self) -> None:
        self._count = 0
        # What a terminal could take for commands is escaped; a file gets text as it is.
        self._ensure_ascii = sys.stdout.isatty() or not _is_utf_8(sys.stdout.encoding)

    def begin(self, paths: Sequence[Path]) -> None:
        pass

    def add(self, match: Attributes) -> None:
        written = json.dumps(match, ensure_ascii=self._ensure_ascii)
        sys.stdout.write(("," if self._count else "[") + "\n" + written)
        self._count += 1

    def flush(self) -> None:
        sys.stdout.flush()

    def end(self) -> None:
        sys.stdout.write("\n]\n" if self._count else "[]\n")


class AsCsv:
    """A line for each match, below one with the keywords."""

    def __init__(self) -> None:
        self._paths: Sequence[Path] = ()
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        # A file gets the lines of a text as they are, in quotes.
        self._kept = "" if sys.stdout.isatty() else "\t\r\n"

    def begin(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._writer.writerow([path_name(path) for path in paths])

    def add(self, match: Attributes) -> None:
        cells = [escape(_cell(match, path), keep=self._kept) for path in self._paths]
        self._writer.writerow(cells)

    def flush(self) -> None:
        sys.stdout.flush()

    def end(self) -> None:
        pass


class AsTable:
    """A table; where it is too wide for the terminal, a paragraph for each match."""

    def __init__(self) -> None:
        self._paths: Sequence[Path] = ()
        self._names: list[str] = []
        self._rows: list[list[str]] = []
        self._characters = 0
        self._console = console()

    def begin(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._names = [name_of(path[-1]) for path in paths]

    def add(self, match: Attributes) -> None:
        row = [escape(_cell(match, path)) for path in self._paths]
        self._rows.append(row)
        self._characters += sum(map(len, row))
        if len(self._rows) == _ROWS_AT_ONCE or self._characters >= _CHARACTERS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
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
        self._characters = 0

    def end(self) -> None:
        pass

    def _paragraphs(self) -> None:
        longest = max(map(len, self._names))
        for row in self._rows:
            for name, cell in zip(self._names, row, strict=True):
                if cell:
                    self._console.print(plain(f"{name:<{longest}}  {cell}"), soft_wrap=True)
            self._console.print()


def _cell(match: Attributes, path: Path) -> str:
    return "; ".join(texts_at(match, path))


def _is_utf_8(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "").replace("_", "") == "utf8"
