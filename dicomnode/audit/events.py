"""The messages of PS3.15 §A.5.3, made of what happened."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dicomnode.audit import codes
from dicomnode.audit.codes import Alert, Code, Event, ObjectRole, ObjectType, Outcome
from dicomnode.audit.messages import Message, Participant, ParticipantObject, ae_titles

# Base64 makes four of three; with all else a message then has less than 32,768 octets.
_MAX_QUERY_BYTES: Final = 16 * 1024
_UNKNOWN: Final = "<none>"


@dataclass(frozen=True, slots=True)
class Peer:
    """An application entity that took part; ``address`` is empty where it is not known."""

    ae_title: str
    address: str = ""

    def participant(self, role: Code | None, *, is_requestor: bool) -> Participant:
        """Return it as a participant."""
        title = self.ae_title.strip()
        return Participant(
            # A node is named as the log names it: by its AE title (PS3.15 §A.5.2.1).
            user_id=title or self.address or _UNKNOWN,
            alternative_id=ae_titles(title) if title else "",
            is_requestor=is_requestor,
            role=role,
            address=self.address,
        )


@dataclass(frozen=True, slots=True)
class Ourselves:
    """This node: its process, its AE titles, and the name of its machine."""

    process_id: int
    ae_titles: tuple[str, ...]
    hostname: str

    def participant(self, role: Code | None, *, is_requestor: bool) -> Participant:
        """Return this node as a participant."""
        return Participant(
            user_id=str(self.process_id),
            alternative_id=ae_titles(*self.ae_titles),
            user_name="dicomnode",
            is_requestor=is_requestor,
            role=role,
            address=self.hostname,
        )


@dataclass(frozen=True, slots=True)
class Deletion:
    """On whose order objects are deleted, "" for this node's own, and why."""

    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Study:
    """What is known of a study: whose it is, and its Accession Number."""

    patient_id: str = ""
    patient_name: str = ""
    accession_number: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Objects of one study that went from one application entity to another.

    One of ``source`` and ``destination`` is this node. ``originator`` is the third party that
    asked for it (C-MOVE). ``requestor`` says who of the three wanted it.
    """

    source: Peer | Ourselves
    destination: Peer | Ourselves
    requestor: Peer | Ourselves
    originator: Peer | None = None
    study_instance_uid: str
    sop_classes: Mapping[str, int] = field(default_factory=dict)

    def participants(self) -> list[Participant]:
        """Return who took part."""
        found = [
            each.participant(role, is_requestor=each is self.requestor)
            for each, role in ((self.source, codes.SOURCE), (self.destination, codes.DESTINATION))
        ]
        if self.originator is not None:
            wanted = self.originator is self.requestor
            found.append(self.originator.participant(None, is_requestor=wanted))
        return found


def application_activity(node: Ourselves, *, started: bool) -> Message:
    """PS3.15 §A.5.3.1."""
    return Message(
        event=Event.APPLICATION_ACTIVITY,
        action="E",
        at=time.time(),
        types=(codes.APPLICATION_START if started else codes.APPLICATION_STOP,),
        participants=(node.participant(codes.APPLICATION, is_requestor=False),),
    )


def begin_transferring(transfer: Transfer, study: Study, at: float) -> Message:
    """PS3.15 §A.5.3.3."""
    return Message(
        event=Event.BEGIN_TRANSFERRING,
        action="E",
        at=at,
        participants=transfer.participants(),
        objects=_study_and_patient(transfer.study_instance_uid, study, transfer.sop_classes),
    )


def instances_transferred(
    transfer: Transfer, study: Study, at: float, *, created: bool, failure: str = ""
) -> Message:
    """PS3.15 §A.5.3.7; ``created`` when the receiver has them now and had not."""
    return Message(
        event=Event.INSTANCES_TRANSFERRED,
        action="C" if created else "R",
        at=at,
        outcome=Outcome.MINOR_FAILURE if failure else Outcome.SUCCESS,
        description=failure,
        participants=transfer.participants(),
        objects=_study_and_patient(transfer.study_instance_uid, study, transfer.sop_classes),
    )


def deleted(
    node: Ourselves,
    study_instance_uid: str,
    study: Study,
    sop_classes: Mapping[str, int],
    at: float,
    *,
    whole: bool,
    order: Deletion = Deletion(),
) -> Message:
    """PS3.15 §A.5.3.8, or §A.5.3.6 where some of the study is left."""
    participants = [node.participant(None, is_requestor=not order.by)]
    if order.by:
        participants.append(Participant(user_id=order.by, is_requestor=True))
    details = (("Reason", order.reason.encode()),) if order.reason else ()
    return Message(
        event=Event.STUDY_DELETED if whole else Event.INSTANCES_ACCESSED,
        action="D",
        at=at,
        participants=participants,
        objects=_study_and_patient(study_instance_uid, study, sop_classes, details),
    )


def exported(
    node: Ourselves,
    media: str,
    study_instance_uid: str,
    study: Study,
    sop_classes: Mapping[str, int],
    at: float,
) -> Message:
    """PS3.15 §A.5.3.4: objects of a study were written to ``media``, which is out of our hands."""
    return Message(
        event=Event.EXPORT,
        action="R",
        at=at,
        participants=(
            node.participant(codes.SOURCE, is_requestor=True),
            Participant(
                user_id=media or _UNKNOWN, is_requestor=False, role=codes.DESTINATION_MEDIA
            ),
        ),
        objects=_study_and_patient(study_instance_uid, study, sop_classes),
    )


def query(
    node: Ourselves, peer: Peer, sop_class_uid: str, transfer_syntax_uid: str, identifier: bytes
) -> Message:
    """PS3.15 §A.5.3.10: that it was asked, not what came of it."""
    details = [("TransferSyntax", transfer_syntax_uid.encode())]
    if len(identifier) > _MAX_QUERY_BYTES:
        words = f"the first {_MAX_QUERY_BYTES} of {len(identifier)} bytes"
        details.append(("QueryTruncated", words.encode()))
    asked = ParticipantObject(
        object_id=sop_class_uid,
        id_type=codes.SOP_CLASS_UID,
        type_code=ObjectType.SYSTEM,
        role=ObjectRole.REPORT,
        query=identifier[:_MAX_QUERY_BYTES],
        details=details,
    )
    return Message(
        event=Event.QUERY,
        action="E",
        at=time.time(),
        participants=(
            peer.participant(codes.SOURCE, is_requestor=True),
            node.participant(codes.DESTINATION, is_requestor=False),
        ),
        objects=(asked,),
    )


def security_alert(
    node: Ourselves, alert: Alert, words: str, peer: Peer | None, outcome: Outcome
) -> Message:
    """PS3.15 §A.5.3.11; ``words`` say what it is about, ``peer`` whom."""
    subject = (peer.address or peer.ae_title) if peer is not None else node.hostname
    about = ParticipantObject(
        object_id=subject or _UNKNOWN,
        id_type=codes.NODE_ID,
        type_code=ObjectType.SYSTEM,
        role=ObjectRole.SECURITY_RESOURCE,
        name=(peer.ae_title if peer is not None else node.ae_titles[0]) or _UNKNOWN,
        details=(("Alert Description", words.encode("utf-8", "backslashreplace")),),
    )
    participants = [node.participant(None, is_requestor=peer is None)]
    if peer is not None:
        participants.append(peer.participant(None, is_requestor=True))
    return Message(
        event=Event.SECURITY_ALERT,
        action="E",
        at=time.time(),
        outcome=outcome,
        description=words if outcome is not Outcome.SUCCESS else "",
        types=(alert.value,),
        participants=participants,
        objects=(about,),
    )


def user_authentication(node: Ourselves, user: str, peer: Peer, *, failure: str = "") -> Message:
    """PS3.15 §A.5.3.12: a login, and why it failed if it did."""
    person = Participant(
        user_id=user or _UNKNOWN,
        alternative_id=ae_titles(peer.ae_title) if peer.ae_title else "",
        is_requestor=True,
        address=peer.address or _UNKNOWN,
    )
    return Message(
        event=Event.USER_AUTHENTICATION,
        action="E",
        at=time.time(),
        outcome=Outcome.MINOR_FAILURE if failure else Outcome.SUCCESS,
        description=failure,
        types=(codes.LOGIN,),
        participants=(person, node.participant(None, is_requestor=False)),
    )


def _study_and_patient(
    study_instance_uid: str,
    study: Study,
    sop_classes: Mapping[str, int],
    details: Sequence[tuple[str, bytes]] = (),
) -> tuple[ParticipantObject, ParticipantObject]:
    """Return the two participant objects of PS3.15 §A.5.3.7."""
    of_study = ParticipantObject(
        object_id=study_instance_uid or _UNKNOWN,
        id_type=codes.STUDY_INSTANCE_UID,
        type_code=ObjectType.SYSTEM,
        role=ObjectRole.REPORT,
        # The schema wants a name, and a study has no other.
        name=study_instance_uid or _UNKNOWN,
        accession_numbers=(study.accession_number,) if study.accession_number else (),
        sop_classes=sop_classes,
        details=details,
    )
    of_patient = ParticipantObject(
        object_id=study.patient_id or _UNKNOWN,
        id_type=codes.PATIENT_NUMBER,
        type_code=ObjectType.PERSON,
        role=ObjectRole.PATIENT,
        name=study.patient_name or _UNKNOWN,
    )
    return of_study, of_patient
