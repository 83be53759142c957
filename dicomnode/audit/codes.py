"""The coded values of audit messages (PS3.16 CID 400 to 404; PS3.15 §A.5.1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final


@dataclass(frozen=True, slots=True)
class Code:
    """One coded value."""

    value: str
    meaning: str
    system: str = "DCM"


class Event(Enum):
    """CID 400, Audit Event ID: the messages that this node writes."""

    APPLICATION_ACTIVITY = Code("110100", "Application Activity")
    BEGIN_TRANSFERRING = Code("110102", "Begin Transferring DICOM Instances")
    INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
    INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
    STUDY_DELETED = Code("110105", "DICOM Study Deleted")
    EXPORT = Code("110106", "Export")
    QUERY = Code("110112", "Query")
    SECURITY_ALERT = Code("110113", "Security Alert")
    USER_AUTHENTICATION = Code("110114", "User Authentication")


class Alert(Enum):
    """CID 401, Audit Event Type Code: the kinds of security alerts (PS3.15 §A.5.3.11)."""

    NODE_AUTHENTICATION = Code("110126", "Node Authentication")
    NETWORK_CONFIGURATION = Code("110128", "Network Configuration")
    SECURITY_CONFIGURATION = Code("110129", "Security Configuration")
    SOFTWARE_CONFIGURATION = Code("110131", "Software Configuration")
    USE_OF_RESTRICTED_FUNCTION = Code("110132", "Use of Restricted Function")
    OBJECT_SECURITY_ATTRIBUTES_CHANGED = Code("110135", "Object Security Attributes Changed")
    AUDIT_RECORDING_STARTED = Code("110134", "Audit Recording Started")


# The other codes of CID 401 that are used.
APPLICATION_START: Final = Code("110120", "Application Start")
APPLICATION_STOP: Final = Code("110121", "Application Stop")
LOGIN: Final = Code("110122", "Login")

# CID 402, Audit Active Participant Role ID Code.
APPLICATION: Final = Code("110150", "Application")
DESTINATION: Final = Code("110152", "Destination Role ID")
SOURCE: Final = Code("110153", "Source Role ID")
DESTINATION_MEDIA: Final = Code("110154", "Destination Media")

# CID 404, Audit Participant Object ID Type Code, and the values that the schema itself has.
STUDY_INSTANCE_UID: Final = Code("110180", "Study Instance UID")
SOP_CLASS_UID: Final = Code("110181", "SOP Class UID")
NODE_ID: Final = Code("110182", "Node ID")
PATIENT_NUMBER: Final = Code("2", "Patient Number", "RFC-3881")


class Outcome(IntEnum):
    """EventOutcomeIndicator."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8


class ObjectType(IntEnum):
    """ParticipantObjectTypeCode."""

    PERSON = 1
    SYSTEM = 2


class ObjectRole(IntEnum):
    """ParticipantObjectTypeCodeRole."""

    PATIENT = 1
    REPORT = 3
    SECURITY_RESOURCE = 13
