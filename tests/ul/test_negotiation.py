"""The acceptor's half of negotiation, a pure function of request and policy (PS3.8 §7.1.1)."""

from __future__ import annotations

import dataclasses

import pytest

from dicomnode.errors import RemoteProtocolError
from dicomnode.ul import items
from dicomnode.ul.items import ContextResult, PresentationContextAC, PresentationContextRQ
from dicomnode.ul.negotiation import (
    AcceptedContext,
    SupportedContext,
    negotiate,
)
from dicomnode.ul.pdu import Rejection
from tests.ul.proposals import (
    CT,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    MR,
    POLICY,
    VERIFICATION,
    accepted,
    context,
    policy,
    request,
    results,
    role,
)

# Who may associate


@pytest.mark.parametrize("version", [0, 2, 0xFFFE])
def test_a_protocol_version_without_bit_0_is_rejected_by_the_provider(version):
    outcome = negotiate(request(protocol_version=version), POLICY)
    assert outcome is Rejection.PROTOCOL_VERSION_NOT_SUPPORTED
    assert (outcome.result, outcome.source, outcome.reason) == (1, 2, 2)


def test_other_bits_of_the_protocol_version_do_not_matter():
    assert accepted(request(protocol_version=0xFFFF)).response.protocol_version == 1


@pytest.mark.parametrize("name", ["", "1.2.840.10008.3.1.1.2"])
def test_another_application_context_is_rejected(name):
    outcome = negotiate(request(application_context_name=name), POLICY)
    assert outcome is Rejection.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED


@pytest.mark.parametrize("title", ["OTHER", "", "DICOM NODE", "DICOMNODE2"])
def test_a_called_title_that_is_not_ours_is_rejected(title):
    outcome = negotiate(request(called_ae_title=title), POLICY)
    assert outcome is Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED
    assert (outcome.result, outcome.source, outcome.reason) == (1, 1, 7)


@pytest.mark.parametrize("title", ["DICOMNODE", "ARCHIVE", "dicomnode", "Archive", " ARCHIVE "])
def test_our_titles_compare_without_case_and_surrounding_spaces(title):
    accepted(request(called_ae_title=title))


def test_strict_titles_compare_with_case():
    strict = policy(strict_ae_titles=True)
    assert negotiate(request(called_ae_title="dicomnode"), strict) is (
        Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED
    )
    accepted(request(called_ae_title="DICOMNODE "), strict)


def test_without_titles_of_ours_any_called_title_is_ours():
    accepted(request(called_ae_title="WHATEVER"), policy(ae_titles=frozenset()))


def test_a_calling_title_that_the_registry_does_not_know_is_rejected():
    outcome = negotiate(request(), policy(calling_recognized=False))
    assert outcome is Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED
    assert (outcome.result, outcome.source, outcome.reason) == (1, 1, 3)


def test_objections_come_in_the_order_version_application_called_calling():
    wrong = request(protocol_version=0, application_context_name="1.2", called_ae_title="OTHER")
    unknown = policy(calling_recognized=False)
    assert negotiate(wrong, unknown) is Rejection.PROTOCOL_VERSION_NOT_SUPPORTED
    wrong = dataclasses.replace(wrong, protocol_version=1)
    assert negotiate(wrong, unknown) is Rejection.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED
    wrong = request(called_ae_title="OTHER")
    assert negotiate(wrong, unknown) is Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED


# Presentation contexts


def test_a_supported_context_is_accepted_with_one_transfer_syntax():
    outcome = accepted(request(context(1, CT, JPEG, EXPLICIT, IMPLICIT)))
    assert outcome.response.presentation_contexts == (
        PresentationContextAC(1, ContextResult.ACCEPTANCE, EXPLICIT),
    )
    assert outcome.contexts == {1: AcceptedContext(1, CT, EXPLICIT, as_scp=True, as_scu=False)}
    assert outcome.refused == ()


def test_an_unknown_abstract_syntax_is_result_3():
    outcome = accepted(request(context(5, "1.2.3", JPEG, EXPLICIT)))
    assert results(outcome) == {5: 3}
    (refused,) = outcome.refused
    assert (refused.abstract_syntax, refused.transfer_syntaxes) == ("1.2.3", (JPEG, EXPLICIT))
    assert refused.words == "Abstract syntax not supported"


def test_unknown_transfer_syntaxes_are_result_4():
    outcome = accepted(request(context(5, CT, JPEG)))
    assert results(outcome) == {5: 4}
    assert outcome.refused[0].words == "Transfer syntaxes not supported"


