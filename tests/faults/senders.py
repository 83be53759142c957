"""Modalities that work until the node under them is gone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.commitment_wire import Reports
from tests.destination import Destination, destination, whole
from tests.faults.oracle import CONTEXTS, Oracle
from tests.faults.scu import ROOT, Image, associated
from tests.peers import Address, NodeProcess, eventually, metric
from tests.wire import ConnectionEnded

# Small and large ones, so that the end comes at every stage of each way that an object takes.
_SIZES = (2000, 2000, 70_000, 2000, 400_000)


class Modality(threading.Thread):
    """Stores images, performs steps and asks for commitments until the connection breaks.

    Each of its operations, acknowledged or refused, releases ``progress``.
    """

    def __init__(
        self, address: Address, oracle: Oracle, study: int, progress: threading.Semaphore
    ) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._wire = associated(address, contexts=CONTEXTS)
        self._oracle = oracle
        self._study = study
        self._progress = progress

    def run(self) -> None:
        with contextlib.suppress(ConnectionEnded, OSError), self._wire:
            for number in range(1, 100_000):
                self.work(number)

    def work(self, number: int) -> None:
        """Do everything that belongs to the ``number``-th image."""
        oracle, wire, uid = self._oracle, self._wire, f"{ROOT}.{self._study}.2.{number}"
        image = Image(number, self._study, size_bytes=_SIZES[number % len(_SIZES)])
        statuses = [oracle.store(wire, image)]
        if number % 4 == 2:
            statuses.append(oracle.create_step(wire, uid))
        if number % 8 == 2:
            statuses.append(oracle.complete_step(wire, uid))
        if number % 8 == 5 and not statuses[0]:
            statuses.append(oracle.commit(self._address, f"{uid}.1", image))
        for _ in statuses:
            self._progress.release()


@dataclass(frozen=True, slots=True)
class Ward:
    """Modalities and their oracle, and who is told of what they store."""

    oracle: Oracle
    archive: Destination
    requester: Destination
    reports: Reports

    @property
    def settings(self) -> dict[str, Any]:
        """Return what a node needs in its settings to forward and report."""
        pauses = {"retry_seconds": 0.05, "max_retry_seconds": 0.2}
        return {
            "entities": [self.archive.entity("D0"), self.requester.entity("SCU")],
            "forward": [{"name": "all", "to": ["D0"]}],
            "forwarding": pauses,
            "commitment": {**pauses, "give_up_seconds": 600},
        }

    def work(self, node: NodeProcess, studies: Sequence[int], operations: int) -> list[Modality]:
        """Have one modality for each study work; return them after so many operations."""
        progress = threading.Semaphore(0)
        modalities = [
            Modality(node.dicom_address, self.oracle, study, progress) for study in studies
        ]
        for modality in modalities:
            modality.start()
        for _ in range(operations):
            assert progress.acquire(timeout=20), "\n".join(node.lines[-10:])
        return modalities

    def wait_for_deliveries(self, node: NodeProcess) -> None:
        """Return once everything acknowledged was forwarded, and its commitment reported."""
        eventually(
            lambda: metric(node.http_address, "dicomnode_outbox_depth") == 0,
            "an empty outbox",
            timeout=60,
        )
        missing = self.oracle.objects.keys() - set(self.archive.stored)
        assert not missing, f"acknowledged and not forwarded: {missing}"
        waiting = dict(self.oracle.commitments)
        while waiting:
            event_type, transaction_uid, committed, failed = self.reports.take(60).outcome
            wanted = waiting.pop(transaction_uid, None)
            assert wanted is None or (event_type, set(committed), failed) == (1, wanted, {})


@contextlib.contextmanager
def ward(directory: Path) -> Iterator[Ward]:
    """Have a ward, whose oracle notes in ``directory`` what was acknowledged."""
    reports = Reports()
    with destination(whole) as archive, destination(reports) as requester:
        yield Ward(Oracle(directory / "acknowledged.log"), archive, requester, reports)
