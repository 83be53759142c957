"""The audit trail as a whole: what is told arrives, waits, is lost with an alarm, and ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dicomnode.audit import delivery as delivery_module
from dicomnode.audit import trail as trail_module
from dicomnode.audit.codes import Alert
from dicomnode.audit.events import Study
from dicomnode.audit.file import AuditFile
from dicomnode.audit.syslog import StreamReceiver, UdpReceiver
from dicomnode.audit.trail import FILE, SYSLOG, Audit
from dicomnode.errors import CatalogError
from tests import peers
from tests.audit.making import CT, CT_1, JANE, SR, WS_1, Trail, tell_everything
from tests.audit.reading import check_schema, read_file, read_syslog
from tests.audit.receivers import receiver

EVERYTHING = Counter(
    {
        "110100": 2,
        "110112": 1,
        "110113": 1,
        "110114": 2,
        "110104": 4,
        "110102": 1,
        "110103": 1,
    }
)


class Unwilling:
    """A target that takes nothing until it is told to, and then remembers."""

    batch = 100

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.tried = threading.Event()
        self.willing = threading.Event()

    def deliver(self, messages: Sequence[bytes]) -> int:
        self.tried.set()
        if not self.willing.is_set():
            raise ConnectionRefusedError(111, "Connection refused")
        self.taken += messages
        return 0

    def close(self) -> None:
        pass


@pytest.mark.interop("xmllint")
def test_what_is_told_is_in_the_file_and_satisfies_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "audit.xml"
    trail = Trail(tmp_path / "spool", {FILE: AuditFile(path)})
    trail.audit.start()
    tell_everything(trail.audit)
    trail.audit.stop()
    found = read_file(path)
    assert Counter(each.event for each in found) == EVERYTHING
    assert [found[0].types, found[-1].types] == [["110120"], ["110121"]]
    check_schema(path.read_bytes().splitlines(), tmp_path)
    assert trail.value("dicomnode_audit_messages_total", event="Query") == 1
    assert trail.lines() == ""


def test_a_study_is_one_message_for_each_outcome(tmp_path: Path) -> None:
    path = tmp_path / "audit.xml"
    trail = Trail(tmp_path / "spool", {FILE: AuditFile(path)})
    trail.audit.start()
    for _ in range(1000):
        trail.audit.received(1, "1.2.3", CT, CT_1, created=True)
    trail.audit.received(1, "1.2.3", SR, CT_1, created=True)
    trail.audit.received(1, "1.2.3", CT, CT_1, created=False, failure="A700H no room")
    trail.audit.received(2, "1.2.3", CT, CT_1, created=True)
    trail.audit.ended(1)
    trail.audit.stop()
    found = [each for each in read_file(path) if each.event == "110104"]
    assert [(each.outcome, each.sop_classes) for each in found] == [
        ("0", {CT: 1000, SR: 1}),
        ("4", {CT: 1}),
        ("0", {CT: 1}),
    ]
    assert {each.patient for each in found} == {("4711", "Doe^Jane")}


def test_an_association_that_lasts_is_written_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail_module, "MAX_SECONDS", 0.0)
    target = Unwilling()
    target.willing.set()
    trail = Trail(tmp_path, {FILE: target})
    trail.audit.start()
    trail.audit.received(1, "1.2.3", CT, CT_1, created=True)
    # Whatever comes makes it look; nothing has to.
    peers.eventually(lambda: any(b"110104" in each for each in target.taken))
    trail.audit.stop()


def test_a_flood_of_studies_on_one_association_takes_no_more_memory(tmp_path: Path) -> None:
    path = tmp_path / "audit.xml"
    trail = Trail(tmp_path / "spool", {FILE: AuditFile(path)}, spool_bytes=64 * 1024**2)
    trail.audit.start()
    for number in range(1000):
        trail.audit.received(1, f"1.2.{number}", CT, CT_1, created=True)
        assert sum(map(len, trail.audit._transfers._tallies.values())) <= 100
    trail.audit.stop()
    assert len([each for each in read_file(path) if each.event == "110104"]) == 1000


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_what_is_told_while_the_receiver_is_away_arrives_when_it_is_back(
    tmp_path: Path, transport: str
) -> None:
    with receiver(transport) as taking:
        make = UdpReceiver if transport == "udp" else StreamReceiver
        trail = Trail(tmp_path, {SYSLOG: make("127.0.0.1", taking.port)})
        trail.audit.start()
        taking.wait_for(1)
        taking.stop()
        tell_everything(trail.audit)
        peers.eventually(lambda: bool(trail.audit.figures()["targets"][0]["error"]))
        assert trail.value("dicomnode_audit_target_up", target=SYSLOG) == 0
        taking.start()
        found = [read_syslog(each) for each in taking.wait_for(10)]
        assert len({each.event for each in found}) == 6
        trail.audit.stop()
        assert "audit trail cannot be written to syslog" in trail.lines()


def test_what_waited_goes_out_after_a_restart(tmp_path: Path) -> None:
    target = Unwilling()
    first = Trail(tmp_path, {SYSLOG: target})
    first.audit.start()
    tell_everything(first.audit)
    first.audit.stop()
    assert target.taken == []
    target.willing.set()
    second = Trail(tmp_path, {SYSLOG: target})
    second.audit.start()
    second.audit.stop()
    assert Counter(read_syslog(each).event for each in target.taken) == EVERYTHING + Counter(
        {"110100": 2}
    )


def test_a_full_spool_is_an_alarm_in_log_metric_status_and_trail(tmp_path: Path) -> None:
    target = Unwilling()
    trail = Trail(tmp_path, {SYSLOG: target}, spool_bytes=8000)
    trail.audit.start()
    for _ in range(100):
        trail.audit.security_alert(Alert.NODE_AUTHENTICATION, "nobody", CT_1)
    peers.eventually(lambda: trail.audit.figures()["lost"] > 0)
    lost = trail.audit.figures()["lost"]
    cause = {"cause": "spool full"}
    assert trail.value("dicomnode_audit_messages_lost_total", **cause) == lost
    kept = trail.audit.figures()["targets"][0]
    assert 0 < kept["waiting_bytes"] <= 8000
    target.willing.set()
    peers.eventually(lambda: trail.audit.figures()["targets"][0]["waiting"] == 0)
    trail.audit.security_alert(Alert.NODE_AUTHENTICATION, "somebody", CT_1)
    gap = f"{lost} audit messages were lost".encode()
    peers.eventually(lambda: any(b"110134" in each for each in target.taken))
    trail.audit.stop()
    told = next(read_syslog(each) for each in target.taken if b"110134" in each)
    assert told.detail("110182", "Alert Description") == gap
    assert "audit messages are being lost (spool full)" in trail.lines()


def test_one_target_that_is_down_does_not_hold_up_the_other(tmp_path: Path) -> None:
    path, target = tmp_path / "audit.xml", Unwilling()
    trail = Trail(tmp_path / "spool", {SYSLOG: target, FILE: AuditFile(path)})
    trail.audit.start()
    tell_everything(trail.audit)
    peers.eventually(lambda: path.exists() and b"110102" in path.read_bytes())
    assert target.taken == []
    trail.audit.stop()


def test_a_spool_that_cannot_be_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail_module, "_TURN_SECONDS", 0.05)
    target = Unwilling()
    target.willing.set()
    trail = Trail(tmp_path, {SYSLOG: target})
    trail.audit.start()
    add = trail.audit._spool.add

    def full(entries: object) -> Counter[str]:
        raise OSError("audit.sqlite: database or disk is full")

    monkeypatch.setattr(trail.audit._spool, "add", full)
    trail.audit.user_authenticated("jane", WS_1)
    peers.eventually(lambda: bool(trail.audit.figures()["spool_error"]))
    monkeypatch.setattr(trail.audit._spool, "add", add)
    peers.eventually(lambda: any(b"110114" in each for each in target.taken))
    assert trail.audit.figures()["spool_error"] == ""
    assert trail.audit.figures()["lost"] == 0
    trail.audit.stop()


def test_what_was_delivered_is_not_sent_again_while_the_spool_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "_FIRST_PAUSE_SECONDS", 0.01)
    target = Unwilling()
    target.willing.set()
    trail = Trail(tmp_path, {SYSLOG: target})
    forget, failed = trail.audit._spool.forget, threading.Semaphore(0)

    def full(*what: object) -> None:
        failed.release()
        raise OSError("audit.sqlite: database or disk is full")

    monkeypatch.setattr(trail.audit._spool, "forget", full)
    trail.audit.start()
    for _ in range(3):
        assert failed.acquire(timeout=40)
    monkeypatch.setattr(trail.audit._spool, "forget", forget)
    peers.eventually(
        lambda: (
            trail.value("dicomnode_audit_target_up", target=SYSLOG) == 1
            and trail.audit.figures()["targets"][0]["waiting"] == 0
        )
    )
    trail.audit.stop()
    assert len(target.taken) == 2


def test_a_message_that_cannot_be_made_costs_no_other(tmp_path: Path) -> None:
    target = Unwilling()
    target.willing.set()
    trail = Trail(tmp_path, {SYSLOG: target})

    def broken(uid: str) -> Study:
        raise RuntimeError("broken")

    trail.audit._studies = broken
    trail.audit.start()
    tell_everything(trail.audit)
    trail.audit.stop()
    assert Counter(read_syslog(each).event for each in target.taken)["110114"] == 2
    assert trail.audit.figures()["lost"] == 6


def test_an_index_that_cannot_be_read_leaves_the_patient_out(tmp_path: Path) -> None:
    target = Unwilling()
    target.willing.set()
    trail = Trail(tmp_path, {SYSLOG: target})

    def failing(uid: str) -> Study:
        raise CatalogError("index failed")

    trail.audit._studies = failing
    trail.audit.start()
    trail.audit.sending("1.2.3", WS_1)
    trail.audit.stop()
    begun = [read_syslog(each) for each in target.taken if b"110102" in each]
    assert [each.patient for each in begun] == [("<none>", "<none>")]


@pytest.mark.parametrize(("left", "event"), [(True, "110103"), (False, "110105")])
def test_what_is_deleted_is_a_study_when_nothing_of_it_is_left(
    tmp_path: Path, left: bool, event: str
) -> None:
    target = Unwilling()
    target.willing.set()
    trail = Trail(tmp_path, {SYSLOG: target})
    if not left:
        trail.studies.clear()
    trail.audit.start()
    trail.audit.deleted("1.2.3", CT, JANE)
    trail.audit.stop()
    _, told, _ = (read_syslog(each) for each in target.taken)
    assert (told.event, told.patient) == (event, ("4711", "Doe^Jane"))


def test_a_trail_that_is_off_takes_nothing(tmp_path: Path) -> None:
    from dicomnode.observe.logs import Log
    from dicomnode.settings import LogSettings

    audit = Audit(None, Log(LogSettings()).logger, CollectorRegistry(), lambda uid: None)
    tell_everything(audit)
    assert not audit._queue
    assert audit.figures() == {"enabled": False, "lost": 0, "spool_error": "", "targets": []}
