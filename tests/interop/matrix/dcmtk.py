"""DCMTK: its command line tools, storescp, dcmqrscp and wlmscpfs."""

from __future__ import annotations

from pathlib import Path

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
from tests.interop.matrix.world import BIG_WORDS, PASSCODE, STUDY, USER, World, succeeded
from tests.peers import run_tool

DCMTK = new_peer("DCMTK", lambda: packages.version("dcmtk"), lambda: packages.has("storescu"))
CALL = ("-aet", "DCMTK", "-aec", "DICOMNODE")
OF_STUDY = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}")
NO_TOOL = "no tool for it"
DCMTK.lacks(Role.SCP, "MPPS", "commitment", why=NO_TOOL)
DCMTK.lacks(Role.SCU, "MPPS", "commitment", why=NO_TOOL)


@DCMTK.cell(Role.SCP, "echo")
def echo(world: World) -> None:
    """echoscu."""
    succeeded(run_tool("echoscu", "-v", *CALL, *world.scp), "Received Echo Response (Success)")


@DCMTK.cell(Role.SCP, "store")
def store(world: World) -> None:
    """storescu."""
    sent = world.fresh()
    succeeded(run_tool("storescu", *CALL, *world.scp, sent.path))
    world.check_stored(sent)


@DCMTK.cell(Role.SCP, "find")
def find(world: World) -> None:
    """findscu, whose answers are read from its files."""
    assert [each.PatientName for each in _found(world, "-S", *OF_STUDY)] == ["Doe^Jane"]


def _found(world: World, *arguments: str) -> list[pydicom.Dataset]:
    folder = world.folder()
    keys = ("-k", "PatientName", "-X", "-od", folder)
    succeeded(run_tool("findscu", *arguments, *keys, *CALL, *world.scp))
    return [pydicom.dcmread(path) for path in sorted(folder.glob("rsp*.dcm"))]


@DCMTK.cell(Role.SCP, "get")
def get(world: World) -> None:
    """getscu."""
    folder = world.folder()
    succeeded(run_tool("getscu", "-S", *OF_STUDY, "+B", "-od", folder, *CALL, *world.scp))
    world.check_received(list(folder.iterdir()), world.study)


@DCMTK.cell(Role.SCP, "move")
def move(world: World) -> None:
    """movescu, to storescp."""
    with peers.storescp(world.folder()) as scp:
        world.ways["DCMTK"].target = scp.dicom_address
        succeeded(run_tool("movescu", "-S", *OF_STUDY, "-aem", "DCMTK", *CALL, *world.scp))
        world.check_received(list(scp.directory.iterdir()), world.study)


@DCMTK.cell(Role.SCP, "cancel")
def cancel(world: World) -> None:
    """findscu --cancel after the first match."""
    every = ("-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID")
    done = run_tool("findscu", "-d", "-S", "--cancel", "1", *every, *CALL, *world.scp)
    succeeded(done, "Sending Cancel Request")
    assert "Cancel: Matching Terminated" in done.output or "Success" in done.output


@DCMTK.cell(Role.SCP, "worklist")
def worklist(world: World) -> None:
    """findscu -W."""
    step = "(0040,0100)[0]."
    found = _found(world, "-W", "-k", f"{step}Modality=MR", "-k", f"{step}ScheduledProcedureStepID")
    assert {str(each.PatientName) for each in found} == {"BACH^JOHANN", "BACH^ANNA"}


@DCMTK.cell(Role.SCP, "TLS")
def tls(world: World) -> None:
    """storescu over TLS with a certificate; the node's own trace is dissected."""
    sent, shown = world.fresh(), world.certificate("DCMTK")
    keys = ("+tls", shown.key, shown.certificate, "+cf", world.authority.ca)
    with tls_traced(world, "DCMTK"):
        succeeded(run_tool("storescu", *keys, *CALL, *world.node.tls_address, sent.path))
    world.check_stored(sent)


@DCMTK.cell(Role.SCP, "compressed")
def compressed(world: World) -> str:
    """storescu in each file's own transfer syntax."""
    sent = [world.fresh(each) for each in world.compressed]
    options = ("-xf", _storescu_profile(world), "Default")
    for each in sent:
        succeeded(run_tool("storescu", *options, *CALL, *world.scp, each.path))
    world.check_stored(*sent)
    return "JPEG 2000, RLE, JPEG"


def _storescu_profile(world: World) -> Path:
    pairs = sorted({(each.sop_class_uid, each.transfer_syntax_uid) for each in world.compressed})
    lines = ["[[TransferSyntaxes]]"]
    for number, (_, syntax) in enumerate(pairs):
        lines += [f"[S{number}]", f"TransferSyntax1 = {syntax}"]
    lines += ["[[PresentationContexts]]", "[Contexts]"]
    for number, (sop_class, _) in enumerate(pairs):
        lines.append(f"PresentationContext{number + 1} = {sop_class}\\S{number}")
    lines += ["[[Profiles]]", "[Default]", "PresentationContexts = Contexts"]
    path = world.folder() / "storescu.cfg"
    path.write_text("\n".join(lines) + "\n")
    return path


@DCMTK.cell(Role.SCP, "character sets")
def names(world: World) -> str:
    """findscu of studies whose names are in the character sets of the world."""
    for each in world.names:
        study = f"StudyInstanceUID={each.study_uid}"
        (answer,) = _found(world, "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", study)
        expected = pydicom.dcmread(each.path).PatientName
        assert str(answer.PatientName) == str(expected), each.path.name
    return f"{len(world.names)} names"


