"""The file of users: what is read, what is written, and passcodes."""

from __future__ import annotations

import base64
import stat
import tomllib
from pathlib import Path

import pytest

from dicomnode.errors import ConfigurationError
from dicomnode.users import (
    User,
    Users,
    change_users,
    hash_passcode,
    is_passcode,
    load_users,
    open_to_others,
)

# RFC 7914 §12, the third vector: N=16384, r=8, p=1, "pleaseletmein", salt "SodiumChloride"; the
# first 32 bytes of it.
VECTOR_HASH = "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
VECTOR = (
    "scrypt$16384$8$1$U29kaXVtQ2hsb3JpZGU=$" + base64.b64encode(bytes.fromhex(VECTOR_HASH)).decode()
)


def test_a_passcode_is_kept_as_a_salted_hash_that_only_it_matches() -> None:
    one, other = hash_passcode(b"correct horse"), hash_passcode(b"correct horse")
    assert one != other and "correct" not in one
    assert is_passcode(b"correct horse", one) and is_passcode(b"correct horse", other)
    assert not is_passcode(b"correct horsf", one)
    assert not is_passcode(b"", one)
    assert not is_passcode(b"correct horse", None)


def test_hashes_are_those_of_rfc_7914() -> None:
    assert is_passcode(b"pleaseletmein", VECTOR)
    assert not is_passcode(b"pleaseletmeout", VECTOR)


def test_what_is_written_is_read_again_and_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    users = [
        User(name='Jürgen "J"\\', passcode=VECTOR, description="a\tb"),
        User(name="\U0001f469 x"),
    ]
    change_users(path, lambda before: [*before, *users], tmp_path)
    assert list(load_users(path)) == users
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not open_to_others(path)
    tomllib.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    change_users(path, lambda before: [User(name="jane")], tmp_path)

    def fail(before: Users) -> list[User]:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        change_users(path, fail, tmp_path)
    assert [user.name for user in load_users(path)] == ["jane"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_others_may_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    path.write_text("")
    path.chmod(0o640)
    assert open_to_others(path)
    assert not open_to_others(tmp_path / "missing")


def test_there_need_be_no_file(tmp_path: Path) -> None:
    assert len(load_users(tmp_path / "users.toml")) == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[users]]\nname = 'a'", "users.toml:1: users: unknown section"),
        ("[[user]]\nname = ''", "users.toml:2: user.name: must be 1 to 128 printable"),
        ('[[user]]\nname = "a\\u001b"', "must be 1 to 128 printable"),
        ("[[user]]\npasscode = 'x'", "user.name: is missing"),
        ("[[user]]\nname = 'a'\npass = 'x'", "did you mean passcode?"),
        ("[[user]]\nname = 'a'\n[[user]]\nname = 'a'", "users.toml:4: user.name: 'a' stands at"),
        ("[[user]]\nname = 'a'\npasscode = 'hunter2'", "must be a hash that"),
        ("[[user]]\nname = 'a'\npasscode = 'scrypt$1073741824$8$1$AA==$AA=='", "must be a hash"),
        ("[[user]]\nname = 'a'\npasscode = 'scrypt$-2$8$1$AA==$AA=='", "must be a hash"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_without_the_passcode(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "users.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_users(path)
    told = "\n".join(caught.value.problems)
    assert problem in told
    assert "hunter2" not in told
