"""Whom objects are had from: a peer, and how associations are made with it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from dicomnode.errors import AssociationError, ContextNotAccepted
from dicomnode.observe.words import escape
from dicomnode.scu.answers import Answer
from dicomnode.scu.association import Association
from dicomnode.scu.contexts import Wanted
from dicomnode.ul.items import RoleSelection

# Some peers tell nothing of a C-MOVE before all has been sent.
MOVE_SECONDS: Final = 3600.0


class Source(Protocol):
    """A peer that is asked; ``response_seconds`` is how long it may take to answer a request."""

    @property
    def title(self) -> str:
        """Its AE title."""

    @property
    def response_seconds(self) -> float:
        """How long it may be silent while it owes an answer."""

    @property
    def move_seconds(self) -> float:
        """The same during a C-MOVE."""

    def associated(
        self, contexts: Iterable[Wanted], *, roles: Iterable[RoleSelection] = ()
    ) -> AbstractAsyncContextManager[Association]:
        """Make an association for the block. Raises AssociationError."""

    def words(self, error: AssociationError | ContextNotAccepted) -> str:
        """Say in one line what went wrong and what to try."""


def refused(answer: Answer, title: str) -> str:
    """Say what a peer answered that did not do what it was asked for."""
    comment = f": {escape(answer.comment)}" if answer.comment else ""
    offending = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in _offending(answer))
    about = f" (about {offending})" if offending else ""
    return (
        f"{title} answered {answer.response.service} with"
        f" {answer.status:04X}H {answer.words}{comment}{about}"
    )


def _offending(answer: Answer) -> tuple[int, ...]:
    return tuple(answer.response.offending_element or ())
