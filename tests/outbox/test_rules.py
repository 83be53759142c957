"""Which objects the rules take, and how their mistakes are told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dicomnode.configuration import read_toml
from dicomnode.forward_settings import ForwardRule
from dicomnode.outbox.rules import Priority, Rules, mistakes
from dicomnode.registry import AE, Registry
from dicomnode.settings import load_settings
from dicomnode.storage.header import HEADER_END
from tests.index.entries import entry

REGISTRY = Registry(
    [
        AE(title="ARCHIVE", host="10.0.0.1"),
        AE(title="BACKUP", host="10.0.0.2"),
        AE(title="CT_1"),
    ]
)


def rules(*tables: dict[str, object], strict: bool = False) -> Rules:
    """Return the rules of these tables; ``name`` and ``to`` are filled in."""
    return Rules(
        [
            ForwardRule.model_validate({"name": f"rule {number}", "to": ("ARCHIVE",)} | table)
            for number, table in enumerate(tables)
        ],
        REGISTRY,
        strict=strict,
    )


def takes(table: dict[str, object], **more: object) -> bool:
    return bool(rules(table).orders(entry(**more)))  # type: ignore[arg-type]


def test_a_rule_without_criteria_takes_everything() -> None:
    (order,) = rules({}).orders(entry())
    assert order.destination == "ARCHIVE"
    assert order.rule.priority is Priority.NORMAL
    assert order.rule.stable_seconds is None


@pytest.mark.parametrize(
    ("patterns", "taken"),
    [(["CT_1"], True), (["ct_1"], True), (["CT_?"], True), (["MR*", "C*"], True), (["MR*"], False)],
)
def test_objects_are_taken_by_who_sent_them(patterns: list[str], taken: bool) -> None:
    assert takes({"from": patterns}) is taken


def test_titles_differ_in_case_where_they_are_to_be_told_apart() -> None:
    assert not rules({"from": ["ct_1"]}, strict=True).orders(entry())
    assert rules({"from": ["CT_1"]}, strict=True).orders(entry())


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("CTImageStorage", True),
        ("1.2.840.10008.5.1.4.1.1.2", True),
        ("1.2.840.10008.5.1.4.1.1.2*", True),
        ("CT*", True),
        ("MR*", False),
        ("1.2.840.10008.5.1.4.1.1.2.1", False),
    ],
)
def test_objects_are_taken_by_their_sop_class(pattern: str, taken: bool) -> None:
    assert takes({"sop_classes": [pattern]}) is taken


def test_objects_are_taken_by_their_modality() -> None:
    assert takes({"modalities": ["MR", "C?"]})
    assert not takes({"modalities": ["MR"]})
    assert not takes({"modalities": ["CT"]}, Modality="")


@pytest.mark.parametrize(
    ("name", "pattern", "taken"),
    [
        ("PatientID", "47*", True),
        ("PatientID", "48*", False),
        ("PatientName", "doe^*", True),
        ("0010,0010", "Doe^J?ne", True),
        ("(0010,0010)", "Roe*", False),
        ("StudyDate", "20260101-20261231", True),
        ("StudyDate", "-20251231", False),
        ("InstanceNumber", "7", True),
        ("InstanceNumber", "8", False),
        ("ImageType", "PRIMARY", True),
        ("StudyDescription", '""', True),
        ("StudyInstanceUID", "1.2.*", True),
        ("Rows", "512", True),
    ],
)
def test_objects_are_taken_by_any_attribute(name: str, pattern: str, taken: bool) -> None:
    values: dict[str, object] = {
        "StudyDate": "20260703",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "Rows": 512,
    }
    assert takes({"attributes": {name: pattern}}, number=7, **values) is taken


def test_every_criterion_has_to_be_satisfied() -> None:
    table = {"from": ["CT_1"], "modalities": ["CT"], "attributes": {"PatientID": ["1", "4711"]}}
    assert takes(table)
    assert not takes(table | {"modalities": ["MR"]})
    assert not takes(table | {"from": ["CT_2"]})
    assert not takes(table | {"attributes": {"PatientID": "4711", "PatientSex": "F"}})


def test_headers_are_read_as_far_as_the_rules_look() -> None:
    assert rules({}).header_end == HEADER_END
    assert rules({"attributes": {"PatientID": "1"}}).header_end == HEADER_END
    assert rules({"attributes": {"PresentationLUTShape": "IDENTITY"}}).header_end == 0x20500021


def test_each_destination_gets_an_object_once_by_the_first_rule_that_says_so() -> None:
    found = rules(
        {"to": ["BACKUP"], "modalities": ["MR"]},
        {"to": ["archive", "BACKUP"], "priority": "high"},
        {"to": ["ARCHIVE"]},
    ).orders(entry())
    assert [(order.destination, order.rule.name) for order in found] == [
        ("ARCHIVE", "rule 1"),
        ("BACKUP", "rule 1"),
    ]


def test_nothing_is_sent_back_to_where_it_came_from() -> None:
    received = dataclasses.replace(entry(), source_ae="archive ")
    found = rules({"to": ["ARCHIVE", "BACKUP"]}).orders(received)
    assert [order.destination for order in found] == ["BACKUP"]


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('to = ["ARCHIV"]', "forward.to (of x): 'ARCHIV' is not in ae.toml; did you mean ARCHIVE?"),
        ('to = ["CT_1"]', "CT_1 has no host in ae.toml: give it host and port"),
        ('to = ["ARCHIVE"]\nalternate = { BACKUP = "ARCHIVE" }', "is none of the destinations"),
        ('to = ["ARCHIVE"]\nalternate = { ARCHIVE = "NONE" }', "'NONE' is not in ae.toml"),
        ('to = ["ARCHIVE"]\nsop_classes = ["CTImage"]', "did you mean CTImageStorage?"),
        ('to = ["ARCHIVE"]\nattributes = { PatientIdd = "1" }', "is no attribute of the standard"),
        ('to = ["ARCHIVE"]\nattributes = { "0011,1001" = "1" }', "is no attribute of the standard"),
        ('to = ["ARCHIVE"]\nattributes = { PixelData = "1" }', "which cannot be matched"),
        ('to = ["ARCHIVE"]\nattributes = { ReferencedStudySequence = "1" }', "representation SQ"),
        ('to = ["ARCHIVE"]\nattributes = { StudyDate = "2026*" }', "StudyDate: is no date"),
        ('to = ["ARCHIVE"]\nattributes = { PatientID = "" }', "must have a value or a pattern"),
        ('to = ["ARCHIVE"]\ndelete_when_committed = true', "needs commit = true"),
        ('to = ["ARCHIVE"]\nwhat = "mpps"\ncommit = true', "forward.commit (of x): is of objects"),
        ('to = ["ARCHIVE"]\nwhat = "mpps"\nsop_classes = ["CT*"]', "is of objects; a rule with"),
    ],
)
def test_a_mistake_of_a_rule_is_told_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "dicomnode.toml"
    file.write_text(f"[[forward]]\nname = 'x'\n{line}\n")
    forward = load_settings(file).forward
    (told,) = mistakes(forward, REGISTRY, read_toml(file), strict=False)
    assert told.startswith(f"{file}:{2 + len(line.splitlines())}: ")
    assert problem in told


def test_two_rules_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "dicomnode.toml"
    file.write_text("[[forward]]\nname = 'x'\nto = ['ARCHIVE']\n" * 2)
    (told,) = mistakes(load_settings(file).forward, REGISTRY, read_toml(file), strict=False)
    assert told == f"{file}:5: forward.name (of x): another rule has this name; each needs its own"
