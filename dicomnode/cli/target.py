"""The peer of a command, for what asks peers on behalf of commands and of the node alike."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from dicomnode.cli.associating import associated, words
from dicomnode.cli.peers import Called, Options
from dicomnode.errors import AssociationError, ContextNotAccepted
from dicomnode.scu.association import Association
from dicomnode.scu.contexts import Wanted
from dicomnode.sync.source import MOVE_SECONDS
from dicomnode.ul.items import RoleSelection


class Target:
    """A ``sync.source.Source`` as the command line says it."""

    def __init__(self, called: Called, options: Options) -> None:
        self._called = called
        self._options = options

    @property
    def title(self) -> str:
        """Its AE title."""
        return self._called.peer.title

    @property
    def response_seconds(self) -> float:
        """How long it may be silent while it owes an answer."""
        return self._options.response_seconds

    @property
    def move_seconds(self) -> float:
        """The same during a C-MOVE."""
        return max(self._options.response_seconds, MOVE_SECONDS)

    def associated(
        self, contexts: Iterable[Wanted], *, roles: Iterable[RoleSelection] = ()
    ) -> AbstractAsyncContextManager[Association]:
        """Make an association for the block. Raises AssociationError."""
        return associated(self._called, self._options, contexts, roles=roles)

    def words(self, error: AssociationError | ContextNotAccepted) -> str:
        """Say in one line what went wrong and what to try."""
        return words(error, self._called)
