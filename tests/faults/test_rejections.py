"""Who may associate: called and calling titles, addresses, contexts."""

from __future__ import annotations

import pytest
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.sop_class import Verification

from tests.conftest import RunningNode, StartNode
from tests.faults.scu import associated
from tests.peers import eventually
from tests.wire import (
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    CT_IMAGE_STORAGE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    VERIFICATION,
    Wire,
)

REJECTED_CALLED = (ASSOCIATE_RJ, bytes([0, 1, 1, 7]))
REJECTED_CALLING = (ASSOCIATE_RJ, bytes([0, 1, 1, 3]))


def pynetdicom_rejection(node: RunningNode, calling: str, called: str) -> tuple[int, int, int]:
    entity = AE(calling)
    entity.add_requested_context(Verification)
    host, port = node.dicom_address
    answers: list[A_ASSOCIATE_RJ] = []

    def received(event: evt.Event) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            answers.append(event.pdu)

    # Its threads disagree now and then whether an association was rejected or aborted.
    entity.associate(host, port, ae_title=called, evt_handlers=[(evt.EVT_PDU_RECV, received)])
    eventually(lambda: answers, "the rejection")
    return answers[0].result, answers[0].source, answers[0].reason_diagnostic


def test_a_wrong_called_title_is_rejected_1_1_7_as_pynetdicom_sees_it(node: RunningNode) -> None:
    assert pynetdicom_rejection(node, "CT_1", "SOMEBODY") == (1, 1, 7)


def test_an_unknown_calling_title_is_rejected_1_1_3_as_pynetdicom_sees_it(
    start_node: StartNode,
) -> None:
    node = start_node(entities=[{"title": "CT_1"}], access={"unknown_ae": "refuse"})
    assert pynetdicom_rejection(node, "CT_2", "DICOMNODE") == (1, 1, 3)
    with associated(node.dicom_address, "CT_1") as wire:
        assert wire.echo() == 0


def test_a_known_title_from_a_foreign_address_is_rejected_1_1_3(start_node: StartNode) -> None:
    node = start_node(
        entities=[
            {"title": "FAR", "addresses": ["192.0.2.0/24"]},
            {"title": "NEAR", "addresses": ["192.0.2.0/24", "127.0.0.0/8"]},
        ],
        access={"unknown_ae": "refuse"},
    )
    with Wire(node.dicom_address) as wire:
        assert wire.associate(calling="FAR") == REJECTED_CALLING
    with associated(node.dicom_address, "NEAR") as wire:
        assert wire.echo() == 0


def test_a_foreign_address_is_no_way_around_the_registry_when_unknown_titles_are_admitted(
    start_node: StartNode,
) -> None:
    node = start_node(entities=[{"title": "FAR", "addresses": ["192.0.2.0/24"]}])
    with Wire(node.dicom_address) as wire:
        assert wire.associate(calling="FAR") == REJECTED_CALLING


def test_titles_are_compared_without_case_and_padding(node: RunningNode) -> None:
    for called in ("dicomnode", "  DicomNode", "DICOMNODE"):
        with Wire(node.dicom_address) as wire:
            assert wire.associate(called=called)[0] == ASSOCIATE_AC, called


def test_titles_are_compared_as_they_are_when_strict(start_node: StartNode) -> None:
    node = start_node(node={"strict_ae_titles": True})
    with Wire(node.dicom_address) as wire:
        assert wire.associate(called="dicomnode") == REJECTED_CALLED


def test_an_alias_is_a_title_of_the_node(start_node: StartNode) -> None:
    node = start_node(node={"ae_title_aliases": ["OLD_PACS"]})
    with Wire(node.dicom_address) as wire:
        assert wire.associate(called="OLD_PACS")[0] == ASSOCIATE_AC


def test_a_rejection_is_counted_under_the_standards_words(node: RunningNode) -> None:
    with Wire(node.dicom_address) as wire:
        assert wire.associate(called="SOMEBODY") == REJECTED_CALLED
    rejected = "dicomnode_associations_rejected_total"
    assert node.metric(rejected, reason="Called AE title not recognized") == 1


