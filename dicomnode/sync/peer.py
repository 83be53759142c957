"""A peer of the registry, for the node itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dicomnode.dimse.channel import Proposal, Requestor
from dicomnode.errors import AssociationError, ContextNotAccepted
from dicomnode.registry import AE
from dicomnode.scu.advice import on_failure
from dicomnode.scu.association import Association
from dicomnode.scu.contexts import Wanted, contexts_of
from dicomnode.scu.outgoing import associate
from dicomnode.sync.source import MOVE_SECONDS
from dicomnode.ul.items import RoleSelection

# Whoever is asked has this long to end what we give up: the node may be stopping.
_CANCEL_SECONDS = 0.5


@dataclass(frozen=True)
class RegisteredPeer:
    """A ``source.Source``; ``ae`` has a host."""

    ae: AE
    calling_ae_title: str
    requestor: Requestor
    response_seconds: float

    @property
    def title(self) -> str:
        """Its AE title."""
        return self.ae.title

    @property
    def move_seconds(self) -> float:
        """How long it may be silent during a C-MOVE."""
        return max(self.response_seconds, MOVE_SECONDS)

    @asynccontextmanager
    async def associated(
        self, contexts: Iterable[Wanted], *, roles: Iterable[RoleSelection] = ()
    ) -> AsyncIterator[Association]:
        """Make an association for the block. Raises AssociationError."""
        assert self.ae.host is not None
        proposal = Proposal(
            host=self.ae.host,
            port=self.ae.port,
            called_ae_title=self.ae.title,
            calling_ae_title=self.calling_ae_title,
            contexts=contexts_of(contexts),
            roles=tuple(roles),
        )
        outgoing = await associate(self.requestor, proposal)
        async with Association(
            outgoing, response_seconds=self.response_seconds, cancel_seconds=_CANCEL_SECONDS
        ) as association:
            yield association

    def words(self, error: AssociationError | ContextNotAccepted) -> str:
        """Say in one line what went wrong and what to try."""
        if isinstance(error, ContextNotAccepted):
            return str(error)
        advice = on_failure(
            error,
            title=self.title,
            ours=self.calling_ae_title,
            where=f"{self.ae.host}:{self.ae.port}",
            correct="correct title, host or port in ae.toml",
        )
        return f"{error}. {advice}"
