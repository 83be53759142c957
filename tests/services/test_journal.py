"""What the journal says of queries, retrievals and requested associations, and what it explains."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dicomnode.dimse.channel import Proposal, Refused
from dicomnode.dimse.command import CFindRQ, CGetRQ, CMoveRQ, CStoreRQ, Request
from dicomnode.dimse.status import Status
from dicomnode.errors import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationTimedOut,
    ConnectionFailed,
    StatusError,
)
from dicomnode.observe.logs import Log
from dicomnode.observe.metrics import Metrics
from dicomnode.registry import AE, Registry
from dicomnode.services.dispatch import Dispatcher, Operation
from dicomnode.services.explanations import Explanations
from dicomnode.services.journal import Journal
from dicomnode.services.outcomes import Finding, Outcome, QueryOutcome, RetrieveOutcome
from dicomnode.settings import LogSettings
from dicomnode.ul.items import ContextResult
from dicomnode.ul.negotiation import AcceptedContext, RefusedContext
from dicomnode.ul.pdu import AAssociateRQ, Rejection

CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
CONTEXTS = {1: FIND, 3: MOVE, 5: GET, 7: CT}
C_FIND = CFindRQ(affected_sop_class_uid=FIND, message_id=3)
C_GET = CGetRQ(affected_sop_class_uid=GET, message_id=4)
C_MOVE = CMoveRQ(affected_sop_class_uid=MOVE, message_id=5, move_destination="ARCHIVE")
C_STORE = CStoreRQ(affected_sop_class_uid=CT, affected_sop_instance_uid="1.2.3", message_id=6)
FOUND = QueryOutcome(level="STUDY", keys=("PatientID",), matches=12, sent_bytes=900, seconds=0.1)
EMPTY = replace(FOUND, matches=0, sent_bytes=0, findings=(Finding("no study", "P1"),))
MOVED = RetrieveOutcome(
    level="STUDY", destination="ARCHIVE", completed=10, failed=2, sent_bytes=5 * 1024**2
)


def fake_channel(number: int, calling: str, called: str, peer_address: str) -> Any:
    """Return a channel that takes what is sent."""
    contexts = {
        key: AcceptedContext(key, uid, IMPLICIT, True, False) for key, uid in CONTEXTS.items()
    }
    return SimpleNamespace(
        number=number,
        calling_ae_title=calling,
        called_ae_title=called,
        peer_address=peer_address,
        negotiated=SimpleNamespace(contexts=contexts, refused=()),
        send=lambda *message: None,
    )


class Keeping:
    """A service that keeps its operation for the test to end."""

    operation: Operation

    def serves(self, sop_class_uid: str) -> bool:
        return True

    def begin(self, operation: Operation) -> None:
        self.operation = operation


class Fixture:
    """A journal over a real dispatcher, and what it wrote."""

    def __init__(self, *, patient_data: bool = False, level: str = "info") -> None:
        self.now = 1000.0
        self.registry = Registry([AE(title="WS_1"), AE(title="ARCHIVE", host="10.0.0.9")])
        self.metrics = Metrics(lambda title: title in self.registry)
        self._stream = io.StringIO()
        self._log = Log(
            LogSettings(level=level, patient_data=patient_data),  # type: ignore[arg-type]
            stream=self._stream,
        )
        explanations = Explanations(
            lambda: self.registry, patient_data=patient_data, now=lambda: self.now
        )
        self.journal = Journal(self._log.logger, self.metrics, explanations)
        self.channel = fake_channel(7, "WS_1", "DICOMNODE", "10.0.0.7")
        self._service = Keeping()
        services: dict[type[Request], Any] = dict.fromkeys(
            (CFindRQ, CGetRQ, CMoveRQ, CStoreRQ), self._service
        )
        self.handler = Dispatcher(services, self.journal).established(self.channel)

    def begin(self, request: Request) -> Operation:
        context = next(key for key, uid in CONTEXTS.items() if uid == request.sop_class_uid)
        self.handler.message(context, request)
        return self._service.operation

    def perform(self, request: Request, status: int, outcome: Outcome) -> None:
        """End ``request`` as a service does: outcome, final response, and the tale of it."""
        operation = self.begin(request)
        operation.outcome = outcome
        operation.respond(status)
        self.tell(operation, outcome)

    def tell(self, operation: Operation, outcome: Outcome) -> None:
        if isinstance(outcome, QueryOutcome):
            self.journal.query_ended(operation, outcome)
        else:
            self.journal.retrieve_ended(operation, outcome)

    def lines(self) -> list[str]:
        """Return what was logged, without the times and durations."""
        self._log.start()
        self._log.stop()
        rows = self._stream.getvalue().splitlines()
        return [re.sub(r" [\d.]+m?s\b", " 1ms", row.split(" ", 1)[1]) for row in rows]

    def explained(self) -> list[dict[str, Any]]:
        return self.journal.explanations.listed()

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


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


# -- requested associations --------------------------------------------------------------------

PROPOSAL = Proposal(
    host="10.0.0.9", port=104, called_ae_title="ARCHIVE", calling_ae_title="DICOMNODE", contexts=()
)


def test_a_requested_association_is_told_from_its_acceptance_to_its_end(on: Fixture) -> None:
    channel = fake_channel(12, "DICOMNODE", "ARCHIVE", "10.0.0.9")
    on.journal.requested(channel)
    assert on.value("dicomnode_outgoing_associations_active") == 1
    on.journal.request_ended(channel, "released", "")
    assert on.lines() == [
        "info  DICOMNODE -> ARCHIVE #12 association accepted by 10.0.0.9,"
        " 4 of 4 presentation contexts",
        "info  DICOMNODE -> ARCHIVE #12 association released, 1ms",
    ]
    name = "dicomnode_outgoing_associations_total"
    assert on.value(name, called_aet="ARCHIVE", result="accepted") == 1
    assert on.value("dicomnode_outgoing_associations_active") == 0
    assert on.journal.outgoing == {}


def test_a_requested_association_that_broke_off_is_a_warning(on: Fixture) -> None:
    channel = fake_channel(12, "DICOMNODE", "ARCHIVE", "10.0.0.9")
    on.journal.requested(channel)
    on.journal.request_ended(channel, "connection lost", "reset by peer")
    assert on.lines()[1] == (
        "warn  DICOMNODE -> ARCHIVE #12 association connection lost: reset by peer, 1ms"
    )


def test_a_requested_association_that_was_not_made_says_why(on: Fixture) -> None:
    on.journal.request_failed(PROPOSAL, ConnectionFailed("cannot connect to ARCHIVE: refused"))
    on.journal.request_failed(PROPOSAL, AssociationRejected("ARCHIVE", 1, 1, 7, "Called AE title"))
    assert on.lines()[0].startswith(
        "warn  DICOMNODE -> ARCHIVE no association: cannot connect to ARCHIVE: refused advice="
    )
    name = "dicomnode_outgoing_associations_total"
    assert on.value(name, called_aet="ARCHIVE", result="failed") == 1
    assert on.value(name, called_aet="ARCHIVE", result="rejected") == 1


def refused_by_archive(reason: int, result: int = 1) -> AssociationRejected:
    return AssociationRejected("ARCHIVE", result, 1, reason, "words")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionFailed("refused"), "whether ARCHIVE runs and listens at 10.0.0.9:104"),
        (AssociationTimedOut("no answer"), "whether ARCHIVE at 10.0.0.9:104 hangs"),
        (AssociationAborted("aborted"), "what the log of ARCHIVE says"),
        (refused_by_archive(3), "Register DICOMNODE at ARCHIVE"),
        (refused_by_archive(7), "does not call itself ARCHIVE"),
        (refused_by_archive(1, result=2), "try again later"),
    ],
)
def test_a_move_to_who_could_not_be_had_says_what_to_do_about_it(
    on: Fixture, error: AssociationError, words: str
) -> None:
    on.journal.request_failed(PROPOSAL, error)
    failed = replace(MOVED, completed=0, failed=12)
    on.perform(C_MOVE, Status.OUT_OF_RESOURCES_FOR_SUB_OPERATIONS, failed)
    assert words in on.explained()[0]["advice"][0]


def test_advice_about_a_destination_ends_when_it_can_be_had_again(on: Fixture) -> None:
    on.journal.request_failed(PROPOSAL, ConnectionFailed("refused"))
    on.journal.requested(fake_channel(12, "DICOMNODE", "ARCHIVE", "10.0.0.9"))
    on.perform(C_MOVE, Status.SUB_OPERATIONS_COMPLETE_WITH_FAILURES, MOVED)
    assert on.explained()[0]["advice"] == []


# -- refusals ----------------------------------------------------------------------------------


def rejected(on: Fixture, title: str, rejection: Rejection, called: str = "DICOMNODE") -> None:
    request = AAssociateRQ(called, title, ())
    on.journal.rejected("10.0.0.66", request, Refused(rejection, "the rule"))


@pytest.mark.parametrize(
    ("title", "rejection", "words"),
    [
        ("MR_9", Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED, 'an [[ae]] with title = "MR_9"'),
        ("WS_1", Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED, "10.0.0.66 is right, add it to addr"),
        ("WS_1", Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED, '"DICOMNODE" to node.ae_title_aliases'),
        ("WS_1", Rejection.LOCAL_LIMIT_EXCEEDED, "Raise the limit"),
    ],
)
def test_a_rejection_is_explained_with_what_to_change(
    on: Fixture, title: str, rejection: Rejection, words: str
) -> None:
    rejected(on, title, rejection)
    (told,) = on.explained()
    assert told["answer"] == f"rejected: {rejection.words}"
    assert told["reasons"] == [{"words": "the rule"}]
    assert words in told["advice"][0]


def test_what_comes_again_is_counted_and_takes_one_place(on: Fixture) -> None:
    for second in range(100):
        on.now = 1000.0 + second
        rejected(on, "MR_9", Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED)
    rejected(on, "MR_8", Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED)
    told = next(entry for entry in on.explained() if entry["calling_ae_title"] == "MR_9")
    assert (told["count"], told["first_time"], told["time"]) == (100, 1000.0, 1099.0)
    assert len(on.explained()) == 2


def test_the_newest_come_first_and_old_ones_give_way(on: Fixture) -> None:
    for number in range(30):
        on.now += 1
        rejected(on, f"MR_{number}", Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED)
    titles = [entry["calling_ae_title"] for entry in on.explained()]
    assert titles == [f"MR_{number}" for number in range(29, 9, -1)]


def refused_context(uid: str, result: ContextResult) -> RefusedContext:
    return RefusedContext(1, uid, (IMPLICIT,), result, result.words)


@pytest.mark.parametrize(
    ("uid", "result", "words"),
    [
        (CT, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, 'add "store" to its services'),
        ("1.2.3", ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, "storage.accept_unknown_storage"),
        (
            "1.2.840.10008.5.1.1.9",
            ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED,
            "does not have this service",
        ),
        (CT, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED, "Explicit VR Little Endian"),
        (CT, ContextResult.USER_REJECTION, "a role"),
    ],
)
def test_a_refused_context_is_explained_with_what_to_change(
    on: Fixture, uid: str, result: ContextResult, words: str
) -> None:
    on.channel.negotiated.refused = (refused_context(uid, result),)
    on.journal.accepted(on.channel)
    (told,) = on.explained()
    assert told["answer"] == f"refused: {result.words}"
    assert uid in told["reasons"][0]["words"]
    assert words in told["advice"][0]


def test_a_context_with_an_abstract_syntax_that_is_no_uid_is_explained_as_it_came(
    on: Fixture,
) -> None:
    result = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
    on.channel.negotiated.refused = (refused_context("x" * 5000, result),)
    on.journal.accepted(on.channel)
    (told,) = on.explained()
    assert told["reasons"][0]["words"] == "x" * 300


def test_contexts_refused_for_one_reason_are_one_explanation(on: Fixture) -> None:
    result = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
    on.channel.negotiated.refused = tuple(refused_context(f"1.2.{n}", result) for n in range(60))
    on.journal.accepted(on.channel)
    (told,) = on.explained()
    assert told["asked"] == "60 presentation contexts"
    assert len(told["reasons"]) == 20
