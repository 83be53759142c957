"""The spool: what was added is there after a crash, and no more than its bound."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.audit.spool import Spool, Waiting

MESSAGE = b"m" * 968  # with what a row takes besides: 1000


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "audit.sqlite", 1024 * 1024)
    assert made.open() is None
    yield made
    made.close()


def reopened(spool: Spool, path: Path) -> Spool:
    spool.close()
    again = Spool(path, 1024 * 1024)
    again.open()
    return again


def test_messages_come_out_in_the_order_in_which_they_went_in_for_each_target(
    spool: Spool,
) -> None:
    spool.add([("syslog", b"1"), ("file", b"1f"), ("syslog", b"2")])
    spool.add([("syslog", b"3")])
    found = spool.oldest("syslog", 2)
    assert [message for _, message in found] == [b"1", b"2"]
    spool.forget("syslog", found)
    assert [message for _, message in spool.oldest("syslog", 9)] == [b"3"]
    assert [message for _, message in spool.oldest("file", 9)] == [b"1f"]


def test_what_waits_is_known_after_a_restart(spool: Spool, tmp_path: Path) -> None:
    spool.add([("syslog", MESSAGE)] * 3)
    before = spool.waiting("syslog")
    again = reopened(spool, tmp_path / "audit.sqlite")
    assert again.waiting("syslog") == before == Waiting(3, 3000)
    again.forget("syslog", again.oldest("syslog", 3))
    assert again.waiting("syslog") == Waiting()
    again.close()


def test_what_does_not_fit_is_refused_and_nothing_gives_way(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "audit.sqlite", 2500)
    spool.open()
    refused = spool.add([("syslog", b"first" + MESSAGE[5:]), *[("syslog", MESSAGE)] * 4])
    assert refused == {"syslog": 3}
    assert spool.add([("file", MESSAGE)]) == {}, "each target has room of its own"
    assert spool.oldest("syslog", 1)[0][1].startswith(b"first")
    spool.forget("syslog", spool.oldest("syslog", 1))
    assert spool.add([("syslog", MESSAGE)]) == {}
    spool.close()


def test_a_batch_is_bounded_in_bytes_but_never_empty(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "audit.sqlite", 16 * 1024**2)
    spool.open()
    spool.add(
        [("syslog", b"x" * 1_500_000), ("syslog", b"y" * 600_000), ("syslog", b"z" * 600_000)]
    )
    assert len(spool.oldest("syslog", 10)) == 1
    spool.forget("syslog", spool.oldest("syslog", 1))
    assert len(spool.oldest("syslog", 10)) == 1
    spool.close()


def test_its_files_are_their_owners_alone(spool: Spool, tmp_path: Path) -> None:
    spool.add([("syslog", b"Doe^Jane")])
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}
    assert "audit.sqlite-wal" in modes


def test_what_waits_for_a_target_that_is_gone_is_dropped_and_counted(spool: Spool) -> None:
    spool.add([("syslog", b"1"), ("syslog", b"2"), ("file", b"3")])
    assert spool.forget_others(["file"]) == 2
    assert spool.forget_others(["file"]) == 0
    assert spool.waiting("syslog") == Waiting()
    assert len(spool.oldest("file", 9)) == 1


def test_a_damaged_spool_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    path.write_bytes(b"no database at all" * 1000)
    spool = Spool(path, 1024 * 1024)
    aside = spool.open()
    assert aside is not None
    assert aside.read_bytes().startswith(b"no database")
    assert spool.add([("file", b"1")]) == {}
    spool.close()


def test_a_spool_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"audit\.sqlite"):
        Spool(tmp_path / "missing" / "audit.sqlite", 1024 * 1024).open()


def test_a_spool_that_cannot_be_written_is_an_os_error_and_can_be_written_later(
    spool: Spool, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "audit.sqlite", isolation_level=None)
    other.execute(
        "CREATE TRIGGER full BEFORE INSERT ON message BEGIN SELECT RAISE(FAIL, 'no'); END"
    )
    with pytest.raises(OSError, match=r"audit\.sqlite: no"):
        spool.add([("file", b"1")])
    assert spool.waiting("file") == Waiting()
    other.execute("DROP TRIGGER full")
    other.close()
    spool.add([("file", b"1")])
    assert spool.waiting("file").messages == 1


WRITER = """
import sys
from pathlib import Path
from dicomnode.audit.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 30)
spool.open()
number = 0
while True:
    spool.add([("file", b"%d" % (number + each)) for each in range(3)])
    number += 3
    print(number, flush=True)
"""


def test_what_was_added_is_there_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        added = 0
        while added < 60:
            added = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
        added = int(rest[-1]) if rest else added
    spool = Spool(path, 1 << 30)
    assert spool.open() is None
    found = [int(message) for _, message in spool.oldest("file", 1_000_000)]
    assert found[:added] == list(range(added))
    assert len(found) % 3 == 0, "what is added together is there together"
    spool.close()
