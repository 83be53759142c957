"""Queries that are wrong, far too much, or not listened to."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.hospital import fill, study
from dicomnode.index.catalog import Catalog
from tests import peers
from tests.peers import eventually
from tests.query_wire import (
    ECHO,
    FIND,
    MODALITIES_IN_STUDY,
    NUMBER_OF_STUDY_RELATED_INSTANCES,
    PATIENT_FIND,
    PATIENT_ID,
    PATIENT_NAME,
    QUERY_RETRIEVE_LEVEL,
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    SPECIFIC_CHARACTER_SET,
    STUDY_DATE,
    STUDY_DESCRIPTION,
    STUDY_INSTANCE_UID,
    Answers,
    QueryWire,
    c_cancel_rq,
    c_find_rq,
    identifier,
    nothing_more_comes,
    querying,
    values,
)
from tests.wire import P_DATA, ConnectionEnded, Wire, c_echo_rq, element, pdu, pdv

STUDIES = 1500
IDENTIFIER_DOES_NOT_MATCH = 0xA900
CANCEL = 0xFE00
MEBIBYTE = 1 << 20
EVERYTHING = {
    QUERY_RETRIEVE_LEVEL: "STUDY",
    STUDY_INSTANCE_UID: "",
    PATIENT_ID: "",
    PATIENT_NAME: "",
    STUDY_DATE: "",
    STUDY_DESCRIPTION: "",
    MODALITIES_IN_STUDY: "",
    NUMBER_OF_STUDY_RELATED_INSTANCES: "",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of many studies, to be copied."""
    path = tmp_path_factory.mktemp("index") / "index.sqlite"
    with Catalog(f"sqlite:///{path}", synchronous="OFF") as catalog:
        fill(catalog, STUDIES)
    return path


@contextlib.contextmanager
def crowded_node(
    index: Path, directory: Path, **sections: dict[str, object]
) -> Iterator[peers.NodeProcess]:
    """Run a node on a copy of the index; nobody asks for the files of its objects."""
    directory.mkdir(exist_ok=True)
    shutil.copy(index, directory / "index.sqlite")
    url = f"sqlite:///{directory / 'index.sqlite'}"
    sections = {"limits": {"max_associations": 120}, **sections}
    with peers.node_process(directory / "node", index={"url": url}, **sections) as node:
        yield node


@pytest.fixture(scope="module")
def crowded(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.NodeProcess]:
    """Return a node that holds many studies, shared by the tests of this module."""
    with crowded_node(index, tmp_path_factory.mktemp("crowded")) as node:
        yield node


def find(node: peers.NodeProcess, keys: dict[int, str] | bytes, context_id: int = FIND) -> Answers:
    """Query, and see that the association goes on afterwards."""
    with querying(node.dicom_address) as wire:
        answers = wire.find(keys, context_id=context_id)
        assert wire.find(EXACT).status == 0x0000
        wire.release()
    return answers


EXACT = {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: study(7).uid}


@pytest.mark.parametrize(
    ("context_id", "keys", "offending"),
    [
        (FIND, {QUERY_RETRIEVE_LEVEL: "PATIENT", PATIENT_ID: ""}, QUERY_RETRIEVE_LEVEL),
        (FIND, {QUERY_RETRIEVE_LEVEL: "HOSPITAL"}, QUERY_RETRIEVE_LEVEL),
        (FIND, {QUERY_RETRIEVE_LEVEL: ""}, QUERY_RETRIEVE_LEVEL),
        (FIND, {STUDY_INSTANCE_UID: ""}, QUERY_RETRIEVE_LEVEL),
        (
            FIND,
            {QUERY_RETRIEVE_LEVEL: "SERIES", SERIES_INSTANCE_UID: ""},
            STUDY_INSTANCE_UID,
        ),
        (
            FIND,
            {QUERY_RETRIEVE_LEVEL: "SERIES", STUDY_INSTANCE_UID: "", SERIES_INSTANCE_UID: ""},
            STUDY_INSTANCE_UID,
        ),
        (
            FIND,
            {QUERY_RETRIEVE_LEVEL: "IMAGE", STUDY_INSTANCE_UID: "1.2", SOP_INSTANCE_UID: ""},
            SERIES_INSTANCE_UID,
        ),
        (
            FIND,
            {QUERY_RETRIEVE_LEVEL: "STUDY", SERIES_INSTANCE_UID: "1.2.3"},
            SERIES_INSTANCE_UID,
        ),
        (PATIENT_FIND, {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: ""}, PATIENT_ID),
    ],
)
def test_a_wrong_identifier_is_explained(
    crowded: peers.NodeProcess, context_id: int, keys: dict[int, str], offending: int
) -> None:
    answers = find(crowded, keys, context_id)
    assert answers.status == IDENTIFIER_DOES_NOT_MATCH
    assert answers.pending == 0
    named = answers.final[0x0901]
    tags = [named[at : at + 4] for at in range(0, len(named), 4)]
    wanted = (offending >> 16).to_bytes(2, "little") + (offending & 0xFFFF).to_bytes(2, "little")
    assert wanted in tags
    assert answers.comment
    assert len(answers.comment) <= 64


