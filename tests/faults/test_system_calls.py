"""Death, and faults, at each system call with which a node touches its disk."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import proof
from tests.conftest import StartNodeProcess
from tests.faults.oracle import CONTEXTS, Oracle
from tests.faults.scu import ROOT, Image, associated
from tests.faults.senders import Ward, ward
from tests.faults.straced import injected
from tests.peers import NodeProcess, PeerFailed, eventually
from tests.wire import ConnectionEnded

pytestmark = [pytest.mark.interop("strace"), pytest.mark.proof]

# Those of each thread are counted by themselves; SQLite commits by pwrite64 and fdatasync, and
# answers go out by write.
DEATHS = {
    "openat": (1, 5),
    "writev": (2,),
    "pwrite64": (1, 30, 100),
    "fdatasync": (1, 4),
    "fsync": (1, 4),
    "mkdir": (2,),
    "renameat2": (1, 2),
    "rename": (1,),
    "link": (1,),
    "unlink": (1,),
    "syncfs": (1,),
    "write": (3,),
}
# Of so many calls in a row every one is tried.
FEW = 60
# Which thread makes a call is chance: it takes so many clean passes in a row to have tried all.
CLEAN = 3
OUT_OF_RESOURCES = 0xA700


def numbers() -> Iterator[int]:
    """Yield the calls at which the long form kills: all at first, then a twentieth further on."""
    number, step = 1, max(1, round(1 / proof.share))
    while True:
        yield number
        number += max(1, number // FEW * 3) * step


def work(people: Ward, node: NodeProcess, study: int) -> None:
    """Store small and large images, replace some, perform a step, ask for a commitment."""
    oracle = people.oracle
    images = [Image(n, study, size_bytes=size) for n, size in enumerate((2000, 70_000, 2000))]
    with associated(node.dicom_address, contexts=CONTEXTS) as wire:
        for image in images:
            oracle.store(wire, image)
        is_created = oracle.create_step(wire, f"{ROOT}.{study}.2") == 0
        if images[2].uid in oracle.objects:
            oracle.commit(node.dicom_address, f"{ROOT}.{study}.3", images[2])
        if is_created:
            oracle.complete_step(wire, f"{ROOT}.{study}.2")
        for image in images[:2]:
            oracle.store(wire, Image(image.number, study, shade=1, size_bytes=image.size_bytes))
        wire.release()


def dies(people: Ward, node: NodeProcess, study: int, call: str, number: int) -> bool:
    """Work, and stop the node, which dies at its ``number``-th call; tell whether it has died."""
    fault = f"signal=SIGKILL:when={number}"
    with injected(node, call, fault, node.config.parent):
        with contextlib.suppress(ConnectionEnded, OSError):
            work(people, node, study)
        node.signal(signal.SIGTERM)
        return node.wait(60) != 0


def ends_early(directory: Path, call: str, number: int) -> bool:
    """Start a node that dies at its ``number``-th call; tell whether it was not ready by then."""
    program = ("-m", "tests.faults.straced", call, f"signal=SIGKILL:when={number}")
    node = NodeProcess(directory / "dicomnode.toml", *program, str(directory / "strace.log"))
    try:
        node.wait_until_ready()
    except PeerFailed:
        return True
    finally:
        node.close()
    return False


REPLACING = {"storage": {"on_conflict": "replace"}}


@pytest.mark.timeout(200 + (7200 if proof.long else 0))
@pytest.mark.parametrize("calls", [[call] for call in DEATHS] if proof.long else [list(DEATHS)])
def test_everything_acknowledged_survives_death_at_any_system_call(
    start_node_process: StartNodeProcess, tmp_path: Path, calls: list[str]
) -> None:
    directory = tmp_path / "node"
    with ward(tmp_path) as people:
        settings = {**people.settings, **REPLACING}
        study, deaths = 0, 0
        for call in calls:
            clean = 0
            for number in numbers() if proof.long else DEATHS[call]:
                study += 1
                node = start_node_process(directory, **settings)
                people.oracle.check(node, directory / "store")
                people.oracle.send_again(node.dicom_address)
                has_died = dies(people, node, study, call, number)
                deaths += has_died
                assert has_died or number > 1, f"there is no {call}"
                clean = 0 if has_died else clean + 1
                if clean == CLEAN:
                    break
        node = start_node_process(directory, **settings)
        people.oracle.check(node, directory / "store", everything=True)
        people.oracle.send_again(node.dicom_address)
        assert people.oracle.refusals == []
        people.wait_for_deliveries(node)
        print(f"{calls}: {deaths} deaths, {len(people.oracle.objects)} objects")


# What a start does to the disk when it finds what a crash left.
STARTING = {"pwrite64": (20,), "fdatasync": (2,), "fsync": (2,)}


@pytest.mark.timeout(200 + (7200 if proof.long else 0))
@pytest.mark.parametrize("calls", [[call] for call in STARTING] if proof.long else [list(STARTING)])
def test_everything_acknowledged_survives_death_while_a_node_recovers_from_one(
    start_node_process: StartNodeProcess, tmp_path: Path, calls: list[str]
) -> None:
    directory = tmp_path / "node"
    with ward(tmp_path) as people:
        settings = {**people.settings, **REPLACING}
        node = start_node_process(directory, **settings)
        for study, call in enumerate(calls):
            for number in numbers() if proof.long else STARTING[call]:
                work(people, node, 1000 * study + number)
                node.signal(signal.SIGKILL)
                node.wait()
                has_died = ends_early(directory, call, number)
                assert has_died or proof.long, f"it does not come to {call} {number}"
                node = start_node_process(directory, **settings)
                people.oracle.check(node, directory / "store")
                if not has_died:
                    break
        assert people.oracle.refusals == []
        people.wait_for_deliveries(node)


# -- faults ----------------------------------------------------------------------------------------

FAULTS = [
    ("openat", "EMFILE"),
    ("writev", "ENOSPC"),
    ("pwrite64", "ENOSPC"),
    ("pwrite64", "EIO"),
    ("fdatasync", "EIO"),
    ("fsync", "EIO"),
    ("syncfs", "EIO"),
    ("mkdir", "ENOSPC"),
    ("renameat2", "EIO"),
]
# Files of small objects are flushed behind the answer.
UNSEEN = {"syncfs"}


def offered(oracle: Oracle, node: NodeProcess, study: int) -> list[int]:
    """Store a small and a large image of a new study; return the statuses."""
    with associated(node.dicom_address) as wire:
        images = [Image(n, study, size_bytes=size) for n, size in enumerate((2000, 400_000))]
        statuses = [oracle.store(wire, image) for image in images]
        wire.release()
    return statuses


@pytest.mark.timeout(200 + (7200 if proof.long else 0))
def test_faults_of_system_calls_are_answered_a700_and_harm_nothing_else(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    directory = tmp_path / "node"
    with ward(tmp_path) as people:
        oracle, study = people.oracle, itertools.count()
        node = start_node_process(directory, **people.settings)
        with associated(node.dicom_address) as neighbour:
            for call, error in FAULTS:
                with injected(node, call, f"error={error}", directory) as injection:
                    statuses = offered(oracle, node, next(study))
                    assert neighbour.echo() == 0
                    eventually(lambda: injection.happened, f"{error} of {call}")
                assert set(statuses) <= {0, OUT_OF_RESOURCES}, (call, error, statuses)
                assert OUT_OF_RESOURCES in statuses or call in UNSEEN, (call, error, statuses)
                oracle.send_again(node.dicom_address)
                assert neighbour.echo() == 0
        node.signal(signal.SIGKILL)
        node.wait()
        node = start_node_process(directory, **people.settings)
        oracle.check(node, directory / "store", everything=True)
        people.wait_for_deliveries(node)


@pytest.mark.timeout(7200 if proof.long else 60)
@pytest.mark.parametrize(("call", "error"), FAULTS if proof.long else [("fdatasync", "EIO")])
def test_a_single_fault_at_any_system_call_is_survived(
    start_node_process: StartNodeProcess, tmp_path: Path, call: str, error: str
) -> None:
    directory, clean = tmp_path / "node", 0
    with ward(tmp_path) as people:
        settings = {**people.settings, **REPLACING}
        node = start_node_process(directory, **settings)
        for number in numbers() if proof.long else (1, 2, 3, 4):
            fault = f"error={error}:when={number}"
            with injected(node, call, fault, directory) as injection:
                work(people, node, number)
            clean = 0 if injection.happened else clean + 1
            people.oracle.send_again(node.dicom_address)
            if clean == CLEAN:
                break
        assert set(people.oracle.refusals) <= {OUT_OF_RESOURCES, 0x0110}
        node.signal(signal.SIGKILL)
        node.wait()
        node = start_node_process(directory, **settings)
        people.oracle.check(node, directory / "store", everything=True)
        people.wait_for_deliveries(node)
