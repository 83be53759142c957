"""Status (0000,0900): its codes, what they mean, and the standard's words for them."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Status(IntEnum):
    """The codes that this node sends or decides on.

    Where services give one code two meanings, it has two names. Peers send others too, so
    ``status`` fields of messages are plain ints.
    """

    SUCCESS = 0x0000
    CANCEL = 0xFE00
    PENDING = 0xFF00
    PENDING_WARNING = 0xFF01

    # PS3.4 Table F.8.2-2
    OPTIONAL_ATTRIBUTES_NOT_SUPPORTED = 0x0001

    # PS3.7 Annex C
    NO_SUCH_ATTRIBUTE = 0x0105
    INVALID_ATTRIBUTE_VALUE = 0x0106
    ATTRIBUTE_LIST_ERROR = 0x0107
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    NO_SUCH_SOP_INSTANCE = 0x0112
    NO_SUCH_EVENT_TYPE = 0x0113
    NO_SUCH_ARGUMENT = 0x0114
    INVALID_ARGUMENT_VALUE = 0x0115
    ATTRIBUTE_VALUE_OUT_OF_RANGE = 0x0116
    INVALID_SOP_INSTANCE = 0x0117
    NO_SUCH_SOP_CLASS = 0x0118
    CLASS_INSTANCE_CONFLICT = 0x0119
    MISSING_ATTRIBUTE = 0x0120
    MISSING_ATTRIBUTE_VALUE = 0x0121
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NO_SUCH_ACTION_TYPE = 0x0123
    NOT_AUTHORIZED = 0x0124
    # PS3.3 §C.14.1.1
    DUPLICATE_TRANSACTION_UID = 0x0131
    # PS3.7 Annex C
    DUPLICATE_INVOCATION = 0x0210
    UNRECOGNIZED_OPERATION = 0x0211
    MISTYPED_ARGUMENT = 0x0212
    RESOURCE_LIMITATION = 0x0213

    # PS3.4 Table B.2-1 (storage), Tables C.4-1 to C.4-3 (find, move, get)
    OUT_OF_RESOURCES = 0xA700
    OUT_OF_RESOURCES_FOR_MATCHES = 0xA701
    OUT_OF_RESOURCES_FOR_SUB_OPERATIONS = 0xA702
    MOVE_DESTINATION_UNKNOWN = 0xA801
    DOES_NOT_MATCH_SOP_CLASS = 0xA900
    COERCION_OF_DATA_ELEMENTS = 0xB000
    SUB_OPERATIONS_COMPLETE_WITH_FAILURES = 0xB000
    ELEMENTS_DISCARDED = 0xB006
    DATA_SET_DOES_NOT_MATCH_WARNING = 0xB007
    CANNOT_UNDERSTAND = 0xC000
    UNABLE_TO_PROCESS = 0xC000


class Category(StrEnum):
    """What a status means for the operation (PS3.7 Annex C)."""

    SUCCESS = "success"
    PENDING = "pending"
    CANCEL = "cancel"
    WARNING = "warning"
    FAILURE = "failure"


_GENERAL: dict[int, str] = {
    0x0000: "Success",
    0x0001: "Requested optional Attributes are not supported",
    0x0105: "No such Attribute",
    0x0106: "Invalid Attribute value",
    0x0107: "Attribute list error",
    0x0110: "Processing failure",
    0x0111: "Duplicate SOP Instance",
    0x0112: "No such SOP Instance",
    0x0113: "No such event type",
    0x0114: "No such argument",
    0x0115: "Invalid argument value",
    0x0116: "Attribute Value Out of Range",
    0x0117: "Invalid SOP Instance",
    0x0118: "No such SOP Class",
    0x0119: "Class-Instance conflict",
    0x0120: "Missing Attribute",
    0x0121: "Missing Attribute value",
    0x0122: "Refused: SOP Class not supported",
    0x0123: "No such action type",
    0x0124: "Refused: not authorized",
    0x0131: "Duplicate transaction UID",
    0x0210: "Duplicate invocation",
    0x0211: "Unrecognized operation",
    0x0212: "Mistyped argument",
    0x0213: "Resource limitation",
    0xFE00: "Cancel",
}

_STORAGE: dict[int, str] = {
    0xB000: "Warning: Coercion of Data Elements",
    0xB006: "Warning: Elements Discarded",
    0xB007: "Warning: Data Set does not match SOP Class",
}

# The last two or three digits of these are the implementation's own (PS3.4 Table B.2-1).
_STORAGE_RANGES: tuple[tuple[range, str], ...] = (
    (range(0xA700, 0xA800), "Refused: Out of Resources"),
    (range(0xA900, 0xAA00), "Error: Data Set does not match SOP Class"),
    (range(0xC000, 0xD000), "Error: Cannot understand"),
)


def category(status: int) -> Category:
    """Tell what ``status`` means (PS3.7 Annex C); a code outside its ranges is a failure."""
    match status:
        case 0x0000:
            return Category.SUCCESS
        case 0xFF00 | 0xFF01:
            return Category.PENDING
        case 0xFE00:
            return Category.CANCEL
        case 0x0001 | 0x0107 | 0x0116:
            return Category.WARNING
        case _:
            return Category.WARNING if 0xB000 <= status <= 0xBFFF else Category.FAILURE


def describe(status: int, service: str = "") -> str:
    """Give the standard's words for ``status`` as an answer of ``service``, such as "C-STORE".

    A code that neither the service nor PS3.7 Annex C has is described by its category.
    """
    return _GENERAL.get(status) or _of_service(status, service) or category(status).capitalize()


def _of_service(status: int, service: str) -> str | None:
    if service == "C-STORE":
        in_range = (words for codes, words in _STORAGE_RANGES if status in codes)
        return _STORAGE.get(status) or next(in_range, None)
    # Late: who only asks for C-ECHO is answered before this is loaded.
    from pynetdicom import status as tables

    match service:
        case "C-FIND":
            table = tables.QR_FIND_SERVICE_CLASS_STATUS
        case "C-GET":
            table = tables.QR_GET_SERVICE_CLASS_STATUS
        case "C-MOVE":
            table = tables.QR_MOVE_SERVICE_CLASS_STATUS
        case _:
            return None
    return str(table[status][1]) if status in table else None
