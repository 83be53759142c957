"""What becomes of an element: the table's action, or a rule for what the table does not name."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from pydicom.datadict import keyword_for_tag

from dicomnode.deidentification.options import Column
from dicomnode.deidentification.profile import Action, action_of, row_of
from dicomnode.deidentification.values import STRING_VRS, WRITTEN_VRS
from dicomnode.storage.elements import implicit_vr

PATIENT_IDENTITY_REMOVED: Final = 0x0012_0062
DEIDENTIFICATION_METHOD: Final = 0x0012_0063
DEIDENTIFICATION_METHOD_CODES: Final = 0x0012_0064
LONGITUDINAL_INFORMATION_MODIFIED: Final = 0x0028_0303
# Said anew of every copy.
STATEMENTS: Final = frozenset(
    (
        *(PATIENT_IDENTITY_REMOVED, DEIDENTIFICATION_METHOD, DEIDENTIFICATION_METHOD_CODES),
        LONGITUDINAL_INFORMATION_MODIFIED,
    )
)
# Not in the table, and worth nothing or too much in a copy: Length to End, Private Data Element
# Characteristics, Encrypted Attributes, MAC Parameters; Signature and Encrypted Content that have
# lost their sequences. The table would have dummies as Graphic Annotation; no object needs any.
_REMOVED: Final = STATEMENTS | {
    *(0x0008_0001, 0x0008_0300, 0x0400_0500, 0x4FFE_0001),
    *(0x0400_0120, 0x0400_0520, 0x0070_0001),
}
# Of baggage and those who carry it, not of patients.
_SECURITY_GROUP: Final = 0x4010
_FIRST_GROUP: Final = 0x0008
# UIDs that say what something is, not which: PS3.3 §8.
_OF_KINDS: Final = frozenset((0x0008_010C, 0x0008_010D, 0x0008_0117, 0x0008_0118))
_MOMENTS: Final = frozenset(("DA", "DT", "TM"))
# Where people write what they like, and links, which are made of names and numbers.
_FREE_TEXTS: Final = frozenset(("LT", "ST", "UT"))
_LINK: Final = "UR"
# Words, and strings of a fixed form; all others are binary.
_TEXTS: Final = WRITTEN_VRS | {"CS"}
_STRICT: Final = STRING_VRS - _TEXTS
# Of those the ones that say what a code means: Coding Scheme URL, URN Code Value, and External ID,
# Name and Responsible Organization of a coding scheme.
_OF_CODES: Final = frozenset((0x0008_010E, 0x0008_0120, 0x0008_0114, 0x0008_0115, 0x0008_0116))
# Other attributes of the dictionary that are about people, orders or places all the same.
_TELLING: Final = re.compile(
    "Comment|Notes|AlternativeCalendar|OrderNumber|Contact|Owner|Address|DocumentAuthor|Documenting"
    "|BreedRegistrationNumber|WelderIDs|RecordedSound"
)


def is_removed(tag: int) -> bool:
    """Tell whether an element has no place in any copy, whatever the options."""
    group, number = tag >> 16, tag & 0xFFFF
    if group < _FIRST_GROUP or group & 1 or number == 0 or tag in _REMOVED:
        return True
    if group == _SECURITY_GROUP:
        return True
    # Curves, and overlays as wholes: without its data none is valid.
    if group >> 8 in (0x50, 0x60):
        return True
    # Nobody knows what the attributes say that neither table nor dictionary has.
    return row_of(tag) is None and implicit_vr(tag) == b"UN"


@lru_cache(maxsize=8192)
def treatment_of(
    tag: int, vrs: frozenset[str], columns: frozenset[Column], sop_class_uid: str, in_item: bool
) -> Action:
    """Return what becomes of an element that is not removed anyway.

    ``vrs`` are the VR that it comes with and that of PS3.6. The table's attributes go by the
    table; of all others names, moments, links and free texts are nobody's business either, and
    UIDs are replaced.
    """
    row = row_of(tag)
    if row is not None:
        return action_of(row, columns, sop_class_uid, in_item=in_item)
    if "PN" in vrs:
        return Action.EMPTY
    if vrs & _MOMENTS:
        if Column.MODIFIED_DATES in columns:
            return Action.CLEAN
        return Action.KEEP if Column.FULL_DATES in columns else Action.DUMMY
    if "UI" in vrs and not (Column.UIDS in columns or _is_of_kind(tag)):
        return Action.UID
    if tag in _OF_CODES:
        return Action.KEEP
    if _LINK in vrs or _TELLING.search(keyword_for_tag(tag)):
        return Action.REMOVE
    if vrs & _FREE_TEXTS:
        return Action.CLEAN if Column.DESCRIPTORS in columns else Action.REMOVE
    return Action.REMOVE if _is_at_odds(vrs) else Action.KEEP


def _is_at_odds(vrs: frozenset[str]) -> bool:
    """Tell whether VRs are of values with nothing in common, so that it may say anything."""
    kinds = {(vr in _TEXTS, vr in _STRICT) for vr in vrs if vr != "UN"}
    return len(kinds) > 1


def _is_of_kind(tag: int) -> bool:
    keyword = keyword_for_tag(tag)
    return tag in _OF_KINDS or "Class" in keyword or "TransferSyntax" in keyword