def test_an_unsupported_protocol_version_is_rejected_1_2_2(node: RunningNode) -> None:
    with Wire(node.dicom_address) as wire:
        assert wire.associate(protocol_version=2) == (ASSOCIATE_RJ, bytes([0, 1, 2, 2]))


def test_an_unknown_application_context_is_rejected_1_1_2(node: RunningNode) -> None:
    with Wire(node.dicom_address) as wire:
        answer = wire.associate(application_context="1.2.840.10008.3.1.1.99")
        assert answer == (ASSOCIATE_RJ, bytes([0, 1, 1, 2]))


def context_results(body: bytes) -> dict[int, int]:
    """Return context id → result of an A-ASSOCIATE-AC."""
    results, at = {}, 68
    while at < len(body):
        length = int.from_bytes(body[at + 2 : at + 4], "big")
        if body[at] == 0x21:
            results[body[at + 4]] = body[at + 6]
        at += 4 + length
    return results


def test_each_context_gets_its_own_result(node: RunningNode) -> None:
    contexts = [
        (1, VERIFICATION, (IMPLICIT_LE,)),
        (3, "1.2.3.4.5.6.7", (IMPLICIT_LE,)),
        (5, CT_IMAGE_STORAGE, ("1.2.3.4.5.6.8",)),
    ]
    with Wire(node.dicom_address) as wire:
        pdu_type, body = wire.associate(contexts=contexts)
        assert (pdu_type, context_results(body)) == (ASSOCIATE_AC, {1: 0, 3: 3, 5: 4})
        assert wire.echo() == 0
    assert node.metric("dicomnode_contexts_refused_total") == 2


def test_private_classes_are_admitted_where_the_settings_say_so(start_node: StartNode) -> None:
    node = start_node(storage={"accept_unknown_storage": True})
    with Wire(node.dicom_address) as wire:
        _, body = wire.associate(contexts=[(1, "1.2.826.0.1.3680043.10.1666.99", (EXPLICIT_LE,))])
        assert context_results(body) == {1: 0}


def test_a_service_that_the_registry_does_not_allow_is_not_accepted(start_node: StartNode) -> None:
    node = start_node(entities=[{"title": "CT_1", "services": ["echo"]}])
    with Wire(node.dicom_address) as wire:
        _, body = wire.associate(calling="CT_1")
        results = context_results(body)
        assert results[1] == 0
        assert results[3] != 0


def test_the_registrys_order_of_transfer_syntaxes_goes_before_the_proposers(
    start_node: StartNode,
) -> None:
    node = start_node(entities=[{"title": "CT_1", "transfer_syntaxes": [EXPLICIT_LE]}])
    contexts = [(1, CT_IMAGE_STORAGE, (IMPLICIT_LE, EXPLICIT_LE))]
    for calling, expected in (("CT_1", EXPLICIT_LE), ("CT_2", IMPLICIT_LE)):
        with Wire(node.dicom_address) as wire:
            _, body = wire.associate(calling=calling, contexts=contexts)
            at = body.index(b"\x40\x00")
            length = int.from_bytes(body[at + 2 : at + 4], "big")
            assert body[at + 4 : at + 4 + length].decode() == expected


def test_the_registrys_maximum_pdu_is_offered_to_its_ae(start_node: StartNode) -> None:
    node = start_node(entities=[{"title": "CT_1", "maximum_pdu_bytes": 16384}])
    for calling, expected in (("CT_1", 16384), ("CT_2", 131072)):
        with associated(node.dicom_address, calling) as wire:
            assert wire.peer_maximum_length == expected


@pytest.mark.parametrize("ids", [(2,), (1, 1), (0,)], ids=["even", "twice", "zero"])
def test_context_ids_that_are_even_or_come_twice_are_refused(
    node: RunningNode, ids: tuple[int, ...]
) -> None:
    contexts = [(context_id, VERIFICATION, (IMPLICIT_LE,)) for context_id in ids]
    with Wire(node.dicom_address) as wire:
        assert wire.associate(contexts=contexts)[0] != ASSOCIATE_AC
