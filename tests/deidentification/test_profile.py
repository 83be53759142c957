"""Table E.1-1: that it is the standard's, and what it makes of an attribute."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.datadict import dictionary_keyword, dictionary_VR

from dicomnode.deidentification.options import Column
from dicomnode.deidentification.profile import Action, action_of, row_of, table
from dicomnode.deidentification.treatment import is_removed, treatment_of

HERE = Path(__file__).parent
CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
ACQUISITION_DATETIME = 0x0008002A
PATIENT_AGE = 0x00101010
NOTHING: frozenset[Column] = frozenset()
# What has changed in the standard since the other source was made.
CHANGED = {
    "00081120": "-K--------",
    "00203401": "--K-------",
    "00321021": "--C-------",
    "00321033": "-------C--",
    "00400001": "--C-------",
    "00400241": "--C-------",
}


def lists(name: str) -> dict[str, str]:
    """Return tag and what stands before it, of a file with lists of tags."""
    found = {}
    for line in (HERE / name).read_text().splitlines():
        if not line.startswith("#"):
            what, *tags = line.split()
            found.update(dict.fromkeys(tags, what))
    return found


def marks(options: dict[str, str]) -> str:
    return "".join(options.get(letter, "-") for letter in "SUDIPFMCTG")


def test_the_actions_of_the_basic_profile_are_those_that_others_read_in_the_standard() -> None:
    ours = {tag: row.basic for tag, row in table().items() if "x" not in tag}
    theirs = lists("actions_2026c.txt")
    # The attribute of the one edition in between.
    assert ours.pop("3004007F") == "X"
    assert ours == theirs


def test_the_options_are_those_that_others_read_but_for_what_has_changed_since() -> None:
    theirs = lists("options_2020.txt") | CHANGED
    ours = {tag: marks(row.options) for tag, row in table().items() if tag in theirs}
    assert ours == theirs


def test_keywords_are_those_of_the_dictionary_where_it_has_the_attribute() -> None:
    for tag, row in table().items():
        number = int(tag.replace("x", "0"), 16)
        if "x" not in tag and row_of(number):
            try:
                known = dictionary_keyword(number)
            except KeyError:
                continue  # newer than the dictionary
            assert row.keyword == known


@pytest.mark.parametrize(
    ("sop_class", "in_item", "action"),
    [
        (CT, False, Action.REMOVE),
        (CT, True, Action.DUMMY),
        (ENHANCED_CT, False, Action.DUMMY),
    ],
)
def test_a_choice_of_actions_is_made_by_what_the_object_may_need(
    sop_class: str, in_item: bool, action: Action
) -> None:
    row = row_of(ACQUISITION_DATETIME)
    assert row is not None and row.basic == "X/Z/D"
    assert action_of(row, NOTHING, sop_class, in_item=in_item) is action


def test_of_two_options_the_one_that_keeps_less_wins() -> None:
    row = row_of(0x0018700C)  # Date of Last Detector Calibration
    assert row is not None
    both = frozenset((Column.DEVICE, Column.MODIFIED_DATES))
    assert action_of(row, both, CT, in_item=False) is Action.CLEAN
    assert action_of(row, frozenset((Column.DEVICE,)), CT, in_item=False) is Action.KEEP


@pytest.mark.parametrize(
    "tag",
    [
        0x00091001,  # private
        0x00090010,  # a private creator
        0x00020003,  # File Meta within the data set
        0x00080000,  # a group length
        0x00081234,  # in no dictionary
        0x50000005,  # a curve
        0x60000010,  # an overlay's rows
        0x60020022,  # an overlay's description
        0x04000500,  # Encrypted Attributes Sequence
        0xFFFCFFFC,
    ],
)
def test_what_is_never_copied(tag: int) -> None:
    assert is_removed(tag) or treatment_of(tag, frozenset(("OB",)), NOTHING, CT, False) is (
        Action.REMOVE
    )


def test_names_moments_and_uids_outside_the_table_do_not_stay_either() -> None:
    # None of PS3.6 is left out of the table but for what says which kind of thing something is.
    made_up = 0x00080060
    assert treatment_of(made_up, frozenset(("PN",)), NOTHING, CT, False) is Action.EMPTY
    assert treatment_of(made_up, frozenset(("DT",)), NOTHING, CT, False) is Action.DUMMY
    shifted = frozenset((Column.MODIFIED_DATES,))
    assert treatment_of(made_up, frozenset(("DT",)), shifted, CT, False) is Action.CLEAN
    assert treatment_of(made_up, frozenset(("UI",)), NOTHING, CT, False) is Action.UID
    assert treatment_of(0x00080016, frozenset(("UI",)), NOTHING, CT, False) is Action.KEEP
    assert dictionary_VR(0x00080016) == "UI"


@pytest.mark.parametrize(
    ("tag", "vr", "plain", "cleaned"),
    [
        (0x00100033, "LO", Action.REMOVE, Action.REMOVE),  # Birth Date in Alternative Calendar
        (0x00281001, "UR", Action.REMOVE, Action.REMOVE),
        (0x00081190, "UR", Action.REMOVE, Action.REMOVE),  # Retrieve URL
        (0x00620006, "ST", Action.REMOVE, Action.CLEAN),  # Segment Description
        (0x30040006, "LO", Action.REMOVE, Action.REMOVE),  # Dose Comment
        (0x00401006, "SH", Action.REMOVE, Action.REMOVE),  # a retired Placer Order Number
        (0x00080120, "UR", Action.KEEP, Action.KEEP),  # URN Code Value
        (0x00080115, "ST", Action.KEEP, Action.KEEP),  # Coding Scheme Name
        (0x00620005, "LO", Action.KEEP, Action.KEEP),  # Segment Label
    ],
)
def test_links_and_free_texts_outside_the_table_go_too(
    tag: int, vr: str, plain: Action, cleaned: Action
) -> None:
    descriptors = frozenset((Column.DESCRIPTORS,))
    assert row_of(tag) is None
    assert treatment_of(tag, frozenset((vr,)), NOTHING, CT, False) is plain
    assert treatment_of(tag, frozenset((vr,)), descriptors, CT, False) is cleaned


def test_the_age_goes_unless_characteristics_are_retained() -> None:
    vrs = frozenset(("AS",))
    assert treatment_of(PATIENT_AGE, vrs, NOTHING, CT, False) is Action.REMOVE
    assert treatment_of(PATIENT_AGE, vrs, frozenset((Column.PATIENT,)), CT, False) is Action.KEEP
