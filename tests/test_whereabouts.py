"""Where the configuration stands that an explanation speaks of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dicomnode.settings import load_settings
from dicomnode.whereabouts import Whereabouts

SETTINGS = """\
[node]
ae_title = "DICOMNODE"

[limits]
max_associations = 7

[http]
token = "a-token-that-is-long"
"""
REGISTRY = """\
# The registry.
[[ae]]
title = "CT_1"
services = ["echo"]

[[ae]]
title = "CT_10"
addresses = ["10.0.0.0/8"]

[[ae]]
title = "WS 1"
move_destinations = ["CT_10"]
"""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DICOMNODE__"):
            monkeypatch.delenv(name)


def places(directory: Path, *sentences: str, calling: str = "CT_1") -> list[dict[str, Any]]:
    """Return the places of an explanation with ``sentences`` as advice, without the directory."""
    file, registry = directory / "dicomnode.toml", directory / "ae.toml"
    file.write_text(SETTINGS)
    registry.write_text(REGISTRY)
    entry = {"calling_ae_title": calling, "reasons": [], "advice": sentences}
    (found,) = Whereabouts(load_settings(file), file).located([entry])
    assert found["advice"] == sentences
    return [
        place | {"where": place["where"].removeprefix(f"{directory}/")}
        for place in found["configuration"]
    ]


def test_a_key_that_is_set_is_told_with_its_line_and_value(tmp_path: Path) -> None:
    assert places(tmp_path, "7 are open, limits.max_associations is 7") == [
        {
            "key": "limits.max_associations",
            "value": "7",
            "where": "dicomnode.toml:5",
            "is_set": True,
        }
    ]


def test_a_key_that_is_not_set_is_told_with_what_to_write_where(tmp_path: Path) -> None:
    (within, without) = places(
        tmp_path, "Raise limits.max_matches.", "Or storage.accept_unknown_storage = true."
    )
    assert (within["where"], within["write"]) == (
        "dicomnode.toml:4",
        "max_matches = ... under [limits]",
    )
    assert (within["value"], within["is_set"]) == ("10000", False)
    assert (without["where"], without["write"]) == (
        "dicomnode.toml",
        "[storage] and below it accept_unknown_storage = ...",
    )


def test_what_the_environment_sets_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMNODE__LIMITS__MAX_ASSOCIATIONS", "9")
    (place,) = places(tmp_path, "limits.max_associations is 9")
    assert place["where"] == "environment variable DICOMNODE__LIMITS__MAX_ASSOCIATIONS"
    assert place["value"] == "9"


def test_secrets_are_not_told(tmp_path: Path) -> None:
    (place,) = places(tmp_path, "Use http.token.")
    assert place["value"] == "set"


def test_words_that_are_no_keys_are_passed_over(tmp_path: Path) -> None:
    assert places(tmp_path, "See ae.example or limits.nothing, i.e. node.name.") == []


def test_a_key_of_an_ae_is_told_with_its_line(tmp_path: Path) -> None:
    sentence = 'If CT_1 may use it, add "store" to its services in ae.toml.'
    assert places(tmp_path, sentence) == [
        {
            "title": "CT_1",
            "key": "ae.services",
            "value": '["echo"]',
            "where": "ae.toml:4",
            "is_set": True,
        }
    ]


def test_a_key_that_an_ae_does_not_have_is_to_be_written_in_its_table(tmp_path: Path) -> None:
    places_of = places(tmp_path, "Give CT_10 in ae.toml its host and port.", calling="WS_1")
    assert [(place["key"], place["where"], place["write"]) for place in places_of] == [
        ("ae.host", "ae.toml:6", "host = ..."),
        ("ae.port", "ae.toml:6", "port = ..."),
    ]


def test_an_ae_that_is_not_registered_is_to_be_written(tmp_path: Path) -> None:
    sentence = 'Add an [[ae]] with title = "ARCHIVE", host and port to ae.toml.'
    assert places(tmp_path, sentence) == [
        {
            "title": "ARCHIVE",
            "where": "ae.toml",
            "is_set": False,
            "write": '[[ae]] and below it title = "ARCHIVE", host = ..., port = ...',
        }
    ]


def test_without_files_the_values_in_force_are_told(tmp_path: Path) -> None:
    file = tmp_path / "dicomnode.toml"
    file.write_text(SETTINGS)
    settings = load_settings(file)
    file.unlink()
    entry = {"reasons": [{"words": "limits.max_associations is 7 (ae.toml)"}], "advice": []}
    (found,) = Whereabouts(settings, file).located([entry])
    (place,) = found["configuration"]
    assert place["value"] == "7"


@pytest.mark.parametrize(
    ("sentences", "keys"),
    [
        (
            ("CT_1 is not among the move_destinations of WS 1 in ae.toml",),
            [("WS 1", "ae.move_destinations")],
        ),
        (
            ('If WS 1 may, add "CT_1" to its move_destinations in ae.toml.',),
            [("WS 1", "ae.move_destinations")],
        ),
        (
            ('Add an [[ae]] with title = "X", host and port to ae.toml. Reachable now: CT_10.',),
            [("X", None)],
        ),
        (
            ("Give CT_1 in ae.toml its host and port. Reachable now: CT_10.",),
            [("CT_1", "ae.host"), ("CT_1", "ae.port")],
        ),
    ],
)
def test_keys_are_those_of_the_ae_that_a_sentence_is_about(
    tmp_path: Path, sentences: tuple[str, ...], keys: list[tuple[str, str | None]]
) -> None:
    found = places(tmp_path, *sentences, calling="WS 1")
    assert [(place["title"], place.get("key")) for place in found] == keys
