"""What the journal says of requested associations, and of what was refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dicomnode.dimse.channel import Progress, Proposal, Refused
from dicomnode.dimse.status import Status
from dicomnode.errors import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationTimedOut,
    ConnectionFailed,
)
from dicomnode.registry import AE, Registry
from dicomnode.ul.items import (
    ContextResult,
    ImplementationVersionName,
    PresentationContextRQ,
)
from dicomnode.ul.negotiation import RefusedContext
from dicomnode.ul.pdu import AAssociateRQ, Rejection
from tests.services.journaling import C_MOVE, C_STORE, CT, IMPLICIT, MOVED, Fixture, fake_channel


@pytest.fixture
def on() -> Fixture:
    return Fixture()


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
        " 5 of 5 presentation contexts",
        "info  DICOMNODE -> ARCHIVE #12 association released, 1ms",
    ]
    name = "dicomnode_outgoing_associations_total"
    assert on.value(name, called_aet="ARCHIVE", result="accepted") == 1
    assert on.value("dicomnode_outgoing_associations_active") == 0
    assert on.journal.outgoing == {}


def test_an_operation_of_the_peer_on_an_association_of_ours_is_the_peers(on: Fixture) -> None:
    channel = fake_channel(12, "DICOMNODE", "ARCHIVE", "10.0.0.9")
    channel.peer_ae_title = "ARCHIVE"
    on.journal.requested(channel)
    on.channel = channel
    on.handler = on.dispatcher.established(channel)
    on.begin(C_STORE).respond(Status.PROCESSING_FAILURE, "disk on fire")
    assert on.lines()[1].startswith("warn  ARCHIVE -> DICOMNODE #12 C-STORE 6 0110")
    assert on.journal.outgoing[12].operations == 1
    total = "dicomnode_dimse_requests_total"
    assert on.value(total, service="C-STORE", calling_aet="ARCHIVE", status="0110") == 1
    assert on.explained()[0]["calling_ae_title"] == "ARCHIVE"


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
    words = [reason["words"] for reason in told["reasons"]]
    assert words[0] == "1.2.0, proposed in Implicit VR Little Endian"
    assert (len(words), words[-1]) == (9, "and 52 more")


def test_contexts_refused_for_one_reason_are_one_line(on: Fixture) -> None:
    result = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
    many = [refused_context(f"1.2.{n}", result) for n in range(60)]
    alone = refused_context(CT, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED)
    on.channel.negotiated.refused = (*many, alone)
    on.journal.accepted(on.channel)
    _, together, other = on.lines()
    assert "60 presentation contexts refused: Abstract syntax not supported" in together
    assert 'abstract_syntax="1.2.0 1.2.1 1.2.2' in together
    assert '1.2.7 and 52 more"' in together
    assert "presentation context 1 refused: Transfer syntaxes not supported" in other
    assert on.value(
        "dicomnode_contexts_refused_total",
        abstract_syntax=CT,
        reason="Transfer syntaxes not supported",
    )


def test_who_may_not_retrieve_is_told_so_for_the_objects_that_it_wants_too(on: Fixture) -> None:
    on.registry = Registry([AE(title="WS_1", services=frozenset({"echo", "store"}))])
    on.channel.negotiated.refused = (refused_context(CT, ContextResult.USER_REJECTION),)
    on.journal.accepted(on.channel)
    (told,) = on.explained()
    assert told["advice"] == [
        'If WS_1 may use it, add "get" to its services in ae.toml, then send SIGHUP to the node.'
    ]


# -- what was received ----------------------------------------------------------------------------


def test_a_rejection_is_explained_with_what_was_asked_for(on: Fixture) -> None:
    context = PresentationContextRQ(1, CT, (IMPLICIT,))
    request = AAssociateRQ("WRONG", "CT_1", (context,), (ImplementationVersionName("MODALITY_1"),))
    refused = Refused(Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED, "called 'WRONG'")
    on.journal.rejected("10.0.0.7", request, refused)
    assert on.explained()[0]["received"] == (
        "calling AE title 'CT_1', called AE title 'WRONG', 1 presentation context: CT Image"
        " Storage, implementation 'MODALITY_1'"
    )


def test_a_failed_operation_is_explained_with_its_last_message(on: Fixture) -> None:
    on.begin(C_STORE).respond(Status.PROCESSING_FAILURE, "disk on fire")
    again = replace(C_STORE, message_id=9, affected_sop_instance_uid="1.2.4")
    on.begin(again).respond(Status.PROCESSING_FAILURE, "disk on fire")
    (entry,) = on.explained()
    assert entry["count"] == 2
    assert entry["received"] == (
        "C-STORE-RQ, message ID 9, of CT Image Storage of 1.2.4 in Implicit VR Little Endian"
    )


# -- the account of each AE ------------------------------------------------------------------------


def peer(on: Fixture, title: str) -> dict[str, Any]:
    figures = on.journal.peers.figures()["peers"]
    return next(row for row in figures if row["ae_title"] == title)


def test_an_ae_that_cannot_be_called_is_down_until_it_can_be(on: Fixture) -> None:
    assert peer(on, "ARCHIVE")["outgoing"]["state"] == "not called"
    on.journal.request_failed(PROPOSAL, ConnectionFailed("cannot connect to ARCHIVE: refused"))
    down = peer(on, "ARCHIVE")["outgoing"]
    assert (down["state"], down["why"]) == ("down", "cannot connect to ARCHIVE: refused")
    on.journal.request_failed(PROPOSAL, ConnectionFailed("cannot connect to ARCHIVE: refused"))
    assert peer(on, "ARCHIVE")["outgoing"]["since"] == down["since"]
    assert peer(on, "ARCHIVE")["failures"][0]["count"] == 2
    on.journal.requested(fake_channel(12, "DICOMNODE", "ARCHIVE", "10.0.0.9"))
    assert peer(on, "ARCHIVE")["outgoing"] | {"since": 0} == {
        "state": "up",
        "since": 0,
        "why": None,
    }


def test_objects_are_counted_for_who_sent_and_who_received_them(on: Fixture) -> None:
    operation = on.begin(C_STORE)
    operation.received_bytes = 1000
    operation.respond(Status.SUCCESS)
    on.perform(C_MOVE, Status.SUB_OPERATIONS_COMPLETE_WITH_FAILURES, MOVED)
    sender, receiver = peer(on, "WS_1"), peer(on, "ARCHIVE")
    assert (sender["objects_in"], sender["bytes_in"], sender["objects_out"]) == (1, 1000, 0)
    assert (receiver["objects_out"], receiver["bytes_out"]) == (10, 5 * 1024**2)


def test_reasons_of_failures_are_bounded(on: Fixture) -> None:
    for number in range(100):
        on.journal.peers.failed("WS_1", f"reason {number}")
    failures = peer(on, "WS_1")["failures"]
    assert len(failures) == 21
    assert sum(row["count"] for row in failures) == 100


# -- what is under way ----------------------------------------------------------------------------


def test_what_is_under_way_is_shown_until_its_final_response(on: Fixture) -> None:
    operation = on.begin(C_MOVE)
    operation.progress = lambda: {"remaining": 3}
    on.channel.progress = on.handler.progress
    on.journal.accepted(on.channel)
    (row,) = on.journal.live()
    (shown,) = row["under_way"]
    assert (shown["service"], shown["message_id"], shown["asked_by"]) == ("C-MOVE", 5, "peer")
    assert shown["progress"] == {"remaining": 3}
    operation.respond(Status.SUCCESS)
    assert on.journal.live()[0]["under_way"] == []


async def test_what_the_node_asks_for_is_shown_as_its_own(on: Fixture) -> None:
    on.handler.requests.open(7, replace(C_STORE, message_id=11))
    on.channel.progress = on.handler.progress
    on.journal.requested(on.channel)
    (row,) = on.journal.live()
    assert row["direction"] == "outgoing"
    assert row["under_way"][0]["asked_by"] == "node"
    assert row["under_way"][0]["message_id"] == 11


def test_an_association_shows_some_of_its_operations_and_counts_all(on: Fixture) -> None:
    many = [
        Progress(service="C-STORE", message_id=number, by_peer=True, started=0.0)
        for number in range(50)
    ]
    on.channel.progress = lambda: many
    on.journal.accepted(on.channel)
    (row,) = on.journal.live()
    assert (len(row["under_way"]), row["under_way_count"]) == (8, 50)
