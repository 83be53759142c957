"""Records the associations that are mutated: ``python -m tests.fuzz.record``.

DCMTK's programs talk to a node through a proxy that writes down what they say; pynetdicom where
DCMTK has no requestor (MPPS, storage commitment).
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from dicomnode.storage.part10 import file_meta
from tests.faults.scu import ROOT, Image
from tests.fuzz.arena import IMAGES, REQUESTER, SINK, arena
from tests.fuzz.recordings import RECORDINGS, Recording, Turn
from tests.peers import Address, run_tool
from tests.wire import CT_IMAGE_STORAGE, EXPLICIT_LE

_STUDY = f"StudyInstanceUID={IMAGES[0].study_uid}"
_PERFORMED = f"{ROOT}.900"


class Proxy:
    """Takes one connection for ``node`` and writes down what the requestor says on it."""

    def __init__(self, node: Address) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: Address = self._listener.getsockname()
        self._node = node
        self.turns: list[Turn] = []
        self._answers = 0
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        requestor, _ = self._listener.accept()
        with requestor, socket.create_connection(self._node) as node:
            back = threading.Thread(target=self._carry_back, args=(node, requestor))
            back.start()
            for pdu in _pdus(requestor):
                self.turns.append(Turn(self._answers, pdu))
                node.sendall(pdu)
            with contextlib.suppress(OSError):
                node.shutdown(socket.SHUT_WR)
            back.join()

    def _carry_back(self, node: socket.socket, requestor: socket.socket) -> None:
        for pdu in _pdus(node):
            self._answers += 1
            with contextlib.suppress(OSError):
                requestor.sendall(pdu)

    def recorded(self) -> tuple[Turn, ...]:
        """Return the turns once the connection is closed."""
        self._thread.join(10)
        self._listener.close()
        return tuple(self.turns)


def _pdus(source: socket.socket) -> Iterator[bytes]:
    with source.makefile("rb") as stream, contextlib.suppress(ConnectionError):
        while len(head := stream.read(6)) == 6:
            yield head + stream.read(struct.unpack(">I", head[2:])[0])


def _written(directory: Path, *images: Image) -> list[Path]:
    """Write images as files, for storescu."""
    directory.mkdir(exist_ok=True)
    paths = []
    for image in images:
        path = directory / f"{image.number}.dcm"
        path.write_bytes(file_meta(CT_IMAGE_STORAGE, image.uid, EXPLICIT_LE) + image.data_set)
        paths.append(path)
    return paths


def _programs(directory: Path) -> dict[str, tuple[str | Path, ...]]:
    """Return DCMTK's command for each service, without the address."""
    new = [Image(number, study=8, size_bytes=3000) for number in (1, 2)]
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", _STUDY)
    every_study = ("-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", "-k", "PatientName")
    step = "ScheduledProcedureStepSequence[0].ScheduledStationAETitle=CT_1"
    return {
        "echo": ("echoscu", "--repeat", "3"),
        "store": ("storescu", "-R", *_written(directory / "new", *new)),
        "find": ("findscu", "-S", *every_study),
        "cancel": ("findscu", "-S", "--cancel", "1", *every_study),
        "get": ("getscu", "-S", "-od", directory / "got", *keys),
        "move": ("movescu", "-S", "-aem", SINK, *keys),
        "worklist": ("findscu", "-W", "-k", "PatientName", "-k", step),
    }


def _record_programs(node: Address, directory: Path) -> Iterator[Recording]:
    (directory / "got").mkdir()
    for service, (program, *arguments) in _programs(directory).items():
        proxy = Proxy(node)
        host, port = proxy.address
        options = arguments if program != "storescu" else arguments[:1]
        files = arguments[1:] if program == "storescu" else []
        command = [program, "-aec", "DICOMNODE", "-aet", REQUESTER, *options, host, port, *files]
        done = run_tool(*command)
        turns = proxy.recorded()
        if done.returncode:
            raise SystemExit(f"{program}: {done.output}")
        yield Recording(service, f"DCMTK {program}", turns)


def _associated(proxy: Proxy, sop_class: str) -> Association:
    entity = AE(REQUESTER)
    entity.add_requested_context(sop_class, ImplicitVRLittleEndian)
    handlers = [(evt.EVT_N_EVENT_REPORT, lambda event: (0x0000, None))]
    host, port = proxy.address
    association = entity.associate(host, port, ae_title="DICOMNODE", evt_handlers=handlers)
    assert association.is_established
    return association


def _record_mpps(node: Address) -> Recording:
    proxy = Proxy(node)
    step = ModalityPerformedProcedureStep
    association = _associated(proxy, step)
    begun, ended = Dataset(), Dataset()
    begun.PerformedProcedureStepStatus = "IN PROGRESS"
    begun.PerformedProcedureStepID = "PPS1"
    begun.PerformedStationAETitle = REQUESTER
    begun.PerformedProcedureStepStartDate = "20261121"
    begun.PerformedProcedureStepStartTime = "1200"
    begun.Modality = "CT"
    begun.PatientName = "Doe^Jane"
    scheduled = Dataset()
    scheduled.StudyInstanceUID = "1.2.3.1"
    begun.ScheduledStepAttributesSequence = [scheduled]
    begun.PerformedSeriesSequence = []
    status, _ = association.send_n_create(begun, step, _PERFORMED)
    assert status.Status in (0, 0x0111), status
    ended.PerformedProcedureStepStatus = "COMPLETED"
    ended.PerformedProcedureStepEndDate = "20261121"
    ended.PerformedProcedureStepEndTime = "1210"
    association.send_n_set(ended, step, _PERFORMED)
    association.release()
    return Recording("mpps", "pynetdicom", proxy.recorded())


def _record_commitment(node: Address) -> Recording:
    proxy = Proxy(node)
    association = _associated(proxy, StorageCommitmentPushModel)
    information = Dataset()
    information.TransactionUID = f"{ROOT}.901"
    information.ReferencedSOPSequence = []
    for image in IMAGES[:2]:
        reference = Dataset()
        reference.ReferencedSOPClassUID = CT_IMAGE_STORAGE
        reference.ReferencedSOPInstanceUID = image.uid
        information.ReferencedSOPSequence.append(reference)
    status, _ = association.send_n_action(
        information, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    assert status.Status == 0, status
    association.release()
    return Recording("commitment", "pynetdicom", proxy.recorded())


def record(directory: Path) -> None:
    """Record every service anew, into ``recordings/``."""
    _config.UNRESTRICTED_STORAGE_SERVICE = False
    with arena(directory) as running:
        node = running.node.dicom_address
        made = [
            *_record_programs(node, directory),
            _record_mpps(node),
            _record_commitment(node),
        ]
    shutil.rmtree(RECORDINGS, ignore_errors=True)
    RECORDINGS.mkdir()
    for recording in made:
        recording.write()
        size = sum(len(turn.pdu) for turn in recording.turns)
        print(f"{recording.service}: {len(recording.turns)} PDUs, {size} bytes, {recording.by}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        record(Path(scratch))
