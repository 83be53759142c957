"""pynetdicom, in this process."""

from __future__ import annotations

import contextlib
import queue
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import (
    CTImageStorage,
    ModalityWorklistInformationFind,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from tests.interop import test_commitment_scp, test_commitment_scu, worklists
from tests.interop.holdings import identifier
from tests.interop.matrix import packages
from tests.interop.matrix.asking import (
    check_cancelled,
    check_find,
    check_get,
    check_names,
    check_worklist,
    perform_step,
)
from tests.interop.matrix.cells import Role, new_peer
from tests.interop.matrix.traced import tls_traced
from tests.interop.matrix.world import BIG_WORDS, PASSCODE, STUDY, USER, World, check_same
from tests.interop.pynet_archive import pynet_archive
from tests.interop.samples import Sample
from tests.interop.test_tls import served
from tests.peers import Address, eventually
from tests.secure_wire import trusting
from tests.step_scp import StepSCP, step_scp

PYNETDICOM = new_peer("pynetdicom", lambda: packages.python_version("pynetdicom"), lambda: True)
FIND = StudyRootQueryRetrieveInformationModelFind
GET = StudyRootQueryRetrieveInformationModelGet
MOVE = StudyRootQueryRetrieveInformationModelMove


@contextlib.contextmanager
def associated(
    world: World,
    *contexts: str,
    syntaxes: list[str] | None = None,
    calling: str = "PYNETDICOM",
    address: Address | None = None,
    **options: Any,
) -> Iterator[Association]:
    """Call the node."""
    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
    for context in contexts:
        entity.add_requested_context(context, syntaxes)
    association = entity.associate(*(address or world.scp), ae_title="DICOMNODE", **options)
    assert association.is_established, "no association"
    try:
        yield association
    finally:
        association.release()


def stored(association: Association, *sent: Sample) -> None:
    """C-STORE each."""
    for each in sent:
        status = association.send_c_store(pydicom.dcmread(each.path))
        assert status.get("Status") == 0, status


@contextlib.contextmanager
def storing(world: World, context: ssl.SSLContext | None = None) -> Iterator[tuple[Path, Address]]:
    """Take every object in every transfer syntax, into a directory."""
    folder = world.folder()

    def take(event: evt.Event) -> int:
        received = event.dataset
        received.file_meta = event.file_meta
        received.save_as(folder / f"{received.SOPInstanceUID}.dcm", enforce_file_format=True)
        return 0x0000

    entity = AE("PYNETDICOM")
    entity.add_supported_context(Verification)
    for supported in AllStoragePresentationContexts:
        assert supported.abstract_syntax is not None
        entity.add_supported_context(supported.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    handlers = [(evt.EVT_C_STORE, take)]
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=context
    )
    assert server is not None
    try:
        yield folder, server.server_address[:2]
    finally:
        server.shutdown()


@contextlib.contextmanager
def archive_of(world: World, *held: Sample, destination: Address | None = None) -> Iterator[str]:
    """Run an archive that holds objects; yields how the command line writes it."""
    with pynet_archive({"DICOMNODE": destination or world.scp}) as (archive, address):
        for each in held:
            archive.held[each.sop_instance_uid] = pydicom.dcmread(each.path)
        yield world.at("PYNETDICOM", address)


@PYNETDICOM.cell(Role.SCP, "echo")
def echo(world: World) -> None:
    with associated(world, Verification) as association:
        assert association.send_c_echo().Status == 0


@PYNETDICOM.cell(Role.SCP, "store")
def store(world: World) -> None:
    sent = world.fresh()
    with associated(world, sent.sop_class_uid, syntaxes=[sent.transfer_syntax_uid]) as association:
        stored(association, sent)
    world.check_stored(sent)


def found(world: World, model: str, query: Dataset) -> list[Dataset]:
    """C-FIND; return the matches of a query that ended well."""
    with associated(world, model) as association:
        *pending, (final, _) = association.send_c_find(query, model)
    assert final.Status == 0, final
    return [match for _, match in pending]


@PYNETDICOM.cell(Role.SCP, "find")
def find(world: World) -> None:
    (match,) = found(world, FIND, identifier("STUDY", StudyInstanceUID=STUDY, PatientName=""))
    assert match.PatientName == "Doe^Jane"


@PYNETDICOM.cell(Role.SCP, "get")
def get(world: World) -> None:
    folder = world.folder()

    def take(event: evt.Event) -> int:
        received = event.dataset
        received.file_meta = event.file_meta
        received.save_as(folder / received.SOPInstanceUID, enforce_file_format=True)
        return 0x0000

    options = {
        "ext_neg": [build_role(CTImageStorage, scp_role=True)],
        "evt_handlers": [(evt.EVT_C_STORE, take)],
    }
    with associated(world, GET, CTImageStorage, **options) as association:
        query = identifier("STUDY", StudyInstanceUID=STUDY)
        *_, (final, _) = association.send_c_get(query, GET)
    assert (final.Status, final.NumberOfCompletedSuboperations) == (0, 3)
    world.check_received(list(folder.iterdir()), world.study)


@PYNETDICOM.cell(Role.SCP, "move")
def move(world: World) -> None:
    with storing(world) as (folder, address), associated(world, MOVE) as association:
        world.ways["PYNETDICOM"].target = address
        query = identifier("STUDY", StudyInstanceUID=STUDY)
        *_, (final, _) = association.send_c_move(query, "PYNETDICOM", MOVE)
        assert (final.Status, final.NumberOfCompletedSuboperations) == (0, 3)
        world.check_received(list(folder.iterdir()), world.study)


@PYNETDICOM.cell(Role.SCP, "cancel")
def cancel(world: World) -> str:
    with associated(world, FIND, Verification) as association:
        answers = association.send_c_find(identifier("STUDY", StudyInstanceUID=""), FIND, msg_id=7)
        next(answers)
        association.send_c_cancel(7, query_model=FIND)
        *_, (final, _) = answers
        assert final.Status in (0xFE00, 0x0000), final
        assert association.send_c_echo().Status == 0
    return f"{final.Status:04X}H"


@PYNETDICOM.cell(Role.SCP, "worklist")
def worklist(world: World) -> None:
    step = Dataset()
    step.Modality = "MR"
    query = Dataset()
    query.PatientName, query.ScheduledProcedureStepSequence = "", [step]
    names = [str(each.PatientName) for each in found(world, ModalityWorklistInformationFind, query)]
    assert sorted(names) == ["BACH^ANNA", "BACH^JOHANN"], names


@PYNETDICOM.cell(Role.SCP, "MPPS")
def mpps(world: World) -> None:
    perform_step(world, "PYNETDICOM")


@PYNETDICOM.cell(Role.SCP, "commitment")
def commitment(world: World) -> None:
    reports: queue.Queue[Dataset] = queue.Queue()

    def take(event: evt.Event) -> tuple[int, None]:
        reports.put(event.event_information)
        return 0x0000, None

    wanted = [(each.sop_class_uid, each.sop_instance_uid) for each in world.study]
    missing = (CTImageStorage, generate_uid())
    handlers = [(evt.EVT_N_EVENT_REPORT, take)]
    with associated(world, StorageCommitmentPushModel, evt_handlers=handlers) as association:
        test_commitment_scp.ask(association, [*wanted, missing])
        report = reports.get(timeout=20)
    committed = {each.ReferencedSOPInstanceUID for each in report.ReferencedSOPSequence}
    failed = {each.ReferencedSOPInstanceUID for each in report.FailedSOPSequence}
    assert (committed, failed) == ({uid for _, uid in wanted}, {missing[1]})


@PYNETDICOM.cell(Role.SCP, "TLS")
def tls(world: World) -> None:
    sent = world.fresh()
    context = trusting(world.authority, world.certificate("PYNETDICOM"))
    options: dict[str, Any] = {
        "address": ("127.0.0.1", world.node.tls_address[1]),
        "tls_args": (context, "localhost"),
    }
    with tls_traced(world, "PYNETDICOM"), associated(world, CTImageStorage, **options) as calling:
        stored(calling, sent)
    world.check_stored(sent)


@PYNETDICOM.cell(Role.SCP, "compressed")
def compressed(world: World) -> str:
    sent = [world.fresh(each) for each in world.compressed]
    for each in sent:
        syntaxes = [each.transfer_syntax_uid]
        with associated(world, each.sop_class_uid, syntaxes=syntaxes) as association:
            stored(association, each)
    world.check_stored(*sent)
    return ""


@PYNETDICOM.cell(Role.SCP, "character sets")
def names(world: World) -> str:
    for each in world.names:
        query = identifier("STUDY", StudyInstanceUID=each.study_uid, PatientName="")
        (match,) = found(world, FIND, query)
        expected = pydicom.dcmread(each.path).PatientName
        assert str(match.PatientName) == str(expected), each.path.name
    return f"{len(world.names)} names"


@PYNETDICOM.cell(Role.SCP, "big object")
def big(world: World) -> str:
    sent = world.big()
    with associated(world, CTImageStorage, syntaxes=[sent.transfer_syntax_uid]) as association:
        stored(association, sent)
    world.check_stored(sent)
    return BIG_WORDS


@PYNETDICOM.cell(Role.SCP, "user identity")
def identity(world: World) -> None:
    said = UserIdentityNegotiation()
    said.user_identity_type, said.positive_response_requested = 2, True
    said.primary_field = USER.encode()
    for passcode in ("wrong", PASSCODE):
        said.secondary_field = passcode.encode()
        entity = AE("IDENTIFIED")
        entity.add_requested_context(Verification)
        association = entity.associate(*world.scp, ae_title="DICOMNODE", ext_neg=[said])
        assert association.is_established is (passcode == PASSCODE), passcode
    assert association.acceptor.user_identity is not None
    assert association.send_c_echo().Status == 0
    association.release()


# -- the node calls ----------------------------------------------------------------------------


@PYNETDICOM.cell(Role.SCU, "echo")
def asked_echo(world: World) -> None:
    with storing(world) as (_, address):
        world.command("echo", world.at("PYNETDICOM", address))


def _sent(world: World, *samples: Sample) -> None:
    with storing(world) as (folder, address):
        paths = [each.path for each in samples]
        world.command("send", world.at("PYNETDICOM", address), *paths)
        world.check_received(list(folder.iterdir()), list(samples))


@PYNETDICOM.cell(Role.SCU, "store")
def asked_store(world: World) -> None:
    _sent(world, *world.study)


@PYNETDICOM.cell(Role.SCU, "find")
def asked_find(world: World) -> None:
    with archive_of(world, *world.study[:1]) as peer:
        check_find(world, peer)


@PYNETDICOM.cell(Role.SCU, "get")
def asked_get(world: World) -> None:
    with archive_of(world, *world.study) as peer:
        check_get(world, peer, world.study)


@PYNETDICOM.cell(Role.SCU, "move")
def asked_move(world: World) -> None:
    sent = world.fresh()
    with archive_of(world, sent) as peer:
        world.command("move", peer, "--study", sent.study_uid, "--to", "DICOMNODE")
    world.check_stored(sent)


@PYNETDICOM.cell(Role.SCU, "cancel")
def asked_cancel(world: World) -> None:
    with archive_of(world, *(world.fresh() for _ in range(20))) as peer:
        check_cancelled(world, peer)


@PYNETDICOM.cell(Role.SCU, "worklist")
def asked_worklist(world: World) -> None:
    def answer(event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        wanted = event.identifier.ScheduledProcedureStepSequence[0].Modality
        for _, each in worklists.items():
            if each.ScheduledProcedureStepSequence[0].Modality == wanted:
                yield 0xFF00, each

    entity = AE("RIS")
    entity.add_supported_context(ModalityWorklistInformationFind)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answer)]
    )
    assert server is not None
    try:
        check_worklist(world, world.at("RIS", server.server_address[:2]))
    finally:
        server.shutdown()


