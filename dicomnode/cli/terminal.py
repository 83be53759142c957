"""What is written to the terminal: nothing that a peer sent gets there as it came."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from dicomnode.observe.words import escape

# Of a pipe, which has no width of its own: wide enough that tables are not cut.
_PIPE_COLUMNS = 200


def plain(value: object) -> Text:
    """Return ``value`` as text for the terminal: neither markup nor control, whoever sent it."""
    return Text(escape(str(value)))


def console(*, errors: bool = False) -> Console:
    """Return the console for results, or the one for what goes beside them."""
    stream = sys.stderr if errors else sys.stdout
    width = None if stream.isatty() else _PIPE_COLUMNS
    return Console(file=stream, highlight=False, markup=False, width=width)
