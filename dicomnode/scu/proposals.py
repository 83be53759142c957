"""The associations that objects are sent on: as many as their presentation contexts need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dicomnode.scu.contexts import MAX_CONTEXTS, SENT_WITHOUT_LOSS, USUAL
from dicomnode.storage.transcode import can_convert
from dicomnode.ul.items import PresentationContextRQ

# A SOP class and the transfer syntax that objects of it are stored in.
Kind = tuple[str, str]


def proposals(
    kinds: Iterable[Kind], preference: Sequence[str] = (), receives: Sequence[str] = ()
) -> list[tuple[frozenset[Kind], tuple[PresentationContextRQ, ...]]]:
    """Return, for each association that is needed, what kinds it is for and its contexts.

    Each kind has a context with its transfer syntax alone, so that nobody else chooses it; each
    SOP class one more with the usual uncompressed ones, and those of ``preference``, that its
    objects could be converted to. Nothing but ``receives`` is proposed, unless it is empty.
    """
    by_class: dict[str, list[str]] = {}
    for sop_class_uid, transfer_syntax_uid in kinds:
        by_class.setdefault(sop_class_uid, []).append(transfer_syntax_uid)
    found: list[tuple[set[Kind], list[PresentationContextRQ]]] = []
    for sop_class_uid, all_stored in by_class.items():
        # More syntaxes of one class than one association takes: as if they were classes.
        for start in range(0, len(all_stored), MAX_CONTEXTS - 1):
            stored = all_stored[start : start + MAX_CONTEXTS - 1]
            lists = _lists(stored, preference, receives)
            if not found or len(found[-1][1]) + len(lists) > MAX_CONTEXTS:
                found.append((set(), []))
            served, contexts = found[-1]
            served.update((sop_class_uid, uid) for uid in stored)
            for syntaxes in lists:
                context_id = 2 * len(contexts) + 1
                contexts.append(PresentationContextRQ(context_id, sop_class_uid, syntaxes))
    return [(frozenset(served), tuple(contexts)) for served, contexts in found]


def _lists(
    stored: Sequence[str], preference: Sequence[str], receives: Sequence[str]
) -> list[tuple[str, ...]]:
    """Return the transfer syntaxes of each context for one SOP class."""
    usual = [uid for uid in receives if uid in SENT_WITHOUT_LOSS] if receives else USUAL
    wanted = dict.fromkeys((*(uid for uid in preference if uid in SENT_WITHOUT_LOSS), *usual))
    others = tuple(
        uid
        for uid in wanted
        if uid not in stored
        and (not receives or uid in receives)
        and any(can_convert(one, uid) for one in stored)
    )
    lists: list[tuple[str, ...]]
    lists = [(uid,) for uid in stored if not receives or uid in receives]
    if others:
        lists.append(others)
    # Objects that it cannot be sent at all then fail for that reason.
    return lists or [tuple(receives)]
