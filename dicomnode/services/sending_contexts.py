"""Which presentation context an object is sent on, and in which transfer syntax."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.uid import UID

from dicomnode.services.sop_classes import SENT_WITHOUT_LOSS
from dicomnode.storage.transcode import can_convert
from dicomnode.ul.negotiation import AcceptedContext


@dataclass(frozen=True, slots=True)
class Choice:
    """The context and the transfer syntax that objects of one kind are sent with."""

    context_id: int
    transfer_syntax_uid: str


class SendingContexts:
    """The accepted contexts that we have the SCU role on, by SOP class.

    As stored comes first; else what it can be converted to, in the order of ``preference`` and
    then of SENT_WITHOUT_LOSS. ``peer`` names who accepted them.
    """

    def __init__(
        self, contexts: Iterable[AcceptedContext], peer: str, preference: Sequence[str] = ()
    ) -> None:
        self._peer = peer
        self._accepted: dict[str, dict[str, int]] = {}
        for context in contexts:
            if context.as_scu:
                syntaxes = self._accepted.setdefault(context.abstract_syntax, {})
                syntaxes.setdefault(context.transfer_syntax, context.context_id)
        self._order = tuple(dict.fromkeys((*preference, *SENT_WITHOUT_LOSS)))
        self._chosen: dict[tuple[str, str], Choice | str] = {}

    def choose(self, sop_class_uid: str, stored: str) -> Choice | str:
        """Return the choice for objects of a SOP class stored so, or why there is none."""
        kind = sop_class_uid, stored
        chosen = self._chosen.get(kind)
        if chosen is None:
            chosen = self._chosen[kind] = self._choose(*kind)
        return chosen

    def _choose(self, sop_class_uid: str, stored: str) -> Choice | str:
        accepted = self._accepted.get(sop_class_uid)
        if not accepted:
            return f"{named(sop_class_uid)}: no presentation context accepted by {self._peer}"
        for wanted in (stored, *self._order):
            if wanted in accepted and (wanted == stored or can_convert(stored, wanted)):
                return Choice(accepted[wanted], wanted)
        takes = ", ".join(named(uid) for uid in accepted)
        return (
            f"{named(sop_class_uid)} in {named(stored)}: {self._peer} takes only {takes}, "
            "to which it cannot be converted"
        )


def named(uid: str) -> str:
    """Return the standard's name of ``uid``, or itself when the standard has none."""
    return UID(uid).name
