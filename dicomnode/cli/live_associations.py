"""How ``status`` shows the associations that are open, and how far their operations are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Table

from dicomnode.cli.asking import plain
from dicomnode.observe.words import duration, size

MOST_ROWS: Final = 15

Row = Mapping[str, Any]


def table_of(rows: Sequence[Row], title: str, ae_title: str) -> Table:
    """Lay out associations; ``ae_title`` is the key of the other side's title."""
    who, where = ("called AE", "at") if ae_title == "called_ae_title" else ("calling AE", "from")
    table = Table("#", who, where, title=title, title_justify="left")
    table.add_column("for", justify="right")
    table.add_column("operations", justify="right")
    table.add_column("in", justify="right")
    table.add_column("out", justify="right")
    table.add_column("under way")
    for row in rows[:MOST_ROWS]:
        table.add_row(
            plain(row.get("number", "?")),
            plain(row.get(ae_title, "?")),
            plain(row.get("peer_address", "?")),
            duration(float(row.get("seconds", 0))),
            plain(row.get("operations", "")),
            _amount(row, "received_bytes"),
            _amount(row, "sent_bytes"),
            plain(under_way(row)),
        )
    return table


def _amount(row: Row, key: str) -> str:
    count, rate = int(row.get(key, 0)), int(row.get(f"{key}_per_second", 0))
    return f"{size(count)}, {size(rate)}/s" if rate else size(count)


def under_way(row: Row) -> str:
    """Say what is being done on an association, the first operation in full."""
    operations = row.get("under_way", [])
    if not operations:
        return ""
    first = operations[0]
    words = f"{first.get('service', '?')} {_progress(first.get('progress', {}))}".rstrip()
    words += f", {duration(float(first.get('seconds', 0)))}"
    more = int(row.get("under_way_count", len(operations))) - 1
    return f"{words}, and {more} more" if more > 0 else words


def _progress(figures: Row) -> str:
    """Write how far an operation is: what there is of it, as a person says it."""
    if "remaining" in figures:
        done = sum(int(figures.get(key, 0)) for key in ("completed", "failed", "warning"))
        to = f"to {figures['destination']} " if figures.get("destination") else ""
        failed = int(figures.get("failed", 0))
        words = f"{to}{done} of {done + int(figures['remaining'])}"
        words += f", {failed} failed" if failed else ""
        return words + f", {size(int(figures.get('sent_bytes', 0)))}"
    if "received_bytes" in figures:
        return size(int(figures["received_bytes"]))
    if "matches" in figures:
        return f"{figures['matches']} matches"
    return ""
