"""The TLS of a node: its certificates as they are in force, replaced as a whole or not at all."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from dicomnode.errors import ConfigurationError
from dicomnode.net.acceptor import Acceptor, Listening
from dicomnode.net.secure_listener import SecureListening
from dicomnode.observe.logs import Logger
from dicomnode.observe.tls_metrics import TLSMetrics
from dicomnode.registry import Registry
from dicomnode.settings import Settings
from dicomnode.tls.contexts import ClientContexts, client_contexts, is_worn, server_context
from dicomnode.tls.faults import TLSFault
from dicomnode.tls.files import (
    Stamp,
    Validity,
    of,
    openness,
    revocation,
    stamp_of,
    validities,
    warnings,
)
from dicomnode.tls.revocation import Revocation

_LOOK_SECONDS: Final = 24 * 3600.0


class Observer(Protocol):
    """Is told of handshakes with those that call."""

    def secured(self) -> None:
        """A handshake was made."""

    def tls_refused(self, peer_address: str, fault: TLSFault) -> None:
        """A handshake was not made, or not tried."""


@dataclass(frozen=True, slots=True)
class _InForce:
    server: ssl.SSLContext | None
    client: ClientContexts | None
    validities: dict[str, Validity]
    revocation: Revocation
    openness: str
    stamp: Stamp


class TransportSecurity:
    """Holds certificates and keys; ``now`` gives seconds since the epoch."""

    def __init__(
        self,
        settings: Settings,
        log: Logger,
        metrics: TLSMetrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._files = of(settings.tls)
        self._log = log
        self._metrics = metrics
        self._now = now
        self._in_force: _InForce
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def start(self, registry: Registry) -> None:
        """Read the files; raises ConfigurationError."""
        self._in_force = await asyncio.to_thread(self._load, registry)
        self._look()

    async def reload(self, registry: Registry) -> bool:
        """Read the files anew; return whether they were taken, all of them or none."""
        try:
            in_force = await asyncio.to_thread(self._load, registry)
        except ConfigurationError as error:
            self._log.error("TLS certificates not reloaded, the old ones stay in force")
            for problem in error.problems:
                self._log.error(problem)
            return False
        self._in_force = in_force
        if (own := in_force.validities.get("own")) is not None:
            self._log.info(f"TLS certificates reloaded: {own.subject}, valid until {own.until}")
        self.stop()
        self._look()
        return True

    def _load(self, registry: Registry) -> _InForce:
        files, tls = self._files, self._settings.tls
        given = tls.enabled or files.certificate is not None or files.ca is not None
        calls = given or any(ae.tls for ae in registry.entries)
        stamp = stamp_of(files)
        server = server_context(files) if tls.enabled else None
        client = client_contexts(files) if calls else None
        try:
            found = validities(files), revocation(files), openness(files)
            return _InForce(server, client, *found, stamp)
        except (OSError, ValueError) as error:
            # They have changed since they were read above.
            raise ConfigurationError([f"[tls]: {error}"]) from None

    def _look(self) -> None:
        """Warn of certificates that expire, now and every day."""
        in_force = self._in_force
        for which, validity in in_force.validities.items():
            self._metrics.expires(which, validity.not_after)
        if (ends_at := in_force.revocation.ends_at) is not None:
            self._metrics.revocation_list_ends(ends_at)
        for warning in (*self._warnings(), in_force.openness):
            if warning:
                self._log.warning(warning)
        if in_force.validities:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _warnings(self) -> list[str]:
        in_force, now = self._in_force, self._now()
        return warnings(in_force.validities, now) + in_force.revocation.warnings(now)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()

    def client(self) -> ClientContexts | None:
        """Return how TLS is made with those that are called; None while nobody needs it."""
        return self._in_force.client

    def _server(self) -> ssl.SSLContext:
        server = self._in_force.server
        assert server is not None
        if is_worn(server) and self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(self._in_force))
        return server

    async def _renew(self, worn: _InForce) -> None:
        """Replace a context that remembers many sessions by one of the same files."""
        try:
            fresh = await asyncio.to_thread(self._again, worn.stamp)
            if fresh is not None and self._in_force is worn:
                self._in_force = replace(worn, server=fresh)
        finally:
            self._renewing = None

    def _again(self, stamp: Stamp) -> ssl.SSLContext | None:
        # What has changed since is taken with SIGHUP, and not before.
        if stamp_of(self._files) != stamp:
            return None
        try:
            fresh = server_context(self._files)
        except ConfigurationError:
            return None
        return fresh if stamp_of(self._files) == stamp else None

    def listening(self, plain: Listening, observer: Observer) -> Listening:
        """Return where and how the node listens: as ``plain`` says without TLS, and with it."""
        settings = self._settings
        limits, tls = settings.limits, settings.tls
        secure = None
        if tls.enabled:
            secure = SecureListening(
                tls.port,
                self._server,
                settings.timeouts.tls_handshake_seconds,
                limits.max_handshakes,
                limits.max_handshakes_per_address,
                observer.tls_refused,
                observer.secured,
            )
        return replace(plain, port=None if tls.only else plain.port, secure=secure)

    def started(self, acceptor: Acceptor) -> None:
        """Say that the TLS port is open."""
        if (address := acceptor.secure_address) is None:
            return
        self._metrics.set_active_source(lambda: acceptor.handshakes)
        tls = self._settings.tls
        closed = "; node.port stays closed (tls.only)" if tls.only else ""
        self._log.info(
            f"TLS on {address[0]}:{address[1]}, client certificates"
            f" {tls.client_certificates}{closed}"
        )

    def figures(self, acceptor: Acceptor) -> dict[str, Any]:
        """Return what /api/status shows of TLS."""
        address = acceptor.secure_address
        return {
            "port": address[1] if address else None,
            "only": self._settings.tls.only,
            "handshakes": acceptor.handshakes,
            "certificates": {
                which: {"subject": validity.subject, "expires": validity.not_after}
                for which, validity in self._in_force.validities.items()
            },
            "warnings": self._warnings(),
        }
