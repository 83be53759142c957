"""What a performed procedure step must have and may change (PS3.4 Table F.7.2-1)."""

from __future__ import annotations

import pytest
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset

from dicomnode.errors import StatusError
from dicomnode.index.worklist import State
from dicomnode.services.mpps_rules import Checked, InvalidValue, check_change, check_creation
from dicomnode.storage.json_model import Attributes, decode_attributes, items_of, text_of
from tests.services import performing
from tests.services.performing import completion, creation, scheduled, series
from tests.services.querying import written
from tests.storage.objects import EXPLICIT

TYPE_1 = (
    "PerformedProcedureStepStatus",
    "ScheduledStepAttributesSequence",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "Modality",
)
SERIES = "PerformedSeriesSequence"
END = ("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", SERIES)
MISSING, WITHOUT_VALUE, INVALID = 0x0120, 0x0121, 0x0106


def read(data_set: Dataset) -> Attributes:
    return decode_attributes(written(data_set, EXPLICIT), EXPLICIT)


def create(data_set: Dataset) -> Checked:
    return check_creation(read(data_set))


def change(changes: Dataset, held: Dataset | None = None) -> Checked:
    return check_change(create(held or creation()).attributes, read(changes))


def refused(error: pytest.ExceptionInfo[StatusError]) -> tuple[int, tuple[int, ...]]:
    assert len(str(error.value)) <= 64
    return error.value.status, error.value.identifiers


def tag(keyword: str) -> int:
    number = tag_for_keyword(keyword)
    assert number is not None
    return number


def empty(keyword: str) -> object:
    return [] if keyword.endswith("Sequence") else ""


# -- N-CREATE --------------------------------------------------------------------------------------


def test_a_step_with_all_that_the_table_requires_is_taken_as_it_is() -> None:
    sent = read(creation())
    checked = check_creation(dict(sent))
    assert (checked.status, checked.lacking) == (State.IN_PROGRESS, ())
    assert checked.attributes == sent


@pytest.mark.parametrize("keyword", TYPE_1)
def test_a_type_1_attribute_must_be_there(keyword: str) -> None:
    with pytest.raises(StatusError) as error:
        create(creation(**{keyword: None}))
    assert refused(error) == (MISSING, (tag(keyword),))


@pytest.mark.parametrize("keyword", TYPE_1)
def test_a_type_1_attribute_must_have_a_value(keyword: str) -> None:
    with pytest.raises(StatusError) as error:
        create(creation(**{keyword: empty(keyword)}))
    assert refused(error) == (WITHOUT_VALUE, (tag(keyword),))


def test_all_missing_attributes_are_named() -> None:
    with pytest.raises(StatusError, match="Performed Station AE Title and 1 more") as error:
        create(creation(PerformedStationAETitle=None, Modality=None))
    assert refused(error) == (MISSING, (tag("Modality"), tag("PerformedStationAETitle")))


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED", "SCHEDULED", "in progress"])
def test_a_step_is_created_in_progress(status: str) -> None:
    with pytest.raises(InvalidValue) as error:
        create(creation(PerformedProcedureStepStatus=status))
    assert error.value.status == INVALID
    assert error.value.attributes == {"00400252": {"vr": "CS", "Value": [status]}}


@pytest.mark.parametrize("keyword", performing.TYPE_2)
def test_a_type_2_attribute_that_is_left_out_is_added_without_a_value(keyword: str) -> None:
    checked = create(creation(**{keyword: None}))
    assert checked.lacking == (dictionary_description(tag(keyword)),)
    assert checked.attributes == create(creation(**{keyword: empty(keyword)})).attributes


@pytest.mark.parametrize("keyword", performing.TYPE_2_OF_SCHEDULED)
def test_the_same_holds_for_scheduled_steps(keyword: str) -> None:
    checked = create(creation(scheduled(**{keyword: None})))
    assert checked.lacking == (dictionary_description(tag(keyword)),)
    expected = create(creation(scheduled(**{keyword: empty(keyword)})))
    assert checked.attributes == expected.attributes


@pytest.mark.parametrize(
    ("study", "status"), [(None, MISSING), ("", WITHOUT_VALUE), ("1.2.x", INVALID)]
)
def test_each_scheduled_step_has_the_uid_of_its_study(study: str | None, status: int) -> None:
    item = scheduled()
    if study is None:
        del item.StudyInstanceUID
    else:
        item[tag("StudyInstanceUID")]._value = study
    with pytest.raises(StatusError) as error:
        create(creation(scheduled(), item))
    assert error.value.status == status


def test_a_performed_step_of_very_many_scheduled_steps_is_refused() -> None:
    with pytest.raises(StatusError) as error:
        create(creation(*(scheduled(step_id=f"S{number}") for number in range(129))))
    assert error.value.status == 0x0213


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PerformedProcedureStepStartDate", "21.11.26"),
        ("PerformedProcedureStepStartDate", "20261121-"),
        ("PerformedProcedureStepStartTime", "250000"),
        ("PerformedProcedureStepEndTime", "noon"),
    ],
)
def test_dates_and_times_must_be_some(keyword: str, value: str) -> None:
    held = read(creation())
    vr = "DA" if keyword.endswith("Date") else "TM"
    held[f"{tag(keyword):08X}"] = {"vr": vr, "Value": [value]}
    with pytest.raises(InvalidValue) as error:
        check_creation(held)
    assert error.value.attributes == {f"{tag(keyword):08X}": {"vr": vr, "Value": [value]}}


