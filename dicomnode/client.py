"""The front door of the calling side: ``dicomnode.open_association``."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.certificates import Expected, binding
from dicomnode.dimse.channel import Channel, Proposal, RequestObserver
from dicomnode.dimse.channel import Requestor as AnyRequestor
from dicomnode.errors import AssociationError
from dicomnode.net.buffers import BufferPool
from dicomnode.net.ending import Deadlines
from dicomnode.net.requestor import Requestor
from dicomnode.scu.association import Association
from dicomnode.scu.contexts import Wanted, contexts_of
from dicomnode.scu.names import uid_of
from dicomnode.scu.outgoing import RequestingProvider, associate
from dicomnode.scu.peers import (
    DEFAULT_PORT,
    DEFAULT_TLS_PORT,
    Directory,
    Entity,
    Peer,
    named_title,
    peer_of,
)
from dicomnode.tls.contexts import ClientContexts, client_contexts
from dicomnode.tls.files import FileNames, Files, Profile
from dicomnode.ul.items import (
    AsynchronousOperationsWindow,
    ExtendedNegotiation,
    RoleSelection,
)

__all__ = ["TLS", "Association", "open_association"]

_ARTIM_SECONDS: Final = 30.0
# So long a peer may leave a PDU incomplete, or what is sent to it untaken.
_STALLED_SECONDS: Final = 60.0
_RECEIVE_BUFFER_BYTES: Final = 16 * 1024 * 1024
_CLOSE_SECONDS: Final = 1.0
# Two bytes have the window (PS3.7 §D.3.3.3).
_MAX_WINDOW: Final = 0xFFFF
# Shorter ones cost more than they carry; longer ones take receive buffers that nobody needs.
_MIN_PDU_BYTES: Final = 4096
_MAX_PDU_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TLS:
    """How to call over TLS: files in PEM form, and whom to expect.

    ``ca`` holds the CAs to trust (None: the system's); ``certificate`` and ``key`` are ours, if the
    peer asks for them (no ``key``: it is in the file of the certificate). ``revoked`` holds the
    revocation lists of ``ca``; None: nothing is known of such. The peer's certificate
    has to have ``name`` (None: the host that is called), or to be one of ``bindings``, written as
    in ae.toml. Without ``verify`` anybody may answer.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    name: str | None = None
    bindings: tuple[str, ...] = ()
    verify: bool = True
    profile: Profile = "bcp195"
    file_names: FileNames = ("certificate", "key", "ca")
    revoked: str | os.PathLike[str] | None = None


@asynccontextmanager
async def open_association(
    peer: str | Entity,
    *,
    calling_ae_title: str = "DICOMNODE",
    contexts: Iterable[Wanted] = ("echo",),
    roles: Iterable[RoleSelection] = (),
    extended: Mapping[str, bytes] | None = None,
    max_operations: int = 1,
    maximum_pdu_bytes: int = 128 * 1024,
    connect_seconds: float = 10.0,
    response_seconds: float = 60.0,
    cancel_seconds: float = 5.0,
    max_data_set_bytes: int = 1024 * 1024,
    registry: Directory | None = None,
    observer: RequestObserver | None = None,
    requestor: AnyRequestor | None = None,
    provider: RequestingProvider | None = None,
    tls: TLS | ssl.SSLContext | bool | None = None,
) -> AsyncIterator[Association]:
    """Make an association with ``peer``, and release it at the end of the block.

    ``peer`` is ``TITLE@host:port``, an AE of the registry, or a title that ``registry`` has, such
    as what ``dicomnode.registry.load_registry`` returns. ``contexts`` are SOP classes by UID,
    keyword or word such as "echo", "find", "move", "worklist", alone or as (SOP class, transfer
    syntaxes); ``roles`` the role selection for C-GET and the like, ``extended`` extended
    negotiation by SOP class. ``max_operations`` is the asynchronous window to ask for,
    ``max_data_set_bytes`` the longest data set that is taken with a response. What the peer asks
    of us goes to ``provider``; without one it is refused.

    ``tls`` says whether and how to call over TLS: ``TLS`` with certificates, a context of your own,
    True for the CAs of the system, False for none; None: as the registry has it.

    With ``requestor`` the association is made by that one, with its own limits and deadlines for
    connecting and negotiating; ``observer`` is for those made without one.
    Raises AssociationError when there is no association, and ValueError for what cannot be asked.
    """
    called = peer_of(peer, registry, DEFAULT_TLS_PORT if tls else DEFAULT_PORT)
    proposal = Proposal(
        host=called.host,
        port=called.port,
        called_ae_title=called.title,
        calling_ae_title=named_title(calling_ae_title),
        contexts=contexts_of(contexts),
        roles=tuple(roles),
        window=_window(max_operations),
        extended=_extended(extended or {}),
        tls=_expected(called, tls),
    )
    async with AsyncExitStack() as undo:
        if requestor is None:
            secure = await _contexts(tls) if proposal.tls is not None else None
            deadlines = _deadlines(connect_seconds, response_seconds)
            own = _own_requestor(maximum_pdu_bytes, deadlines, observer or _Silent(), secure)
            requestor = await undo.enter_async_context(own)
        outgoing = await associate(
            requestor, proposal, provider, max_data_set_bytes=max_data_set_bytes
        )
        yield await undo.enter_async_context(
            Association(outgoing, response_seconds=response_seconds, cancel_seconds=cancel_seconds)
        )


def _extended(asked: Mapping[str, bytes]) -> tuple[ExtendedNegotiation, ...]:
    return tuple(ExtendedNegotiation(uid_of(name), info) for name, info in asked.items())


def _window(max_operations: int) -> AsynchronousOperationsWindow | None:
    """Propose a window for what we invoke; we perform one operation at a time."""
    if not 0 <= max_operations <= _MAX_WINDOW:
        raise ValueError(f"max_operations is {max_operations}: 1 to {_MAX_WINDOW}, 0 for no limit")
    return AsynchronousOperationsWindow(max_operations, 1) if max_operations != 1 else None


def _deadlines(connect_seconds: float, response_seconds: float) -> Deadlines:
    return Deadlines(
        artim=_ARTIM_SECONDS,
        pdu=_STALLED_SECONDS,
        idle=math.inf,
        write=_STALLED_SECONDS,
        connect=connect_seconds,
        response=response_seconds,
    )


@asynccontextmanager
async def _own_requestor(
    maximum_pdu_bytes: int,
    deadlines: Deadlines,
    observer: RequestObserver,
    secure: ClientContexts | None,
) -> AsyncIterator[Requestor]:
    if not _MIN_PDU_BYTES <= maximum_pdu_bytes <= _MAX_PDU_BYTES:
        bounds = f"{_MIN_PDU_BYTES} to {_MAX_PDU_BYTES}"
        raise ValueError(f"maximum_pdu_bytes is {maximum_pdu_bytes}: {bounds}")
    pool = BufferPool(
        asyncio.get_running_loop(),
        block_bytes=max(256 * 1024, 2 * maximum_pdu_bytes),
        limit_bytes=max(_RECEIVE_BUFFER_BYTES, 4 * maximum_pdu_bytes),
    )
    requestor = Requestor(
        numbers=itertools.count(1),
        maximum_pdu_bytes=maximum_pdu_bytes,
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        pool=pool,
        deadlines=deadlines,
        observer=observer,
        secure=lambda: secure,
    )
    try:
        yield requestor
    finally:
        await requestor.close(_CLOSE_SECONDS)


def _expected(called: Peer, tls: TLS | ssl.SSLContext | bool | None) -> Expected | None:
    """Return what the peer's certificate has to be; None: it is called without TLS."""
    if tls is None or tls is False:
        return called.over_tls if tls is None else None
    registered = called.over_tls or Expected()
    if isinstance(tls, TLS) and (tls.name is not None or tls.bindings):
        return Expected(tls.name, tuple(map(binding, tls.bindings)))
    return registered


async def _contexts(tls: TLS | ssl.SSLContext | bool | None) -> ClientContexts:
    """Raises ConfigurationError for files that cannot be used."""
    if tls is None or isinstance(tls, bool):
        tls = TLS()
    if not isinstance(tls, TLS):
        return ClientContexts(tls, tls, tls, tls.verify_mode is not ssl.CERT_NONE)
    files = Files(
        _path(tls.certificate),
        _path(tls.key),
        _path(tls.ca),
        profile=tls.profile,
        names=tls.file_names,
        revoked=_path(tls.revoked),
    )
    return await asyncio.to_thread(client_contexts, files, verify=tls.verify)


def _path(file: str | os.PathLike[str] | None) -> Path | None:
    return Path(file) if file is not None else None


class _Silent:
    """Tells nobody: whoever asked for the association hears of it by what is raised."""

    def requested(self, channel: Channel) -> None:
        pass

    def request_failed(self, proposal: Proposal, error: AssociationError) -> None:
        pass

    def request_ended(self, channel: Channel, how: str, why: str) -> None:
        pass
