"""The presentation contexts that an association is asked for with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from dicomnode.scu.names import SERVICES, uid_of
from dicomnode.storage.encoding import (
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dicomnode.ul.items import PresentationContextRQ, RoleSelection

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

# A SOP class by UID, keyword or word of ``names.SERVICES``; alone, or with its transfer syntaxes;
# or a context as ``proposals`` gives it.
Wanted = str | tuple[str, Sequence[str]] | PresentationContextRQ

# Lossless forms first: what a peer may hold compressed and hand out as it is.
COMPRESSED: Final = tuple(
    f"1.2.840.10008.1.2.{suffix}"
    for suffix in (
        *("4.70", "4.57", "4.80", "4.90", "4.201", "4.202", "5"),
        *("4.50", "4.51", "4.81", "4.91", "4.203", "4.100", "4.101", "4.102", "4.103"),
    )
)


def contexts_of(wanted: Iterable[Wanted]) -> tuple[PresentationContextRQ, ...]:
    """Return the contexts to propose; a SOP class alone gets the usual uncompressed syntaxes.

    Raises ValueError for unknown names, for no context, and for more than 128.
    """
    if isinstance(wanted, str):
        raise ValueError(f"contexts are a list, such as [{wanted!r}]")
    listed: list[tuple[str, tuple[str, ...]]] = []
    for one in wanted:
        match one:
            case PresentationContextRQ(abstract_syntax=uid, transfer_syntaxes=proposed):
                listed.append((uid, tuple(proposed)))
            case str():
                listed.extend((uid_of(uid), USUAL) for uid in SERVICES.get(one, (one,)))
            case (name, syntaxes) if isinstance(syntaxes, str) or not syntaxes:
                raise ValueError(f"the transfer syntaxes of {name} are a list: not {syntaxes!r}")
            case (name, syntaxes):
                listed.append((uid_of(name), tuple(map(uid_of, syntaxes))))
    return _numbered(dict.fromkeys(listed))


def receiving(wanted: Iterable[Wanted]) -> tuple[list[Wanted], list[RoleSelection]]:
    """Return the contexts and the roles with which objects can be received by C-GET.

    A SOP class alone gets two contexts: one for the uncompressed transfer syntaxes, one for the
    compressed ones. Where the transfer syntaxes of the objects are known, say them, each in a
    context of its own: a peer chooses one for each context. Raises ValueError.
    """
    contexts: list[Wanted] = []
    for one in wanted:
        if isinstance(one, str):
            contexts += [(one, USUAL), (one, COMPRESSED)]
        else:
            contexts.append(one)
    uids = dict.fromkeys(context.abstract_syntax for context in contexts_of(contexts))
    return contexts, [RoleSelection(uid, scu=False, scp=True) for uid in uids]


def _numbered(
    contexts: Collection[tuple[str, tuple[str, ...]]],
) -> tuple[PresentationContextRQ, ...]:
    proposed = tuple(
        PresentationContextRQ(2 * position + 1, uid, syntaxes)
        for position, (uid, syntaxes) in enumerate(contexts)
    )
    if not proposed:
        raise ValueError("an association needs at least one presentation context")
    if len(proposed) > MAX_CONTEXTS:
        raise ValueError(f"{len(proposed)} presentation contexts: at most {MAX_CONTEXTS} fit")
    return proposed
