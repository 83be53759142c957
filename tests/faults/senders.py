"""Modalities that store until the node under them is killed."""

from __future__ import annotations

import random
import signal
import threading

from tests.faults.scu import Image, associated
from tests.peers import NodeProcess
from tests.wire import CT_IMAGE_STORAGE, ConnectionEnded


class Sender(threading.Thread):
    """Stores images until the connection breaks; ``acknowledged`` are those answered 0000H.

    Another answer ends it too, and is kept as ``refusal``.
    """

    def __init__(self, node: NodeProcess, study: int, enough: threading.Semaphore) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[Image] = []
        self.refusal = 0
        self._wire = associated(node.dicom_address)
        self._study = study
        self._enough = enough

    def image(self, number: int) -> Image:
        """Return the image that is sent as the ``number``-th."""
        # Small and large ones, so that the end comes at every stage of an object.
        return Image(number, self._study, size_bytes=(2000, 400_000)[number % 5 == 0])

    def run(self) -> None:
        with self._wire as wire:
            for number in range(1, 100_000):
                image = self.image(number)
                try:
                    status = wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set)
                except (ConnectionEnded, OSError):
                    return
                if status:
                    self.refusal = status
                    return
                self.acknowledged.append(image)
                self._enough.release()


def store_until_killed(node: NodeProcess, cycle: int, chance: random.Random) -> list[Sender]:
    """Kill a node while two senders store; return them when they have ended.

    ``cycle`` tells one such time from another: each has its own studies.
    """
    enough = threading.Semaphore(0)
    senders = [Sender(node, study=cycle * 10 + each, enough=enough) for each in range(2)]
    for sender in senders:
        sender.start()
    for _ in range(chance.randrange(1, 80)):
        assert enough.acquire(timeout=10), "\n".join(node.lines[-10:])
    node.signal(signal.SIGKILL)
    node.wait()
    for sender in senders:
        sender.join(20)
    return senders
