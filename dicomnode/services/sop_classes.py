"""Which SOP classes and transfer syntaxes the node takes, and the service each belongs to.

The tables are pynetdicom's and pydicom's, with the retired storage classes that old devices still
send.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from pydicom._uid_dict import UID_dictionary
from pynetdicom import AllStoragePresentationContexts

VERIFICATION: Final = "1.2.840.10008.1.1"

# Their objects belong to no patient or study, or they are services and not objects.
_NOT_COMPOSITE = ("Commitment", "Directory", "Hanging", "Palette", "Implant", "Print", "Inventory")
_NO_DATA_SET_ENCODING = ("1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2", "1.2.840.10008.1.20")
# GE's implicit VR little endian with big endian pixel data, which its scanners propose.
_GE_PRIVATE: Final = "1.2.840.113619.5.2"


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
) - frozenset(_NO_DATA_SET_ENCODING) | {_GE_PRIVATE}


class _Any(Container[str]):
    """Contains everything."""

    def __contains__(self, item: object) -> bool:
        return True


ANY_TRANSFER_SYNTAX: Final = _Any()

# The only transfer syntaxes that mean anything for a service without pixel data.
UNCOMPRESSED: Final = frozenset(
    {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"}
)


def service_of(abstract_syntax: str, *, accept_unknown_storage: bool) -> str | None:
    """Return the registry's word for the service of a SOP class, or None for one we do not serve.

    A SOP class that the standard does not have counts as storage when ``accept_unknown_storage``.
    """
    if abstract_syntax == VERIFICATION:
        return "echo"
    if abstract_syntax in STORAGE:
        return "store"
    if accept_unknown_storage and abstract_syntax not in UID_dictionary:
        return "store"
    return None
