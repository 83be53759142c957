"""Retention rules applied to an archive: what goes, what stays, and what a wrong clock does."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import ConfigurationError
from dicomnode.index.commitment_requests import CommitmentRequests, Outcome
from dicomnode.index.commitments import Commitments
from dicomnode.reload import read_configuration
from dicomnode.retention.clock import received_now
from dicomnode.retention.planning import Planner
from dicomnode.retention.rules import Rules
from dicomnode.retention.running import Retention
from dicomnode.retention.state import States
from dicomnode.retention_settings import DeletionSettings, RetentionRule
from tests.index.entries import entry, waited
from tests.services.departing import Archive, moved
from tests.storage.objects import CT_STORAGE

ROOT = Path(__file__).parents[2]
DAY = 24 * 3600.0
NOW = 1_800_000_000.0


class Told:
    """Keeps what it is told of runs."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int, dict[str, str]]] = []
        self.broken: list[str] = []
        self.alarms: list[str] = []

    def ran(self, rule: str, objects: int, size_bytes: int, held: Mapping[str, str]) -> None:
        self.runs.append((rule, objects, dict(held)))

    def broken_off(self, rule: str, result: str) -> None:
        self.broken.append(rule)

    def clock_jumped(self, words: str, advice: str) -> None:
        self.alarms.append(words)

    def clock_trusted(self) -> None:
        pass

    def internal_error(self, what: str, error: BaseException) -> None:
        raise error


