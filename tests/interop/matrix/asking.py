"""Checks of what the node's own commands are told by an archive."""

from __future__ import annotations

import json

import pydicom
from pydicom.tag import Tag
from pydicom.uid import UID, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepRetrieve,
)

from tests.interop.matrix.world import STUDY, World
from tests.interop.samples import Sample
from tests.interop.test_mpps_pynetdicom import change, create
from tests.services.performing import completion, creation, series


def check_find(world: World, peer: str) -> None:
    """``find`` gets the study, and nothing for a study that is not there."""
    key = ("-k", "PatientName", "-k", "PatientID")
    told = json.loads(
        world.command("find", peer, "-k", f"StudyInstanceUID={STUDY}", *key, "--json")
    )
    (study,) = told
    assert study["00100010"]["Value"][0]["Alphabetic"] == "Doe^Jane", study
    assert study["00100020"]["Value"] == ["4711"], study
    assert json.loads(world.command("find", peer, "-k", "StudyInstanceUID=1.2.3", "--json")) == []


def check_get(world: World, peer: str, expected: list[Sample]) -> None:
    """``get`` brings the objects of the study."""
    folder = world.folder()
    world.command("get", peer, "--study", expected[0].study_uid, "-od", folder)
    world.check_received(list(folder.rglob("*.dcm")), expected)


def check_cancelled(world: World, peer: str) -> None:
    """``find --limit`` ends a query early and in order; the peer then answers others."""
    told = world.command("find", peer, "-k", "StudyInstanceUID", "--limit", "2", "--json")
    assert len(json.loads(told)) == 2, told
    world.command("echo", peer)


def check_names(world: World, peer: str) -> str:
    """``find`` reads the names of all samples as pydicom does."""
    for each in world.names:
        key = ("-k", f"StudyInstanceUID={each.study_uid}", "-k", "PatientName")
        (study,) = json.loads(world.command("find", peer, *key, "--json"))
        groups = study["00100010"]["Value"][0]
        parts = [groups.get(name, "") for name in ("Alphabetic", "Ideographic", "Phonetic")]
        expected = str(pydicom.dcmread(each.path).PatientName).rstrip("=")
        assert "=".join(parts).rstrip("=") == expected, each.path.name
    return f"{len(world.names)} names"


def check_worklist(world: World, peer: str) -> None:
    """``worklist query`` gets the items of one modality."""
    told = json.loads(world.command("worklist", "query", peer, "--modality", "MR", "--json"))
    names = [item["00100010"]["Value"][0]["Alphabetic"] for item in told]
    assert sorted(names) == ["BACH^ANNA", "BACH^JOHANN"], names


def perform_step(world: World, calling: str) -> str:
    """Create a step at the node as pynetdicom does, complete it and read it; return its UID."""
    uid = UID(generate_uid())
    entity = AE(calling)
    entity.add_requested_context(ModalityPerformedProcedureStep)
    entity.add_requested_context(ModalityPerformedProcedureStepRetrieve)
    association = entity.associate(*world.scp, ae_title="DICOMNODE")
    assert association.is_established
    try:
        assert create(association, creation(), uid).Status == 0x0000
        assert change(association, completion(series(images=1)), uid).Status == 0x0000
        read, step = association.send_n_get(
            [Tag("PerformedProcedureStepStatus")], ModalityPerformedProcedureStepRetrieve, uid
        )
        assert read.Status == 0x0000 and step is not None
        assert step.PerformedProcedureStepStatus == "COMPLETED"
    finally:
        association.release()
    return uid
