"""What a RIS says becomes worklist items that can be served (PS3.4 Table K.6-1)."""

from typing import Any

import pytest

from dicomnode.index.worklist import NewItem
from dicomnode.services.worklist_items import (
    MAX_STEPS,
    Source,
    Unfit,
    UnfitItem,
    data_sets_of,
    new_items,
)
from dicomnode.storage.json_model import Attributes, items_of, key_of, text_of
from tests.worklist_data import worklist_json

MADE = {"StudyInstanceUID": None, "RequestedProcedureID": None, "AccessionNumber": None}


def taken(*data_sets: Attributes, key: str = "key", strict: bool = True) -> list[NewItem]:
    return new_items(data_sets, Source(key, "http", strict=strict))


def step_of(item: NewItem) -> Attributes:
    (step,) = items_of(item.attributes, "ScheduledProcedureStepSequence")
    return step


def study_of(item: NewItem) -> str:
    return text_of(item.attributes, "StudyInstanceUID")


def step_id_of(item: NewItem) -> str:
    return text_of(step_of(item), "ScheduledProcedureStepID")


def test_each_scheduled_step_is_an_item_of_its_own() -> None:
    first, second = taken(worklist_json({}, {"ScheduledProcedureStepID": "SPS2"}))
    assert [first.key, second.key] == ["key", "key#2"]
    assert [step_id_of(first), step_id_of(second)] == ["SPS1", "SPS2"]
    assert text_of(second.attributes, "PatientName") == "Müller^Änne"


@pytest.mark.parametrize("value", ["", None])
@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        ("PatientName", "Patient's Name (0010,0010) is missing or empty"),
        ("PatientID", "Patient ID (0010,0020) is missing or empty"),
    ],
)
def test_an_item_without_its_patient_is_incomplete(
    keyword: str, words: str, value: str | None
) -> None:
    with pytest.raises(UnfitItem) as unfit:
        taken(worklist_json(**{keyword: value}))
    assert (unfit.value.reason, str(unfit.value)) == (Unfit.INCOMPLETE, words)


@pytest.mark.parametrize("value", ["", None])
@pytest.mark.parametrize(
    "keyword",
    [
        "ScheduledStationAETitle",
        "ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepStartTime",
        "Modality",
    ],
)
def test_a_step_without_station_start_or_modality_is_incomplete(
    keyword: str, value: str | None
) -> None:
    with pytest.raises(UnfitItem, match="is missing or empty") as unfit:
        taken(worklist_json({keyword: value}))
    assert unfit.value.reason is Unfit.INCOMPLETE


def test_an_item_without_a_scheduled_step_is_incomplete() -> None:
    attributes = worklist_json()
    attributes[key_of("ScheduledProcedureStepSequence")]["Value"] = []
    with pytest.raises(UnfitItem, match="Scheduled Procedure Step Sequence is missing or empty"):
        taken(attributes)


def test_a_name_of_delimiters_alone_is_no_name() -> None:
    attributes = worklist_json()
    attributes[key_of("PatientName")]["Value"] = [{"Alphabetic": "^^"}]
    with pytest.raises(UnfitItem, match="Patient's Name"):
        taken(attributes)


def test_identifiers_that_are_there_stay() -> None:
    (item,) = taken(worklist_json())
    assert study_of(item) == "1.2.3.1"
    assert text_of(item.attributes, "RequestedProcedureID") == "RP1"
    assert step_id_of(item) == "SPS1"


def test_identifiers_that_are_missing_are_made_and_the_same_each_time() -> None:
    data_set = worklist_json({"ScheduledProcedureStepID": None}, **MADE)
    (item,), (again,) = taken(data_set), taken(data_set)
    assert item == again
    assert study_of(item).startswith("2.25.")
    assert 0 < len(text_of(item.attributes, "RequestedProcedureID")) <= 16
    assert 0 < len(step_id_of(item)) <= 16


def test_other_items_get_other_identifiers() -> None:
    data_set = worklist_json({"ScheduledProcedureStepID": None}, **MADE)
    (item,), (other,) = taken(data_set), taken(data_set, key="other")
    assert study_of(item) != study_of(other)
    assert step_id_of(item) != step_id_of(other)


def test_steps_of_one_requested_procedure_share_the_study_that_is_made() -> None:
    first = worklist_json(StudyInstanceUID=None)
    second = worklist_json({"ScheduledProcedureStepID": "SPS2"}, StudyInstanceUID=None)
    (one,), (two,) = taken(first, key="1"), taken(second, key="2")
    assert study_of(one) == study_of(two)
    (elsewhere,) = taken(worklist_json(StudyInstanceUID=None, PatientID="P2"), key="3")
    assert study_of(elsewhere) != study_of(one)


def test_steps_of_one_source_share_the_study_that_is_made() -> None:
    one, two = taken(worklist_json({}, {}, **MADE))
    assert study_of(one) == study_of(two)