class Ward(Archive):
    """An archive with rules, a clock, and a disk with so much space."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.now = NOW
        self.free_bytes = 0
        self.told_of = Told()

    def rules(self, *tables: dict[str, object], **how: object) -> None:
        self.retention = Retention(
            self.catalog,
            self.remover,
            rules_of(tables, how),
            self.told_of,
            lambda: self.free_bytes,
            now=lambda: self.now,
        )

    def study(self, uid: str, days_ago: float, numbers: Sequence[int] = (1, 2), **more: Any) -> str:
        self.enter(*numbers, study=uid, received_at=NOW - days_ago * DAY, **more)
        return uid

    def going(self, within_days: float = 0) -> list[str]:
        listed = self.retention.plan(within_days)["listed"]
        return [each["study_instance_uid"] for each in listed if each["goes"]]

    def studies(self) -> set[str]:
        """Return the studies of which anything is held."""
        found = self.catalog.instance_rows(self.catalog.select_instances({}))
        return {row.study_instance_uid for row in found}


def rules_of(tables: Sequence[dict[str, object]], how: dict[str, object]) -> Rules:
    rules = [
        RetentionRule.model_validate({"name": f"rule {number}"} | table)
        for number, table in enumerate(tables)
    ]
    given = DeletionSettings.model_validate({"objects_per_second": 100_000} | how)
    return Rules(rules, given, strict=False)


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    ward = Ward(tmp_path)
    yield ward
    ward.close()


def trusted(ward: Ward) -> Ward:
    """Have the clock believed, as after an earlier run."""
    ward.retention.trust_clock()
    return ward


def test_what_a_dry_run_shows_is_what_goes(ward: Ward) -> None:
    ward.study("1.1", 40)
    ward.study("1.2", 50, Modality="MR")
    ward.study("1.3", 31, [1])
    ward.enter(2, study="1.3", received_at=NOW - 2 * DAY)
    ward.study("1.4", 200)
    ward.study("1.5", 20)
    ward.rules({"keep_days": 30, "modalities": ["CT"]})
    trusted(ward)
    planned = ward.retention.plan(15)
    assert ward.going() == ["1.4", "1.1"]
    soon = {each["study_instance_uid"]: each["due_at"] for each in planned["listed"]}
    assert soon["1.5"] == pytest.approx(NOW + 10 * DAY)
    assert planned["going"]["objects"] == 4
    ward.retention.run()
    assert ward.studies() == {"1.2", "1.3", "1.5"}
    assert ward.told_of.runs == [("rule 0", 4, {})]
    (shown,) = ward.retention.figures()["rules"]
    assert (shown["deleted"], shown["deleted_bytes"]) == (4, planned["going"]["bytes"])
    assert ward.going() == []


def test_the_first_rule_that_takes_an_object_decides(ward: Ward) -> None:
    ward.study("1.1", 400, Modality="MG")
    ward.study("1.2", 400, Modality="CT")
    ward.rules({"modalities": ["MG"], "keep_forever": True}, {"keep_days": 365})
    trusted(ward)
    assert ward.going() == ["1.2"]
    ward.rules({"keep_days": 365, "from": ["ct_*"]}, {"keep_forever": True})
    assert ward.going() == ["1.1", "1.2"]
    ward.rules({"keep_days": 365, "from": ["MR_*"]})
    assert ward.going() == []
    ward.rules({"keep_days": 365, "sop_classes": ["CTImageStorage"]})
    assert ward.going() == ["1.1", "1.2"]


def test_days_may_count_from_the_date_of_the_study(ward: Ward) -> None:
    ward.study("1.1", 10, StudyDate="20200101")
    ward.study("1.2", 10, StudyDate="20270101")
    ward.study("1.3", 10, StudyDate="")
    ward.study("1.4", 40, StudyDate="20261399")
    ward.study("1.5", 3, StudyDate="20200101")
    ward.rules({"keep_days": 30, "counted_from": "study_date"})
    assert ward.going() == ["1.4", "1.1"], "what came in the last week is protected"


def test_space_is_made_by_the_oldest_studies_and_no_more_than_is_wanted(ward: Ward) -> None:
    for number, days in enumerate((100, 90, 80, 5)):
        ward.study(f"1.{number}", days)
    ward.rules({"free_bytes": 1_000_000})
    trusted(ward)
    size = ward.retention.plan(0)["listed"][0]["bytes"]
    ward.free_bytes = 1_000_000 - size - 1
    assert ward.going() == ["1.0", "1.1"]
    ward.free_bytes = 1_000_000
    assert ward.going() == []
    ward.free_bytes = 0
    assert ward.going() == ["1.0", "1.1", "1.2"]
    ward.free_bytes = 1_000_000 - size
    ward.retention.run()
    assert ward.studies() == {"1.1", "1.2", "1.3"}


def test_with_both_days_and_space_only_what_is_old_goes_and_only_when_space_is_short(
    ward: Ward,
) -> None:
    ward.study("1.1", 100)
    ward.study("1.2", 50)
    ward.rules({"free_bytes": 1000, "keep_days": 60})
    trusted(ward)
    assert ward.going() == ["1.1"]
    ward.free_bytes = 1000
    assert ward.going() == []


def commit(ward: Ward, uid: str, peer: str = "PACS", number: int = 1) -> None:
    """Have a peer commit to an object; the request is kept with the system's time."""
    requests = CommitmentRequests(ward.catalog)
    requests.enter(f"2.25.{number}", peer, [(CT_STORAGE, uid), (CT_STORAGE, f"{uid}.9")])
    failed = ((CT_STORAGE, f"{uid}.9", 0x0112),)
    assert requests.conclude(f"2.25.{number}", Outcome(1, failed, (), "", f"{number}"))
    requests.prune(1e12)


