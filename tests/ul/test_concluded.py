"""The requestor's half of negotiation: what an A-ASSOCIATE-AC leaves us with."""

from __future__ import annotations

import pytest

from dicomnode.errors import RemoteProtocolError
from dicomnode.ul import items
from dicomnode.ul.items import ContextResult, PresentationContextAC
from dicomnode.ul.negotiation import (
    AcceptedContext,
    concluded,
)
from dicomnode.ul.pdu import AAssociateAC
from tests.ul.proposals import (
    CT,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    USER_INFORMATION,
    accepted,
    context,
    policy,
    request,
    role,
)


def response(*contexts, user=USER_INFORMATION) -> AAssociateAC:
    return AAssociateAC("DICOMNODE", "CT_1", contexts, tuple(user))


def answer(context_id=1, result=ContextResult.ACCEPTANCE, transfer_syntax=IMPLICIT):
    return PresentationContextAC(context_id, result, transfer_syntax)


def test_both_halves_agree_on_what_was_negotiated():
    asked = request(
        context(1, CT, IMPLICIT, EXPLICIT),
        context(3, "1.2.3"),
        user=[role(CT, True, True), items.AsynchronousOperationsWindow(5, 0)],
    )
    ours = accepted(asked, policy(max_operations=16))
    theirs = concluded(asked, ours.response)
    assert theirs.refused == ours.refused
    assert (theirs.max_operations_invoked, theirs.max_operations_performed) == (5, 16)
    assert theirs.peer_maximum_length == 131072
    assert theirs.peer_implementation_version_name == "OURS"
    assert theirs.contexts == {1: AcceptedContext(1, CT, IMPLICIT, as_scp=True, as_scu=True)}


def test_as_requestor_we_are_scu_only_unless_more_is_granted():
    asked = request(context(1, CT), user=[role(CT, True, True)])
    assert concluded(asked, response(answer())).contexts[1] == (
        AcceptedContext(1, CT, IMPLICIT, as_scp=False, as_scu=True)
    )
    granted = response(answer(), user=[role(CT, False, True)])
    assert concluded(asked, granted).contexts[1] == (
        AcceptedContext(1, CT, IMPLICIT, as_scp=True, as_scu=False)
    )


def test_roles_that_we_did_not_propose_are_not_ours():
    granted = response(answer(), user=[role(CT, False, True)])
    assert concluded(request(), granted).contexts[1] == (
        AcceptedContext(1, CT, IMPLICIT, as_scp=False, as_scu=True)
    )


def test_a_context_that_we_did_not_propose_is_ignored():
    outcome = concluded(request(context(1)), response(answer(1), answer(3)))
    assert list(outcome.contexts) == [1]


def test_a_context_that_is_not_answered_is_refused():
    outcome = concluded(request(context(1), context(3)), response(answer(1)))
    (refused,) = outcome.refused
    assert (refused.context_id, refused.result, refused.words) == (3, 2, "Not answered")


def test_a_context_accepted_with_a_foreign_transfer_syntax_is_refused():
    outcome = concluded(request(context(1)), response(answer(1, transfer_syntax=JPEG)))
    assert outcome.contexts == {}
    assert JPEG in outcome.refused[0].words


@pytest.mark.parametrize("result", [1, 2, 3, 4])
def test_refusals_keep_their_result(result):
    outcome = concluded(request(), response(answer(1, ContextResult(result), "")))
    assert outcome.refused[0].result == result


def test_a_window_answered_beyond_or_without_our_proposal_is_not_ours():
    window = items.AsynchronousOperationsWindow(9, 9)
    answered = response(answer(), user=[window])
    assert concluded(request(), answered).max_operations_invoked == 1
    asked = request(user=[items.AsynchronousOperationsWindow(3, 0)])
    outcome = concluded(asked, answered)
    assert (outcome.max_operations_invoked, outcome.max_operations_performed) == (3, 9)


def test_an_answer_that_leaves_no_room_for_data_is_an_invalid_pdu():
    with pytest.raises(RemoteProtocolError, match="no room"):
        concluded(request(), response(answer(), user=[items.MaximumLength(3)]))
