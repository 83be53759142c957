"""What the journal says of queries and retrievals, and what it explains."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicomnode.dimse.status import Status
from dicomnode.errors import StatusError
from dicomnode.services.outcomes import Finding, RetrieveOutcome
from tests.services.journaling import C_FIND, C_GET, C_MOVE, C_STORE, EMPTY, FOUND, MOVED, Fixture


@pytest.fixture
def on() -> Fixture:
    return Fixture()


# -- queries -----------------------------------------------------------------------------------


def test_a_query_is_one_line_with_its_matches_level_and_keys(on: Fixture) -> None:
    on.perform(C_FIND, Status.SUCCESS, FOUND)
    assert on.lines() == [
        "info  WS_1 -> DICOMNODE #7 C-FIND 3 0000 12 matches 1ms query_level=STUDY keys=PatientID"
    ]
    assert on.explained() == []


def test_a_query_counts_matches_and_time_by_level(on: Fixture) -> None:
    on.perform(C_FIND, Status.SUCCESS, FOUND)
    on.perform(C_FIND, Status.SUCCESS, EMPTY)
    assert on.value("dicomnode_query_matches_total", level="STUDY") == 12
    assert on.value("dicomnode_query_empty_total", level="STUDY") == 1
    assert on.value("dicomnode_query_seconds_count", level="STUDY") == 2
    assert on.value("dicomnode_sent_bytes_total") == 900
    assert (on.journal.totals.queries, on.journal.totals.empty_queries) == (2, 1)


def test_an_empty_query_is_explained_without_its_values(on: Fixture) -> None:
    on.perform(C_FIND, Status.SUCCESS, EMPTY)
    (told,) = on.explained()
    assert told["asked"] == "C-FIND at STUDY level by PatientID"
    assert told["answer"] == "no match"
    assert told["reasons"] == [{"words": "no study"}]
    assert (told["calling_ae_title"], told["peer_address"]) == ("WS_1", "10.0.0.7")
    assert "P1" not in str(on.lines())


def test_values_are_told_where_patient_data_is_allowed() -> None:
    on = Fixture(patient_data=True, level="debug")
    on.perform(C_FIND, Status.SUCCESS, EMPTY)
    assert on.explained()[0]["reasons"] == [{"words": "no study", "patient_value": "P1"}]
    assert on.lines()[1] == "debug WS_1 -> DICOMNODE #7 C-FIND 3: no study patient_value=P1"


def test_a_query_of_many_keys_names_the_first_ones(on: Fixture) -> None:
    keys = tuple(f"Key{number}" for number in range(5000))
    on.perform(C_FIND, Status.SUCCESS, replace(EMPTY, keys=keys))
    (line,) = on.lines()
    assert line.endswith('Key11 and 4988 more"')
    assert on.explained()[0]["asked"].endswith("Key11 and 4988 more")


def test_a_query_without_keys_says_so(on: Fixture) -> None:
    on.perform(C_FIND, Status.SUCCESS, replace(EMPTY, keys=()))
    assert on.explained()[0]["asked"] == "C-FIND at STUDY level without any key"


def test_a_query_beyond_the_limit_is_explained_with_the_limit_to_raise(on: Fixture) -> None:
    on.perform(C_FIND, Status.OUT_OF_RESOURCES, FOUND)
    (told,) = on.explained()
    assert told["answer"] == "A700H Refused: Out of Resources"
    assert "limits.max_matches" in told["advice"][0]


def test_a_cancelled_query_without_matches_is_nothing_to_explain(on: Fixture) -> None:
    on.perform(C_FIND, Status.CANCEL, EMPTY)
    assert on.explained() == []


def test_a_query_whose_association_ended_is_one_line_too(on: Fixture) -> None:
    operation = on.begin(C_FIND)
    on.handler.closed("aborted by peer")
    on.tell(operation, FOUND)
    assert on.lines() == [
        "info  WS_1 -> DICOMNODE #7 C-FIND 3 unanswered 12 matches 1ms"
        " query_level=STUDY keys=PatientID"
    ]


def test_a_refused_query_is_explained_by_its_comment(on: Fixture) -> None:
    error = StatusError("Query/Retrieve Level is missing", status=0xA900, offending=(0x00080052,))
    on.begin(C_FIND).fail(error)
    (told,) = on.explained()
    assert told["kind"] == "query"
    assert told["answer"] == "A900H Identifier Does Not Match SOP Class"
    assert told["reasons"] == [{"words": "Query/Retrieve Level is missing"}]
    assert on.lines()[0].startswith(
        "warn  WS_1 -> DICOMNODE #7 C-FIND 3 A900 1ms: Query/Retrieve Level is missing advice="
    )


# -- retrievals --------------------------------------------------------------------------------


def test_a_move_is_one_line_with_destination_and_counters(on: Fixture) -> None:
    on.perform(C_MOVE, Status.SUCCESS, replace(MOVED, failed=0))
    assert on.lines() == [
        "info  WS_1 -> DICOMNODE #7 C-MOVE 5 0000 to ARCHIVE: 10 completed, 5.0MB 1ms"
        " query_level=STUDY"
    ]
    assert on.explained() == []


def test_each_finding_of_a_failed_retrieval_is_a_warning_of_its_own(on: Fixture) -> None:
    refused = Finding("1 of 12: ARCHIVE refused CT Image Storage", advice="Let ARCHIVE take it.")
    outcome = replace(MOVED, findings=(refused, Finding("1 of 12: the file is damaged")))
    on.perform(C_MOVE, Status.SUB_OPERATIONS_COMPLETE_WITH_FAILURES, outcome)
    assert on.lines() == [
        "warn  WS_1 -> DICOMNODE #7 C-MOVE 5 B000 to ARCHIVE: 10 completed, 2 failed, 5.0MB 1ms"
        " query_level=STUDY",
        "warn  WS_1 -> DICOMNODE #7 C-MOVE 5: 1 of 12: ARCHIVE refused CT Image Storage"
        ' advice="Let ARCHIVE take it."',
        "warn  WS_1 -> DICOMNODE #7 C-MOVE 5: 1 of 12: the file is damaged",
    ]
    (told,) = on.explained()
    assert told["asked"] == "C-MOVE at STUDY level to ARCHIVE"
    assert told["answer"] == (
        "B000H Sub-operations completed, one or more failures: 10 completed, 2 failed"
    )
    assert told["advice"] == ["Let ARCHIVE take it."]


def test_a_get_without_objects_says_that_there_was_nothing_to_send(on: Fixture) -> None:
    nothing = RetrieveOutcome(level="SERIES", findings=(Finding("no such series"),))
    on.perform(C_GET, Status.SUCCESS, nothing)
    assert on.lines() == [
        "info  WS_1 -> DICOMNODE #7 C-GET 4 0000 nothing to send 1ms: no such series"
        " query_level=SERIES",
    ]
    assert on.explained()[0]["answer"] == "nothing to send"


def test_sub_operations_count_by_service_and_result(on: Fixture) -> None:
    on.perform(C_GET, Status.SUCCESS, replace(MOVED, destination="", warning=1))
    name = "dicomnode_retrieve_sub_operations_total"
    assert on.value(name, service="C-GET", result="completed") == 10
    assert on.value(name, service="C-GET", result="warning") == 1
    assert on.value(name, service="C-GET", result="failed") == 2
    assert on.value("dicomnode_retrieve_bytes_total", service="C-GET") == 5 * 1024**2
    assert on.value("dicomnode_retrieve_seconds_count", service="C-GET") == 1
    assert on.value("dicomnode_sent_bytes_total") == 5 * 1024**2


def test_an_aborted_retrieval_tells_what_was_not_begun(on: Fixture) -> None:
    operation = on.begin(C_GET)
    on.handler.closed("aborted by peer")
    on.tell(operation, RetrieveOutcome(level="STUDY", completed=1, remaining=9))
    assert on.lines() == [
        "info  WS_1 -> DICOMNODE #7 C-GET 4 unanswered 1 completed, 9 not begun 1ms"
        " query_level=STUDY"
    ]


def test_an_unknown_destination_is_explained_with_the_table_to_add(on: Fixture) -> None:
    request = replace(C_MOVE, move_destination="ARCHIVE2")
    error = StatusError("no destination ARCHIVE2", status=Status.MOVE_DESTINATION_UNKNOWN)
    on.begin(request).fail(error)
    (told,) = on.explained()
    assert told["kind"] == "retrieve"
    assert told["asked"] == "C-MOVE to ARCHIVE2"
    assert told["advice"] == [
        'Add an [[ae]] with title = "ARCHIVE2", host and port to ae.toml, then send SIGHUP to the'
        " node. Reachable now: ARCHIVE."
    ]


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        ("WS_1", "Give WS_1 in ae.toml its host and port"),
        ("ARCHIVE", "ARCHIVE has been added meanwhile: try again."),
    ],
)
def test_a_registered_destination_gets_the_advice_that_fits(
    on: Fixture, destination: str, words: str
) -> None:
    error = StatusError("unknown", status=Status.MOVE_DESTINATION_UNKNOWN)
    on.begin(replace(C_MOVE, move_destination=destination)).fail(error)
    assert words in on.explained()[0]["advice"][0]


def test_a_refused_retrieval_counts_no_sub_operations(on: Fixture) -> None:
    refused = RetrieveOutcome(level="", destination="ARCHIVE2", findings=(Finding("not known"),))
    on.perform(C_MOVE, Status.MOVE_DESTINATION_UNKNOWN, refused)
    assert on.lines()[0].startswith(
        "warn  WS_1 -> DICOMNODE #7 C-MOVE 5 A801 to ARCHIVE2 1ms: not known advice="
    )
    assert len(on.lines()) == 1
    assert on.value("dicomnode_retrieve_seconds_count", service="C-MOVE") is None
    assert on.explained()[0]["answer"] == "A801H Move destination unknown"


def test_an_association_ends_with_what_was_received_and_sent(on: Fixture) -> None:
    on.journal.accepted(on.channel)
    on.perform(C_MOVE, Status.SUCCESS, replace(MOVED, failed=0))
    on.journal.ended(on.channel, "released", "")
    assert on.lines()[-1] == (
        "info  WS_1 -> DICOMNODE #7 association released, 1 operation, 0B received, 5.0MB sent, 1ms"
    )


def test_a_failed_store_is_explained_too(on: Fixture) -> None:
    on.begin(C_STORE).fail(StatusError("disk full", status=Status.OUT_OF_RESOURCES))
    (told,) = on.explained()
    assert (told["kind"], told["asked"]) == ("operation", "C-STORE")
    assert on.lines() == [
        "warn  WS_1 -> DICOMNODE #7 C-STORE 6 A700 1ms: disk full sop_instance_uid=1.2.3"
    ]
