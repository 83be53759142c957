"""The settings of fetching: what they say, and how their mistakes are told."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

import pytest

from dicomnode.errors import ConfigurationError
from dicomnode.fetch_settings import FetchRule, read_every
from dicomnode.settings import load_settings
from dicomnode.sync.rules import make_rules
from tests.cli.commands import run

ROOT = Path(__file__).parents[1]


def rule(line: str, more: str = "every = '1h'") -> str:
    return f"[[fetch]]\nname = 'x'\nfrom = 'A'\n{more}\n{line}\n"


def test_the_try_out_settings_show_every_key_of_a_rule() -> None:
    text = (ROOT / "config/dicomnode.toml").read_text()
    _, _, rest = text.partition("# [[fetch]]\n")
    table = rest.partition("\n\n")[0]
    (shown,) = tomllib.loads("[[fetch]]\n" + re.sub(r"(?m)^#   (\w+ = )", r"\1", table))["fetch"]
    plain = FetchRule.model_validate({"name": "x", "from": "A"}).model_dump(by_alias=True)
    assert {*shown, "at"} == set(plain)
    assert FetchRule(**shown).model_dump()["direction"] == plain["direction"]
    assert shown["mode"] == plain["mode"]


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("30m", 1800), ("1h", 3600)])
def test_how_often_is_written_with_its_unit(text: str, seconds: float) -> None:
    assert read_every(text) == seconds


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (rule("", "every = 'often'"), "fetch.every: must be a time such as"),
        (rule("", "every = '1s'"), "of 10 s or more"),
        (rule("", "at = '2:30'"), 'fetch.at: must be a time of day such as "02:30"'),
        (rule("window = '22-6'"), "fetch.window: must be two different times of day"),
        (rule("direction = 'up'"), "must be 'pull', 'push' or 'both', not 'up'"),
        (rule("mode = 'fax'"), "must be 'auto', 'get' or 'move', not 'fax'"),
        (rule("modality = 'ct'"), 'fetch.modality: must be a modality such as "CT"'),
        (rule("last_days = -1"), "fetch.last_days: must be 0 or more"),
        (rule("days = 1"), "unknown key; did you mean last_days?"),
    ],
)
def test_a_mistake_is_told_with_what_to_write_instead(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "dicomnode.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(problem)):
        load_settings(file)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (rule("").replace("'A'", "'MUT'"), "'MUT' is not in ae.toml; did you mean MUTE?"),
        (rule("").replace("'A'", "'MUTE'"), "fetch.from (of x): MUTE has no host in ae.toml"),
        (rule("at = '02:30'"), "fetch.at (of x): excludes every"),
        (rule("", ""), "fetch.name (of x): it says not when"),
        (rule("at = '12:00'\nwindow = '22:00-06:00'", ""), "is outside of the window 22:00-06:00"),
        (rule("keys = { Modality = 'CT' }"), "Modality is no attribute of a patient or a study"),
        (rule("keys = { Patient = '1' }"), "no attribute has the keyword Patient"),
        (rule("keys = { StudyDate = '20260101' }\nlast_days = 3"), "excludes StudyDate in keys"),
        (rule("") * 2, "another rule has this name; each needs its own"),
    ],
)
def test_what_cannot_work_is_told_before_the_node_starts(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "dicomnode.toml"
    file.write_text(text)
    (tmp_path / "ae.toml").write_text(
        "[[ae]]\ntitle = 'A'\nhost = 'localhost'\n[[ae]]\ntitle = 'MUTE'\n"
    )
    ended = run("check-config", "--config", file)
    assert ended.code == 78
    assert problem in ended.err


def test_days_are_counted_back_from_today() -> None:
    (made,) = make_rules(
        [FetchRule.model_validate({"name": "x", "from": "A", "every": "1h", "last_days": 3})]
    )
    wish = made.wish_on(date(2026, 11, 3))
    assert wish.query(wish.span) == ["StudyDate=20261031-", "ModalitiesInStudy="]
