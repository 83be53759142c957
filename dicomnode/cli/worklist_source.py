"""What ``worklist add`` is given, as data sets of the DICOM JSON model."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from dicomnode.errors import DicomnodeError

_MAX_BYTES: Final = 1024 * 1024
_NOT_IN_KEYS: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_STEM: Final = 48


class NotAnItem(DicomnodeError):
    """What is to be added is none; the message says why."""


@dataclass(frozen=True, slots=True)
class Described:
    """An item as the options of a command describe it; what is not said is ""."""

    patient_name: str
    patient_id: str
    birth_date: str
    sex: str
    accession: str
    modality: str
    station: str
    start: str
    description: str
    physician: str

    @property
    def is_empty(self) -> bool:
        return not any(getattr(self, name) for name in self.__slots__)


def described_item(described: Described) -> Mapping[str, Any]:
    """Return the data set that the options describe. Raises NotAnItem."""
    needed = ("patient_name", "patient_id", "modality", "station", "start")
    if missing := [
        f"--{name.replace('_', '-')}" for name in needed if not getattr(described, name)
    ]:
        raise NotAnItem(f"a worklist item needs {', '.join(missing)} too, or give a file")
    date, time = _moment(described.start)
    step = {
        "00080060": _value("CS", described.modality.upper()),
        "00400001": _value("AE", *described.station.split(",")),
        "00400002": _value("DA", date),
        "00400003": _value("TM", time),
        "00400006": _name(described.physician),
        "00400007": _value("LO", described.description),
    }
    return {
        "00080050": _value("SH", described.accession),
        "00100010": _name(described.patient_name),
        "00100020": _value("LO", described.patient_id),
        "00100030": _value("DA", described.birth_date.replace("-", "")),
        "00100040": _value("CS", described.sex.upper()),
        "00321060": _value("LO", described.description),
        "00400100": {"vr": "SQ", "Value": [step]},
    }


def new_key(accession: str = "") -> str:
    """Return a key that no other item has, with the accession number in it where it may be."""
    stem = _NOT_IN_KEYS.sub("-", accession)[:_MAX_STEM].strip("-") or "item"
    return f"{stem}-{secrets.token_hex(4)}"


def file_key(path: Path) -> str:
    """Return the key of what a file holds: the same whenever it is added again."""
    return _NOT_IN_KEYS.sub("-", path.stem)[:64].strip("-") or "item"


def file_item(path: Path) -> Any:
    """Return the data sets of a worklist file, DICOM or JSON. Raises NotAnItem, OSError."""
    # Here, since the other commands are quicker without pydicom.
    from dicomnode.services.worklist_items import UnfitItem
    from dicomnode.services.worklist_reading import data_sets_of_file

    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise NotAnItem(f"{path} is longer than {_MAX_BYTES} bytes")
    try:
        return data_sets_of_file(path.name, data)
    except UnfitItem as unfit:
        raise NotAnItem(f"{path}: {unfit}") from None


def _moment(text: str) -> tuple[str, str]:
    """Return date and time as DICOM writes them."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or not re.search(r"[ T]\d", text):
        raise NotAnItem(
            f'--start must be a date and a time such as "2026-11-21 09:30", not {text!r}'
        )
    return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")


def _value(vr: str, *values: str) -> dict[str, Any]:
    kept = [value.strip() for value in values if value.strip()]
    return {"vr": vr, "Value": kept} if kept else {"vr": vr}


def _name(name: str) -> dict[str, Any]:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), name.split("="), strict=False)
    kept = {group: text for group, text in groups if text}
    return {"vr": "PN", "Value": [kept]} if kept else {"vr": "PN"}
