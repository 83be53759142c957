"""How peers, SOP classes and contexts are written."""

from __future__ import annotations

from typing import Any

import pytest

from dicomnode import open_association
from dicomnode.errors import ConnectionFailed
from dicomnode.registry import AE, Registry
from dicomnode.scu.contexts import USUAL, contexts_of, receiving
from dicomnode.scu.names import FIND, VERIFICATION, uid_of
from dicomnode.scu.peers import Peer, peer_of
from dicomnode.ul.items import PresentationContextRQ

CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG_2000 = "1.2.840.10008.1.2.4.90"


@pytest.mark.parametrize(
    ("written", "peer"),
    [
        ("PACS@10.0.0.5:104", Peer("PACS", "10.0.0.5", 104)),
        ("PACS@pacs.example", Peer("PACS", "pacs.example", 104)),
        ("MY PACS@[2001:db8::1]:11112", Peer("MY PACS", "2001:db8::1", 11112)),
    ],
)
def test_a_peer_is_written_with_its_address(written: str, peer: Peer) -> None:
    assert peer_of(written) == peer
    assert peer_of(str(peer)) == peer


@pytest.mark.parametrize(
    "written",
    [
        "PACS",
        "@host:104",
        "PACS@",
        "PACS@host:port",
        "PACS@host:0",
        "PACS@host:65536",
        "A" * 17 + "@h",
        "T\u00c4@h",
        "A\\B@h",
        "A\x01@h",
    ],
)
def test_what_is_no_peer_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"TITLE@host:port|AE title|is no port"):
        peer_of(written)


def test_a_title_is_looked_up_in_the_registry() -> None:
    registry = Registry([AE(title="PACS", host="10.0.0.5", port=4242), AE(title="CT_1")])
    assert peer_of("pacs", registry) == Peer("PACS", "10.0.0.5", 4242)
    assert peer_of(registry.entries[0]) == Peer("PACS", "10.0.0.5", 4242)
    with pytest.raises(ValueError, match="not in the registry"):
        peer_of("OTHER", registry)
    with pytest.raises(ConnectionFailed, match="CT_1 has no host in the registry"):
        peer_of("CT_1", registry)


def test_sop_classes_are_uids_keywords_or_words() -> None:
    assert contexts_of(["echo", CT, "MRImageStorage", "worklist"]) == (
        PresentationContextRQ(1, VERIFICATION, USUAL),
        PresentationContextRQ(3, CT, USUAL),
        PresentationContextRQ(5, "1.2.840.10008.5.1.4.1.1.4", USUAL),
        PresentationContextRQ(7, "1.2.840.10008.5.1.4.31", USUAL),
    )
    with pytest.raises(ValueError, match="CTImage' is neither a UID nor a keyword"):
        contexts_of(["CTImage"])


def test_transfer_syntaxes_stand_beside_their_sop_class() -> None:
    wanted = [("CTImageStorage", ["JPEG2000Lossless"]), (CT, [JPEG_2000]), (CT, USUAL)]
    assert [context.transfer_syntaxes for context in contexts_of(wanted)] == [(JPEG_2000,), USUAL]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("echo", r"are a list, such as \['echo'\]"),
        ([("CTImageStorage", "1.2.840.10008.1.2")], "transfer syntaxes of CTImageStorage are a"),
        ([("CTImageStorage", [])], "transfer syntaxes of CTImageStorage are a"),
        ([], "at least one presentation context"),
    ],
)
def test_contexts_that_cannot_be_proposed_are_named(wanted: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        contexts_of(wanted)


@pytest.mark.parametrize(
    "option",
    [
        {"calling_ae_title": ""},
        {"calling_ae_title": "A" * 17},
        {"calling_ae_title": "\u00c4"},
        {"max_operations": -1},
        {"max_operations": 65536},
        {"maximum_pdu_bytes": 0},
        {"maximum_pdu_bytes": 1 << 32},
    ],
)
async def test_what_cannot_be_asked_for_is_named(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"AE title|max_operations|maximum_pdu_bytes"):
        async with open_association("PEER@127.0.0.1:1", **option):
            pass


def test_more_than_128_contexts_do_not_fit() -> None:
    with pytest.raises(ValueError, match="129 presentation contexts"):
        contexts_of(f"1.2.{number}" for number in range(129))


def test_objects_are_received_in_the_scp_role() -> None:
    contexts, roles = receiving(["CTImageStorage", ("1.2.3", [JPEG_2000])])
    assert [(c.abstract_syntax, len(c.transfer_syntaxes)) for c in contexts_of(contexts)] == [
        (CT, 2),
        (CT, 16),
        ("1.2.3", 1),
    ]
    assert [(role.sop_class_uid, role.scu, role.scp) for role in roles] == [
        (CT, False, True),
        ("1.2.3", False, True),
    ]


def test_words_stand_for_the_standards_information_models() -> None:
    assert FIND["study"] == uid_of("StudyRootQueryRetrieveInformationModelFind")
    assert FIND["patient"] == uid_of("PatientRootQueryRetrieveInformationModelFind")
    assert FIND["worklist"] == uid_of("ModalityWorklistInformationModelFind")
