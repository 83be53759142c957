"""Revocation lists: what is wrong with them, and what is said of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dicomnode.errors import ConfigurationError
from dicomnode.tls.contexts import server_context
from dicomnode.tls.files import Files, mistakes, revocation
from tests.authority import Authority, of_version

DAY = 86400.0


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Files:
    ours = authority.issue("node", "localhost")
    lists = tmp_path / "crl.pem"
    lists.write_bytes(authority.revoke(days=30, since_days=0))
    return Files(ours.certificate, ours.key, authority.ca, "required", revoked=lists)


def test_a_list_of_each_authority_leaves_nothing_to_say(files: Files) -> None:
    assert mistakes(files) == []
    found, now = revocation(files), time.time()
    assert found.warnings(now) == []
    assert abs((found.ends_at or 0) - (now + 30 * DAY)) < 60


def test_an_authority_without_a_list_is_told_of(files: Files, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "Other CA")
    assert files.ca is not None
    files.ca.write_bytes(files.ca.read_bytes() + other.ca.read_bytes())
    (words,) = revocation(files).warnings(time.time())
    assert "no list of CN=Other CA" in words and "are refused" in words


@pytest.mark.parametrize(
    ("after_days", "words"), [(20, ""), (25, "ends soon"), (31, "has ended"), (-1, "not valid")]
)
def test_a_list_is_warned_of_in_the_last_quarter_of_its_time(
    files: Files, after_days: float, words: str
) -> None:
    told = revocation(files).warnings(time.time() + after_days * DAY)
    assert len(told) == bool(words) and all(words in each for each in told)


def test_what_is_no_list_is_not_taken(files: Files, authority: Authority, tmp_path: Path) -> None:
    assert files.revoked is not None
    forged = Authority(tmp_path / "forged")
    good = files.revoked.read_bytes()
    for content, words in (
        (b"0\x82", "openssl crl -inform DER"),
        (of_version(good, 7), "7 is not a valid CRL version"),
        (forged.revoke(), "CN=Test CA, as it stands in tls.ca, has not signed"),
        # OpenSSL would trust whoever it is.
        (good + forged.ca.read_bytes(), "holds a certificate"),
    ):
        files.revoked.write_bytes(content)
        (told,) = mistakes(files)
        assert told.startswith(f"tls.revoked: {files.revoked}: ") and words in told
    with pytest.raises(ConfigurationError, match="holds a certificate"):
        server_context(files)
