"""What takes the place of values of one object: pseudonyms, UIDs, dates, cleaned texts."""

from __future__ import annotations

import re
from typing import Final

from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]

from dicomnode.deidentification.dates import age_of_group, shifted_date, shifted_date_time
from dicomnode.deidentification.options import Options
from dicomnode.deidentification.project import Project
from dicomnode.deidentification.survey import (
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Survey,
)
from dicomnode.deidentification.values import composed, dummy, padded, words_of
from dicomnode.deidentification.vocabulary import cleaned

_TIMEZONE_OFFSET: Final = 0x0008_0201
_OFFSET: Final = re.compile(r"[+-]\d{4}\Z", re.ASCII)
_TIME: Final = re.compile(r"[0-9:. \\-]*\Z")
_CLEANED_VRS: Final = frozenset(("CS", "LO", "LT", "SH", "ST", "UC", "UT"))
# Whose dummies tell apart what was apart.
_NAMED_VRS: Final = frozenset(("AE", "LO", "SH", "UC"))


class Replacements:
    """Values for one object; the same ones for all objects of its patient in its project."""

    def __init__(self, project: Project, options: Options, found: Survey) -> None:
        self._project = project
        self._retain_uids = options.retain_uids
        patient_id, issuer = found.patient
        # Without an ID nothing tells that two studies are of one patient.
        study = found.fact(STUDY_INSTANCE_UID) or found.fact(SOP_INSTANCE_UID)
        self._patient: tuple[str, ...] = ("", "", study)
        if patient_id:
            self._patient = (issuer or composed(options.issuer), patient_id)
        self._days = project.days(*self._patient)
        self._identifying = found.words.union(found.short, *map(words_of, found.identifiers))
        self._found = found

    @property
    def patient_id(self) -> str:
        """The patient's new ID, which is the new name, too."""
        return f"{self._project.name}-{self._project.word('patient', *self._patient)}"

    def own_uid(self, tag: int) -> str:
        """Return the copy's UID of an attribute of the data set itself, "" if it has none."""
        return self.uid(self._found.fact(tag))

    def uid(self, text: str) -> str:
        """Return the UIDs that take the place of one or several; those of the standard stay."""
        return "\\".join(map(self._uid, text.split("\\")))

    def _uid(self, uid: str) -> str:
        uid = uid.strip(" \0")
        if not uid or self._retain_uids or uid in UID_dictionary:
            return uid
        return self._project.uid(uid)

    def dummy(self, tag: int, vr: str, text: str) -> bytes:
        """Return a value that says nothing; different identifiers have different ones."""
        if vr in _NAMED_VRS:
            return self.word(tag, text)
        return dummy(vr)

    def word(self, tag: int, text: str) -> bytes:
        """Return 16 letters and digits that stand for an identifier of the patient's."""
        word = self._project.word("value", f"{tag:08X}", *self._patient, text)
        return word.encode()

    def clean(self, tag: int, vr: str, text: str) -> bytes | None:
        """Return a value of similar meaning; None where there is none.

        Texts keep the words that may stay, moments are shifted, AE titles become words.
        """
        found: str | None = None
        if tag == _TIMEZONE_OFFSET:
            found = text if _OFFSET.match(text) else None
        elif vr == "DA":
            found = shifted_date(text, self._days)
        elif vr == "DT":
            found = shifted_date_time(text, self._days)
        elif vr == "TM":
            found = text if _TIME.match(text) else None  # days are whole
        elif vr == "AS":
            found = age_of_group(text)
        elif vr == "AE":
            return self.word(tag, text)
        elif vr in _CLEANED_VRS:
            found = cleaned(text, self._identifying)
        return padded(found.encode("ascii", "replace"), vr) if found else None


def own_names(replacements: Replacements) -> tuple[str, str, str]:
    """Return the copy's Study, Series and SOP Instance UID."""
    study, series, instance = map(
        replacements.own_uid, (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID)
    )
    return study, series, instance
