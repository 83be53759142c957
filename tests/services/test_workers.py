"""Workers run every job, and AEs take turns."""

from __future__ import annotations

import threading

from dicomnode.services.workers import Workers


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
    assert not faults and not workers._waiting and not workers._turns
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
