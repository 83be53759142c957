"""How worklist items look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from dicomnode.cli.asking import moment, plain

_STATES: Final[Mapping[str, str]] = {
    "SCHEDULED": "",
    "IN PROGRESS": "green",
    "COMPLETED": "dim",
    "DISCONTINUED": "yellow",
}
_NAME_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")

Shown = Mapping[str, Any]


def listing(items: Sequence[Shown]) -> Table:
    """Lay out items, one a row."""
    table = Table("start", "station", "mod.", "patient", "ID", "accession", "state", "key")
    table.add_column("from")
    for column in table.columns:
        column.overflow = "fold"
    for item in items:
        table.add_row(
            plain(start_of(item)),
            plain(" ".join(item["station_ae_titles"])),
            plain(item["modality"]),
            plain(item["patient_name"].partition("=")[0]),
            plain(item["patient_id"]),
            plain(item["accession_number"]),
            Text(item["state"].lower(), style=_STATES.get(item["state"], "")),
            plain(item["key"]),
            plain(_origin(item)),
        )
    return table


def start_of(item: Shown) -> str:
    """Return when an item's step is scheduled, as people write it."""
    return written_moment(item["start_date"], item["start_time"])


def written_moment(date: str, time: str) -> str:
    """Return a date and a time of DICOM as people write them."""
    day = f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 else date
    whole = time.partition(".")[0]
    parts = [whole[at : at + 2] for at in range(0, len(whole), 2)]
    clock = ":".join(parts[:2] if parts[2:] == ["00"] else parts)
    return f"{day} {clock}".strip()


def item_view(item: Shown) -> RenderableType:
    """Lay out one item: what it is, where it stands, and all that it says."""
    head = Table.grid(padding=(0, 2))
    for name, value in _head(item):
        head.add_row(Text(name, style="dim"), plain(value))
    performed = item["performed_steps"]
    steps = [_performed(step) for step in performed] or [Text("none", style="dim")]
    tree = Tree(Text("attributes", style="bold"), guide_style="dim")
    _grow(tree, item["attributes"])
    return Group(head, "", Text("performed steps", style="bold"), *steps, "", tree)


def _head(item: Shown) -> list[tuple[str, str]]:
    title = item["called_ae_title"]
    return [
        ("key", item["key"]),
        ("state", item["state"].lower()),
        ("start", start_of(item)),
        ("station", " ".join(item["station_ae_titles"])),
        ("from", _origin(item)),
        ("seen by", f"who calls {title}" if title else "every caller"),
        ("entered", moment(item["entered_at"])),
        ("changed", moment(item["changed_at"])),
    ]


def _origin(item: Shown) -> str:
    title = item["called_ae_title"]
    return f"{item['origin']} for {title}" if title else str(item["origin"])


def _performed(step: Shown) -> Text:
    line = Text("  ")
    line.append_text(plain(step["status"].lower())).append(", started ")
    line.append_text(plain(written_moment(*_parted(step["started"]))))
    if step["ended"]:
        line.append(", ended ").append_text(plain(written_moment(*_parted(step["ended"]))))
    if step["station"]:
        line.append(", on ").append_text(plain(step["station"]))
    series, instances = step["series"], step["instances"]
    line.append(f", {series} series with {instances} {'object' if instances == 1 else 'objects'}")
    line.append("\n    ").append_text(plain(step["sop_instance_uid"])).stylize("dim", -1)
    return line


def _parted(text: str) -> tuple[str, str]:
    date, _, time = text.partition(" ")
    return date, time


def _grow(tree: Tree, attributes: Shown) -> None:
    """Add a branch for each attribute that has a value."""
    # Here, since the list needs no dictionary of names.
    from dicomnode.storage.json_model import name_of

    for key, attribute in sorted(attributes.items()):
        label = Text(f"({key[:4]},{key[4:]}) ", style="dim").append_text(plain(name_of(key)))
        values = attribute.get("Value", [])
        if attribute["vr"] == "SQ":
            for number, item in enumerate(values, start=1):
                _grow(tree.add(label.copy().append(f" #{number}")), item)
        elif values or attribute.get("InlineBinary"):
            label.append(": ").append_text(plain(_joined(attribute["vr"], values)))
            tree.add(label)


def _joined(vr: str, values: Sequence[Any]) -> str:
    if not values:
        return "(bulk data)"
    if vr == "PN":
        names = (value or {} for value in values)
        return "\\".join(
            "=".join(name.get(group, "") for group in _NAME_GROUPS).rstrip("=") for name in names
        )
    return "\\".join("" if value is None else str(value) for value in values)