def test_a_requested_procedure_without_id_is_known_by_the_accession_number() -> None:
    (item,) = taken(worklist_json(RequestedProcedureID=None))
    assert text_of(item.attributes, "RequestedProcedureID") == "A1"


def test_keys_of_type_2_are_there_even_without_a_value() -> None:
    (item,) = taken(worklist_json())
    assert item.attributes[key_of("Allergies")] == {"vr": "LO"}
    assert item.attributes[key_of("ReferencedStudySequence")] == {"vr": "SQ"}
    assert step_of(item)[key_of("ScheduledStationName")] == {"vr": "SH"}


def value(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}


@pytest.mark.parametrize(
    ("keyword", "attribute", "words"),
    [
        ("StudyInstanceUID", value("UI", "1.2.x"), "must be a UID"),
        ("StudyInstanceUID", value("UI", "1." * 32 + "1"), "must be a UID"),
        ("StudyInstanceUID", value("LO", "1.2"), "has VR LO and must have UI"),
        ("PatientID", value("LO", "P1", "P2"), "must have one value"),
        ("PatientBirthDate", value("DA", "19700230"), "must be a date such as 20261121"),
        ("PatientBirthDate", value("DA", "1970-01-01"), "must be a date"),
        ("PatientSex", value("CS", "male"), "must be 1 to 16 capital letters"),
        ("StudyTime", value("TM", "2500"), "must be a time such as 093000"),
        ("ScheduledDateTime", value("DT", "now"), "must be a date and time"),
    ],
)
def test_a_value_that_its_vr_does_not_allow_is_invalid(
    keyword: str, attribute: dict[str, Any], words: str
) -> None:
    attributes = worklist_json()
    tag = 0x0040_4005 if keyword == "ScheduledDateTime" else keyword
    attributes[key_of(tag)] = attribute
    with pytest.raises(UnfitItem, match=words) as unfit:
        taken(attributes)
    assert unfit.value.reason is Unfit.INVALID


@pytest.mark.parametrize(
    ("keyword", "invalid"),
    [
        ("ScheduledStationAETitle", "AN AE TITLE TOO LONG"),
        ("ScheduledProcedureStepStartDate", "20261301"),
        ("ScheduledProcedureStepStartTime", "9:30"),
        ("Modality", "ct"),
    ],
)
def test_what_searches_rest_on_is_checked_wherever_it_comes_from(
    keyword: str, invalid: str
) -> None:
    attributes = worklist_json()
    (step,) = items_of(attributes, "ScheduledProcedureStepSequence")
    step[key_of(keyword)]["Value"] = [invalid]
    with pytest.raises(UnfitItem, match="must be"):
        taken(attributes, strict=False)


def test_optional_values_of_files_are_passed_on_as_they_are() -> None:
    attributes = worklist_json()
    attributes[key_of("PatientSex")] = value("CS", "male")
    (item,) = taken(attributes, strict=False)
    assert text_of(item.attributes, "PatientSex") == "male"


@pytest.mark.parametrize("time", ["09", "0930", "093000", "093000.5", "093000.123456", "235960"])
def test_a_time_may_be_as_exact_as_it_likes(time: str) -> None:
    (item,) = taken(worklist_json({"ScheduledProcedureStepStartTime": time}))
    assert text_of(step_of(item), "ScheduledProcedureStepStartTime") == time


def test_several_stations_are_as_good_as_one() -> None:
    (item,) = taken(worklist_json({"ScheduledStationAETitle": ["CT_1", "CT_2"]}))
    assert text_of(step_of(item), "ScheduledStationAETitle") == "CT_1\\CT_2"


def test_the_number_of_steps_is_bounded() -> None:
    with pytest.raises(UnfitItem, match=f"has more than {MAX_STEPS} scheduled") as unfit:
        taken(worklist_json(*[{}] * (MAX_STEPS + 1)))
    assert unfit.value.reason is Unfit.TOO_LONG


def test_no_sentence_has_a_patients_value_in_it() -> None:
    attributes = worklist_json()
    attributes[key_of("PatientID")] = value("LO", "SECRET" * 20)
    with pytest.raises(UnfitItem) as unfit:
        taken(attributes)
    assert "SECRET" not in str(unfit.value)


def test_json_may_be_one_data_set_or_an_array_of_them() -> None:
    data_set = worklist_json()
    assert data_sets_of(data_set) == [data_set]
    assert data_sets_of([data_set, data_set]) == [data_set, data_set]


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "text",
        [],
        [[]],
        {"PatientName": "A"},
        {"00100010": {"vr": "PN", "Value": ["A^B"]}},
        {"00100020": {"vr": "XX", "Value": ["A"]}},
        [{}] * (MAX_STEPS + 1),
    ],
)
def test_json_that_is_no_data_set_is_unreadable(value: object) -> None:
    with pytest.raises(UnfitItem):
        data_sets_of(value)
