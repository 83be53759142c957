"""The threads of the receive path: workers run every job, and AEs take turns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dicomnode.services import workers as workers_module
from dicomnode.services.workers import GroupWorker, Workers


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

    def run(self, number: int, ae_title: str = "") -> None:
        self.worker.run(lambda: self._open.append(number), ae_title)


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


def test_one_job_of_an_ae_is_in_the_next_group_however_many_another_has_queued() -> None:
    groups = Groups()
    many = range(3 * workers_module._GROUP)
    for number in many:
        groups.run(number, "A")
    groups.run(-1, "B")
    groups.worker.start()
    groups.worker.stop()
    assert -1 in groups.closed[0]
    assert [number for group in groups.closed for number in group if number >= 0] == list(many)


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


def order_of(*jobs: tuple[str, str]) -> list[str]:
    """Queue jobs, by AE title and name, behind one that blocks; return the order they ran in."""
    faults: list[BaseException] = []
    workers, go, ran = Workers(1, faults.append), threading.Event(), list[str]()
    workers.start()
    workers.run(lambda: (go.wait(10), None)[1])
    for ae_title, name in jobs:
        workers.run(lambda name=name: ran.append(name), ae_title)  # type: ignore[misc]
    go.set()
    workers.stop()
    assert not faults and not workers._jobs._waiting and not workers._jobs._turns
    return ran


def test_one_job_of_an_ae_does_not_wait_for_hundreds_of_another() -> None:
    many = [("A", f"a{number}") for number in range(300)]
    ran = order_of(*many, ("B", "b1"), ("B", "b2"))
    assert ran.index("b1") <= 1 and ran.index("b2") <= 3
    assert [name for name in ran if name.startswith("a")] == [name for _, name in many]


def test_aes_take_turns_one_job_each() -> None:
    ran = order_of(("A", "a1"), ("A", "a2"), ("B", "b1"), ("A", "a3"), ("C", "c1"), ("B", "b2"))
    assert ran == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_job_that_raises_ends_no_thread() -> None:
    faults: list[BaseException] = []
    workers, done = Workers(1, faults.append), threading.Event()
    workers.start()

    def fail() -> None:
        raise RuntimeError("broken")

    workers.run(fail, "A")
    workers.run(done.set, "A")
    assert done.wait(10)
    workers.stop()
    assert [str(fault) for fault in faults] == ["broken"]


def test_what_is_queued_runs_before_the_threads_end() -> None:
    workers, ran = Workers(3, lambda error: None), list[int]()
    workers.start()
    for number in range(500):
        workers.run(lambda number=number: ran.append(number), f"AE_{number % 7}")  # type: ignore[misc]
    workers.stop()
    assert sorted(ran) == list(range(500))
