"""What a node tells of its peers: no patient unless switched on, and nothing that steers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pynetdicom.sop_class import ModalityPerformedProcedureStep

from tests.conftest import StartNode, StartNodeProcess
from tests.faults.scu import Image, associated
from tests.interop.test_mpps_pynetdicom import associated as mpps_association
from tests.peers import NodeProcess, http_get
from tests.query_wire import (
    ACCESSION_NUMBER,
    PATIENT_FIND,
    PATIENT_ID,
    PATIENT_NAME,
    QUERY_RETRIEVE_LEVEL,
    STUDY_INSTANCE_UID,
    querying,
)
from tests.services.performing import creation, scheduled
from tests.wire import (
    CT_IMAGE_STORAGE,
    IMPLICIT_LE,
    P_DATA,
    VERIFICATION,
    Wire,
    c_echo_rq,
    c_store_rq,
    command_set,
    pdu,
    pdv,
)
from tests.worklist_data import write_worklist_file

# What says who a patient is, wherever it was put.
TELLTALES = ("Zzyzx", "Qwertz", "ID4711", "19010203", "19020304", "ACC0815")
LINE = re.compile(r"\d{4}-\d\d-\d\dT\S+Z (debug|info |warn |error) |    ")


def keep_a_patient_busy(node: NodeProcess, worklist: Path) -> None:
    """Do with one patient's data what modalities do, and some of it wrong."""
    patient = {"patient_id": "ID4711", "patient_name": "Zzyzx^Q", "birth_date": "19010203"}
    first = Image(1, **patient)  # type: ignore[arg-type]
    other = {"patient_id": "ID4711", "patient_name": "Qwertz^P", "birth_date": "19020304"}
    with associated(node.dicom_address, "CT_1") as wire:
        for image in (
            first,
            first,
            Image(1, shade=7, **patient),  # type: ignore[arg-type]
            Image(2, study=2, **other),  # type: ignore[arg-type]
        ):
            wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set)
        # Cut short, and under the UID of another object.
        wire.store(CT_IMAGE_STORAGE, "1.2.77", first.data_set)
        wire.store(CT_IMAGE_STORAGE, "1.2.78", first.data_set[:150])
    with querying(node.dicom_address, "WS_1") as wire:
        for keys in (
            {PATIENT_NAME: "Zzyzx*", PATIENT_ID: "ID4711"},
            {PATIENT_NAME: "Zzyzx^NOBODY", PATIENT_ID: "ID4711X"},
            {ACCESSION_NUMBER: "ACC0815", STUDY_INSTANCE_UID: ""},
            {ACCESSION_NUMBER: "ACC0815" * 9, 0x00100030: "19010203x"},
        ):
            wire.find({QUERY_RETRIEVE_LEVEL: "STUDY", **keys})
            wire.find({QUERY_RETRIEVE_LEVEL: "PATIENT", **keys}, context_id=PATIENT_FIND)
        patients = {QUERY_RETRIEVE_LEVEL: "PATIENT", PATIENT_ID: "ID4711"}
        wire.get(patients)
        wire.move("NOWHERE", patients)
        wire.find(b"\x10\x00\x10\x00\xff\xff\xff\x7fZzyzx")
    patient_step = {"PatientName": "Zzyzx^Q", "PatientID": "ID4711", "AccessionNumber": "ACC0815"}
    write_worklist_file(worklist / "one.wl", **patient_step)
    write_worklist_file(worklist / "two.wl", **patient_step | {"PatientBirthDate": "nonsense"})
    write_worklist_file(worklist / "three.wl", Modality="Zzyzx ID4711 too long", **patient_step)
    with mpps_association(node.dicom_address) as association:
        step = creation(scheduled(accession="ACC0815"), PatientName="Zzyzx^Q", PatientID="ID4711")
        association.send_n_create(step, ModalityPerformedProcedureStep, "1.2.3.9")
        association.send_n_create(step, ModalityPerformedProcedureStep, "1.2.3.9")
        wrong = creation(PatientName="Zzyzx^Q", PerformedProcedureStepStatus="ID4711")
        association.send_n_create(wrong, ModalityPerformedProcedureStep, "1.2.3.10")
    node.wait_for_line("1.2.3.10|N-CREATE 3")