@PYNETDICOM.cell(Role.SCU, "MPPS")
def asked_mpps(world: World) -> None:
    scp = StepSCP()
    with step_scp(scp) as address:
        world.ways["PYNETDICOM"].target = address
        uid = perform_step(world, "PYNETDICOM_CT")
        eventually(lambda: len(scp.messages) == 2, "the forwarded step", timeout=30)
    assert [(name, status) for name, of, status in scp.messages if of == uid] == [
        ("N-CREATE", "IN PROGRESS"),
        ("N-SET", "COMPLETED"),
    ]


@PYNETDICOM.cell(Role.SCU, "commitment")
def asked_commitment(world: World) -> None:
    scp = test_commitment_scu.Scp()
    scp.reports_here = True
    world.ways["PYNETDICOM"].target = ("127.0.0.1", scp.port)
    with scp.listening():
        told = world.commit("PYNETDICOM")
    assert "committed all 3 objects" in told
    assert scp.outcomes == [0x0000]


@PYNETDICOM.cell(Role.SCU, "TLS")
def asked_tls(world: World) -> None:
    context = served(world.certificate("archive"), world.authority)
    ours, sent = world.certificate("node"), world.study[0]
    with storing(world, context) as (folder, address):
        tls = ("+tls", ours.key, ours.certificate, "+cf", world.authority.ca)
        world.command("send", f"PYNETDICOM@localhost:{address[1]}", sent.path, *tls)
        (received,) = folder.iterdir()
        check_same(received, sent)


@PYNETDICOM.cell(Role.SCU, "compressed")
def asked_compressed(world: World) -> None:
    _sent(world, *world.compressed)


@PYNETDICOM.cell(Role.SCU, "character sets")
def asked_names(world: World) -> str:
    with archive_of(world, *world.names) as peer:
        return check_names(world, peer)


@PYNETDICOM.cell(Role.SCU, "big object")
def asked_big(world: World) -> str:
    _sent(world, world.big())
    return BIG_WORDS
