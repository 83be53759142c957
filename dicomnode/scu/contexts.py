"""The presentation contexts that an association is asked for with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from dicomnode.scu.names import SERVICES, uid_of
from dicomnode.storage.encoding import (
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dicomnode.ul.items import PresentationContextRQ

# Context IDs are odd and a byte (PS3.8 §9.3.2.2).
MAX_CONTEXTS: Final = 128
# Those that every object can be had in, the usual one of stored objects first.
SENT_WITHOUT_LOSS: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
)
# What every SCP takes, or should (PS3.5 §10.1).
USUAL: Final = SENT_WITHOUT_LOSS[:2]

# A SOP class by UID, keyword or word of ``names.SERVICES``; alone, or with its transfer syntaxes.
Wanted = str | tuple[str, Sequence[str]]


def contexts_of(wanted: Iterable[Wanted]) -> tuple[PresentationContextRQ, ...]:
    """Return the contexts to propose; a SOP class alone gets the usual uncompressed syntaxes.

    Raises ValueError for unknown names and for more than 128 contexts.
    """
    listed: list[tuple[str, tuple[str, ...]]] = []
    for one in wanted:
        name, syntaxes = (one, USUAL) if isinstance(one, str) else one
        listed.extend((uid, tuple(map(uid_of, syntaxes))) for uid in SERVICES.get(name, (name,)))
    return numbered((uid_of(uid), syntaxes) for uid, syntaxes in listed)


def numbered(
    contexts: Iterable[tuple[str, tuple[str, ...]]],
) -> tuple[PresentationContextRQ, ...]:
    """Give each (SOP class, transfer syntaxes) its context ID; raises ValueError above 128."""
    proposed = tuple(
        PresentationContextRQ(2 * position + 1, uid, syntaxes)
        for position, (uid, syntaxes) in enumerate(dict.fromkeys(contexts))
    )
    if len(proposed) > MAX_CONTEXTS:
        raise ValueError(f"{len(proposed)} presentation contexts: at most {MAX_CONTEXTS} fit")
    return proposed
