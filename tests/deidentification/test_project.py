"""The key of a project: the same replacement always, and none that can be told without it."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.deidentification.project import Project, make_key, read_key
from dicomnode.errors import KeyUnusable

ONE, OTHER = Project("ONE", bytes(32)), Project("ONE", bytes([1] * 32))
UID = "1.2.826.0.1.3680043.10.1666.7"


def test_the_same_value_has_the_same_replacement_under_the_same_key_alone() -> None:
    again = Project("ONE", bytes(32))
    assert again.uid(UID) == ONE.uid(UID) != OTHER.uid(UID)
    assert again.word("patient", "A", "1") == ONE.word("patient", "A", "1")
    assert ONE.word("patient", "A", "1") != OTHER.word("patient", "A", "1")
    assert again.days("A", "1") == ONE.days("A", "1")


def test_a_replacement_is_no_digest_that_can_be_made_without_the_key() -> None:
    plain = {hashlib.new(name, UID.encode()).hexdigest()[:32] for name in ("md5", "sha1", "sha256")}
    number = int(ONE.uid(UID).removeprefix("2.25."))
    assert f"{number:032x}" not in plain
    assert UUID(int=number) not in {UUID(text) for text in plain}


@given(st.text(max_size=64))
def test_a_uid_is_a_uuid_below_2_25(text: str) -> None:
    uid = ONE.uid(text)
    assert uid.startswith("2.25.") and len(uid) <= 64
    number = UUID(int=int(uid.removeprefix("2.25.")))
    assert number.version == 8 and number.variant == RFC_4122


def test_parts_do_not_run_into_each_other() -> None:
    words = {
        ONE.word(*parts)
        for parts in (("patient", "AB", ""), ("patient", "A", "B"), ("patient", "", "AB"))
    }
    assert len(words) == 3
    assert ONE.word("patient", '","') != ONE.word("patient", "", "")


def test_days_are_between_one_day_and_ten_years_into_the_past() -> None:
    days = [ONE.days("", str(number)) for number in range(2000)]
    assert -3652 <= min(days) < -3500 and -150 < max(days) <= -1


def test_a_key_is_made_once_for_its_owner_alone_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    make_key(path, "TRIAL-7")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path).name == "TRIAL-7"
    assert read_key(path).uid(UID) == read_key(path).uid(UID)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        make_key(path, "TRIAL-7")
    assert path.read_bytes() == before
    make_key(tmp_path / "other", "TRIAL-7")
    assert read_key(tmp_path / "other").uid(UID) != read_key(path).uid(UID)


@pytest.mark.parametrize("name", ["", "small", "A" * 17, "A^B", "Ä", "A\n", "-A"])
def test_a_name_is_one_that_any_patient_id_may_begin_with(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyUnusable):
        make_key(tmp_path / "key", name)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b'{"form": "dicomnode de-identification key 1", "project": "A", "key": "00"}',
        b'{"form": "dicomnode de-identification key 1", "project": 1, "key": "00"}',
        b'{"form": "something else", "project": "A", "key": "' + b"00" * 32 + b'"}',
        b'{"form": "dicomnode de-identification key 1", "project": "A", "key": 7}',
        b" " * 100_000,
        b"[" * 4000,
    ],
)
def test_what_is_no_key_is_not_read_as_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(KeyUnusable):
        read_key(path)
