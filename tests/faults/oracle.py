"""What a node has acknowledged, noted outside of what is tested, and what has become of it.

Nothing here believes the node: objects are fetched over DICOM and compared byte by byte with what
was sent, files are read from the disk, and the index is read as an SQLite file.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepRetrieve,
)

from dicomnode.integrity.record import Event
from tests.commitment_wire import Message, receive_message, requesting
from tests.custody_log import recorded
from tests.faults.scu import Image, files_below, indexed_paths, store, temporary_files
from tests.interop.samples import data_set_bytes
from tests.peers import Address, NodeProcess
from tests.query_wire import (
    GET,
    QUERY_RETRIEVE_LEVEL,
    STUDY_INSTANCE_UID,
    c_get_rq,
    c_store_rsp,
    identifier,
    querying,
)
from tests.services.performing import completion, creation
from tests.services.querying import written
from tests.storage.objects import EXPLICIT
from tests.wire import CT_IMAGE_STORAGE, DEFAULT_CONTEXTS, P_DATA, Wire, command_set, pdu, pdv

STEPS, HELD_STEPS = 7, 9
CONTEXTS = (
    *DEFAULT_CONTEXTS,
    (STEPS, str(ModalityPerformedProcedureStep), (EXPLICIT,)),
    (HELD_STEPS, str(ModalityPerformedProcedureStepRetrieve), (EXPLICIT,)),
)
_CREATION, _COMPLETION = written(creation(), EXPLICIT), written(completion(), EXPLICIT)
_STATUS = 0x00400252


class Oracle:
    """Sends, notes what is acknowledged in the file ``log``, and looks for it afterwards.

    Any thread may send. ``refusals`` are the statuses other than Success.
    """

    def __init__(self, log: Path) -> None:
        self.objects: dict[str, Image] = {}
        self.unanswered: dict[str, Image] = {}
        self.steps: dict[str, str] = {}
        self.commitments: dict[str, set[str]] = {}
        self.refusals: list[int] = []
        self._began: dict[str, str] = {}
        self._fetched: set[str] = set()
        self._sent_again: set[str] = set()
        self._log = log
        self._turn = threading.Lock()

    def _note(self, what: str, uid: str) -> None:
        with self._turn, self._log.open("a") as log:
            log.write(json.dumps([what, uid]) + "\n")

    # -- what is sent --------------------------------------------------------------------------

    def store(self, wire: Wire, image: Image) -> int:
        """Store an image."""
        self.unanswered[image.uid] = image
        status = wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set)
        if status:
            self.refusals.append(status)
        else:
            self._note("stored", image.uid)
            self.objects[image.uid] = self.unanswered.pop(image.uid)
        return status

    def create_step(self, wire: Wire, uid: str) -> int:
        """Create a performed procedure step."""
        fields: dict[int, int | str] = {0x0002: str(ModalityPerformedProcedureStep), 0x1000: uid}
        return self._step(wire, 0x0140, uid, fields, _CREATION, "IN PROGRESS")

    def complete_step(self, wire: Wire, uid: str) -> int:
        """Complete a performed procedure step."""
        fields: dict[int, int | str] = {0x0003: str(ModalityPerformedProcedureStep), 0x1001: uid}
        return self._step(wire, 0x0120, uid, fields, _COMPLETION, "COMPLETED")

    def _step(
        self,
        wire: Wire,
        field: int,
        uid: str,
        fields: dict[int, int | str],
        attributes: bytes,
        state: str,
    ) -> int:
        self._began[uid] = state
        command = command_set({**fields, 0x0100: field, 0x0110: 1, 0x0800: 1})
        status = wire.request(STEPS, command, attributes)
        if status:
            self.refusals.append(status)
        else:
            self._note(state, uid)
            self.steps[uid] = state
        return status

    def commit(self, address: Address, transaction_uid: str, *images: Image) -> int:
        """Ask for a storage commitment on an association that ends before the report."""
        uids = {image.uid for image in images}
        with requesting(address) as wire:
            wanted = [(CT_IMAGE_STORAGE, uid) for uid in sorted(uids)]
            status = wire.commit(1, transaction_uid, wanted)
            if status:
                self.refusals.append(status)
            else:
                self._note("commitment", transaction_uid)
                self.commitments[transaction_uid] = uids
            wire.abort()
        return status

    # -- what has become of it -----------------------------------------------------------------

    def check(self, node: NodeProcess, where: Path, *, everything: bool = False) -> None:
        """Fail with what a node that was started again on the storage directory has lost."""
        lost = list(self.losses(node, where, everything=everything))
        assert not lost, "\n".join([f"log: {self._log}", *lost[:20], *node.lines[-20:]])

    def losses(self, node: NodeProcess, where: Path, *, everything: bool = False) -> Iterator[str]:
        """Yield what is lost, torn or not explained, in words.

        Objects are fetched once after they were acknowledged, and again with ``everything``.
        """
        yield from self._unsound(where)
        told = {(record.sop_instance_uid, record.event) for record in recorded(where)}
        rows = indexed_paths(where)
        for uid in self.objects:
            if uid not in rows:
                yield f"{uid} was acknowledged and has no row"
            # What a crash left as a file without a row was entered at the start after it.
            entered = uid in self._sent_again and (uid, Event.ENTERED) in told
            if not entered and (uid, Event.RECEIVED) not in told:
                yield f"{uid} was acknowledged and has no custody record of its reception"
        yield from self._torn(where, rows)
        yield from self._not_retrieved(node.dicom_address, everything)
        yield from self._forgotten_steps(node.dicom_address)

    def send_again(self, address: Address) -> None:
        """Send what was not acknowledged once more: it has to be welcome."""
        for image in list(self.unanswered.values()):
            assert store(address, image) == [0], f"{image} is not welcome again"
            self._note("stored", image.uid)
            self.objects[image.uid] = self.unanswered.pop(image.uid)
            self._sent_again.add(image.uid)

    def _unsound(self, where: Path) -> Iterator[str]:
        with closing(sqlite3.connect(f"file:{where}/index.sqlite?mode=ro", uri=True)) as index:
            for (words,) in index.execute("PRAGMA integrity_check").fetchall():
                if words != "ok":
                    yield f"the index is not sound: {words}"

    def _torn(self, where: Path, rows: dict[str, str]) -> Iterator[str]:
        files = files_below(where, "objects")
        for path in {where / row for row in rows.values()} ^ set(files):
            yield f"{path} is only one of row and file"
        for path in temporary_files(where):
            yield f"{path} was left over"
        for path in files:
            if data_set_bytes(path) not in self._sent(path.stem):
                yield f"{path} is not what was sent"

    def _sent(self, uid: str) -> list[bytes]:
        """Return the data sets that an object may have: a newer one's fate may be unknown."""
        images = (self.objects.get(uid), self.unanswered.get(uid))
        return [image.data_set for image in images if image is not None]

    def _not_retrieved(self, address: Address, everything: bool) -> Iterator[str]:
        wanted = {
            uid: image
            for uid, image in self.objects.items()
            if everything or uid not in self._fetched
        }
        got: dict[str, bytes] = {}
        for study_uid in {image.study_uid for image in wanted.values()}:
            got |= retrieved(address, study_uid)
        for uid in wanted:
            if got.get(uid) not in self._sent(uid):
                yield f"{uid} was acknowledged and is not retrieved as it was sent"
        self._fetched |= wanted.keys()

    def _forgotten_steps(self, address: Address) -> Iterator[str]:
        with Wire(address) as wire:
            wire.associate(calling="CT_1", contexts=CONTEXTS)
            for uid, acknowledged in self.steps.items():
                state = _state_of_step(wire, uid)
                # What was on its way may have arrived.
                if state not in (acknowledged, self._began[uid]):
                    yield f"step {uid} was acknowledged as {acknowledged} and is {state}"
            wire.release()


