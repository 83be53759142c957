"""Makes audit trails outside a node, and the events that they are told."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from dicomnode.audit.codes import Alert
from dicomnode.audit.delivery import Target
from dicomnode.audit.events import Ourselves, Peer, Study
from dicomnode.audit.messages import AuditSource
from dicomnode.audit.trail import Audit, Options
from dicomnode.observe.logs import Log
from dicomnode.settings import LogSettings

CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.22"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT = "1.2.840.10008.1.2"
NODE = Ourselves(4711, ("DICOMNODE", "ARCHIVE"), "pacs.example")
CT_1 = Peer("CT_1", "10.0.0.7")
WS_1 = Peer("WS_1", "2001:db8::1")
JANE = Study("4711", "Doe^Jane", "A1")


class Trail:
    """An audit trail with targets of the test's, and what it logged."""

    def __init__(
        self, directory: Path, targets: Mapping[str, Target], *, spool_bytes: int = 1024 * 1024
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.spool = directory / "audit.sqlite"
        self.studies: dict[str, Study] = {"1.2.3": JANE}
        self.registry = CollectorRegistry()
        self._stream = io.StringIO()
        self._log = Log(LogSettings(), stream=self._stream)
        options = Options(
            node=NODE,
            source=AuditSource("DICOMNODE", "Ward & Sons"),
            spool_path=self.spool,
            spool_bytes=spool_bytes,
            targets={name: (name, target) for name, target in targets.items()},
        )
        self.audit = Audit(options, self._log.logger, self.registry, self.studies.get)

    def lines(self) -> str:
        """Return what was logged; the log ends with that."""
        self._log.start()
        self._log.stop()
        return self._stream.getvalue()

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def tell_everything(audit: Audit, study: str = "1.2.3") -> None:
    """Tell ``audit`` one event of each kind."""
    audit.query(CT_1, STUDY_ROOT_FIND, IMPLICIT, b"\x10\0\x10\0\4\0\0\0DOE*")
    audit.security_alert(Alert.NODE_AUTHENTICATION, "certificate of nobody", CT_1)
    audit.user_authenticated("jane@example", WS_1)
    audit.user_authenticated("joe", WS_1, failure="wrong passcode")
    audit.received(1, study, CT, CT_1, created=True)
    audit.received(1, study, CT, CT_1, created=False)
    audit.received(1, study, CT, CT_1, created=False, failure="A700H Refused")
    audit.sending(study, WS_1, originator=CT_1)
    audit.sent(2, study, CT, WS_1, originator=CT_1)
    audit.sent(2, study, SR, WS_1, originator=CT_1)
    audit.deleted(study, CT, JANE)
    audit.ended(1)
    audit.ended(2)
