"""What is kept on top of the Basic Profile, and what is taken on the user's word (PS3.15 §E.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final


class Dates(Enum):
    """What becomes of dates and times."""

    REMOVED = auto()
    SHIFTED = auto()
    KEPT = auto()


class Column(StrEnum):
    """A column of Table E.1-1 that an option turns on, by its letter in ``table_e1_1.txt``."""

    UIDS = "U"
    DEVICE = "D"
    INSTITUTION = "I"
    PATIENT = "P"
    FULL_DATES = "F"
    MODIFIED_DATES = "M"
    DESCRIPTORS = "C"


@dataclass(frozen=True, slots=True)
class Code:
    """A code of PS3.16 CID 7050, whose scheme is DCM."""

    value: str
    meaning: str


_BASIC: Final = Code("113100", "Basic Application Confidentiality Profile")
_CODES: Final = {
    Column.UIDS: Code("113110", "Retain UIDs Option"),
    Column.DEVICE: Code("113109", "Retain Device Identity Option"),
    Column.INSTITUTION: Code("113112", "Retain Institution Identity Option"),
    Column.PATIENT: Code("113108", "Retain Patient Characteristics Option"),
    Column.FULL_DATES: Code("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    Column.MODIFIED_DATES: Code(
        "113107", "Retain Longitudinal Temporal Information Modified Dates Option"
    ),
    Column.DESCRIPTORS: Code("113105", "Clean Descriptors Option"),
}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the profile, and what is allowed although it may show who somebody is.

    ``issuer`` stands for the issuer of Patient IDs that come without one.
    """

    retain_uids: bool = False
    dates: Dates = Dates.REMOVED
    clean_descriptors: bool = False
    retain_device_identity: bool = False
    retain_institution_identity: bool = False
    retain_patient_characteristics: bool = False
    allow_burned_in: bool = False
    allow_recognizable: bool = False
    issuer: str = ""

    @property
    def columns(self) -> frozenset[Column]:
        """The columns of Table E.1-1 that are in force beside the Basic Profile."""
        return frozenset(self._columns())

    @property
    def codes(self) -> list[Code]:
        """What was done, for De-identification Method Code Sequence (0012,0064)."""
        return [_BASIC, *(code for column, code in _CODES.items() if column in self.columns)]

    def _columns(self) -> Iterator[Column]:
        if self.retain_uids:
            yield Column.UIDS
        if self.retain_device_identity:
            yield Column.DEVICE
        if self.retain_institution_identity:
            yield Column.INSTITUTION
        if self.retain_patient_characteristics:
            yield Column.PATIENT
        if self.clean_descriptors:
            yield Column.DESCRIPTORS
        if self.dates is Dates.KEPT:
            yield Column.FULL_DATES
        if self.dates is Dates.SHIFTED:
            yield Column.MODIFIED_DATES
