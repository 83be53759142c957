"""The certificates in force: when they are read, warned of, and replaced."""

from __future__ import annotations

import contextlib
import io
import ssl
import time

import pytest
from prometheus_client import CollectorRegistry

from dicomnode.observe.logs import Log
from dicomnode.observe.tls_metrics import TLSMetrics
from dicomnode.registry import AE, Registry
from dicomnode.security import TransportSecurity
from dicomnode.settings import LogSettings, Settings, TlsSettings
from dicomnode.tls import contexts
from tests.authority import Authority
from tests.secure_wire import trusting


class Kept:
    """Certificates in force at a time of the test's choice."""

    def __init__(self, tls: TlsSettings) -> None:
        self.now = time.time()
        self.metrics = CollectorRegistry()
        self._stream = io.StringIO()
        self._log = Log(LogSettings(), stream=self._stream)
        self.security = TransportSecurity(
            Settings(tls=tls), self._log.logger, TLSMetrics(self.metrics), lambda: self.now
        )

    def lines(self) -> str:
        self._log.start()
        self._log.stop()
        return self._stream.getvalue()

    def expiry(self) -> float | None:
        name = "dicomnode_tls_certificate_expiry_timestamp_seconds"
        return self.metrics.get_sample_value(name, {"certificate": "own"})


async def test_contexts_for_calling_are_made_once_somebody_is_called_over_tls() -> None:
    kept = Kept(TlsSettings())
    await kept.security.start(Registry())
    assert kept.security.client() is None
    await kept.security.reload(Registry([AE(title="ARCHIVE", host="h", tls=True)]))
    assert kept.security.client() is not None


async def test_a_warning_comes_when_its_day_has_come_and_goes_with_a_new_certificate(
    authority: Authority,
) -> None:
    ours = authority.issue("node", "localhost", days=90)
    settings = TlsSettings(certificate=ours.certificate, key=ours.key, ca=authority.ca)
    kept = Kept(settings)
    await kept.security.start(Registry())
    assert kept.lines() == ""
    kept.now += 70 * 86400
    kept.security._look()
    assert "tls.certificate (CN=node) expires in 19 days" in kept.lines()
    before = kept.expiry()
    authority.issue("node", "localhost", days=300, into=ours)
    await kept.security.reload(Registry())
    assert before is not None and (kept.expiry() or 0) > before
    assert kept.lines().count("expires in") == 1
    kept.security.stop()


async def test_contexts_are_replaced_as_a_whole_or_not_at_all(authority: Authority) -> None:
    ours = authority.issue("node", "localhost")
    settings = TlsSettings(certificate=ours.certificate, key=ours.key, ca=authority.ca)
    kept = Kept(settings)
    await kept.security.start(Registry())
    before = kept.security.client()
    authority.ca.write_text("no PEM")
    await kept.security.reload(Registry())
    assert kept.security.client() is before
    assert "tls.ca" in kept.lines()
    kept.security.stop()


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Make a TLS connection in memory, and close it as we do."""
    bios = [ssl.MemoryBIO() for _ in range(2)]
    sides = [
        client.wrap_bio(bios[0], bios[1], server_hostname="localhost"),
        server.wrap_bio(bios[1], bios[0], server_side=True),
    ]
    for side in sides * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    with contextlib.suppress(ssl.SSLWantReadError):
        sides[1].unwrap()


@pytest.mark.parametrize("is_changed", [False, True])
async def test_a_context_that_remembers_many_sessions_is_replaced_by_one_of_the_same_files(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, is_changed: bool
) -> None:
    monkeypatch.setattr(contexts, "_MOST_SESSIONS", 3)
    ours = authority.issue("node", "localhost")
    tls = TlsSettings(enabled=True, certificate=ours.certificate, key=ours.key, ca=authority.ca)
    kept = Kept(tls.model_copy(update={"client_certificates": "none"}))
    await kept.security.start(Registry())
    client = trusting(authority)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    server = kept.security._server()
    for _ in range(3):
        assert not contexts.is_worn(server)
        shake_hands(server, client)
    if is_changed:
        # Which is taken with SIGHUP, and not before.
        authority.issue("node", "localhost", into=ours)
    assert kept.security._server() is server
    assert kept.security._renewing is not None
    await kept.security._renewing
    assert (kept.security._server() is server) == is_changed
    kept.security.stop()
