"""``dicomnode custody``: the story of an object, and whether the chain is whole."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.cli.custody_story import sentence
from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Catalog
from dicomnode.index.custody import Custody
from dicomnode.integrity.record import CustodyRecord, Event, Happening, faults
from tests.cli.commands import Ended, run
from tests.custody_log import recorded
from tests.index.entries import sqlite_url
from tests.integrity.chains import AT, STUDY, chain
from tests.peers import write_config

SERIES = f"{STUDY}.4"
FROM = {
    "calling_ae_title": "CT_1",
    "address": "10.0.0.5",
    "association": 7,
    "series_instance_uid": SERIES,
    "file_bytes": 39094,
    "file_sha256": "f" * 64,
    "sha256": "d" * 64,
}
TO = {"to": "WS_1", "address": "10.0.0.6", "association": 9, "service": "C-MOVE"}
ASKED = {"asked_by": "WS_2", "asked_from": "10.0.0.7", "asked_on": 8}
HAPPENINGS = [
    *(Happening(Event.RECEIVED, STUDY, f"{SERIES}.{n}", FROM, AT) for n in range(1, 31)),
    Happening(Event.RETRIEVED, STUDY, f"{SERIES}.2", {**TO, **ASKED}, AT),
    Happening(Event.DELETED, STUDY, f"{SERIES}.2", {"reason": "a\x1b[2Jtrick"}, AT),
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = write_config(tmp_path)
    (tmp_path / "store").mkdir()
    with Catalog(sqlite_url(tmp_path / "store"), synchronous="OFF") as catalog:
        Custody(catalog).append(HAPPENINGS)
    return path


@contextlib.contextmanager
def database(config: Path) -> Iterator[sqlite3.Connection]:
    path = config.parent / "store" / "index.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as index, index:
        yield index


def custody(config: Path, *arguments: str) -> Ended:
    return run("custody", *arguments, "--config", config)


def test_the_story_of_an_object_is_told_in_the_order_of_the_chain(config: Path) -> None:
    ended = custody(config, f"{SERIES}.2")
    assert ended.code == 0
    told = [line for line in ended.lines if "│" in line]
    assert "received from CT_1 at 10.0.0.5 on association 7" in told[0]
    handed_out = "handed out by C-MOVE to WS_1 at 10.0.0.6 on association 9"
    assert f"{handed_out}, asked by WS_2 at 10.0.0.7 on association 8" in told[1]
    assert "deleted: a\\x1b[2Jtrick" in told[2]
    assert f"file SHA-256 {'f' * 64}, 38KB" in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("uid", [STUDY, SERIES])
def test_what_reads_alike_of_many_objects_is_one_row(config: Path, uid: str) -> None:
    ended = custody(config, uid)
    assert ended.lines[0].endswith(f"{uid}: 32 records of 30 objects")
    rows = [line.split("│") for line in ended.lines if "│" in line]
    assert [(row[2].strip(), row[4].strip()) for row in rows] == [
        ("30", "1 to 30"),
        ("1", "31"),
        ("1", "32"),
    ]


def test_json_has_the_records_whole(config: Path) -> None:
    shown = json.loads(custody(config, f"{SERIES}.2", "--json").out)
    records = [CustodyRecord.from_json(each) for each in shown]
    expected = chain(HAPPENINGS)
    assert records == [expected[1], *expected[30:]] and not list(faults(records))


def test_a_whole_chain_is_said_to_be_whole_and_ends_with_0(config: Path) -> None:
    head = custody(config, "--head").out.strip()
    assert head == f"32:{chain(HAPPENINGS)[-1].hash}"
    checked = custody(config, "--check")
    assert checked.code == 0 and "is whole: 32 records" in checked.out
    assert "only --expect shows" in checked.out
    anchored = custody(config, "--check", "--expect", head.upper(), "--expect", head)
    assert anchored.code == 0 and "only --expect shows" not in anchored.out
    assert json.loads(custody(config, "--check", "--json").out)["whole"] is True


def test_a_changed_chain_is_said_to_be_broken_and_ends_with_1(config: Path) -> None:
    with database(config) as index:
        index.execute("UPDATE custody SET details = replace(details, 'CT_1', 'CT_2')")
    checked = custody(config, "--check")
    assert checked.code == 1 and "is NOT whole: 30 faults" in checked.out
    assert checked.out.count("is not what its hash says") == 20
    assert json.loads(custody(config, "--check", "--json").out)["fault_count"] == 30
    story = custody(config, f"{SERIES}.2")
    assert story.code == 1 and "not what was written" in story.err


def test_a_cut_end_is_found_by_a_head_that_was_noted(config: Path) -> None:
    head = custody(config, "--head").out.strip()
    with database(config) as index:
        index.execute("DELETE FROM custody WHERE sequence > 20")
    assert custody(config, "--check").code == 0
    checked = custody(config, "--check", "--expect", head)
    assert checked.code == 1 and "it ends at 20" in checked.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a UID, --check or --head"),
        (["--check", "--head"], "give a UID, --check or --head"),
        (["1.2.3", "--expect", "1:" + "0" * 64], "--expect goes with --check"),
        (["not a UID"], "is no UID"),
        (["--check", "--expect", "12"], "is no SEQ:HASH"),
        (["1.2.9"], "nothing is recorded of 1.2.9"),
    ],
)
def test_what_cannot_be_told_is_said_in_one_line(
    config: Path, arguments: list[str], words: str
) -> None:
    ended = custody(config, *arguments)
    assert ended.code == 1 and words in ended.err
    assert len(ended.err.splitlines()) == 1


def test_each_event_has_its_words() -> None:
    for event in Event:
        (record,) = chain([Happening(event, STUDY, SERIES, {"how_much": 3}, AT)])
        assert sentence(record).endswith(", how much 3")


def test_each_changed_byte_of_a_record_in_the_database_file_is_found(config: Path) -> None:
    """Lengths and kinds of columns, which SQLite keeps before a row, included."""
    store = config.parent / "store"
    with database(config) as index:
        index.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        index.execute("PRAGMA journal_mode = DELETE")
    path = store / "index.sqlite"
    data = path.read_bytes()
    # The last record was written before the others on its page; its hash ends it.
    record = chain(HAPPENINGS)[31]
    end = data.index(bytes.fromhex(record.hash)) + 32
    start = data.rindex(AT.encode(), 0, end) - len("0123456789")
    # What SQLite keeps before the values, and some of them; in the index each byte is tried.
    for position in (*range(start, start + 16), *range(start + 16, end, 5)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises((AssertionError, CatalogError)):
            recorded(store)
    path.write_bytes(data)
    assert len(recorded(store)) == 32