def uids(count: int) -> str:
    return "\\".join(study(number).uid for number in range(count))


def test_twenty_thousand_uids_are_searched_for(crowded: peers.NodeProcess) -> None:
    keys = {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: uids(20_000)}
    answers = find(crowded, keys)
    assert (answers.status, answers.pending) == (0x0000, STUDIES)


@pytest.mark.parametrize("count", [20_001, 100_000])
def test_too_many_uids_are_refused_with_the_limit(crowded: peers.NodeProcess, count: int) -> None:
    keys = {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: uids(count)}
    answers = find(crowded, keys)
    assert answers.status in (0xA700, IDENTIFIER_DOES_NOT_MATCH)
    assert "max_" in answers.comment or "limit" in answers.comment.lower()


@pytest.mark.parametrize(
    "pattern",
    ["*?" * 500, "*" * 1000 + "x", "?" * 1000, "*a" * 500, "*?" * 5000, "a*" * 30_000],
    ids=["*?", "stars", "question marks", "*a", "*? long", "a* very long"],
)
def test_a_pattern_of_many_wild_cards_is_answered_at_once(
    crowded: peers.NodeProcess, pattern: str
) -> None:
    with Wire(crowded.dicom_address) as other:
        other.associate(calling="OTHER")
        with querying(crowded.dicom_address) as wire:
            answers = wire.find({QUERY_RETRIEVE_LEVEL: "STUDY", PATIENT_NAME: pattern})
            assert answers.status in (0x0000, IDENTIFIER_DOES_NOT_MATCH)
        assert other.echo() == 0


@pytest.mark.parametrize(
    "keys",
    [
        {SPECIFIC_CHARACTER_SET: "ISO_IR 999", PATIENT_NAME: b"M\xfcller*"},
        {SPECIFIC_CHARACTER_SET: "ISO_IR 192", PATIENT_NAME: b"M\xfcller*"},
        {SPECIFIC_CHARACTER_SET: "ISO 2022 IR 87", PATIENT_NAME: b"\x1b$B\xff\xff*"},
        {SPECIFIC_CHARACTER_SET: b"\xff\xfe\\\\", PATIENT_NAME: "Smith*"},
    ],
)
def test_an_undecodable_name_gets_a_clear_status(
    crowded: peers.NodeProcess, keys: dict[int, str]
) -> None:
    answers = find(crowded, {QUERY_RETRIEVE_LEVEL: "STUDY", **keys})
    assert answers.status in (0x0000, IDENTIFIER_DOES_NOT_MATCH)
    if answers.status == IDENTIFIER_DOES_NOT_MATCH:
        assert answers.comment


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        identifier(EVERYTHING)[:-3],
        random.Random(3).randbytes(512),
        element(QUERY_RETRIEVE_LEVEL, b"STUDY ")[:-1] + b"\xff" * 40,
        b"\x08\x00\x52\x00\xff\xff\xff\xffSTUDY ",
        identifier(EXACT)
        + b"\x08\x00\x32\x10\xff\xff\xff\xff"
        + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * 900,
    ],
    ids=["nothing", "a byte", "cut", "random", "rubbish", "length", "nested"],
)
def test_rubbish_for_an_identifier_is_answered_with_a_failure(
    crowded: peers.NodeProcess, data: bytes
) -> None:
    with querying(crowded.dicom_address) as wire, contextlib.suppress(ConnectionEnded):
        answers = wire.find(data)
        assert answers.status == IDENTIFIER_DOES_NOT_MATCH or answers.status >= 0xC000
    assert find(crowded, EXACT).pending == 1


def test_more_matches_than_max_matches_end_with_a700_and_the_limit(
    index: Path, tmp_path: Path
) -> None:
    limits: dict[str, object] = {"max_matches": 10}
    with crowded_node(index, tmp_path, limits=limits) as node:
        answers = find(node, {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: ""})
    assert (answers.status, answers.pending) == (0xA700, 10)
    assert "max_matches" in answers.comment


@pytest.mark.parametrize("after", [0, 1, 200])
def test_a_cancel_ends_the_query_with_fe00(crowded: peers.NodeProcess, after: int) -> None:
    with querying(crowded.dicom_address) as wire:
        answers = wire.find(EVERYTHING, cancel_after=after)
        assert answers.status in (CANCEL, 0x0000)
        assert after == 200 or answers.status == CANCEL
        # Nothing of the cancelled query follows its final response.
        assert wire.find(EXACT).pending == 1
        assert wire.echo(ECHO) == 0
        wire.release()


def test_a_cancel_that_comes_too_late_is_ignored(crowded: peers.NodeProcess) -> None:
    with querying(crowded.dicom_address) as wire:
        assert wire.find(EXACT).pending == 1
        wire.cancel(FIND, 1)
        wire.cancel(FIND, 999)
        assert wire.find(EXACT).pending == 1
        wire.release()


def ask(wire: QueryWire, message_id: int = 1) -> None:
    """Send the query for everything and read nothing of what it brings."""
    wire.send(b"".join(wire.message(FIND, c_find_rq(message_id), identifier(EVERYTHING))))


