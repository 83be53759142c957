"""The node asks pynetdicom, Orthanc and a node like itself for storage commitment (PS3.4 §J)."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from tests import peers
from tests.faults.scu import Image, store

IMAGES = [Image(number) for number in range(1, 4)]
STUDY = IMAGES[0].study_uid
MISSING = IMAGES[1].uid
NOT_HELD = 0x0112


def commit(node: peers.NodeProcess, *arguments: str) -> tuple[int, str]:
    """Run ``dicomnode commit``; return its exit code and output."""
    command = (sys.executable, "-m", "dicomnode", "commit", *arguments)
    done = peers.run_tool(*command, "--config", node.config)
    return done.returncode, done.output


def commit_json(node: peers.NodeProcess, *arguments: str) -> tuple[int, dict[str, Any]]:
    code, output = commit(node, *arguments, "--json")
    return code, json.loads(output)


@contextlib.contextmanager
def asking_node(directory: Path, title: str, address: peers.Address) -> Iterator[peers.NodeProcess]:
    """Run a node that holds the images and knows one peer."""
    entity = {"title": title, "host": address[0], "port": address[1]}
    with peers.node_process(directory, entities=[entity]) as node:
        assert store(node.dicom_address, *IMAGES) == [0] * len(IMAGES)
        yield node


# -- pynetdicom ------------------------------------------------------------------------------------


class Scp:
    """pynetdicom as SCP, which keeps all but ``missing`` and reports as it is told."""

    def __init__(self, missing: str = "", unmentioned: str = "") -> None:
        self.port = peers.free_port()
        self.missing, self.unmentioned = missing, unmentioned
        self.status = 0x0000
        self.reports_here = False
        self.asked = threading.Event()
        self.outcomes: list[int] = []
        self.request: Dataset

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        entity = AE("SCP")
        entity.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_N_ACTION, self._take)]
        server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        try:
            yield
        finally:
            server.shutdown()

    def _take(self, event: evt.Event) -> tuple[int, None]:
        self.request = event.action_information
        if self.reports_here:
            threading.Thread(target=self.report, args=(event.assoc,)).start()
        self.asked.set()
        return self.status, None

    def report(self, association: Association) -> int:
        """Report on the last request; return the status of the answer."""
        report = Dataset()
        report.TransactionUID = self.request.TransactionUID
        report.ReferencedSOPSequence, report.FailedSOPSequence = [], []
        for item in self.request.ReferencedSOPSequence:
            if item.ReferencedSOPInstanceUID == self.missing:
                item.FailureReason = NOT_HELD
                report.FailedSOPSequence.append(item)
            elif item.ReferencedSOPInstanceUID != self.unmentioned:
                report.ReferencedSOPSequence.append(item)
        if not report.FailedSOPSequence:
            del report.FailedSOPSequence
        status, _ = association.send_n_event_report(
            report,
            2 if "FailedSOPSequence" in report else 1,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        self.outcomes.append(status.get("Status", -1))
        return self.outcomes[-1]

    def report_later(self, address: peers.Address, *, title: str = "SCP", role: bool) -> int:
        """Report on an association of its own, with or without role selection."""
        entity = AE(title)
        entity.add_requested_context(StorageCommitmentPushModel, ImplicitVRLittleEndian)
        roles = [build_role(StorageCommitmentPushModel, scp_role=True)] if role else []
        association = entity.associate(*address, ae_title="DICOMNODE", ext_neg=roles)
        assert association.is_established
        if not role:
            # Whoever forgets to negotiate the role sends all the same.
            for context in association.accepted_contexts:
                context._as_scp = True
        try:
            return self.report(association)
        finally:
            association.release()


@pytest.fixture
def scp() -> Scp:
    return Scp()


@pytest.fixture
def node(tmp_path: Path, scp: Scp) -> Iterator[peers.NodeProcess]:
    with asking_node(tmp_path / "node", "SCP", ("127.0.0.1", scp.port)) as node:
        yield node


def test_pynetdicom_commits_all_on_the_association_on_which_it_was_asked(
    node: peers.NodeProcess, scp: Scp
) -> None:
    scp.reports_here = True
    with scp.listening():
        code, output = commit(node, "SCP", "--study", STUDY)
    assert (code, output.splitlines()[0]) == (0, "SCP committed all 3 objects.")
    assert scp.outcomes == [0x0000]
    asked = {item.ReferencedSOPInstanceUID for item in scp.request.ReferencedSOPSequence}
    assert asked == {image.uid for image in IMAGES}
    node.wait_for_line(r"info  asked SCP to commit 3 objects, transaction 2\.25\.")
    node.wait_for_line(r"info  SCP -> DICOMNODE #\d+ N-EVENT-REPORT \d+ 0000")
    node.wait_for_line(r"info  DICOMNODE -> SCP #\d+ association released")


def test_what_pynetdicom_does_not_keep_or_mention_is_shown(
    node: peers.NodeProcess, scp: Scp
) -> None:
    scp.reports_here, scp.missing, scp.unmentioned = True, MISSING, IMAGES[2].uid
    with scp.listening():
        code, shown = commit_json(node, "SCP", "--study", STUDY)
    assert (code, shown["state"]) == (1, "partly")
    assert (shown["committed"], shown["failed"], shown["not_mentioned"]) == (1, 1, 1)
    assert shown["failed_list"][0] | {"sop_class_uid": ""} == {
        "sop_class_uid": "",
        "sop_instance_uid": MISSING,
        "reason": "0112H",
        "words": "0112H No such object instance",
    }
    assert shown["not_mentioned_list"][0]["sop_instance_uid"] == IMAGES[2].uid
    node.wait_for_line("warn  SCP committed 1 of 3 objects")
    code, output = commit(node, "--show", shown["transaction_uid"])
    assert code == 1 and "SCP committed 1 of 3 objects." in output


@pytest.mark.parametrize("role", [True, False], ids=["role selection", "no role selection"])
def test_pynetdicom_reports_later_on_an_association_of_its_own(
    node: peers.NodeProcess, scp: Scp, role: bool
) -> None:
    with scp.listening():
        code, shown = commit_json(node, "SCP", "--study", STUDY, "--wait", "0")
        assert (code, shown["state"] in ("asking", "waiting")) == (1, True)
        assert scp.asked.wait(20)
        assert scp.report_later(node.dicom_address, role=role) == 0x0000
        # Told twice, it says so twice.
        assert scp.report_later(node.dicom_address, role=role) == 0x0000
    code, shown = commit_json(node, "--show", shown["transaction_uid"])
    assert (code, shown["state"], shown["committed"]) == (0, "committed", 3)
    name = "dicomnode_commitment_requests"
    assert peers.metric(node.http_address, name, state="committed") == 1


def test_only_whoever_was_asked_can_report(node: peers.NodeProcess, scp: Scp) -> None:
    with scp.listening():
        _, shown = commit_json(node, "SCP", "--study", STUDY, "--wait", "0")
        assert scp.asked.wait(20)
        assert scp.report_later(node.dicom_address, title="STRANGER", role=True) == 0x0115
    node.wait_for_line("warn .*N-EVENT-REPORT .* 0115.*asked of another AE title")
    explained = json.loads(peers.http_get(node.http_address, "/api/explain")[1])["explanations"]
    assert "A report counts once, from the AE title that was asked" in explained[0]["advice"][0]
    _, shown = commit_json(node, "--show", shown["transaction_uid"])
    assert shown["committed"] == 0


def test_a_report_is_taken_after_a_restart_of_the_node(node: peers.NodeProcess, scp: Scp) -> None:
    with scp.listening():
        _, shown = commit_json(node, "SCP", "--study", STUDY, "--wait", "0")
        node.wait_for_line("asked SCP to commit")
        node.close()
    entity = {"title": "SCP", "host": "127.0.0.1", "port": scp.port}
    with peers.node_process(node.config.parent, entities=[entity]) as again:
        assert scp.report_later(again.dicom_address, role=True) == 0x0000
        code, shown = commit_json(again, "--show", shown["transaction_uid"])
    assert (code, shown["state"]) == (0, "committed")


def test_a_request_that_is_refused_is_shown_with_what_to_do(
    node: peers.NodeProcess, scp: Scp
) -> None:
    scp.status = 0x0213
    with scp.listening():
        code, output = commit(node, "SCP", "--study", STUDY)
    assert code == 1 and "SCP answered 0213H Resource limitation" in output
    code, output = commit(node, "SCP", "--study", STUDY)
    assert code == 1 and "cannot connect to SCP" in output and "See whether SCP runs" in output
    node.wait_for_line("warn  SCP did not take a request for storage commitment")


def test_what_cannot_be_asked_is_said_at_once(node: peers.NodeProcess) -> None:
    for arguments, words in (
        (("NOBODY", "--study", STUDY), "'NOBODY' is not in ae.toml"),
        (("SCP", "--study", "1.2.3"), "the node holds nothing of the study 1.2.3"),
        (("SCP", "--study", "../x"), "'../x' is no UID"),
        (("SCP",), "give --study"),
        (("--show", "1.2.3"), "there is no request with this Transaction UID"),
    ):
        code, output = commit(node, *arguments)
        assert code == 1 and words in output, output


# -- Orthanc ---------------------------------------------------------------------------------------


@pytest.mark.interop("Orthanc")
@pytest.mark.parametrize("held", [3, 2])
def test_orthanc_reports_what_it_holds(tmp_path: Path, held: int) -> None:
    with contextlib.ExitStack() as stack:
        orthanc = stack.enter_context(peers.orthanc(tmp_path / "orthanc"))
        node = stack.enter_context(asking_node(tmp_path / "node", "ORTHANC", orthanc.dicom_address))
        assert orthanc.http_address is not None
        host, port = node.dicom_address
        modality = {"AET": "DICOMNODE", "Host": host, "Port": port}
        body = json.dumps(modality).encode()
        peers.http_request(orthanc.http_address, "PUT", "/modalities/node", body)
        for image in IMAGES[:held]:
            content = image.path(tmp_path / "node" / "store").read_bytes()
            assert peers.http_request(orthanc.http_address, "POST", "/instances", content)[0] == 200
        code, shown = commit_json(node, "ORTHANC", "--study", STUDY)
    assert (shown["committed"], shown["failed"], shown["not_mentioned"]) == (held, 3 - held, 0)
    assert code == (held != 3)
    if held == 2:
        (failed,) = shown["failed_list"]
        assert (failed["sop_instance_uid"], failed["reason"]) == (IMAGES[2].uid, "0112H")


# -- another node ----------------------------------------------------------------------------------


def test_a_node_commits_what_another_node_sent_it(tmp_path: Path) -> None:
    port = peers.free_port()
    with contextlib.ExitStack() as stack:
        entity = {"title": "DICOMNODE", "host": "127.0.0.1", "port": port}
        keeper = stack.enter_context(
            peers.node_process(tmp_path / "keeper", node={"ae_title": "KEEPER"}, entities=[entity])
        )
        assert store(keeper.dicom_address, *IMAGES[:2], called="KEEPER") == [0, 0]
        node = stack.enter_context(asking_node(tmp_path / "node", "KEEPER", keeper.dicom_address))
        code, shown = commit_json(node, "KEEPER", "--study", STUDY)
        assert (code, shown["state"], shown["retrieve_ae_title"]) == (1, "partly", "KEEPER")
        assert [each["sop_instance_uid"] for each in shown["failed_list"]] == [IMAGES[2].uid]
        series = IMAGES[0].series_uid
        assert store(keeper.dicom_address, IMAGES[2], called="KEEPER") == [0]
        code, shown = commit_json(node, "KEEPER", "--study", STUDY, "--series", series)
        assert (code, shown["state"], shown["committed"]) == (0, "committed", 3)