def test_a_sequence_that_came_as_something_else_has_no_items() -> None:
    held = read(creation())
    held["00400270"] = {"vr": "LO", "Value": ["x"]}
    with pytest.raises(StatusError) as error:
        check_creation(held)
    assert error.value.status == WITHOUT_VALUE


def test_attributes_beyond_the_table_are_kept() -> None:
    checked = create(creation(CommentsOnThePerformedProcedureStep="ok", BodyPartExamined="CHEST"))
    assert text_of(checked.attributes, "BodyPartExamined") == "CHEST"


# -- N-SET -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [State.COMPLETED, State.DISCONTINUED])
def test_a_step_ends_with_all_that_the_final_state_requires(status: State) -> None:
    checked = change(completion(PerformedProcedureStepStatus=status.value))
    assert (checked.status, checked.lacking, checked.unchanged) == (status, (), ())
    assert text_of(checked.attributes, "PerformedProcedureStepEndTime") == "094500"
    assert text_of(checked.attributes, "PatientID") == "P1"


def test_what_the_final_state_requires_may_have_been_set_before() -> None:
    before = change(completion(PerformedProcedureStepStatus=None))
    assert before.status is State.IN_PROGRESS
    ending = Dataset()
    ending.PerformedProcedureStepStatus = "COMPLETED"
    assert check_change(before.attributes, read(ending)).status is State.COMPLETED


@pytest.mark.parametrize("keyword", END)
def test_a_step_is_not_completed_without_what_the_final_state_requires(keyword: str) -> None:
    with pytest.raises(StatusError) as error:
        change(completion(**{keyword: None}))
    assert refused(error) == (MISSING, (tag(keyword),))
    with pytest.raises(StatusError) as error:
        change(completion(**{keyword: empty(keyword)}))
    assert refused(error) == (WITHOUT_VALUE, (tag(keyword),))


def test_a_step_may_be_discontinued_before_there_is_any_series() -> None:
    ending = Dataset()
    ending.PerformedProcedureStepStatus = "DISCONTINUED"
    checked = change(ending)
    assert checked.status is State.DISCONTINUED
    assert checked.lacking == tuple(dictionary_description(tag(each)) for each in END)


@pytest.mark.parametrize("status", ["SCHEDULED", "DONE", "completed"])
def test_there_are_three_states(status: str) -> None:
    with pytest.raises(InvalidValue) as error:
        change(completion(PerformedProcedureStepStatus=status))
    assert error.value.status == INVALID


def test_a_status_without_a_value_is_refused() -> None:
    with pytest.raises(StatusError) as error:
        change(completion(PerformedProcedureStepStatus=""))
    assert error.value.status == WITHOUT_VALUE


def test_a_sequence_is_replaced_as_a_whole() -> None:
    first = change(completion(series(1), series(2), PerformedProcedureStepStatus=None))
    second = check_change(
        first.attributes, read(completion(series(3), PerformedProcedureStepStatus=None))
    )
    (item,) = items_of(second.attributes, SERIES)
    assert text_of(item, "SeriesInstanceUID") == f"{performing.STUDY}.3"


def test_what_n_set_may_not_change_stays_as_it_was_created() -> None:
    checked = change(completion(PatientID="P2", Modality="MR", StudyID="7"))
    assert checked.unchanged == (tag("Modality"), tag("PatientID"), tag("StudyID"))
    assert text_of(checked.attributes, "PatientID") == "P1"
    assert text_of(checked.attributes, "Modality") == "CT"
    assert checked.status is State.COMPLETED


def test_what_is_sent_again_as_it_was_created_is_let_pass() -> None:
    everything = creation(scheduled(ScheduledProtocolCodeSequence=None))
    held = creation(scheduled(ScheduledProtocolCodeSequence=None))
    for element in completion():
        everything[element.tag] = element
    checked = change(everything, held)
    assert (checked.status, checked.unchanged) == (State.COMPLETED, ())


def test_an_attribute_that_was_not_created_may_be_set() -> None:
    reason = Dataset()
    reason.CodeValue, reason.CodingSchemeDesignator = "110500", "DCM"
    reason.CodeMeaning = "Doctor canceled procedure"
    keyword = "PerformedProcedureStepDiscontinuationReasonCodeSequence"
    checked = change(completion(**{keyword: [reason]}))
    (item,) = items_of(checked.attributes, keyword)
    assert text_of(item, "CodeValue") == "110500"


@pytest.mark.parametrize(
    ("uid", "status"), [(None, MISSING), ("", WITHOUT_VALUE), ("1.2/3", INVALID)]
)
@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "ReferencedSOPInstanceUID"])
def test_series_and_objects_have_uids(keyword: str, uid: str | None, status: int) -> None:
    performed = series()
    item = performed if keyword == "SeriesInstanceUID" else performed.ReferencedImageSequence[0]
    if uid is None:
        delattr(item, keyword)
    else:
        item[tag(keyword)]._value = uid
    with pytest.raises(StatusError) as error:
        change(completion(performed))
    assert error.value.status == status


def test_a_series_without_protocol_name_is_taken() -> None:
    checked = change(completion(series(ProtocolName=None, OperatorsName=None)))
    assert checked.lacking == ("Protocol Name", "Operators' Name")