def test_a_context_without_transfer_syntaxes_is_result_4_and_the_answer_is_well_formed():
    outcome = accepted(request(PresentationContextRQ(5, CT, ())))
    assert outcome.response.presentation_contexts == (
        PresentationContextAC(5, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED, IMPLICIT),
    )


def test_the_proposers_order_of_transfer_syntaxes_decides():
    for order in ((IMPLICIT, EXPLICIT), (EXPLICIT, IMPLICIT)):
        assert accepted(request(context(1, CT, *order))).contexts[1].transfer_syntax == order[0]


def test_our_preference_outranks_the_proposers_order():
    preferring = policy(transfer_syntax_preference=(JPEG, EXPLICIT))
    outcome = accepted(request(context(1, CT, IMPLICIT, EXPLICIT, JPEG)), preferring)
    assert outcome.contexts[1].transfer_syntax == EXPLICIT


def test_a_preference_that_is_not_proposed_leaves_the_proposers_order():
    preferring = policy(transfer_syntax_preference=(JPEG,))
    outcome = accepted(request(context(1, CT, IMPLICIT, EXPLICIT)), preferring)
    assert outcome.contexts[1].transfer_syntax == IMPLICIT


@pytest.mark.parametrize(
    ("scu", "preferred", "chosen"),
    [(False, (), EXPLICIT), (False, (IMPLICIT,), IMPLICIT), (True, (), JPEG)],
)
def test_what_we_send_has_an_order_of_ours_that_the_registry_outranks(scu, preferred, chosen):
    sending = SupportedContext((IMPLICIT, EXPLICIT, JPEG), True, True, (EXPLICIT, IMPLICIT))
    outcome = accepted(
        request(context(1, CT, JPEG, IMPLICIT, EXPLICIT), user=[role(CT, scu, True)]),
        policy(lookup=lambda uid: sending, transfer_syntax_preference=preferred),
    )
    assert outcome.contexts[1].transfer_syntax == chosen


def test_every_context_is_answered_in_its_own_right_and_order():
    asked = request(
        context(9, "1.2.3"), context(3, CT), context(7, CT, JPEG), context(1, VERIFICATION)
    )
    outcome = accepted(asked)
    assert list(results(outcome).items()) == [(9, 3), (3, 0), (7, 4), (1, 0)]


def test_a_request_of_which_no_context_is_accepted_is_accepted_nonetheless():
    assert accepted(request(context(1, "1.2.3"))).contexts == {}


def test_128_contexts_are_accepted():
    asked = request(*(context(n, CT) for n in range(1, 256, 2)))
    assert len(accepted(asked).contexts) == 128


def test_contexts_beyond_the_maximum_are_result_2():
    asked = request(context(1), context(3), context(5))
    assert results(accepted(asked, policy(maximum_contexts=2))) == {1: 0, 3: 0, 5: 2}


@pytest.mark.parametrize("ids", [(2,), (0,), (1, 1), (1, 3, 1)])
def test_even_and_repeated_context_ids_are_an_invalid_pdu(ids):
    with pytest.raises(RemoteProtocolError) as caught:
        negotiate(request(*map(context, ids)), POLICY)
    assert (caught.value.source, caught.value.reason) == (2, 6)


# Roles


def test_without_role_selection_we_are_the_scp_and_nothing_is_answered():
    outcome = accepted(request(context(1, CT)))
    assert outcome.response.find(items.RoleSelection) is None
    assert (outcome.contexts[1].as_scp, outcome.contexts[1].as_scu) == (True, False)


@pytest.mark.parametrize(
    ("uid", "proposed", "answered"),
    [
        (CT, (True, True), (True, True)),
        (CT, (False, True), (False, True)),
        (CT, (True, False), (True, False)),
        (VERIFICATION, (True, True), (True, False)),
        (MR, (True, True), (False, True)),
    ],
)
def test_proposed_roles_are_granted_as_far_as_we_can_play_the_other_part(uid, proposed, answered):
    outcome = accepted(request(context(1, uid), user=[role(uid, *proposed)]))
    assert outcome.response.find(items.RoleSelection) == role(uid, *answered)
    assert (outcome.contexts[1].as_scp, outcome.contexts[1].as_scu) == answered


@pytest.mark.parametrize(
    ("uid", "user"),
    [
        (MR, []),
        (MR, [role(MR, True, False)]),
        (VERIFICATION, [role(VERIFICATION, False, True)]),
        (CT, [role(CT, False, False)]),
    ],
)
def test_a_context_in_which_nobody_has_a_role_is_refused(uid, user):
    outcome = accepted(request(context(1, uid), user=user))
    assert results(outcome) == {1: ContextResult.USER_REJECTION}
    assert outcome.refused[0].words == "Roles not supported"
    assert outcome.response.find(items.RoleSelection) is None


