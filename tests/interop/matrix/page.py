"""Writes docs/interop.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from textwrap import fill

from tests.interop.matrix.cells import COLUMNS, Key, Outcome, Peer, Role, Verdict
from tests.interop.matrix.running import Result
from tests.interop.matrix.traffic import CARRIED_ON

_HEADINGS = {
    Role.SCP: ("The node as SCP", "The peer calls, and the node answers."),
    Role.SCU: (
        "The node as SCU",
        "The node's commands call the peer, or the node itself does: to send a performed"
        " procedure step on, and to ask for storage commitment.",
    ),
}
_SIGNS = {Verdict.PASS: "pass", Verdict.FAIL: "**fail**", Verdict.NO: "no", Verdict.NOT_TRIED: ""}
_COLUMNS_SAID = """\
A cell is one exchange that a program tries and whose result it checks: which objects came, with
which pixels and patients, which matches, which final status. `pass` is where all of it was right;
`no` is where the peer does not have the service in the role that it would need; an empty cell was
not tried. Move is with a second association to the peer (the node as SCP) or to the node (as SCU);
cancel is C-CANCEL of a query; TLS is with certificates on both sides; compressed is objects in
JPEG 2000, RLE and JPEG as they are; character sets is names of patients in the character sets of
pydicom's samples; user identity is name and passcode, a wrong one of which is rejected. The node's
own commands send no user identity."""
_TRAFFIC_SAID = """\
All connections went through a relay that records them. Wireshark's dissector read {packets:,}
packets with {pdus:,} DICOM PDUs; in what the node sent it found {faults}. What came over TLS is as
the node recorded it with `dicomnode trace`; what the node sent over TLS was not dissected.
{carried_on} packets of the column compressed are not counted: Wireshark takes fragments of JPEG and
RLE for elements, and looks for the rest of the last one in the command that follows ("{words}"),
whoever sends them. Of the big objects PDUs were dissected, but not put together."""
_NOT_TO_BE_HAD = """\
Not to be had as packages of Debian, PyPI or npm: dcm4che. dicom-dimse-native (npm) is DCMTK again,
and left out. CTN's archive, worklist and commitment servers need MySQL, and are left out."""


def write_page(result: Result, rows: Sequence[Peer], wireshark: str, big: str) -> str:
    """Return the page."""
    today = datetime.now(UTC).date()
    parts = [
        "# Interoperability",
        f"Written by `python -m tests.interop.matrix --write` on {today}; `make proof` runs it.",
        _COLUMNS_SAID + f" The big object has {big}.",
        _versions(rows, wireshark),
        _NOT_TO_BE_HAD,
    ]
    for role, (heading, words) in _HEADINGS.items():
        parts += [f"## {heading}", fill(words, 100), _table(result.outcomes, rows, role)]
        parts.append(_remarks(result.outcomes, rows, role))
    found = result.dissected
    faults = "no malformed one and no error" if not found.faults else f"{len(found.faults)} faults"
    said = _TRAFFIC_SAID.format(
        packets=found.packets,
        pdus=found.pdus,
        faults=faults,
        carried_on=found.carried_on,
        words=CARRIED_ON,
    )
    parts += ["## What went over the wire", said]
    parts.append("\n".join(f"- {each}" for each in found.faults))
    if found.of_peers:
        parts.append("What peers sent has faults, which the node bore:")
        parts.append("\n".join(f"- {each}" for each in found.of_peers))
    return "\n\n".join(part for part in parts if part) + "\n"


def _versions(rows: Sequence[Peer], wireshark: str) -> str:
    lines = ["| peer | version |", "|---|---|"]
    for row in rows:
        version = row.version() if row.is_installed() else "not installed"
        lines.append(f"| {row.name} | {version} |")
    lines.append(f"| Wireshark, which dissects | {wireshark} |")
    return "\n".join(lines)


def _table(outcomes: Mapping[Key, Outcome], rows: Sequence[Peer], role: Role) -> str:
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        found = (outcomes.get((row.name, role, column)) for column in COLUMNS)
        signs = (_SIGNS[each.verdict] if each else "" for each in found)
        lines.append(f"| {row.name} | " + " | ".join(signs) + " |")
    return "\n".join(lines)


def _remarks(outcomes: Mapping[Key, Outcome], rows: Sequence[Peer], role: Role) -> str:
    """Return the reasons of what did not pass, those of one peer and reason together."""
    reasons: dict[tuple[str, Verdict, str], list[str]] = {}
    for row in rows:
        for column in COLUMNS:
            outcome = outcomes.get((row.name, role, column))
            if outcome is not None and outcome.verdict is not Verdict.PASS and outcome.words:
                reasons.setdefault((row.name, outcome.verdict, outcome.words), []).append(column)
    return "\n".join(
        f"- {peer}, {', '.join(columns)}: {verdict}; {words}"
        for (peer, verdict, words), columns in reasons.items()
    )
