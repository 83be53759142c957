"""What all operations on an association of ours have in common: contexts and data sets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dicomnode.dimse.channel import Channel
from dicomnode.errors import ContextNotAccepted
from dicomnode.scu.answers import Encoded
from dicomnode.scu.names import named
from dicomnode.scu.operations import Operations
from dicomnode.scu.outgoing import OutgoingAssociation
from dicomnode.ul.negotiation import Negotiated

if TYPE_CHECKING:
    from dicomnode.scu.datasets import Attributes

    # Attributes by keyword or tag, as a Dataset or a mapping; or a data set that is encoded.
    Identifier = Attributes | Encoded


class Calling:
    """An association that we asked for, and the operations on it."""

    def __init__(
        self, outgoing: OutgoingAssociation, *, response_seconds: float, cancel_seconds: float
    ) -> None:
        self._outgoing = outgoing
        self._operations = Operations(
            outgoing, response_seconds=response_seconds, cancel_seconds=cancel_seconds
        )

    @property
    def channel(self) -> Channel:
        """The association as the upper layer has it."""
        return self._outgoing.channel

    @property
    def negotiated(self) -> Negotiated:
        """The outcome of negotiation: contexts accepted and refused, the window, and more."""
        return self._outgoing.negotiated

    def syntax_for(self, sop_class_uid: str) -> str:
        """Return the transfer syntax accepted for a SOP class in our SCU role, "" for none."""
        for context in self.negotiated.contexts.values():
            if context.abstract_syntax == sop_class_uid and context.as_scu:
                return context.transfer_syntax
        return ""

    def _context(self, sop_class_uid: str, *, syntax: str = "", as_scp: bool = False) -> int:
        """Return the ID of an accepted context for a SOP class, in our SCU role or our SCP role.

        Raises ContextNotAccepted.
        """
        for context in self.negotiated.contexts.values():
            in_role = context.as_scp if as_scp else context.as_scu
            in_syntax = not syntax or context.transfer_syntax == syntax
            if context.abstract_syntax == sop_class_uid and in_role and in_syntax:
                return context.context_id
        raise ContextNotAccepted(self._refusal(sop_class_uid, syntax))

    def _refusal(self, sop_class_uid: str, syntax: str) -> str:
        what = named(sop_class_uid) + (f" in {named(syntax)}" if syntax else "")
        peer = self.channel.called_ae_title
        for refused in self.negotiated.refused:
            if refused.abstract_syntax == sop_class_uid:
                return f"{what}: {peer} refused the presentation context: {refused.words}"
        proposed = {context.abstract_syntax for context in self.negotiated.contexts.values()}
        if sop_class_uid in proposed:
            return f"{what}: {peer} accepted other transfer syntaxes or roles only"
        return f"{what}: no presentation context was proposed to {peer}"

    async def _encoded(self, context_id: int, identifier: Identifier) -> bytes:
        """Write a data set as the context has it; raises ValueError."""
        if isinstance(identifier, Encoded):
            return identifier.data
        from dicomnode.scu.datasets import encode

        syntax = self.negotiated.contexts[context_id].transfer_syntax
        return await asyncio.to_thread(encode, identifier, syntax)


def syntax_of(identifier: Identifier | None) -> str:
    """Return the transfer syntax that a data set is bound to, "" for none."""
    return identifier.transfer_syntax_uid if isinstance(identifier, Encoded) else ""
