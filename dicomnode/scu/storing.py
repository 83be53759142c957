"""C-STORE as SCU: which context an object goes on, and its conversion where it needs one."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from dicomnode.errors import ContextNotAccepted, ConversionFailed, OutOfResources
from dicomnode.scu.objects import Instance
from dicomnode.scu.sources import Pieces
from dicomnode.scu.threads import to_the_end
from dicomnode.ul.negotiation import Negotiated

if TYPE_CHECKING:
    from dicomnode.scu.conversion import Converters
    from dicomnode.scu.sending_contexts import SendingContexts


class Scratch:
    """A temporary directory for converted objects; see ``conversion.Scratch``."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="dicomnode-")
        self._names = count(1)

    def new_temporary(self) -> str:
        return os.path.join(self._directory, str(next(self._names)))

    def free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._directory).free
        except OSError as error:
            raise OutOfResources(f"disk error: {error.strerror}") from error

    def remove(self) -> None:
        """Remove the directory and what is left in it. Raises OSError."""
        shutil.rmtree(self._directory)


class Outbound:
    """Brings objects into a form in which the peer takes them."""

    def __init__(self, negotiated: Negotiated) -> None:
        self._negotiated = negotiated
        self._peer = negotiated.called_ae_title
        self._as_stored = {
            (context.abstract_syntax, context.transfer_syntax): context.context_id
            for context in reversed(list(negotiated.contexts.values()))
            if context.as_scu
        }
        self._contexts: SendingContexts | None = None
        self._scratch: Scratch | None = None
        self._converters: Converters | None = None
        self._is_closed = False

    async def prepare(self, instance: Instance) -> tuple[int, Instance]:
        """Return the context for ``instance``, and it as it can be sent on that.

        Raises ContextNotAccepted, ConversionFailed.
        """
        kind = instance.sop_class_uid, instance.transfer_syntax_uid
        context_id = self._as_stored.get(kind)
        if context_id is not None:
            return context_id, instance
        # Late: it takes longer than many an association.
        from dicomnode.scu.sending_contexts import NoContext, SendingContexts

        if self._contexts is None:
            self._contexts = SendingContexts(
                self._negotiated.contexts.values(),
                self._peer,
                lambda what: f"Propose {what}, and let {self._peer} accept it.",
            )
        choice = self._contexts.choose(*kind)
        if isinstance(choice, NoContext):
            raise ContextNotAccepted(f"{choice.words}. {choice.advice}")
        return choice.context_id, await self._convert(instance, choice.transfer_syntax_uid)

    async def _convert(self, instance: Instance, wanted: str) -> Instance:
        path, offset = instance.path, instance.offset
        try:
            converters, scratch = await self._converting()
            if not path:
                path, offset = scratch.new_temporary(), 0
                await _spool(instance, path)
        except OSError as error:
            raise ConversionFailed(f"no room for what is converted: {error.strerror}") from error
        try:
            file, size = await converters.convert(
                path, offset, instance.size, instance.transfer_syntax_uid, wanted
            )
        finally:
            if not instance.path:
                await to_the_end(_remove, path)
        return Instance(
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            transfer_syntax_uid=wanted,
            data_set=Pieces(file, 0, size, None),
            size=size,
        )

    async def _converting(self) -> tuple[Converters, Scratch]:
        from dicomnode.scu.conversion import Converters

        if self._is_closed:
            raise ConversionFailed("the association is over")
        if self._converters is None or self._scratch is None:
            self._scratch = Scratch()
            self._converters = Converters(self._scratch, 0)
        return self._converters, self._scratch

    async def close(self) -> None:
        """End what converts, and remove what it left. Raises OSError."""
        self._is_closed = True
        if self._converters is not None:
            await self._converters.close()
        if self._scratch is not None:
            await to_the_end(self._scratch.remove)


def _remove(path: str) -> None:
    # Gone with the directory, where the association ended meanwhile.
    with suppress(FileNotFoundError):
        os.unlink(path)


async def _spool(instance: Instance, path: str) -> None:
    """Write the data set of ``instance`` to a file."""
    data_set = instance.data_set
    if isinstance(data_set, bytes | memoryview):
        await to_the_end(_append, path, data_set)
        return
    while piece := await data_set.read():
        await to_the_end(_append, path, piece)


def _append(path: str, piece: bytes | memoryview) -> None:
    with open(path, "ab") as file:
        file.write(piece)
