"""What the audit trail is told of, and what it is not told of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree.ElementTree import tostring

import pytest

from dicomnode.audit.events import Peer
from dicomnode.audit.file import AuditFile
from dicomnode.audit.trail import FILE
from dicomnode.certificates import binding
from dicomnode.dimse.channel import Refused
from dicomnode.dimse.status import Status
from dicomnode.errors import OutOfResources, TLSFailed
from dicomnode.index.entry import InstanceRow
from dicomnode.observe.trace import Trace
from dicomnode.registry import AE
from dicomnode.services.admission import _not_bound
from dicomnode.services.auditing import Auditing
from dicomnode.services.crowds import Crowds
from dicomnode.services.identities import NOT_ACCEPTED
from dicomnode.services.placing import Arrival, Outcome, Settled
from dicomnode.tls.faults import Cause
from dicomnode.ul.items import UserIdentityRQ
from dicomnode.ul.pdu import Rejection
from tests.audit.making import CT, JANE, Trail
from tests.audit.reading import Read, read_file
from tests.services.journaling import fake_channel

HEADER: Any = SimpleNamespace(study_instance_uid="1.2.3")
QUARANTINED = Settled(Status.COERCION_OF_DATA_ELEMENTS, "in quarantine")


def row(study: str = "1.2.3") -> InstanceRow:
    return InstanceRow("1.2.3.4", CT, study, "1.2.3.1", "1.2", "path", 1, 1, "", "", "CT_1", 0.0)


class Audited:
    """Auditing over a trail in a file."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "audit.xml"
        self.trail = Trail(directory / "spool", {FILE: AuditFile(self._path)})
        self.auditing = Auditing(self.trail.audit)
        self.trail.audit.start()

    def told(self) -> list[Read]:
        """End the trail; return what it says between start and stop."""
        self.trail.audit.stop()
        return read_file(self._path)[1:-1]


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    return Audited(tmp_path)


@pytest.mark.parametrize(
    ("outcome", "action", "result", "description"),
    [
        (Settled(0), "C", "0", ""),
        (Settled(0, is_new=False), "R", "0", ""),
        (QUARANTINED, "R", "4", "B000H Warning: Coercion of Data Elements"),
        (OutOfResources("disk full"), "R", "4", "A700H Refused: Out of Resources"),
    ],
)
def test_an_object_that_came_is_told_with_what_became_of_it(
    audited: Audited, outcome: Outcome, action: str, result: str, description: str
) -> None:
    channel = fake_channel(7, "CT_1", "DICOMNODE", "10.0.0.7")
    arrival = Arrival(CT, "1.2.3.4", "1.2", "CT_1", channel)
    audited.auditing.object_settled(arrival, HEADER, outcome)
    audited.auditing.ended(channel)
    (told,) = audited.told()
    assert (told.action, told.outcome, told.description) == (action, result, description)
    assert told.participants[0]["NetworkAccessPointID"] == "10.0.0.7"


def test_an_object_without_a_header_is_no_transfer(audited: Audited) -> None:
    arrival = Arrival(CT, "1.2.3.4", "1.2", "CT_1")
    audited.auditing.object_settled(arrival, None, OutOfResources("disk full"))
    assert audited.told() == []


def test_what_was_fetched_was_asked_for_by_us_and_is_told_by_source(audited: Audited) -> None:
    for title in ("ARCHIVE", "BACKUP", "ARCHIVE"):
        arrival = Arrival(CT, "1.2.3.4", "1.2", title)
        audited.auditing.object_settled(arrival, HEADER, Settled(0))
    told = audited.told()
    found = {each.participants[0]["UserID"]: each.sop_classes[CT] for each in told}
    assert found == {"ARCHIVE": 2, "BACKUP": 1}
    source, destination = told[0].participants
    assert (source["UserIsRequestor"], destination["UserIsRequestor"]) == ("false", "true")


def test_sending_begins_once_for_each_study_of_an_association(audited: Audited) -> None:
    channel = fake_channel(7, "DICOMNODE", "ARCHIVE", "10.0.0.9")
    for study in ("1.2.3", "1.2.4", "1.2.3"):
        audited.auditing.instance_sending(channel, row(study))
        audited.auditing.instance_sent(channel, row(study), 0)
    audited.auditing.instance_sent(channel, row(), "the destination does not take it")
    audited.auditing.instance_sent(channel, row(), 0xB007)
    audited.auditing.ended(channel)
    told = audited.told()
    assert [(each.event, each.study) for each in told[:2]] == [
        ("110102", "1.2.3"),
        ("110102", "1.2.4"),
    ]
    assert [(each.study, each.outcome, each.sop_classes[CT]) for each in told[2:]] == [
        ("1.2.3", "0", 3),
        ("1.2.4", "0", 1),
        ("1.2.3", "4", 1),
    ]


def test_what_is_known_of_sending_is_bounded(audited: Audited) -> None:
    for number in range(1200):
        channel = fake_channel(number, "DICOMNODE", "ARCHIVE", "10.0.0.9")
        audited.auditing.instance_sending(channel, row())
    assert len(audited.auditing._begun) <= 1001
    for number in range(1200):
        audited.auditing.instance_sending(channel, row(f"1.2.{number}"))
    assert max(map(len, audited.auditing._begun.values())) <= 1000
    audited.told()