def told(node: NodeProcess) -> str:
    pages = [http_get(node.http_address, page)[1].decode() for page in ("/metrics", "/api/status")]
    return "\n".join([*node.lines, *pages, http_get(node.http_address, "/api/explain")[1].decode()])


@pytest.mark.parametrize("format_", ["text", "json"])
def test_no_patient_is_told_of_unless_it_is_switched_on(
    start_node_process: StartNodeProcess, tmp_path: Path, format_: str
) -> None:
    worklist = tmp_path / "worklist"
    worklist.mkdir()
    node = start_node_process(
        log={"level": "debug", "format": format_},
        worklist={"directory": str(worklist), "poll_seconds": 0.1},
    )
    keep_a_patient_busy(node, worklist)
    node.wait_for_line("three.wl")
    everything = told(node)
    assert "C-FIND" in everything and "N-CREATE" in everything
    assert [word for word in TELLTALES if word in everything] == []


def test_patients_are_told_of_where_it_is_switched_on(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    worklist = tmp_path / "worklist"
    worklist.mkdir()
    node = start_node_process(log={"level": "debug", "patient_data": True})
    keep_a_patient_busy(node, worklist)
    assert "ID4711" in told(node)


NASTY = "\x1b]0;x\x07\r\n2026-01-01T00:00:00Z info  forged \x9b31m"


@pytest.mark.parametrize("format_", ["text", "json"])
def test_nothing_that_a_peer_sends_begins_a_line_or_steers_a_terminal(
    start_node_process: StartNodeProcess, format_: str
) -> None:
    node = start_node_process(
        access={
            "unknown_ae": "allow",
            "user_identity": "optional",
            "credentials_without_tls": True,
        },
        log={"level": "debug", "format": format_},
    )
    title = NASTY[:15]
    contexts = (
        (1, VERIFICATION, (IMPLICIT_LE,)),
        (3, CT_IMAGE_STORAGE, (NASTY,)),
        (5, NASTY, (NASTY,)),
    )
    for request in (
        {"calling": title},
        {"called": title},
        {"contexts": contexts},
        {"application_context": NASTY},
        {"identity": (1, NASTY.encode(), b"")},
        {"identity": (2, NASTY.encode("latin-1"), NASTY.encode())},
    ):
        with Wire(node.dicom_address) as wire:
            wire.associate(**request)
    with associated(node.dicom_address, title) as wire:
        wire.store(CT_IMAGE_STORAGE, NASTY, Image(1).data_set)
        wire.store(CT_IMAGE_STORAGE, "1.2.3", NASTY.encode("latin-1") * 9)
    broken = c_echo_rq()[:40] + NASTY.encode("latin-1")
    fields = {0x0002: VERIFICATION, 0x0100: 0x21, 0x0110: 9, 0x0800: 0x0101}
    nasty = [command_set(fields | {tag: NASTY}) for tag in (0x0002, 0x0600, 0x1000, 0x1030)]
    for command in (*nasty, broken):
        with associated(node.dicom_address, title) as wire:
            wire.send(pdu(P_DATA, pdv(1, command, command=True)))
            wire.receive_pdu()
    with Wire(node.dicom_address) as wire:
        wire.send(NASTY.encode("latin-1"))
        wire.receive_pdu()
    http_get(node.http_address, "/%1b%5d%0d%0aforged")
    with associated(node.dicom_address, "LAST") as wire:
        wire.send(pdu(P_DATA, pdv(3, c_store_rq(1, CT_IMAGE_STORAGE, "1.2"), command=True)))
        wire.abort()
    node.wait_for_line("LAST.*aborted")
    assert len(node.lines) > 20
    for line in node.lines:
        assert line.isprintable(), repr(line)
        assert LINE.match(line) if format_ == "text" else line.startswith("{"), repr(line)


def test_stored_files_begin_with_128_zeros_whatever_becomes_of_them(start_node: StartNode) -> None:
    """A preamble could be a program of its own (PS3.10 §7.5); C-STORE has none to keep."""
    node = start_node(storage={"on_conflict": "keep_first"})
    with associated(node.dicom_address, "CT_1") as wire:
        for image in (Image(1), Image(1, shade=9), Image(2, study=2)):
            wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set)
    files = [path for path in node.store_directory.rglob("*.dcm*") if path.is_file()]
    assert len(files) >= 3 and any("quarantine" in path.parts for path in files)
    for path in files:
        assert path.read_bytes()[:132] == bytes(128) + b"DICM", path
