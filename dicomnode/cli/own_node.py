"""Where ``get --into-store`` brings what it receives: the running node of the settings.

It stores what comes as it does for any peer: durable, indexed, forwarded by its rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from dicomnode.api.token import read_token
from dicomnode.cli.asking import ask, url_of
from dicomnode.cli.associating import associated, words
from dicomnode.cli.held import held_digests
from dicomnode.cli.peers import Called, Options
from dicomnode.dimse.status import Status
from dicomnode.errors import (
    AssociationAborted,
    AssociationError,
    ContextNotAccepted,
    OutOfResources,
    StatusError,
)
from dicomnode.scu.association import Association
from dicomnode.scu.objects import Instance
from dicomnode.scu.peers import Peer
from dicomnode.scu.proposals import Kind
from dicomnode.scu.receiving import ReceivedObject
from dicomnode.settings import Settings
from dicomnode.sync.tree import Brought, Held

# Where a node is called that listens on every address.
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def own_node(settings: Settings, calling_ae_title: str) -> Called:
    """Return the running node of ``settings``. Raises NodeUnavailable where none runs, OSError."""
    node = settings.node
    port = node.port
    if port == 0:
        local = read_token(settings.storage.directory)
        port = int(ask(url_of(settings, local.port if local else 0), "/api/status")["port"])
    host = _LOOPBACK.get(node.host, node.host)
    return Called(Peer(node.ae_title, host, port), calling_ae_title, is_registered=False)


class OwnNode:
    """Stores what is received with ``node``; its index tells what is there already."""

    def __init__(self, settings: Settings, node: Called, options: Options) -> None:
        self._settings = settings
        self._node = node
        self._options = options
        self._stack = AsyncExitStack()
        self._kinds: tuple[Kind, ...] = ()
        self._association: Association | None = None

    def digests(self, objects: Sequence[Held], *, verify: bool) -> dict[str, str]:
        """Return the SHA-256 of the data sets that the node holds, by SOP Instance UID; blocks.

        Raises CatalogError.
        """
        return held_digests(self._settings, [held.sop_instance_uid for held in objects])

    async def begin(self, kinds: Iterable[Kind]) -> None:
        """Be ready for objects of ``kinds``. Raises OutOfResources without the node."""
        await self._stack.aclose()
        self._association, self._kinds = None, tuple(kinds)
        try:
            await self._opened()
        except AssociationError as error:
            raise OutOfResources(words(error, self._node)) from error

    async def _opened(self) -> Association:
        if self._association is None:
            contexts = [(uid, [syntax]) for uid, syntax in self._kinds]
            opening = associated(self._node, self._options, contexts)
            self._association = await self._stack.enter_async_context(opening)
        return self._association

    async def receive(self, held: Held, arriving: ReceivedObject) -> Brought:
        """Hand an object on as it arrives.

        Raises StatusError with what the node answered, or for other bytes than the peer holds;
        AssociationAborted when the peer did not send all of it.
        """
        data_set = _Checked(arriving, held)
        instance = Instance(
            sop_class_uid=arriving.sop_class_uid,
            sop_instance_uid=arriving.sop_instance_uid,
            transfer_syntax_uid=arriving.transfer_syntax_uid,
            data_set=data_set,
            size=0,
        )
        try:
            answer = await (await self._opened()).store(
                instance, response_seconds=self._options.response_seconds
            )
        except (AssociationError, ContextNotAccepted) as error:
            self._association = None
            if data_set.fault is not None:
                # The association with the node ended for what the peer did.
                raise data_set.fault from error
            raise OutOfResources(words(error, self._node)) from error
        if not answer.ok:
            raise StatusError(answer.comment or answer.words, status=answer.status)
        return Brought(data_set.size, data_set.is_expected)

    async def close(self) -> None:
        """Release the association with the node."""
        await self._stack.aclose()


class _Checked:
    """What arrives, on its way out again; the last piece is held back from other bytes.

    A ``channel.DataSetSource``: what it raises ends the association before the object is whole.
    """

    def __init__(self, arriving: ReceivedObject, held: Held) -> None:
        self._arriving = arriving
        self._held = held
        self._digest = hashlib.sha256()
        self.size = 0
        self.is_expected: bool | None = None
        self.fault: AssociationAborted | StatusError | None = None

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end.

        Raises AssociationAborted, and StatusError for other bytes; it is kept as ``fault``.
        """
        try:
            return await self._next()
        except (AssociationAborted, StatusError) as error:
            self.fault = error
            raise

    async def _next(self) -> bytes:
        piece = await self._arriving.read()
        self._digest.update(piece)
        self.size += len(piece)
        if not piece:
            syntax = self._arriving.transfer_syntax_uid
            self.is_expected = self._held.is_expected(syntax, self._digest.hexdigest())
            if self.is_expected is False:
                raise StatusError(
                    "the bytes that came are not those that are held",
                    status=Status.CANNOT_UNDERSTAND,
                )
        return piece
