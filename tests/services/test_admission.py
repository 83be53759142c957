"""Who may associate, for what, and how many at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.certificates import Secured, certificate_of
from dicomnode.dimse.channel import Admitted, Refused
from dicomnode.registry import Registry, load_registry
from dicomnode.services.admission import NOT_BOUND, Admission, Rules
from dicomnode.services.sop_classes import service_of
from dicomnode.ul.items import (
    ExtendedNegotiation,
    PresentationContextRQ,
    RoleSelection,
    UserItem,
)
from dicomnode.ul.pdu import DICOM_APPLICATION_CONTEXT, AAssociateRQ, Rejection

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
PRIVATE_CLASS = "1.2.276.0.99.1"

RULES = Rules(
    ae_titles=frozenset({"DICOMNODE"}),
    strict_ae_titles=False,
    admit_unknown=False,
    accept_unknown_storage=False,
    maximum_pdu_bytes=131072,
    max_operations=16,
    max_associations=3,
    max_associations_per_ae=0,
    max_associations_per_address=0,
)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    path = tmp_path / "ae.toml"
    path.write_text(
        """
        [[ae]]
        title = "CT_1"
        addresses = ["10.0.0.0/29"]
        max_associations = 2
        [[ae]]
        title = "ECHOER"
        services = ["echo"]
        [[ae]]
        title = "GETTER"
        services = ["get"]
        [[ae]]
        title = "BOUND"
        certificate = ["CN=MR_1", "DNS:mr1.example.org"]
        [[ae]]
        title = "PICKY"
        transfer_syntaxes = ["1.2.840.10008.1.2.1"]
        maximum_pdu_bytes = 16384
        """
    )
    return load_registry(path)


def request(
    calling: str,
    called: str = "DICOMNODE",
    *abstract_syntaxes: str,
    user: tuple[UserItem, ...] = (),
) -> AAssociateRQ:
    contexts = tuple(
        PresentationContextRQ(2 * number + 1, uid, (IMPLICIT, EXPLICIT))
        for number, uid in enumerate(abstract_syntaxes or (VERIFICATION, CT))
    )
    return AAssociateRQ(
        called_ae_title=called,
        calling_ae_title=calling,
        application_context_name=DICOM_APPLICATION_CONTEXT,
        presentation_contexts=contexts,
        user_information=user,
    )


def test_a_registered_title_from_its_address_is_admitted_for_all_it_may(registry: Registry) -> None:
    answer = Admission(RULES, registry).admit(request("ct_1"), "10.0.0.3")
    assert isinstance(answer, Admitted)
    assert {context.abstract_syntax for context in answer.negotiated.contexts.values()} == {
        VERIFICATION,
        CT,
    }


@pytest.mark.parametrize(
    ("calling", "address", "why"),
    [("STRANGER", "10.0.0.3", "title unknown"), ("CT_1", "10.0.0.9", "10.0.0.0/29")],
)
def test_who_is_not_recognized_is_rejected_with_the_rule(
    registry: Registry, calling: str, address: str, why: str
) -> None:
    answer = Admission(RULES, registry).admit(request(calling), address)
    assert isinstance(answer, Refused)
    assert answer.rejection is Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED
    assert why in answer.why and "ae.toml" in answer.why


def shown(name: str) -> Secured:
    subject = ((("commonName", name),),)
    return Secured("TLSv1.3", "TLS_AES_256_GCM_SHA384", certificate_of(b"x", {"subject": subject}))


@pytest.mark.parametrize(
    ("secured", "why"),
    [
        (None, "it called without TLS"),
        (Secured("TLSv1.3", "TLS_AES_256_GCM_SHA384"), "it showed none"),
        (shown("OTHER"), "it showed CN=OTHER"),
    ],
)
def test_a_title_bound_to_a_certificate_is_refused_without_it(
    registry: Registry, secured: Secured | None, why: str
) -> None:
    admission = Admission(RULES, registry)
    answer = admission.admit(request("BOUND"), "10.0.0.3", secured)
    assert isinstance(answer, Refused)
    assert (answer.rejection, answer.words) == (Rejection.NO_REASON_GIVEN, NOT_BOUND)
    assert "CN=MR_1, DNS:mr1.example.org" in answer.why and why in answer.why
    assert admission.active == 0


def test_a_title_bound_to_a_certificate_is_admitted_with_it(registry: Registry) -> None:
    answer = Admission(RULES, registry).admit(request("BOUND"), "10.0.0.3", shown("MR_1"))
    assert isinstance(answer, Admitted)


def test_a_title_that_is_not_bound_is_admitted_with_any_certificate(registry: Registry) -> None:
    answer = Admission(RULES, registry).admit(request("CT_1"), "10.0.0.3", shown("MR_1"))
    assert isinstance(answer, Admitted)


def test_a_wrong_called_title_is_rejected_before_the_calling_one(registry: Registry) -> None:
    answer = Admission(RULES, registry).admit(request("STRANGER", "OTHER"), "10.0.0.3")
    assert isinstance(answer, Refused)
    assert answer.rejection is Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED
    assert "'OTHER'" in answer.why and "DICOMNODE" in answer.why


def test_unknown_titles_may_be_allowed_but_a_known_one_keeps_its_addresses(
    registry: Registry,
) -> None:
    admission = Admission(replace(RULES, admit_unknown=True), registry)
    assert isinstance(admission.admit(request("STRANGER"), "10.0.0.3"), Admitted)
    assert isinstance(admission.admit(request("CT_1"), "10.0.0.9"), Refused)


def test_contexts_of_services_that_an_ae_may_not_use_are_refused(registry: Registry) -> None:
    answer = Admission(RULES, registry).admit(request("ECHOER"), "10.0.0.3")
    assert isinstance(answer, Admitted)
    (accepted,) = answer.negotiated.contexts.values()
    assert accepted.abstract_syntax == VERIFICATION
    (refused,) = answer.negotiated.refused
    assert refused.abstract_syntax == CT


def test_whoever_may_get_and_not_store_is_sent_objects_and_sends_none(registry: Registry) -> None:
    admission = Admission(RULES, registry)
    as_scp = RoleSelection(CT, scu=False, scp=True)
    asked = request("GETTER", "DICOMNODE", STUDY_ROOT_GET, STUDY_ROOT_FIND, CT, user=(as_scp,))
    answer = admission.admit(asked, "10.0.0.3")
    assert isinstance(answer, Admitted)
    get, storage = answer.negotiated.contexts.values()
    assert (get.abstract_syntax, get.as_scp) == (STUDY_ROOT_GET, True)
    assert (storage.abstract_syntax, storage.as_scp, storage.as_scu) == (CT, False, True)
    storing = admission.admit(request("GETTER", "DICOMNODE", CT), "10.0.0.3")
    assert isinstance(storing, Admitted) and not storing.negotiated.contexts


@pytest.mark.parametrize(
    ("sop_class_uid", "proposed", "granted"),
    [
        (STUDY_ROOT_FIND, b"\1\1\1\1", b"\1\1\0\0"),
        (STUDY_ROOT_FIND, b"\0\1\1", b"\0\1\0"),
        (STUDY_ROOT_GET, b"\1\1", b"\1\0"),
        (CT, b"\2\0\1", None),
    ],
)
def test_extended_negotiation_grants_what_is_there_and_was_asked_for(
    registry: Registry, sop_class_uid: str, proposed: bytes, granted: bytes | None
) -> None:
    item = ExtendedNegotiation(sop_class_uid, proposed)
    asked = request("CT_1", "DICOMNODE", sop_class_uid, user=(item,))
    answer = Admission(RULES, registry).admit(asked, "10.0.0.3")
    assert isinstance(answer, Admitted)
    answered = answer.negotiated.response.find(ExtendedNegotiation)
    assert (answered.info if answered else None) == granted


def test_the_registry_sets_transfer_syntax_preference_and_maximum_length(
    registry: Registry,
) -> None:
    admission = Admission(RULES, registry)
    proposers_order = admission.admit(request("CT_1"), "10.0.0.3")
    preferred = admission.admit(request("PICKY"), "10.0.0.3")
    assert isinstance(proposers_order, Admitted) and isinstance(preferred, Admitted)
    assert proposers_order.negotiated.contexts[3].transfer_syntax == IMPLICIT
    assert preferred.negotiated.contexts[3].transfer_syntax == EXPLICIT
    assert b"\x51\x00\x00\x04\x00\x00\x40\x00" in preferred.negotiated.response.encode()


def test_limits_reject_transiently_and_slots_come_back(registry: Registry) -> None:
    admission = Admission(RULES, registry)
    first = admission.admit(request("CT_1"), "10.0.0.3")
    assert isinstance(first, Admitted)
    assert isinstance(admission.admit(request("CT_1"), "10.0.0.3"), Admitted)
    over = admission.admit(request("CT_1"), "10.0.0.3")
    assert isinstance(over, Refused)
    assert over.rejection is Rejection.LOCAL_LIMIT_EXCEEDED
    assert "max_associations of CT_1 is 2" in over.why
    first.release()
    assert isinstance(admission.admit(request("CT_1"), "10.0.0.3"), Admitted)


@pytest.mark.parametrize(
    ("limit", "named"),
    [
        ({"max_associations": 1}, "limits.max_associations is 1"),
        ({"max_associations_per_ae": 1}, "limits.max_associations_per_ae of ECHOER is 1"),
        ({"max_associations_per_address": 1}, "limits.max_associations_per_address"),
    ],
)
def test_each_limit_names_itself(registry: Registry, limit: dict[str, int], named: str) -> None:
    admission = Admission(replace(RULES, **limit), registry)
    held = admission.admit(request("ECHOER"), "10.0.0.3")
    assert isinstance(held, Admitted)
    over = admission.admit(request("ECHOER"), "10.0.0.3")
    assert isinstance(over, Refused) and named in over.why
    held.release()
    assert admission.active == 0


def test_private_storage_classes_are_admitted_only_when_allowed() -> None:
    assert service_of(PRIVATE_CLASS, accept_unknown_storage=False) is None
    assert service_of(PRIVATE_CLASS, accept_unknown_storage=True) == "store"


def test_services_that_the_standard_has_never_count_as_unknown_storage() -> None:
    basic_film_session = "1.2.840.10008.5.1.1.1"
    assert service_of(basic_film_session, accept_unknown_storage=True) is None


def test_retired_ultrasound_storage_is_still_taken() -> None:
    assert service_of("1.2.840.10008.5.1.4.1.1.6", accept_unknown_storage=False) == "store"
