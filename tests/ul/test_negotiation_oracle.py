"""Negotiation against pynetdicom's, with recorded peers, and with any request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import build_context
from pynetdicom.presentation import negotiate_as_acceptor

from dicomnode.errors import RemoteProtocolError
from dicomnode.ul.negotiation import (
    SupportedContext,
    concluded,
)
from dicomnode.ul.pdu import AAssociateAC, AAssociateRQ
from tests.ul import strategies
from tests.ul.proposals import (
    CT,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    MR,
    SUPPORTED,
    VERIFICATION,
    accepted,
    context,
    policy,
    request,
    results,
    role,
)
from tests.ul.recorded import PDUS

UIDS = [VERIFICATION, CT, MR, "1.2.3"]
SYNTAXES = [IMPLICIT, EXPLICIT, JPEG]
proposals = st.lists(
    st.tuples(st.sampled_from(UIDS), st.lists(st.sampled_from(SYNTAXES), min_size=1, unique=True)),
    min_size=1,
    max_size=4,
)


@given(proposals)
def test_contexts_without_roles_fare_as_with_pynetdicom(proposed):
    asked = request(*(context(2 * n + 1, *p[:1], *p[1]) for n, p in enumerate(proposed)))
    theirs = [build_context(uid, syntaxes) for uid, syntaxes in proposed]
    for n, proposal in enumerate(theirs):
        proposal.context_id = 2 * n + 1
    known = {uid: s for uid, s in SUPPORTED.items() if s.scp}
    supported = [build_context(uid, list(s.transfer_syntaxes)) for uid, s in known.items()]
    judged, _ = negotiate_as_acceptor(theirs, supported)
    # pynetdicom takes its own order of transfer syntaxes, not the proposer's.
    preferring = policy(lookup=known.get, transfer_syntax_preference=(IMPLICIT, EXPLICIT))
    ours = accepted(asked, preferring)
    assert results(ours) == {c.context_id: c.result for c in judged}
    assert {n: c.transfer_syntax for n, c in ours.contexts.items()} == {
        c.context_id: c.transfer_syntax[0] for c in judged if c.result == 0
    }


@pytest.mark.parametrize(("scu", "scp"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("we_scp", [True, False])
@pytest.mark.parametrize("we_scu", [True, False])
def test_roles_fare_as_with_pynetdicom(scu, scp, we_scp, we_scu):
    supporting = policy(lookup=lambda _: SupportedContext((IMPLICIT,), scp=we_scp, scu=we_scu))
    outcome = accepted(request(context(1, CT), user=[role(CT, scu, scp)]), supporting)
    proposed, supported = build_context(CT, IMPLICIT), build_context(CT, IMPLICIT)
    proposed.context_id = 1
    supported.scu_role, supported.scp_role = we_scp, we_scu
    (theirs,), _ = negotiate_as_acceptor([proposed], [supported], {CT: (scu, scp)})
    assert results(outcome) == {1: theirs.result}
    ours = [(c.as_scp, c.as_scu) for c in outcome.contexts.values()]
    assert ours == ([(theirs.as_scp, theirs.as_scu)] if theirs.result == 0 else [])


@pytest.mark.parametrize("name", [name for name in PDUS if name.endswith("_RQ")])
def test_recorded_requests_are_accepted(name):
    asked = AAssociateRQ.decode(memoryview(PDUS[name])[6:])
    anything = policy(
        ae_titles=frozenset(),
        lookup=lambda uid: SupportedContext((IMPLICIT, EXPLICIT, JPEG), scp=True, scu=True),
    )
    outcome = accepted(asked, anything)
    assert len(outcome.contexts) == len(asked.presentation_contexts)
    assert AAssociateAC.decode(memoryview(outcome.response.encode())[6:]) == outcome.response


def test_what_orthanc_answered_to_dcmtks_c_get_request_is_understood():
    asked = AAssociateRQ.decode(memoryview(PDUS["DCMTK_GETSCU_RQ"])[6:])
    outcome = concluded(asked, AAssociateAC.decode(memoryview(PDUS["ORTHANC_GET_AC"])[6:]))
    assert outcome.peer_implementation_version_name.startswith("OFFIS")
    assert any(c.as_scp and not c.as_scu for c in outcome.contexts.values())
    assert any(c.as_scu for c in outcome.contexts.values())


@given(strategies.requests)
def test_any_request_is_accepted_or_refused_for_its_maximum_length(asked):
    lookup = {c.abstract_syntax: SUPPORTED[CT] for c in asked.presentation_contexts[::2]}
    try:
        outcome = accepted(asked, policy(ae_titles=frozenset(), lookup=lookup.get))
    except RemoteProtocolError as error:
        assert "no room" in error.rule
        return
    assert len(outcome.response.presentation_contexts) == len(asked.presentation_contexts)
    assert AAssociateAC.decode(memoryview(outcome.response.encode())[6:]) == outcome.response
    concluded(asked, outcome.response)
