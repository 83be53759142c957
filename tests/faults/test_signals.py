"""SIGTERM, SIGINT and SIGHUP."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from tests.conftest import StartNodeProcess
from tests.faults.scu import Image, associated
from tests.peers import NodeProcess, eventually, http_get, write_registry
from tests.wire import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    CT_IMAGE_STORAGE,
    RELEASE_RP,
    ConnectionEnded,
    Wire,
    associate_rq,
)


def is_accepted(node: NodeProcess, calling: str = "RAW") -> bool:
    with contextlib.suppress(OSError, ConnectionEnded), Wire(node.dicom_address) as wire:
        return wire.associate(calling=calling)[0] == ASSOCIATE_AC
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_without_associations_ends_at_once_with_0(
    node_process: NodeProcess, number: signal.Signals
) -> None:
    node_process.signal(number)
    assert node_process.wait(5) == 0
    assert not any("Traceback" in line for line in node_process.lines)


def test_sigterm_lets_associations_finish_and_accepts_no_more(node_process: NodeProcess) -> None:
    image = Image(1)
    with associated(node_process.dicom_address) as wire:
        node_process.signal(signal.SIGTERM)
        eventually(lambda: not is_accepted(node_process), "no more associations")
        assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0
        assert wire.release() == RELEASE_RP
    assert node_process.wait(10) == 0
    assert image.is_stored_whole(node_process.config.parent / "store")


def test_connections_without_an_association_do_not_hold_up_the_end(
    node_process: NodeProcess,
) -> None:
    with Wire(node_process.dicom_address), Wire(node_process.dicom_address) as begun:
        begun.send(associate_rq()[:20])
        with associated(node_process.dicom_address) as wire:
            wire.release()
        node_process.signal(signal.SIGTERM)
        assert node_process.wait(5) == 0


def test_a_draining_node_is_not_ready(node_process: NodeProcess) -> None:
    assert http_get(node_process.http_address, "/readyz")[0] == 200
    with associated(node_process.dicom_address) as wire:
        node_process.signal(signal.SIGTERM)
        eventually(lambda: http_get(node_process.http_address, "/readyz")[0] == 503, "not ready")
        wire.release()
    assert node_process.wait(10) == 0


def test_associations_that_do_not_finish_are_aborted_at_the_deadline(
    start_node_process: StartNodeProcess,
) -> None:
    node = start_node_process(timeouts={"drain_seconds": 0.3})
    with associated(node.dicom_address) as wire:
        node.signal(signal.SIGTERM)
        assert wire.receive_pdu()[0] == ABORT
    assert node.wait(10) == 0


def test_a_second_sigterm_is_immediate(node_process: NodeProcess) -> None:
    with associated(node_process.dicom_address):
        node_process.signal(signal.SIGTERM)
        eventually(lambda: not is_accepted(node_process), "no more associations")
        node_process.signal(signal.SIGTERM)
        node_process.wait(5)


def test_sighup_takes_the_new_registry(start_node_process: StartNodeProcess) -> None:
    node = start_node_process(entities=[{"title": "CT_1"}], access={"unknown_ae": "refuse"})
    assert is_accepted(node, "CT_1")
    assert not is_accepted(node, "CT_2")
    write_registry(node.config.parent, [{"title": "CT_2"}])
    node.signal(signal.SIGHUP)
    eventually(lambda: is_accepted(node, "CT_2"), "CT_2 is known")
    assert not is_accepted(node, "CT_1")


@pytest.mark.parametrize(
    "text",
    [
        '[[ae]]\ntitle = "CT_2"\n\n[[ae]]\ntitle = "CT_3"\nport = "many"\n',
        '[[ae]]\ntitle = "CT_2"\n[[ae\n',
        '[[ae]]\ntitle = "CT_2"\n\n[[ae]]\ntitle = "CT_2"\n',
    ],
    ids=["one wrong entry", "no TOML", "a title twice"],
)
def test_sighup_keeps_the_old_registry_as_a_whole_and_says_why(
    start_node_process: StartNodeProcess, text: str
) -> None:
    node = start_node_process(entities=[{"title": "CT_1"}], access={"unknown_ae": "refuse"})
    registry: Path = node.config.with_name("ae.toml")
    registry.write_text(text)
    node.signal(signal.SIGHUP)
    node.wait_for_line(r"ae\.toml:\d+")
    assert is_accepted(node, "CT_1")
    assert not is_accepted(node, "CT_2")


def test_sighup_leaves_open_associations_alone(start_node_process: StartNodeProcess) -> None:
    node = start_node_process(entities=[{"title": "CT_1"}], access={"unknown_ae": "refuse"})
    with associated(node.dicom_address, "CT_1") as wire:
        write_registry(node.config.parent, [{"title": "CT_2"}])
        node.signal(signal.SIGHUP)
        eventually(lambda: is_accepted(node, "CT_2"), "CT_2 is known")
        assert wire.echo() == 0
        assert wire.release() == RELEASE_RP


def test_a_rejection_while_draining_is_an_answer_or_a_closed_port(
    node_process: NodeProcess,
) -> None:
    with associated(node_process.dicom_address) as wire:
        node_process.signal(signal.SIGTERM)
        eventually(lambda: not is_accepted(node_process), "no more associations")
        with (
            contextlib.suppress(OSError, ConnectionEnded),
            Wire(node_process.dicom_address) as late,
        ):
            assert late.associate()[0] == ASSOCIATE_RJ
        wire.release()