def test_only_what_all_named_aes_have_committed_to_goes(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.index.commitment_requests.time.time", lambda: NOW - 50 * DAY)
    ward.study("1.1", 60)
    ward.study("1.2", 60)
    rule = {"keep_days": 30, "only_after_committed": ["pacs", "BACKUP"]}
    ward.rules(rule)
    trusted(ward)
    commit(ward, "1.1.4.1")
    commit(ward, "1.1.4.2", number=2)
    commit(ward, "1.1.4.1", "BACKUP", 3)
    assert ward.going() == []
    ward.retention.run()
    assert ward.told_of.runs[0][2]["1.1.4.2"] == "is not committed by BACKUP"
    assert ward.told_of.runs[0][2]["1.2.4.1"] == "is not committed by PACS, BACKUP"
    commit(ward, "1.1.4.2", "BACKUP", 4)
    assert ward.going() == ["1.1"]
    # Other bytes have taken its place since: nobody has committed to these.
    other = moved(entry(2, "1.1", "1.1.4", PatientName="Roe"), NOW - 40 * DAY)
    waited(lambda done: ward.catalog.replace(other, done))
    assert ward.going() == []
    # A report that comes only now is about what was asked for then.
    requests = CommitmentRequests(ward.catalog)
    for uid, peer in (("2.25.5", "PACS"), ("2.25.6", "BACKUP")):
        requests.enter(uid, peer, [(CT_STORAGE, "1.1.4.2")])
    monkeypatch.setattr("dicomnode.index.commitment_requests.time.time", lambda: NOW)
    for uid in ("2.25.5", "2.25.6"):
        assert requests.conclude(uid, Outcome(1, (), (), "", uid))
    assert ward.going() == []
    ward.rules({"keep_days": 30})
    trusted(ward)
    ward.retention.run()
    assert ward.studies() == set()


def test_a_study_of_which_one_object_is_pending_stays_whole(ward: Ward) -> None:
    ward.study("1.1", 60, [1, 2, 3])
    Commitments(ward.catalog).add("CT_1", "DICOMNODE", "2.25.1", [(CT_STORAGE, "1.1.4.2")])
    ward.rules({"keep_days": 30})
    trusted(ward).retention.run()
    ((_, deleted, held),) = ward.told_of.runs
    assert deleted == 0 and list(held) == ["1.1.4.2"]
    assert ward.held("1.1.4.1", "1.1.4.2", "1.1.4.3") == [True] * 3
    assert ward.retention.figures()["rules"][0]["held_back"] == 1


def test_a_study_that_gets_an_object_while_rules_are_applied_stays(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward.study("1.1", 60)
    ward.rules({"keep_days": 30})
    trusted(ward)
    (due,) = ward.retention._planner.due(ward.retention._rules, NOW)
    ward.enter(9, study="1.1", received_at=NOW)
    monkeypatch.setattr(Planner, "due", lambda self, rules, now: iter([due]))
    ward.retention.run()
    assert ward.held("1.1.4.1", "1.1.4.2", "1.1.4.9") == [True] * 3


def test_a_run_ends_when_the_rules_change(ward: Ward) -> None:
    ward.study("1.1", 60)
    ward.rules({"keep_days": 30})
    trusted(ward)
    kept = rules_of([{"keep_forever": True}], {})
    planner = ward.retention._planner
    free_bytes = planner.free_bytes

    def changed() -> int:
        ward.retention.follow(kept)
        return free_bytes()

    planner.free_bytes = changed
    ward.retention.run()
    assert ward.studies() == {"1.1"} and ward.told_of.broken == ["rule 0"]


@pytest.mark.parametrize("days", [3650, 8, -8])
def test_a_clock_that_has_jumped_deletes_nothing_until_it_is_trusted(ward: Ward, days: int) -> None:
    ward.study("1.1", 1)
    ward.rules({"keep_days": 8})
    ward.retention.run()
    ward.now += days * DAY
    ward.retention.run()
    # An object that comes in with the wrong time does not make it right.
    ward.enter(1, study="1.9", received_at=ward.now)
    ward.retention.run()
    assert ward.studies() == {"1.1", "1.9"} and len(ward.told_of.alarms) == 2
    assert "max_clock_jump_days" in ward.retention.plan(0)["clock"]
    ward.retention.trust_clock()
    ward.retention.run()
    assert ward.studies() == ({"1.1", "1.9"} if days < 0 else {"1.9"})


def test_a_clock_that_comes_back_is_believed_again(ward: Ward) -> None:
    ward.study("1.1", 60)
    ward.rules({"keep_days": 61})
    ward.retention.trust_clock()
    ward.now += 3650 * DAY
    ward.retention.run()
    ward.now = NOW + 2 * DAY
    ward.retention.run()
    assert len(ward.told_of.alarms) == 1 and ward.studies() == set()


def test_a_clock_that_is_wrong_from_the_first_is_noticed_by_what_was_received(
    ward: Ward,
) -> None:
    ward.study("1.1", 60)
    ward.rules({"keep_days": 30})
    ward.retention.run()
    assert ward.studies() == {"1.1"}, "nothing came for 60 days, or the clock is wrong"
    assert "newest object was received" in ward.told_of.alarms[0]


def test_a_dry_run_looks_at_the_clock_as_a_run_does(ward: Ward) -> None:
    ward.study("1.1", 60)
    ward.rules({"keep_days": 30})
    assert "newest object was received" in ward.retention.plan(0)["clock"]
    assert ward.retention.plan(0)["going"]["objects"] == 0 and ward.going() == []
    ward.retention.trust_clock()
    assert ward.retention.plan(0)["clock"] == "" and ward.going() == ["1.1"]
    ward.now += 8 * DAY
    assert "later than" in ward.retention.plan(0)["clock"]


@pytest.mark.parametrize("wrong", [0.0, NOW - 365 * DAY])
def test_what_is_received_with_a_clock_that_is_not_believed_is_not_old_at_once(
    ward: Ward, wrong: float
) -> None:
    ward.rules({"keep_days": 30})
    trusted(ward)
    ticks, ward.now = iter([0.0, 60.0, 120.0]), wrong
    received = received_now(
        States(ward.catalog).trusted_at(), 7 * DAY, lambda: ward.now, lambda: next(ticks)
    )
    at = received()
    assert at == NOW + 60
    ward.now = NOW + DAY
    assert received() == ward.now
    ward.enter(1, study="1.1", received_at=at)
    ward.retention.run()
    assert ward.studies() == {"1.1"}


def test_without_a_time_that_was_trusted_things_are_received_by_the_clock(ward: Ward) -> None:
    assert received_now(None, 7 * DAY, lambda: 5.0)() == 5.0


def test_time_goes_on_without_rules(ward: Ward) -> None:
    ward.study("1.1", 1)
    ward.rules()
    for _ in range(10):
        ward.retention.run()
        ward.now += 6 * DAY
    ward.rules({"keep_days": 30})
    ward.retention.run()
    assert ward.studies() == set() and ward.told_of.alarms == []


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("keep_days = 0", "retention.keep_days: must be 1 or more"),
        ('free_bytes = "x"', "retention.free_bytes: must be a size"),
        ('modalities = ["CT"]', "it says not when: give keep_days, free_bytes or keep_forever"),
        (
            "keep_forever = true\nkeep_days = 5",
            "retention.keep_forever (of old): excludes keep_days",
        ),
        (
            'free_bytes = 5\ncounted_from = "study_date"',
            "retention.counted_from (of old): needs keep_days",
        ),
        ('keep_days = 5\nonly_after_committed = ["PACS"]', "'PACS' is not in ae.toml"),
        ('keep_days = 5\nsop_classes = ["CTImageStorag"]', "did you mean CTImageStorage?"),
        ('keep_days = 5\n[deletion]\nevery = "2d"', "deletion.every: must be a time such as"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, table: str, words: str) -> None:
    config = tmp_path / "dicomnode.toml"
    config.write_text(f'[[retention]]\nname = "old"\n{table}\n')
    (tmp_path / "ae.toml").touch()
    with pytest.raises(ConfigurationError) as refused:
        read_configuration(config)
    (problem,) = refused.value.problems
    assert words in problem and "dicomnode.toml:" in problem


def test_the_try_out_settings_show_every_key_of_a_rule() -> None:
    text = (ROOT / "config/dicomnode.toml").read_text()
    _, _, rest = text.partition("# [[retention]]\n")
    table = rest.partition("\n\n")[0]
    (shown,) = tomllib.loads("[[x]]\n" + re.sub(r"(?m)^#   (\w+ = )", r"\1", table))["x"]
    rule = RetentionRule.model_validate(shown)
    assert set(shown) == set(rule.model_dump(by_alias=True))
