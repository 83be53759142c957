"""Asks other nodes for associations; owns the connections that it made."""

from __future__ import annotations

from collections.abc import Iterator

from dicomnode.dimse.channel import Channel, Proposal, Provider, RequestObserver
from dicomnode.net.buffers import BufferPool
from dicomnode.net.ending import Deadlines


class Requestor:
    """The calling side of the node; ``numbers`` counts associations, whoever asked for them."""

    def __init__(
        self,
        *,
        numbers: Iterator[int],
        maximum_pdu_bytes: int,
        implementation_class_uid: str,
        implementation_version_name: str,
        pool: BufferPool,
        deadlines: Deadlines,
        observer: RequestObserver,
    ) -> None:
        self._numbers = numbers

    async def associate(self, proposal: Proposal, provider: Provider) -> Channel:
        raise NotImplementedError

    async def close(self, seconds: float) -> None:
        """Abort every association that is left and wait ``seconds`` for their ends."""
