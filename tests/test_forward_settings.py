"""The settings of forwarding: what they say, and how their mistakes are told."""

from __future__ import annotations

import re
import tomllib
from datetime import datetime
from pathlib import Path

import pytest

from dicomnode.errors import ConfigurationError
from dicomnode.forward_settings import ForwardRule, read_window
from dicomnode.settings import load_settings

ROOT = Path(__file__).parents[1]


def rule(line: str) -> str:
    return f"[[forward]]\nname = 'x'\nto = ['A']\n{line}"


def test_the_try_out_settings_show_every_key_of_a_rule() -> None:
    text = (ROOT / "config/dicomnode.toml").read_text()
    _, _, table = text.partition("# [[forward]]\n")
    (rule,) = tomllib.loads("[[forward]]\n" + re.sub(r"(?m)^#   (\w+ = )", r"\1", table))["forward"]
    shown = ForwardRule(**rule).model_dump(by_alias=True)
    assert set(rule) == set(shown)
    plain = ForwardRule(name="x", to=("ARCHIVE",)).model_dump(by_alias=True)
    for key in ("what", "when", "stable_seconds", "priority", "commit", "delete_when_committed"):
        assert shown[key] == plain[key]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (rule("window = '22-6'"), 4, "forward.window: must be two different times of day such"),
        (rule("window = '22:00-22:00'"), 4, "must be two different times of day such"),
        (rule("window = '22:00-24:00'"), 4, "must be two different times of day such"),
        ("[[forward]]\nname = 'x'\nto = []", 3, "forward.to: must not be empty"),
        ("[[forward]]\nname = 'x'\nto = 'A'", 3, "must be a list"),
        ("[[forward]]\nname = ''\nto = ['A']", 2, 'must be a name such as "CT to archive"'),
        ("[[forward]]\nto = ['A']", 1, "forward.name: is missing"),
        (rule("form = ['CT']"), 4, "unknown key; did you mean from?"),
        (rule("xyzzy = 1"), 4, "unknown key; [[forward]] has name, what, from, sop_classes"),
        (rule("from = ['A', 'SEVENTEEN_LETTERS']"), 4, "forward.from[1]: must be an AE title, or"),
        (rule("when = 'later'"), 4, "must be 'received' or 'study_stable', not 'later'"),
        (rule("modalities = ['ct']"), 4, 'must be a modality such as "CT"'),
        (rule("sop_classes = ['CT Image']"), 4, 'must be a SOP class such as "CTImageStorage"'),
        (rule("attributes = { PatientID = 5 }"), 4, "forward.attributes[PatientID]: must be a"),
        (rule("stable_seconds = 0"), 4, "must be more than 0"),
        ("# first\n[forward]\nname = 'x'", 2, "must be written [[forward]], in double brackets"),
        (rule("[[forward]]\nname = 'y'\nto = ['A', '\\']"), 6, "forward.to[1]: must be an AE"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_to_write_instead(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    file = tmp_path / "dicomnode.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load_settings(file)
    (told,) = raised.value.problems
    assert told.startswith(f"{file}:{line}: ")
    assert problem in told


@pytest.mark.parametrize(
    ("window", "hours"),
    [("22:00-06:00", {22, 23, 0, 1, 2, 3, 4, 5}), ("08:00 - 10:00", {8, 9})],
)
def test_a_window_is_open_at_its_hours_also_past_midnight(window: str, hours: set[int]) -> None:
    read = read_window(window)
    opened = {hour for hour in range(24) if read.is_open(datetime(2026, 1, 1, hour, 30))}
    assert opened == hours


def test_a_window_opens_next_today_or_tomorrow() -> None:
    window = read_window("22:00-06:00")
    assert window.opening(datetime(2026, 1, 31, 12)) == datetime(2026, 1, 31, 22)
    assert window.opening(datetime(2026, 1, 31, 22, 30)) == datetime(2026, 2, 1, 22)
