"""The certificates in force: when they are read, warned of, and replaced."""

from __future__ import annotations

import io
import time

from prometheus_client import CollectorRegistry

from dicomnode.observe.logs import Log
from dicomnode.observe.tls_metrics import TLSMetrics
from dicomnode.registry import AE, Registry
from dicomnode.security import TransportSecurity
from dicomnode.settings import LogSettings, Settings, TlsSettings
from tests.authority import Authority


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
