"""pynetdicom and dcmjs-dimse ask the node for its worklist."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import ModalityWorklistInformationFind

from tests.conftest import RunningNode, StartNode
from tests.interop import worklists
from tests.peers import eventually, http_get, run_tool
from tests.programs import find_program

HERE = Path(__file__).parent / "dcmjs"
MODEL = ModalityWorklistInformationFind


@pytest.fixture
def node(start_node: StartNode, tmp_path: Path) -> RunningNode:
    worklists.write_files(tmp_path / "files")
    return start_node(worklist={"directory": str(tmp_path / "files")})


@contextlib.contextmanager
def associated(node: RunningNode) -> Iterator[Association]:
    entity = AE("PYNETDICOM")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    entity.add_requested_context(MODEL)
    association = entity.associate(*node.dicom_address, ae_title=worklists.TITLE)
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def asked(**step: str) -> Dataset:
    ds, item = Dataset(), Dataset()
    ds.PatientName = ""
    for keyword, value in {"ScheduledProcedureStepID": "", **step}.items():
        setattr(item, keyword, value)
    ds.ScheduledProcedureStepSequence = [item]
    return ds


def found(association: Association, query: Dataset) -> tuple[list[str], int]:
    """Return the step IDs of the answers, and the final status."""
    *pending, (final, _) = association.send_c_find(query, MODEL)
    steps = [ds.ScheduledProcedureStepSequence[0] for _, ds in pending]
    return [str(step.ScheduledProcedureStepID) for step in steps], final.Status


def test_pynetdicom_asks_for_what_its_station_is_to_do(node: RunningNode) -> None:
    with associated(node) as association:
        today = {"ScheduledStationAETitle": "CT_1", "ScheduledProcedureStepStartDate": "20261121"}
        assert found(association, asked(**today)) == (["S100", "S101"], 0x0000)
        assert found(association, asked(**today, Modality="MR")) == ([], 0x0000)
        assert found(association, asked(ScheduledProcedureStepStartDate="today"))[1] == 0xA900


def test_an_empty_answer_is_explained(node: RunningNode) -> None:
    with associated(node) as association:
        query = asked(ScheduledStationAETitle="CT_9", Modality="CT")
        assert found(association, query) == ([], 0x0000)
    words = "C-FIND of the worklist by Modality, ScheduledStationAETitle"
    eventually(lambda: words in explained(node), "the explanation")
    text = explained(node)
    assert "item file:DICOMNODE/A100.wl: Scheduled Station AE Title is CT_1, asked for CT_9" in text


def explained(node: RunningNode) -> str:
    return http_get(node.http_address, "/api/explain")[1].decode()


def test_the_items_of_a_worklist_are_read_with_their_character_sets(node: RunningNode) -> None:
    with associated(node) as association:
        query = asked(Modality="NM")
        names = [
            str(ds.PatientName) for _, ds in association.send_c_find(query, MODEL) if ds is not None
        ]
    assert sorted(names) == ["MÜLLER^JÖRG", "YAMADA^TARO=山田^太郎=やまだ^たろう"]


@pytest.mark.skipif(
    find_program("node") is None or not (HERE / "node_modules" / "dcmjs-dimse").is_dir(),
    reason="dcmjs-dimse is not installed: it needs Node.js and npm",
)
def test_dcmjs_asks_for_a_modalitys_items(node: RunningNode) -> None:
    script = HERE / "worklist.cjs"
    done = run_tool("node", script, *node.dicom_address, "MR", "20261121-20261122", directory=HERE)
    assert done.returncode == 0, done.output
    assert done.output.split("\n")[:3] == [
        "item BACH^JOHANN S102",
        "item BACH^ANNA S103",
        "status 0000",
    ]
