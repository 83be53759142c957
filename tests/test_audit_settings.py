"""The settings of the audit trail."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.audit_settings import Destination, read_destination
from dicomnode.errors import ConfigurationError
from dicomnode.parameters import audit_of
from dicomnode.settings import Settings, load_settings


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("udp://audit.example", Destination("udp", "audit.example", 514)),
        ("tcp://10.0.0.9:601", Destination("tcp", "10.0.0.9", 601)),
        ("tls://audit.example/", Destination("tls", "audit.example", 6514)),
        ("TLS://[2001:db8::1]:7000", Destination("tls", "2001:db8::1", 7000)),
    ],
)
def test_a_destination_is_a_transport_a_host_and_a_port(text: str, read: Destination) -> None:
    assert read_destination(text) == read
    assert read_destination(str(read)) == read


@pytest.mark.parametrize(
    "text",
    [
        "audit.example:514",
        "http://audit.example",
        "udp://",
        "udp://host:99999",
        "udp://host:0",
        "udp://host/path",
        "udp://user@host",
        "udp://ho st",
        "udp://[::1",
    ],
)
def test_what_is_no_destination_is_told(text: str, tmp_path: Path) -> None:
    file = tmp_path / "dicomnode.toml"
    file.write_text(f'[audit]\nenabled = true\ndestination = "{text}"\n')
    with pytest.raises(ConfigurationError) as raised:
        load_settings(file)
    assert len(raised.value.problems) == 1
    assert "audit.destination" in raised.value.problems[0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("enabled = true", "audit.enabled: needs audit.destination or audit.file"),
        ("enabled = true\ndestinaton = 'udp://a'", "unknown key; did you mean destination?"),
        ("spool_bytes = 5", "audit.spool_bytes: must be 1048576 or more"),
        ("enterprise_site = 'a\\nb'", "none of them a control character"),
    ],
)
def test_mistakes_are_told(rows: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "dicomnode.toml"
    file.write_text(f"[audit]\n{rows}\n".replace("'", '"'))
    with pytest.raises(ConfigurationError) as raised:
        load_settings(file)
    assert any(words in problem for problem in raised.value.problems)


def test_it_is_off_unless_it_is_switched_on(tmp_path: Path) -> None:
    destination = {"destination": "tls://[::1]:6514", "file": str(tmp_path / "audit.xml")}
    assert audit_of(Settings()) is None
    assert audit_of(Settings(audit=destination)) is None
    options = audit_of(Settings(audit={"enabled": True, **destination}))
    assert options is not None
    assert [where for where, _ in options.targets.values()] == list(destination.values())
