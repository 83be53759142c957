"""The threads of the receive path."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dicomnode.services import workers as workers_module
from dicomnode.services.workers import GroupWorker


class Groups:
    """Remembers which jobs ran together."""

    def __init__(self) -> None:
        self.closed: list[list[int]] = []
        self._open: list[int] = []
        self.faults: list[BaseException] = []
        self.worker = GroupWorker(self.together, self.faults.append)

    @contextmanager
    def together(self) -> Iterator[None]:
        self._open = []
        yield
        self.closed.append(self._open)

    def run(self, number: int) -> None:
        self.worker.run(lambda: self._open.append(number))


def test_jobs_that_wait_run_together_in_their_order() -> None:
    groups = Groups()
    for number in range(5):
        groups.run(number)
    groups.worker.start()
    groups.worker.stop()
    assert groups.closed == [[0, 1, 2, 3, 4]]


def test_a_group_is_bounded() -> None:
    groups = Groups()
    size = workers_module._GROUP
    for number in range(2 * size + 1):
        groups.run(number)
    groups.worker.start()
    groups.worker.stop()
    assert [len(group) for group in groups.closed] == [size, size, 1]
    assert [number for group in groups.closed for number in group] == list(range(2 * size + 1))


def test_a_job_is_not_kept_waiting_for_others() -> None:
    groups, ran = Groups(), threading.Event()
    groups.worker.start()
    groups.worker.run(ran.set)
    assert ran.wait(20)
    groups.run(1)
    groups.worker.stop()
    assert groups.closed == [[], [1]]


def test_a_job_that_raises_ends_neither_its_group_nor_the_thread() -> None:
    groups = Groups()

    def broken() -> None:
        raise ValueError("a fault")

    groups.run(1)
    groups.worker.run(broken)
    groups.run(2)
    groups.worker.start()
    groups.worker.stop()
    assert groups.closed == [[1, 2]]
    assert [str(fault) for fault in groups.faults] == ["a fault"]


def test_a_group_whose_end_raises_does_not_end_the_thread() -> None:
    faults: list[BaseException] = []

    @contextmanager
    def together() -> Iterator[None]:
        yield
        raise ValueError("a fault")

    worker, ran = GroupWorker(together, faults.append), [threading.Event(), threading.Event()]
    worker.start()
    for event in ran:
        worker.run(event.set)
        assert event.wait(20)
    worker.stop()
    assert faults and {str(fault) for fault in faults} == {"a fault"}
