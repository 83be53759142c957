"""What user identities are checked against, and who else could read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.credentials import read_credentials
from dicomnode.settings import load_settings

SETTINGS = """
[http]
token = "0123456789abcdef"
[jwt]
key_file = "{key}"
algorithm = "HS256"
issuer = "i"
audience = "a"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    key, file, users = (tmp_path / name for name in ("secret", "dicomnode.toml", "users.toml"))
    key.write_bytes(bytes(range(32, 96)))
    file.write_text(SETTINGS.format(key=key))
    users.write_text("")
    for each in (key, file):
        each.chmod(0o640)
    users.chmod(0o600)
    return file


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("secret", "can make tokens of any user"),
        ("dicomnode.toml", "http.token"),
        ("users.toml", "can be read by others"),
    ],
)
def test_a_secret_that_others_can_read_is_warned_of(file: Path, name: str, words: str) -> None:
    settings = load_settings(file)
    assert read_credentials(settings, file).note == ""
    (file.parent / name).chmod(0o644)
    note = read_credentials(settings, file).note
    assert words in note and str(file.parent / name) in note and ";" not in note


def test_a_public_key_may_be_read_by_all_and_so_may_settings_without_secrets(file: Path) -> None:
    text = file.read_text().replace('token = "0123456789abcdef"', "")
    file.write_text(text.partition("[jwt]")[0])
    file.chmod(0o644)
    assert read_credentials(load_settings(file), file).note == ""
