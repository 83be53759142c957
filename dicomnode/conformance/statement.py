"""Puts the conformance statement together: hand-written parts, with the configuration filled in.

The parts are Markdown with ``${names}`` of ``values``; what they say holds whatever is configured.
(PS3.2 §5, Annex A.)
"""

from __future__ import annotations

import re
from importlib.resources import files
from string import Template
from textwrap import fill
from typing import Final

from dicomnode.conformance.values import values_of
from dicomnode.registry import Registry
from dicomnode.settings import Settings

_PARTS: Final = (
    *("overview", "introduction", "model", "policies", "contexts", "verification"),
    *("storage_scp", "storage_scu", "query", "retrieve", "retrieve_scu"),
    *("worklist", "mpps", "mpps_scu", "commitment_scp", "commitment_scu"),
    *("interfaces", "media", "character_sets"),
    *("security", "annexes"),
)
_WIDTH: Final = 100
_HEADING: Final = re.compile(r"(#{2,4}) (.*)")


def statement(settings: Settings, registry: Registry) -> str:
    """Return the statement of a node with these settings and this registry, as Markdown."""
    values = values_of(settings, registry)
    folder = files("dicomnode.conformance") / "parts"
    parts = [
        Template((folder / f"{name}.md").read_text("utf-8")).substitute(values) for name in _PARTS
    ]
    return _numbered("\n\n".join(map(_filled, "\n".join(parts).split("\n\n"))))


def _filled(block: str) -> str:
    """Break a paragraph anew, as what was put into it is longer or shorter than its name."""
    text = block.strip("\n")
    if text.startswith(("#", "|", "-")):
        return text
    return fill(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)


def _numbered(text: str) -> str:
    """Number the headings below the title."""
    numbers = [0, 0, 0]
    rows = text.splitlines()
    for at, row in enumerate(rows):
        if found := _HEADING.fullmatch(row):
            level = len(found[1]) - 2
            numbers[level] += 1
            numbers[level + 1 :] = [0] * (2 - level)
            number = ".".join(map(str, numbers[: level + 1]))
            rows[at] = f"{found[1]} {number} {found[2]}"
    return "\n".join(rows) + "\n"