def test_a_role_for_a_class_without_an_accepted_context_is_not_answered():
    outcome = accepted(request(context(1, CT), user=[role("1.2.3", True, True)]))
    assert outcome.response.find(items.RoleSelection) is None


# The rest of the user information


def test_the_answer_echoes_the_titles_and_names_us():
    response = accepted(request(called_ae_title="dicomnode")).response
    assert (response.called_ae_title, response.calling_ae_title) == ("dicomnode", "CT_1")
    assert response.user_information == (
        items.MaximumLength(131072),
        items.ImplementationClassUID("1.2.3.4"),
        items.ImplementationVersionName("OURS"),
    )


def test_what_the_peer_says_of_itself_is_in_the_outcome():
    identity = items.UserIdentityRQ(1, False, b"someone")
    common = items.CommonExtendedNegotiation("1.2.3", "1.2.840.10008.4.2", (CT,))
    outcome = accepted(
        request(
            user=[
                items.MaximumLength(32768),
                items.ImplementationClassUID("1.9"),
                items.ImplementationVersionName("THEIRS"),
                items.ExtendedNegotiation("1.5", b"\1\1"),
                common,
                identity,
            ]
        )
    )
    assert outcome.peer_maximum_length == 32768
    assert outcome.peer_implementation_class_uid == "1.9"
    assert outcome.peer_implementation_version_name == "THEIRS"
    assert outcome.extended == {"1.5": b"\1\1"}
    assert outcome.common_extended == {"1.2.3": common}
    assert outcome.user_identity == identity
    assert (outcome.calling_ae_title, outcome.called_ae_title) == ("CT_1", "DICOMNODE")


def test_a_peer_that_says_nothing_of_itself_is_accepted():
    outcome = accepted(request(user=()))
    assert outcome.peer_maximum_length == 0
    assert outcome.peer_implementation_class_uid == ""
    assert outcome.peer_implementation_version_name == ""
    assert outcome.user_identity is None


@pytest.mark.parametrize("length", range(1, 8))
def test_a_maximum_length_without_room_for_data_is_an_invalid_pdu(length):
    with pytest.raises(RemoteProtocolError, match="no room") as caught:
        negotiate(request(user=[items.MaximumLength(length)]), POLICY)
    assert caught.value.reason == 6


@pytest.mark.parametrize(
    ("proposed", "granted"),
    [((4, 4), (4, 4)), ((99, 1), (16, 1)), ((0, 0), (16, 16)), ((1, 0), (1, 16))],
)
def test_an_asynchronous_window_is_granted_up_to_our_number(proposed, granted):
    asked = request(user=[items.AsynchronousOperationsWindow(*proposed)])
    outcome = accepted(asked, policy(max_operations=16))
    answer = outcome.response.find(items.AsynchronousOperationsWindow)
    assert answer == items.AsynchronousOperationsWindow(*granted)
    assert (outcome.max_operations_invoked, outcome.max_operations_performed) == granted


def test_a_window_that_is_not_proposed_is_not_granted():
    outcome = accepted(request(), policy(max_operations=16))
    assert outcome.response.find(items.AsynchronousOperationsWindow) is None
    assert (outcome.max_operations_invoked, outcome.max_operations_performed) == (1, 1)


def test_a_node_without_a_window_does_not_answer_a_proposed_one():
    outcome = accepted(request(user=[items.AsynchronousOperationsWindow(5, 5)]))
    assert outcome.response.find(items.AsynchronousOperationsWindow) is None
    assert (outcome.max_operations_invoked, outcome.max_operations_performed) == (1, 1)


def test_extended_negotiation_is_answered_for_accepted_classes_that_have_an_answer():
    user = [items.ExtendedNegotiation(uid, b"\1\1\1") for uid in (CT, VERIFICATION, "1.2.3")]
    answering = policy(
        extended=lambda item: item.info[:1] if item.sop_class_uid != VERIFICATION else None
    )
    asked = request(context(1, CT), context(3, VERIFICATION), context(5, "1.2.3"), user=user)
    answers = accepted(asked, answering).response.find_all(items.ExtendedNegotiation)
    assert answers == (items.ExtendedNegotiation(CT, b"\1"),)


def test_extended_negotiation_is_not_answered_without_a_policy_for_it():
    outcome = accepted(request(user=[items.ExtendedNegotiation(CT, b"\1")]))
    assert outcome.response.find(items.ExtendedNegotiation) is None


def test_an_identity_that_nobody_checked_is_not_confirmed():
    outcome = accepted(request(user=[items.UserIdentityRQ(2, True, b"name", b"passcode")]))
    assert outcome.response.find(items.UserIdentityAC) is None
