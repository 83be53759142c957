"""Audit messages as values, and as the XML of PS3.15 §A.5.1."""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from dicomnode.audit.codes import Code, Event, ObjectRole, ObjectType, Outcome
from dicomnode.observe.words import escape

# Nobody's name or comment needs more; so a message stays within the 32,768 octets that every
# receiver takes (PS3.15 §A.6).
_MAX_CHARACTERS: Final = 512
# AuditSourceTypeCode: an application server (PS3.15 §A.5.1.2.1).
_SOURCE_TYPE: Final = "4"
_MACHINE_NAME: Final = "1"
_IP_ADDRESS: Final = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """ActiveParticipant: a person or process that took part.

    ``alternative_id`` is empty, or in the form of PS3.15 §A.5.2.2; ``address`` is an IP address
    or the name of a machine.
    """

    user_id: str
    alternative_id: str = ""
    user_name: str = ""
    is_requestor: bool
    role: Code | None = None
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantObject:
    """ParticipantObjectIdentification: what it was done with.

    It has a ``query`` or else a ``name``. ``details`` are types to values, ``sop_classes`` SOP
    Class UIDs to numbers of instances.
    """

    object_id: str
    id_type: Code
    type_code: ObjectType
    role: ObjectRole
    name: str = ""
    query: bytes | None = None
    details: Sequence[tuple[str, bytes]] = ()
    accession_numbers: Sequence[str] = ()
    sop_classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One audit message; ``at`` is seconds since the epoch, ``description`` why it failed."""

    event: Event
    action: str
    at: float
    outcome: Outcome = Outcome.SUCCESS
    description: str = ""
    types: Sequence[Code] = ()
    participants: Sequence[Participant]
    objects: Sequence[ParticipantObject] = ()


@dataclass(frozen=True, slots=True)
class AuditSource:
    """AuditSourceIdentification: who writes the messages; ``site`` may be empty."""

    source_id: str
    site: str = ""


def ae_titles(*titles: str) -> str:
    """Return an AlternativeUserID of AE titles (PS3.15 §A.5.2.2)."""
    # A title may have the separator in it, and must not pass for two.
    return "AETITLES=" + ";".join(title.replace(";", "\\x3b") for title in titles)


def to_xml(message: Message, source: AuditSource) -> bytes:
    """Return the AuditMessage element on one line, in UTF-8."""
    root = Element("AuditMessage")
    _event(root, message)
    for participant in message.participants:
        _participant(root, participant)
    of_source = {"AuditEnterpriseSiteID": _text(source.site)} if source.site else {}
    of_source["AuditSourceID"] = _text(source.source_id)
    within = SubElement(root, "AuditSourceIdentification", of_source)
    SubElement(within, "AuditSourceTypeCode", {"csd-code": _SOURCE_TYPE})
    for each in message.objects:
        _object(root, each)
    return tostring(root, encoding="unicode").encode()


def timestamp(at: float) -> str:
    """Return a time in UTC (PS3.15 §A.5.2.5), which is one of RFC 5424 §6.2.3 as well."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _event(root: Element, message: Message) -> None:
    attributes = {
        "EventActionCode": message.action,
        "EventDateTime": timestamp(message.at),
        "EventOutcomeIndicator": str(int(message.outcome)),
    }
    within = SubElement(root, "EventIdentification", attributes)
    _code(within, "EventID", message.event.value)
    for code in message.types:
        _code(within, "EventTypeCode", code)
    if message.description:
        SubElement(within, "EventOutcomeDescription").text = _text(message.description)


def _participant(root: Element, participant: Participant) -> None:
    attributes = {"UserID": _text(participant.user_id)}
    if participant.alternative_id:
        attributes["AlternativeUserID"] = _text(participant.alternative_id)
    if participant.user_name:
        attributes["UserName"] = _text(participant.user_name)
    attributes["UserIsRequestor"] = "true" if participant.is_requestor else "false"
    if participant.address:
        attributes["NetworkAccessPointID"] = _text(participant.address)
        kind = _IP_ADDRESS if _is_ip_address(participant.address) else _MACHINE_NAME
        attributes["NetworkAccessPointTypeCode"] = kind
    within = SubElement(root, "ActiveParticipant", attributes)
    if participant.role is not None:
        _code(within, "RoleIDCode", participant.role)


def _object(root: Element, each: ParticipantObject) -> None:
    attributes = {
        "ParticipantObjectID": _text(each.object_id),
        "ParticipantObjectTypeCode": str(int(each.type_code)),
        "ParticipantObjectTypeCodeRole": str(int(each.role)),
    }
    within = SubElement(root, "ParticipantObjectIdentification", attributes)
    _code(within, "ParticipantObjectIDTypeCode", each.id_type)
    if each.query is not None:
        SubElement(within, "ParticipantObjectQuery").text = _base64(each.query)
    else:
        SubElement(within, "ParticipantObjectName").text = _text(each.name)
    for kind, value in each.details:
        pair = {"type": kind, "value": _base64(value)}
        SubElement(within, "ParticipantObjectDetail", pair)
    if not (each.accession_numbers or each.sop_classes):
        return
    description = SubElement(within, "ParticipantObjectDescription")
    for number in each.accession_numbers:
        SubElement(description, "Accession", {"Number": _text(number)})
    for uid, count in each.sop_classes.items():
        values = {"UID": _text(uid), "NumberOfInstances": str(count)}
        SubElement(description, "SOPClass", values)


def _code(parent: Element, name: str, code: Code) -> None:
    values = {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning}
    SubElement(parent, name, values)


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _is_ip_address(address: str) -> bool:
    try:
        ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return True


def _text(value: str) -> str:
    """Return what XML can hold (XML 1.0 §2.2), and a line is not broken by, cut to a bound."""
    value = escape(value)
    if len(value) > _MAX_CHARACTERS:
        value = value[: _MAX_CHARACTERS - 1] + "…"
    return value
