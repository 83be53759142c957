"""Orthanc, which its REST interface has call the node and hand out what it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom

from tests import peers
from tests.interop import worklists
from tests.interop.matrix import packages
from tests.interop.matrix.asking import (
    check_cancelled,
    check_find,
    check_get,
    check_names,
    check_worklist,
)
from tests.interop.matrix.cells import Role, new_peer
from tests.interop.matrix.traced import tls_traced
from tests.interop.matrix.world import BIG_WORDS, STUDY, World
from tests.interop.samples import Sample
from tests.interop.test_orthanc import ask, call, look_up, upload

ORTHANC = new_peer("Orthanc", lambda: packages.version("orthanc"), lambda: packages.has("Orthanc"))
ORTHANC.lacks(Role.SCP, "get", why="this version asks with C-MOVE only")
ORTHANC.lacks(Role.SCP, "cancel", "MPPS", "user identity", why="nothing in its interface")
ORTHANC.lacks(Role.SCU, "MPPS")
PLUGIN = Path("/usr/share/orthanc/plugins/libModalityWorklists.so")


def running(world: World) -> peers.Peer:
    """Return the Orthanc that most cells share; it knows the node, and the node knows it."""

    @contextlib.contextmanager
    def started() -> Iterator[peers.Peer]:
        folder, modality = world.folder(), ["DICOMNODE", *world.scp]
        worklists.write_files(folder / "worklist", "any")
        settings = {
            "DefaultEncoding": "Utf8",
            "Plugins": [str(PLUGIN)] if PLUGIN.exists() else [],
            "Worklists": {"Enable": True, "Database": str(folder / "worklist" / "any")},
            "DicomModalities": {"node": modality, "DICOMNODE": modality},
        }
        with peers.orthanc(folder / "orthanc", **settings) as peer:
            world.ways["ORTHANC"].target = peer.dicom_address
            yield peer

    return world.shared("orthanc", started)


def ordered(orthanc: peers.Peer, path: str, value: object) -> Any:
    """POST; return the answer of an order that was carried out."""
    status, answer = call(orthanc, "POST", path, value)
    assert status == 200, answer
    return answer


def received(world: World, orthanc: peers.Peer, *expected: Sample) -> None:
    """Check that Orthanc holds objects as they are."""
    assert orthanc.http_address is not None
    files = []
    for each in expected:
        (name,) = look_up(orthanc, each.sop_instance_uid)
        file = world.folder() / "received.dcm"
        file.write_bytes(peers.http_get(orthanc.http_address, f"/instances/{name}/file")[1])
        files.append(file)
    world.check_received(files, list(expected))


def uploaded(orthanc: peers.Peer, *samples: Sample) -> list[str]:
    """Give Orthanc objects; return its names of them."""
    names = [upload(orthanc, each.path) for each in samples]
    assert None not in names
    return [name for name in names if name]


@ORTHANC.cell(Role.SCP, "echo")
def echo(world: World) -> None:
    ordered(running(world), "/modalities/node/echo", {})


def _sent(world: World, *samples: Sample) -> None:
    orthanc = running(world)
    report = ordered(orthanc, "/modalities/node/store", uploaded(orthanc, *samples))
    assert report["FailedInstancesCount"] == 0, report
    world.check_stored(*samples)


@ORTHANC.cell(Role.SCP, "store")
def store(world: World) -> None:
    _sent(world, world.fresh())


@ORTHANC.cell(Role.SCP, "compressed")
def compressed(world: World) -> None:
    _sent(world, *(world.fresh(each) for each in world.compressed))


@ORTHANC.cell(Role.SCP, "big object")
def big(world: World) -> str:
    _sent(world, world.big())
    return BIG_WORDS


@ORTHANC.cell(Role.SCP, "find")
def find(world: World) -> None:
    _, answers = ask(running(world), "Study", StudyInstanceUID=STUDY, PatientName="")
    assert [each["PatientName"] for each in answers] == ["Doe^Jane"]


@ORTHANC.cell(Role.SCP, "character sets")
def names(world: World) -> str:
    for each in world.names:
        (found,) = ask(running(world), "Study", StudyInstanceUID=each.study_uid, PatientName="")[1]
        expected = str(pydicom.dcmread(each.path).PatientName)
        assert found["PatientName"].rstrip("=") == expected.rstrip("="), each.path.name
    return f"{len(world.names)} names"


@ORTHANC.cell(Role.SCP, "move")
def move(world: World) -> None:
    orthanc = running(world)
    path, _ = ask(orthanc, "Study", StudyInstanceUID=STUDY)
    ordered(orthanc, f"{path}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
    received(world, orthanc, *world.study)


@ORTHANC.cell(Role.SCP, "worklist")
def worklist(world: World) -> None:
    query = {"PatientName": "", "ScheduledProcedureStepSequence": [{"Modality": "MR"}]}
    found = ordered(running(world), "/modalities/node/find-worklist", query)
    assert sorted(each["PatientName"] for each in found) == ["BACH^ANNA", "BACH^JOHANN"], found


@ORTHANC.cell(Role.SCP, "commitment")
def commitment(world: World) -> None:
    orthanc = running(world)
    wanted = [
        {"SOPClassUID": each.sop_class_uid, "SOPInstanceUID": each.sop_instance_uid}
        for each in [*world.study, world.fresh()]
    ]
    order = {"DicomInstances": wanted}
    transaction = ordered(orthanc, "/modalities/node/storage-commitment", order)
    report: dict[str, Any] = {}

    def has_come() -> bool:
        report.update(call(orthanc, "GET", transaction["Path"], None)[1])
        return report["Status"] != "Pending"

    peers.eventually(has_come, "the report", timeout=30)
    counts = len(report["Success"]), len(report["Failures"])
    assert (report["Status"], *counts) == ("Failure", 3, 1), report


@contextlib.contextmanager
def secure(world: World) -> Iterator[peers.Peer]:
    """Run an Orthanc that takes TLS only."""
    shown = world.certificate("orthanc")
    node = {"AET": "DICOMNODE", "Host": "localhost", "Port": world.node.tls_address[1]}
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(shown.certificate),
        "DicomTlsPrivateKey": str(shown.key),
        "DicomTlsTrustedCertificates": str(world.authority.ca),
        "DicomModalities": {"node": node | {"UseDicomTls": True, "LocalAet": "ORTHANC_TLS"}},
    }
    with peers.orthanc(world.folder(), **settings) as peer:
        yield peer


@ORTHANC.cell(Role.SCP, "TLS")
def tls(world: World) -> None:
    sent = world.fresh()
    with secure(world) as orthanc:
        names = uploaded(orthanc, sent)
        with tls_traced(world, "ORTHANC_TLS"):
            ordered(orthanc, "/modalities/node/store", names)
    world.check_stored(sent)


# -- the node calls ----------------------------------------------------------------------------


@ORTHANC.cell(Role.SCU, "echo")
def asked_echo(world: World) -> None:
    world.command("echo", _peer(world))


def _peer(world: World, *held: Sample) -> str:
    """Return how the command line writes the Orthanc, once it holds objects."""
    orthanc = running(world)
    uploaded(orthanc, *held)
    return world.at("ORTHANC", orthanc.dicom_address)


@ORTHANC.cell(Role.SCU, "store")
def asked_store(world: World) -> None:
    _received(world, world.fresh())


def _received(world: World, *sent: Sample) -> None:
    world.command("send", _peer(world), *(each.path for each in sent))
    received(world, running(world), *sent)


@ORTHANC.cell(Role.SCU, "compressed")
def asked_compressed(world: World) -> None:
    _received(world, *(world.fresh(each) for each in world.compressed))


@ORTHANC.cell(Role.SCU, "big object")
def asked_big(world: World) -> str:
    _received(world, world.big())
    return BIG_WORDS


@ORTHANC.cell(Role.SCU, "find")
def asked_find(world: World) -> None:
    check_find(world, _peer(world, *world.study))


@ORTHANC.cell(Role.SCU, "get")
def asked_get(world: World) -> None:
    check_get(world, _peer(world, *world.study), world.study)


@ORTHANC.cell(Role.SCU, "move")
def asked_move(world: World) -> None:
    sent = world.fresh()
    peer = _peer(world, sent)
    world.command("move", peer, "--study", sent.study_uid, "--to", "DICOMNODE")
    world.check_stored(sent)


@ORTHANC.cell(Role.SCU, "cancel")
def asked_cancel(world: World) -> None:
    check_cancelled(world, _peer(world, *(world.fresh() for _ in range(20))))


@ORTHANC.cell(Role.SCU, "worklist")
def asked_worklist(world: World) -> None:
    check_worklist(world, _peer(world))


@ORTHANC.cell(
    *(Role.SCU, "character sets"),
    known="it reads names of ISO 2022 sets with its first set alone (chrH32.dcm)",
)
def asked_names(world: World) -> str:
    return check_names(world, _peer(world, *world.names))


@ORTHANC.cell(Role.SCU, "commitment")
def asked_commitment(world: World) -> None:
    _peer(world, *world.study)
    assert "committed all 3 objects" in world.commit("ORTHANC")


@ORTHANC.cell(Role.SCU, "TLS")
def asked_tls(world: World) -> None:
    ours, sent = world.certificate("node"), world.fresh()
    with secure(world) as orthanc:
        tls = ("+tls", ours.key, ours.certificate, "+cf", world.authority.ca)
        peer = f"ORTHANC@localhost:{orthanc.dicom_address[1]}"
        world.command("send", peer, sent.path, *tls)
        received(world, orthanc, sent)
