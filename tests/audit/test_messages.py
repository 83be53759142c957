"""The XML of audit messages, against the schema and the tables of PS3.15 §A.5."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.audit import events
from dicomnode.audit.codes import Alert, Outcome
from dicomnode.audit.events import Peer, Study, Transfer
from dicomnode.audit.messages import AuditSource, Message, to_xml
from tests.audit.making import CT, CT_1, IMPLICIT, JANE, NODE, SR, STUDY_ROOT_FIND, WS_1
from tests.audit.reading import Read, check_schema

SOURCE = AuditSource("DICOMNODE")
AT = 1795257600.25
RECEIVED = Transfer(
    source=CT_1,
    destination=NODE,
    requestor=CT_1,
    study_instance_uid="1.2.3",
    sop_classes={CT: 516, SR: 1},
)
MOVED = replace(RECEIVED, source=NODE, destination=WS_1, originator=CT_1)
HOSTILE = (
    '"/><AuditMessage>',
    "]]><!--",
    "&lt;&#0;",
    "CT_1\r\n<85>1 - -",
    "A;B",
    "\x00\x1b[2J",
    "\ud800\ufffe\u202e",
    "😀" * 600,
    "  two  spaces ",
)
MESSAGES = {
    "start": events.application_activity(NODE, started=True),
    "stop": events.application_activity(NODE, started=False),
    "begin": events.begin_transferring(MOVED, JANE, AT),
    "received": events.instances_transferred(RECEIVED, JANE, AT, created=True),
    "failed": events.instances_transferred(RECEIVED, Study(), AT, created=False, failure="A700H"),
    "deleted": events.deleted(NODE, "1.2.3", JANE, {CT: 2}, AT, whole=True),
    "accessed": events.deleted(NODE, "1.2.3", JANE, {CT: 1}, AT, whole=False),
    "exported": events.exported(NODE, "study.zip", "1.2.3", JANE, {CT: 2}, AT),
    "query": events.query(NODE, CT_1, STUDY_ROOT_FIND, IMPLICIT, b"\0\xff" * 10),
    "long query": events.query(NODE, CT_1, STUDY_ROOT_FIND, IMPLICIT, b"x" * 4_000_000),
    "alert": events.security_alert(
        NODE, Alert.NODE_AUTHENTICATION, "not known", CT_1, Outcome.MINOR_FAILURE
    ),
    "own alert": events.security_alert(
        NODE, Alert.SECURITY_CONFIGURATION, "a certificate was reloaded", None, Outcome.SUCCESS
    ),
    "login": events.user_authentication(NODE, "jane", CT_1),
    "no login": events.user_authentication(NODE, "", Peer(""), failure="wrong passcode"),
}


def read(message: Message) -> Read:
    return Read.of(to_xml(message, SOURCE))


def hostile_messages(text: str) -> list[Message]:
    peer, study = Peer(text, text), Study(text, text, text)
    transfer = Transfer(
        source=peer,
        destination=NODE,
        requestor=peer,
        originator=peer,
        study_instance_uid=text,
        sop_classes={text: 1},
    )
    return [
        events.instances_transferred(transfer, study, AT, created=True, failure=text),
        events.query(NODE, peer, text, text.encode(errors="replace").decode(), b""),
        events.security_alert(NODE, Alert.NODE_AUTHENTICATION, text, peer, Outcome.SERIOUS_FAILURE),
        events.exported(NODE, text, text, study, {text: 1}, AT),
        events.user_authentication(NODE, text, peer, failure=text),
    ]


@pytest.mark.interop("xmllint")
def test_every_message_satisfies_the_schema_of_the_standard(tmp_path: Path) -> None:
    messages = [to_xml(each, AuditSource("DICOMNODE", "Ward 1")) for each in MESSAGES.values()]
    messages += [
        to_xml(each, AuditSource(text, text)) for text in HOSTILE for each in hostile_messages(text)
    ]
    check_schema(messages, tmp_path)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_a_peer_sends_breaks_neither_the_xml_nor_the_line(text: str) -> None:
    for message in hostile_messages(text):
        xml = to_xml(message, AuditSource(text, text))
        found = Read.of(xml)
        assert not set(b"\r\n\0\x1b") & set(xml)
        assert len(found.root.findall("AuditMessage")) == 0
        assert len(found.root.findall("AuditSourceIdentification")) == 1
        assert len(xml) < 32768


def test_a_name_in_japanese_is_written_as_it_is() -> None:
    """PS3.5 §H.3.1: an ideographic space may stand between the parts."""
    name = "Yamada^Tarou=山田^太郎　様"
    found = read(events.deleted(NODE, "1.2.3", Study("1", name), {CT: 1}, 0.0, whole=True))
    names = [each.findtext("ParticipantObjectName") for each in found.root.iter()]
    assert name in names


def test_a_separator_in_an_ae_title_does_not_make_two_of_it() -> None:
    peer = read(events.query(NODE, Peer("A;B", "10.0.0.7"), CT, IMPLICIT, b"")).participants[0]
    assert peer["AlternativeUserID"] == r"AETITLES=A\x3bB"
    assert peer["UserID"] == "A;B"


def test_all_messages_fit_into_what_every_receiver_takes() -> None:
    """PS3.15 §A.6: 32,768 octets."""
    assert max(len(to_xml(each, SOURCE)) for each in MESSAGES.values()) < 32768 - 512


@pytest.mark.parametrize(("name", "kind"), [("start", "110120"), ("stop", "110121")])
def test_application_activity(name: str, kind: str) -> None:
    """PS3.15 Table A.5.3.1-1."""
    found = read(MESSAGES[name])
    assert (found.event, found.action, found.outcome, found.types) == ("110100", "E", "0", [kind])
    assert found.participants == [
        {
            "UserID": "4711",
            "AlternativeUserID": "AETITLES=DICOMNODE;ARCHIVE",
            "UserName": "dicomnode",
            "UserIsRequestor": "false",
            "NetworkAccessPointID": "pacs.example",
            "NetworkAccessPointTypeCode": "1",
            "role": "110150",
        }
    ]


def test_begin_transferring_names_who_sends_who_receives_and_who_asked() -> None:
    """PS3.15 Table A.5.3.3-1."""
    found = read(events.begin_transferring(replace(MOVED, requestor=CT_1), JANE, AT))
    assert (found.event, found.action) == ("110102", "E")
    ours, theirs, other = found.participants
    assert (ours["role"], ours["UserIsRequestor"]) == ("110153", "false")
    assert (theirs["role"], theirs["UserID"]) == ("110152", "WS_1")
    assert theirs["NetworkAccessPointID"] == "2001:db8::1"
    assert theirs["NetworkAccessPointTypeCode"] == "2"
    assert "role" not in other
    assert (other["UserID"], other["UserIsRequestor"]) == ("CT_1", "true")


def test_instances_transferred_has_one_study_with_its_counts_and_its_patient() -> None:
    """PS3.15 Table A.5.3.7-1."""
    found = read(MESSAGES["received"])
    assert (found.event, found.action, found.outcome) == ("110104", "C", "0")
    assert [each["role"] for each in found.participants] == ["110153", "110152"]
    assert found.study == "1.2.3"
    assert found.sop_classes == {CT: 516, SR: 1}
    assert found.patient == ("4711", "Doe^Jane")
    study, patient = found.object_of("110180").attrib, found.object_of("2").attrib
    assert study["ParticipantObjectTypeCode"] == "2"
    assert study["ParticipantObjectTypeCodeRole"] == "3"
    assert patient["ParticipantObjectTypeCode"] == patient["ParticipantObjectTypeCodeRole"] == "1"
    accession = found.object_of("110180").find("ParticipantObjectDescription/Accession")
    assert accession is not None
    assert accession.attrib == {"Number": "A1"}


def test_what_was_refused_says_why() -> None:
    found = read(MESSAGES["failed"])
    assert (found.action, found.outcome, found.description) == ("R", "4", "A700H")


def test_deleting_is_told_of_a_study_or_of_instances() -> None:
    """PS3.15 Tables A.5.3.8-1 and A.5.3.6-1."""
    whole, part = read(MESSAGES["deleted"]), read(MESSAGES["accessed"])
    assert (whole.event, whole.action) == ("110105", "D")
    assert (part.event, part.action) == ("110103", "D")
    assert whole.patient == part.patient == ("4711", "Doe^Jane")


def test_an_export_names_what_it_was_written_to() -> None:
    """PS3.15 Table A.5.3.4-1."""
    found = read(MESSAGES["exported"])
    assert (found.event, found.action, found.outcome) == ("110106", "R", "0")
    node, media = found.participants
    assert (node["role"], node["UserIsRequestor"]) == ("110153", "true")
    assert (media["role"], media["UserIsRequestor"]) == ("110154", "false")
    assert media["UserID"] == "study.zip"
    assert (found.study, found.patient) == ("1.2.3", ("4711", "Doe^Jane"))
    assert found.sop_classes == {CT: 2}


def test_a_query_has_the_data_set_as_it_was_sent_and_its_transfer_syntax() -> None:
    """PS3.15 Table A.5.3.10-1."""
    found = read(MESSAGES["query"])
    assert (found.event, found.action) == ("110112", "E")
    asking, answering = found.participants
    assert (asking["role"], asking["UserIsRequestor"]) == ("110153", "true")
    assert (answering["role"], answering["UserIsRequestor"]) == ("110152", "false")
    asked = found.object_of("110181")
    assert asked.attrib["ParticipantObjectID"] == STUDY_ROOT_FIND
    assert b64decode(asked.findtext("ParticipantObjectQuery", "")) == b"\0\xff" * 10
    assert found.detail("110181", "TransferSyntax") == IMPLICIT.encode()


def test_a_query_that_is_too_long_says_so() -> None:
    told = read(MESSAGES["long query"]).detail("110181", "QueryTruncated")
    assert told == b"the first 16384 of 4000000 bytes"


def test_a_security_alert_says_what_it_is_about() -> None:
    """PS3.15 Table A.5.3.11-1."""
    found = read(MESSAGES["alert"])
    assert (found.event, found.action, found.outcome) == ("110113", "E", "4")
    assert found.types == ["110126"]
    assert found.detail("110182", "Alert Description") == b"not known"
    assert [each["UserID"] for each in found.participants] == ["4711", "CT_1"]


def test_user_authentication_names_the_user_and_where() -> None:
    """PS3.15 Table A.5.3.12-1."""
    found, failed = read(MESSAGES["login"]), read(MESSAGES["no login"])
    assert (found.event, found.action, found.outcome) == ("110114", "E", "0")
    assert found.types == failed.types == ["110122"]
    user = found.participants[0]
    assert (user["UserID"], user["NetworkAccessPointID"]) == ("jane", "10.0.0.7")
    assert (failed.outcome, failed.description) == ("4", "wrong passcode")
