"""Which presentation context an object is sent on, and in which transfer syntax."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dicomnode.scu.contexts import SENT_WITHOUT_LOSS
from dicomnode.scu.names import named
from dicomnode.storage.transcode import can_convert
from dicomnode.ul.negotiation import AcceptedContext


@dataclass(frozen=True, slots=True)
class NoContext:
    """Why objects of one kind cannot be sent, and what to change, as sentences."""

    words: str
    advice: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The context and the transfer syntax that objects of one kind are sent with."""

    context_id: int
    transfer_syntax_uid: str


class SendingContexts:
    """The accepted contexts that we have the SCU role on, by SOP class.

    As stored comes first; else what it can be converted to, in the order of ``preference`` and
    then of SENT_WITHOUT_LOSS. ``peer`` names who accepted them; ``remedy`` is given what was not
    accepted, and returns the advice that helps.
    """

    def __init__(
        self,
        contexts: Iterable[AcceptedContext],
        peer: str,
        remedy: Callable[[str], str],
        preference: Sequence[str] = (),
    ) -> None:
        self._peer = peer
        self._remedy = remedy
        self._accepted: dict[str, dict[str, int]] = {}
        for context in contexts:
            if context.as_scu:
                syntaxes = self._accepted.setdefault(context.abstract_syntax, {})
                syntaxes.setdefault(context.transfer_syntax, context.context_id)
        self._order = tuple(dict.fromkeys((*preference, *SENT_WITHOUT_LOSS)))
        self._chosen: dict[tuple[str, str], Choice | NoContext] = {}

    def choose(self, sop_class_uid: str, stored: str) -> Choice | NoContext:
        """Return the choice for objects of a SOP class stored so, or why there is none."""
        kind = sop_class_uid, stored
        chosen = self._chosen.get(kind)
        if chosen is None:
            chosen = self._chosen[kind] = self._choose(*kind)
        return chosen

    def _choose(self, sop_class_uid: str, stored: str) -> Choice | NoContext:
        accepted = self._accepted.get(sop_class_uid)
        if not accepted:
            name = named(sop_class_uid)
            words = f"{name}: no presentation context accepted by {self._peer}"
            return NoContext(words, advice=self._remedy(name))
        for wanted in (stored, *self._order):
            if wanted in accepted and (wanted == stored or can_convert(stored, wanted)):
                return Choice(accepted[wanted], wanted)
        takes = ", ".join(named(uid) for uid in accepted)
        what = f"{named(sop_class_uid)} in {named(stored)}"
        return NoContext(
            f"{what}: {self._peer} takes only {takes}, to which it cannot be converted",
            advice=self._remedy(what),
        )