def retrieved(address: Address, study_uid: str) -> dict[str, bytes]:
    """Return SOP Instance UID → data set of what C-GET brings of a study."""
    keys = identifier({QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: study_uid})
    got: dict[str, bytes] = {}
    with querying(address) as wire:
        wire.send(b"".join(wire.message(GET, c_get_rq(1), keys)))
        for context_id, command, data in wire.messages():
            if command[0x0100] == b"\x01\x00":  # C-STORE-RQ
                assert data is not None
                got[command[0x1000].rstrip(b"\0").decode()] = data
                wire.send(pdu(P_DATA, pdv(context_id, c_store_rsp(command), command=True)))
            elif command[0x0900] != b"\x00\xff":  # not Pending
                break
        wire.release()
    return got


def _state_of_step(wire: Wire, uid: str) -> str:
    """N-GET a step's status (PS3.7 §10.1.2); "" when there is no such step."""
    attribute = (_STATUS >> 16).to_bytes(2, "little") + (_STATUS & 0xFFFF).to_bytes(2, "little")
    fields: dict[int, int | str] = {
        0x0003: str(ModalityPerformedProcedureStepRetrieve),
        0x0100: 0x0110,
        0x0110: 1,
        0x0800: 0x0101,
        0x1001: uid,
        0x1005: attribute.decode("latin-1"),
    }
    for part in wire.message(HELD_STEPS, command_set(fields)):
        wire.send(part)
    answer: Message | None = receive_message(wire.receive_pdu)
    assert answer is not None
    # Tag, VR, 16-bit length, value.
    return "" if answer.status else answer.data[8:].decode().strip()