@pytest.mark.parametrize("rejection", list(Rejection))
def test_only_who_is_not_known_is_a_security_alert(audited: Audited, rejection: Rejection) -> None:
    request: Any = SimpleNamespace(calling_ae_title="NOBODY", called_ae_title="X")
    audited.auditing.rejected("10.0.0.66", request, Refused(rejection, "why"))
    known = {
        Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED,
        Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED,
    }
    assert len(audited.told()) == (rejection in known)


def test_an_ae_without_the_certificate_that_it_is_bound_to_is_a_security_alert(
    audited: Audited,
) -> None:
    entry = AE(title="CT_1", certificate=(binding("CN=CT_1"),))
    unbound = _not_bound(entry, None)
    assert unbound is not None
    request: Any = SimpleNamespace(calling_ae_title="CT_1", called_ae_title="X")
    audited.auditing.rejected("10.0.0.66", request, unbound)
    (told,) = audited.told()
    assert (told.event, told.types) == ("110113", ["110126"])
    assert "CN=CT_1; it called without TLS" in told.description


@pytest.mark.parametrize(("cause", "alerts"), [(Cause.WRONG_NAME, 1), (Cause.STALLED, 0)])
def test_a_called_peer_that_is_another_is_a_security_alert_and_a_slow_one_is_none(
    audited: Audited, cause: Cause, alerts: int
) -> None:
    audited.auditing.tls_failed("ARCHIVE", "10.0.0.9", TLSFailed("words", cause, ""))
    told = audited.told()
    assert [each.types for each in told] == [["110126"]] * alerts


def test_a_thousand_refusals_of_one_address_are_told_in_few_messages(audited: Audited) -> None:
    now = 0.0
    audited.auditing = Auditing(audited.trail.audit, Crowds(lambda: now))
    request: Any = SimpleNamespace(calling_ae_title="NOBODY", called_ae_title="X")
    refused = Refused(Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED, "why")
    for _ in range(500):
        audited.auditing.tls_refused("10.0.0.66", "not TLS")
        audited.auditing.rejected("10.0.0.66", request, refused)
    audited.auditing.tls_refused("10.0.0.67", "not TLS")
    now = 60.0
    # The next to come, whoever it is, has the rest told.
    audited.auditing.ended(fake_channel(7, "CT_1", "DICOMNODE", "10.0.0.7"))
    told = audited.told()
    assert len(told) == 60 + 1 + 1
    assert told[-1].description.startswith("940 more attempts of this address")
    assert told[-1].participants[1]["NetworkAccessPointID"] == "10.0.0.66"


def identified(kind: int, primary: bytes, secondary: bytes = b"") -> Any:
    """Return an A-ASSOCIATE-RQ that names a user."""
    identity = UserIdentityRQ(kind, False, primary, secondary)
    return SimpleNamespace(
        calling_ae_title="CT_1", called_ae_title="X", find=lambda item_type: identity
    )


def test_a_user_who_was_believed_is_told(audited: Audited) -> None:
    channel = fake_channel(7, "CT_1", "DICOMNODE", "10.0.0.7")
    audited.auditing.accepted(channel)
    channel.negotiated.user = "jane"
    audited.auditing.accepted(channel)
    (told,) = audited.told()
    assert (told.event, told.outcome) == ("110114", "0")
    assert "jane" in {each["UserID"] for each in told.participants}


@pytest.mark.parametrize(("kind", "shown"), [(1, True), (2, True), (3, False), (5, False)])
def test_a_user_who_was_not_believed_is_told_without_secrets(
    audited: Audited, kind: int, shown: bool
) -> None:
    refused = Refused(Rejection.PROVIDER_NO_REASON_GIVEN, "why", reason=NOT_ACCEPTED)
    audited.auditing.rejected("10.0.0.7", identified(kind, b"jane", b"passcode"), refused)
    (told,) = audited.told()
    assert (told.event, told.outcome, told.description) == ("110114", "4", "why")
    xml = tostring(told.root)
    assert b"passcode" not in xml and (b"jane" in xml) == shown


def test_a_refused_tls_connection_and_a_trace_are_security_alerts(audited: Audited) -> None:
    audited.auditing.tls_refused("10.0.0.66", "peer showed no certificate")
    wanted = SimpleNamespace(ae_title="CT_1", asked_by="root")
    audited.auditing.traced(cast(Trace, SimpleNamespace(number=1, wanted=wanted, why="")))
    tls, trace = audited.told()
    assert (tls.event, tls.types) == ("110113", ["110126"])
    assert (trace.event, trace.types, trace.outcome) == ("110113", ["110132"], "0")


def test_whose_an_object_was_is_looked_up_before_it_is_deleted(audited: Audited) -> None:
    catalog: Any = SimpleNamespace(get=lambda uid: row() if uid == "1.2.3.4" else None)

    known = audited.auditing.whose(catalog, ["1.2.3.4", "1.2.3.5"])
    audited.trail.studies.clear()
    audited.auditing.deleted([row()], known, "jane", "sent twice")
    (told,) = audited.told()
    assert (told.event, told.action, told.study) == ("110105", "D", "1.2.3")
    assert told.patient == (JANE.patient_id, JANE.patient_name)


def test_others_can_tell_of_alerts_and_users(audited: Audited) -> None:
    audit = audited.auditing.audit
    audit.user_authenticated("jane", Peer("WS_1", "10.0.0.8"), failure="wrong passcode")
    (told,) = audited.told()
    assert (told.event, told.outcome) == ("110114", "4")
