"""Which SOP classes and transfer syntaxes the node takes, and the service each belongs to.

The tables are pynetdicom's and pydicom's, with the retired storage classes that old devices still
send.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from enum import StrEnum
from typing import Final

from pydicom._uid_dict import UID_dictionary
from pynetdicom import AllStoragePresentationContexts

from dicomnode.registry import Service
from dicomnode.scu.contexts import SENT_WITHOUT_LOSS
from dicomnode.storage.encoding import GE_BIG_ENDIAN_PIXELS

VERIFICATION: Final = "1.2.840.10008.1.1"
MODALITY_WORKLIST: Final = "1.2.840.10008.5.1.4.31"
MODALITY_PERFORMED_PROCEDURE_STEP: Final = "1.2.840.10008.3.1.2.3.3"
MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE: Final = "1.2.840.10008.3.1.2.3.4"
STORAGE_COMMITMENT_PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
# The one instance of the Storage Commitment Push Model (PS3.4 §J.3.5).
STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"

_WORKFLOW: Final[Mapping[str, Service]] = {
    MODALITY_WORKLIST: "worklist",
    MODALITY_PERFORMED_PROCEDURE_STEP: "mpps",
    MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE: "mpps",
    STORAGE_COMMITMENT_PUSH_MODEL: "commitment",
}


class Root(StrEnum):
    """An information model of query and retrieve (PS3.4 §C.6)."""

    PATIENT = "Patient Root"
    STUDY = "Study Root"
    # Retired (PS3.4-2004 §C.6.3), still asked for by old workstations.
    PATIENT_STUDY_ONLY = "Patient/Study Only"


_SERVICES: Final[tuple[Service, ...]] = ("find", "move", "get")
# SOP class UID → the registry's word for the service, and the information model (PS3.6 Annex A).
QUERY_RETRIEVE: Final[Mapping[str, tuple[Service, Root]]] = {
    f"1.2.840.10008.5.1.4.1.2.{root_number}.{service_number}": (service, root)
    for root_number, root in enumerate(Root, 1)
    for service_number, service in enumerate(_SERVICES, 1)
}

# Their objects belong to no patient or study, or they are services and not objects.
_NOT_COMPOSITE = ("Commitment", "Directory", "Hanging", "Palette", "Implant", "Print", "Inventory")
_NO_DATA_SET_ENCODING = ("1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2", "1.2.840.10008.1.20")


def _retired_storage() -> frozenset[str]:
    return frozenset(
        uid
        for uid, (name, kind, _, retired, _) in UID_dictionary.items()
        if kind == "SOP Class"
        and retired
        and "Storage" in name
        and not any(word in name for word in _NOT_COMPOSITE)
    )


STORAGE: Final[frozenset[str]] = (
    frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
    | _retired_storage()
)
TRANSFER_SYNTAXES: Final[frozenset[str]] = frozenset(
    uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"
) - frozenset(_NO_DATA_SET_ENCODING) | {GE_BIG_ENDIAN_PIXELS}


class _Any(Container[str]):
    """Contains everything."""

    def __contains__(self, item: object) -> bool:
        return True


ANY_TRANSFER_SYNTAX: Final = _Any()

# The only transfer syntaxes that mean anything for a service without pixel data.
UNCOMPRESSED: Final = frozenset(SENT_WITHOUT_LOSS)

# What extended negotiation can agree on, byte by byte (PS3.4 §C.5.1.1.1, §C.5.2.1.1, §C.5.3.1.1).
# C-FIND: relational queries and combined date-time matching; no fuzzy matching of names, no time
# zone adjustment, no enhanced multi-frame conversion. C-GET, C-MOVE: relational retrieval.
_EXTENDED: Final[Mapping[Service, bytes]] = {
    "find": b"\1\1\0\0\0",
    "get": b"\1\0",
    "move": b"\1\0",
}


def extended_answer(sop_class_uid: str, proposed: bytes) -> bytes | None:
    """Return what is granted of a proposed extended negotiation, None for SOP classes without."""
    if sop_class_uid not in QUERY_RETRIEVE:
        return None
    offered = _EXTENDED[QUERY_RETRIEVE[sop_class_uid][0]]
    return bytes(ours & theirs for ours, theirs in zip(offered, proposed, strict=False))


def service_of(abstract_syntax: str, *, accept_unknown_storage: bool) -> Service | None:
    """Return the registry's word for the service of a SOP class, or None for one we do not serve.

    A SOP class that the standard does not have counts as storage when ``accept_unknown_storage``.
    """
    if abstract_syntax == VERIFICATION:
        return "echo"
    if abstract_syntax in QUERY_RETRIEVE:
        return QUERY_RETRIEVE[abstract_syntax][0]
    if abstract_syntax in _WORKFLOW:
        return _WORKFLOW[abstract_syntax]
    if abstract_syntax in STORAGE:
        return "store"
    if accept_unknown_storage and abstract_syntax not in UID_dictionary:
        return "store"
    return None