@DCMTK.cell(Role.SCP, "big object")
def big(world: World) -> str:
    """storescu."""
    sent = world.big()
    succeeded(run_tool("storescu", *CALL, *world.scp, sent.path, timeout=120))
    world.check_stored(sent)
    return BIG_WORDS


@DCMTK.cell(Role.SCP, "user identity")
def identity(world: World) -> None:
    """storescu with name and passcode; a wrong one is rejected."""
    sent = world.fresh()
    call = ("-rsp", "-usr", USER, "-aet", "IDENTIFIED", "-aec", "DICOMNODE", "-pwd")
    wrong = run_tool("storescu", *call, "wrong", *world.scp, sent.path)
    assert wrong.returncode and not sent.stored_path(world.store).exists()
    succeeded(run_tool("storescu", *call, PASSCODE, *world.scp, sent.path))
    world.check_stored(sent)


# -- the node calls ----------------------------------------------------------------------------


@DCMTK.cell(Role.SCU, "echo")
def asked_echo(world: World) -> None:
    """storescp answers ``dicomnode echo``."""
    with peers.storescp(world.folder()) as scp:
        world.command("echo", world.at("STORESCP", scp.dicom_address))


@DCMTK.cell(Role.SCU, "store")
def asked_store(world: World) -> None:
    """storescp takes what ``dicomnode send`` sends."""
    with peers.storescp(world.folder()) as scp:
        paths = [each.path for each in world.study]
        world.command("send", world.at("STORESCP", scp.dicom_address), *paths)
        world.check_received(list(scp.directory.iterdir()), world.study)


@DCMTK.cell(Role.SCU, "find")
def asked_find(world: World) -> None:
    """dcmqrscp answers ``dicomnode find``."""
    with peers.dcmqrscp(world.folder(), [each.path for each in world.study]) as scp:
        check_find(world, world.at("DCMQRSCP", scp.dicom_address))


@DCMTK.cell(Role.SCU, "get")
def asked_get(world: World) -> None:
    """dcmqrscp answers ``dicomnode get``."""
    with peers.dcmqrscp(world.folder(), [each.path for each in world.study]) as scp:
        check_get(world, world.at("DCMQRSCP", scp.dicom_address), world.study)


@DCMTK.cell(Role.SCU, "move")
def asked_move(world: World) -> None:
    """dcmqrscp moves to the node what ``dicomnode move`` asks for."""
    sent = world.fresh()
    destinations = {"DICOMNODE": world.scp}
    with peers.dcmqrscp(world.folder(), [sent.path], destinations=destinations) as scp:
        peer = world.at("DCMQRSCP", scp.dicom_address)
        world.command("move", peer, "--study", sent.study_uid, "--to", "DICOMNODE")
    world.check_stored(sent)


@DCMTK.cell(Role.SCU, "cancel")
def asked_cancel(world: World) -> None:
    """dcmqrscp is told to stop after two matches."""
    studies = [world.fresh() for _ in range(20)]
    with peers.dcmqrscp(world.folder(), [each.path for each in studies]) as scp:
        check_cancelled(world, world.at("DCMQRSCP", scp.dicom_address))


@DCMTK.cell(Role.SCU, "worklist")
def asked_worklist(world: World) -> None:
    """wlmscpfs answers ``dicomnode worklist query``."""
    files = world.folder() / "worklists"
    worklists.write_files(files, "WLMSCPFS")
    with peers.wlmscpfs(files) as scp:
        check_worklist(world, world.at("WLMSCPFS", scp.dicom_address))


@DCMTK.cell(Role.SCU, "TLS")
def asked_tls(world: World) -> None:
    """storescp over TLS, both sides with certificates."""
    theirs, ours = world.certificate("storescp"), world.certificate("node")
    options = ("+tls", str(theirs.key), str(theirs.certificate), "+cf", str(world.authority.ca))
    with peers.storescp(world.folder(), *options) as scp:
        peer = f"STORESCP@localhost:{scp.dicom_address[1]}"
        tls = ("+tls", ours.key, ours.certificate, "+cf", world.authority.ca)
        world.command("send", peer, world.study[0].path, *tls)
        world.check_received(list(scp.directory.iterdir()), world.study[:1])


@DCMTK.cell(Role.SCU, "compressed")
def asked_compressed(world: World) -> str:
    """storescp takes compressed objects in their own transfer syntaxes."""
    with peers.storescp(world.folder()) as scp:
        paths = [each.path for each in world.compressed]
        world.command("send", world.at("STORESCP", scp.dicom_address), *paths)
        received = list(scp.directory.iterdir())
        world.check_received(received, world.compressed)
    return "JPEG 2000, RLE, JPEG"


@DCMTK.cell(Role.SCU, "character sets")
def asked_names(world: World) -> str:
    """dcmqrscp's answers to ``dicomnode find``."""
    with peers.dcmqrscp(world.folder(), [each.path for each in world.names]) as scp:
        return check_names(world, world.at("DCMQRSCP", scp.dicom_address))


@DCMTK.cell(Role.SCU, "big object")
def asked_big(world: World) -> str:
    """storescp."""
    sent = world.big()
    with peers.storescp(world.folder()) as scp:
        peer = world.at("STORESCP", scp.dicom_address)
        world.command("send", peer, sent.path)
        world.check_received(list(scp.directory.iterdir()), [sent])
    return BIG_WORDS