def test_two_queries_on_one_association_are_both_answered(crowded: peers.NodeProcess) -> None:
    with querying(crowded.dicom_address) as wire:
        ask(wire, 1)
        ask(wire, 2)
        finals, pending = [], 0
        for _, response, _ in wire.messages():
            if response[0x0900] == b"\0\0":
                finals.append(int.from_bytes(response[0x0120], "little"))
            else:
                pending += 1
            if len(finals) == 2:
                break
        assert sorted(finals) == [1, 2]
        assert pending == 2 * STUDIES


def ask_for_too_much(wire: QueryWire) -> range:
    """Ask so often that no system takes all responses from the node; return the message ids."""
    message_ids = range(1, 13)
    for message_id in message_ids:
        ask(wire, message_id)
    return message_ids


def test_a_peer_that_stops_reading_can_cancel_and_read_on(crowded: peers.NodeProcess) -> None:
    with deaf(crowded) as wire:
        message_ids = ask_for_too_much(wire)
        eventually(nothing_more_comes(wire), "responses wait for the peer")
        for message_id in message_ids:
            wire.send(pdu(P_DATA, pdv(FIND, c_cancel_rq(message_id), command=True)))
        pending, finals = 0, {}
        for _, response, _ in wire.messages():
            if response[0x0900] in (b"\0\xff", b"\1\xff"):
                pending += 1
                continue
            answered = int.from_bytes(response[0x0120], "little")
            assert answered not in finals
            finals[answered] = int.from_bytes(response[0x0900], "little")
            if len(finals) == len(message_ids):
                break
        assert finals[message_ids[-1]] == CANCEL
        assert set(finals.values()) <= {CANCEL, 0x0000}
        assert pending < len(message_ids) * STUDIES
        assert wire.echo(ECHO) == 0


@contextlib.contextmanager
def deaf(node: peers.NodeProcess) -> Iterator[QueryWire]:
    """Return an association whose peer has little room for what it does not read."""
    with querying(node.dicom_address, receive_buffer_bytes=4096) as wire:
        yield wire


def test_a_hundred_peers_that_ask_for_everything_and_do_not_read_harm_nobody(
    index: Path, tmp_path: Path
) -> None:
    with crowded_node(index, tmp_path) as node, ExitStack() as stack:
        with querying(node.dicom_address) as wire:
            assert wire.find(EVERYTHING).pending == STUDIES
        before = node.resident_bytes()
        wires = [stack.enter_context(deaf(node)) for _ in range(100)]
        for wire in wires:
            ask_for_too_much(wire)
        with Wire(node.dicom_address) as other:
            other.associate(calling="OTHER")
            for _ in range(20):
                assert other.echo() == 0
        with querying(node.dicom_address, timeout=20) as wire:
            assert wire.find(EXACT).pending == 1
        assert node.resident_bytes() - before < 128 * MEBIBYTE
        for wire in wires:
            wire.abort()
        active = "dicomnode_associations_active"
        eventually(lambda: peers.metric(node.http_address, active) == 0, "no association")
        with querying(node.dicom_address) as wire:
            assert wire.find(EVERYTHING).pending == STUDIES


def test_a_peer_that_never_reads_is_let_go_after_the_write_deadline(
    index: Path, tmp_path: Path
) -> None:
    timeouts: dict[str, object] = {"write_seconds": 0.5}
    with crowded_node(index, tmp_path, timeouts=timeouts) as node, deaf(node) as wire:
        ask_for_too_much(wire)
        active = "dicomnode_associations_active"
        eventually(lambda: peers.metric(node.http_address, active) == 0, "no association")
        assert find(node, EXACT).pending == 1


def test_aborted_queries_leave_no_thread_busy(crowded: peers.NodeProcess) -> None:
    for _ in range(40):
        with querying(crowded.dicom_address) as wire:
            ask(wire)
            wire.abort()
    assert find(crowded, EXACT).pending == 1
    active = "dicomnode_associations_active"
    eventually(lambda: peers.metric(crowded.http_address, active) == 0, "no association")


def test_echoes_are_answered_while_queries_run(crowded: peers.NodeProcess) -> None:
    done = threading.Event()

    def ask_again() -> None:
        with querying(crowded.dicom_address) as wire:
            while not done.is_set():
                assert wire.find(EVERYTHING).pending == STUDIES

    asking = [threading.Thread(target=ask_again, daemon=True) for _ in range(2)]
    for thread in asking:
        thread.start()
    with Wire(crowded.dicom_address) as other:
        other.associate(calling="OTHER")
        for _ in range(100):
            assert other.request(1, c_echo_rq()) == 0
    done.set()
    for thread in asking:
        thread.join(20)


def test_what_is_returned_are_the_studies_that_are_there(crowded: peers.NodeProcess) -> None:
    answers = find(crowded, EVERYTHING)
    found = {
        values(each)[STUDY_INSTANCE_UID].rstrip(b"\0").decode() for each in answers.identifiers
    }
    assert found == {study(number).uid for number in range(STUDIES)}
