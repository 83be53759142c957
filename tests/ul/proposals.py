"""Requests and a policy that negotiation tests start from."""

from __future__ import annotations

import dataclasses

from dicomnode.ul import items
from dicomnode.ul.items import PresentationContextRQ
from dicomnode.ul.negotiation import (
    AcceptorPolicy,
    Negotiated,
    SupportedContext,
    negotiate,
)
from dicomnode.ul.pdu import AAssociateRQ

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
JPEG = "1.2.840.10008.1.2.4.50"

SUPPORTED = {
    VERIFICATION: SupportedContext((IMPLICIT, EXPLICIT)),
    CT: SupportedContext((IMPLICIT, EXPLICIT), scp=True, scu=True),
    MR: SupportedContext((IMPLICIT,), scp=False, scu=True),
}
POLICY = AcceptorPolicy(
    ae_titles=frozenset({"DICOMNODE", "ARCHIVE"}),
    calling_recognized=True,
    lookup=SUPPORTED.get,
    maximum_length=131072,
    implementation_class_uid="1.2.3.4",
    implementation_version_name="OURS",
)
USER_INFORMATION = (items.MaximumLength(16384),)


def context(context_id=1, abstract_syntax=CT, *transfer_syntaxes):
    return PresentationContextRQ(context_id, abstract_syntax, transfer_syntaxes or (IMPLICIT,))


def request(*contexts, user=USER_INFORMATION, **fields) -> AAssociateRQ:
    made = AAssociateRQ("DICOMNODE", "CT_1", contexts or (context(),), tuple(user))
    return dataclasses.replace(made, **fields)


def policy(**fields) -> AcceptorPolicy:
    return dataclasses.replace(POLICY, **fields)


def accepted(asked: AAssociateRQ, decided_by: AcceptorPolicy = POLICY) -> Negotiated:
    outcome = negotiate(asked, decided_by)
    assert isinstance(outcome, Negotiated), outcome
    return outcome


def results(outcome: Negotiated) -> dict[int, int]:
    return {answer.context_id: answer.result for answer in outcome.response.presentation_contexts}


def role(uid: str, scu: bool, scp: bool) -> items.RoleSelection:
    return items.RoleSelection(uid, scu, scp)
