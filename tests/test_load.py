"""Some seconds of the load that ``make proof`` puts on a node for an hour, and what looks at it."""

from __future__ import annotations

import ast
import re
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import dicomnode
from bench.breakdown import RULES
from bench.load import faults
from bench.soak import SERVICES, Load, Sample, Shown, soak


@pytest.mark.timeout(120)
def test_a_hundred_associations_of_mixed_work_lose_nothing_and_leave_nothing_behind() -> None:
    shown = soak(Load(seconds=6, rate=75))

    assert faults(shown) == []
    assert shown.acknowledged > 0
    assert shown.with_idle.associations == 500
    assert all(shown.latencies[service] for service in SERVICES)


def sample(mebibytes: int, descriptors: int = 30) -> Sample:
    return Sample(0, mebibytes << 20, descriptors, 0, 0, 0)


GOOD = Shown(
    Load(seconds=3600),
    {service: array("d", (0.001, 0.002)) for service in SERVICES},
    sample(120),
    sample(124, 530),
    [sample(130) for _ in range(8)],
    sample(130),
    acknowledged=100,
    retrieved=100,
    held=100,
    cpu_seconds=1.0,
)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (replace(GOOD, held=99), "99 held"),
        (replace(GOOD, retrieved=99), "99 came back"),
        (replace(GOOD, during=[sample(130 + 5 * at) for at in range(8)]), "memory grew by 20"),
        (replace(GOOD, after=sample(130, descriptors=130)), "100 more file descriptors"),
        (replace(GOOD, complaints=["Traceback"]), "the node complained"),
    ],
)
def test_what_a_load_must_not_show_is_told(shown: Shown, words: str) -> None:
    (found,) = faults(shown)

    assert words in found
    assert faults(GOOD) == []


def functions() -> Iterator[tuple[str, str]]:
    """Yield qualified name and text of each function of the package."""
    for path in Path(dicomnode.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for outer in ast.parse(text).body:
            inner = outer.body if isinstance(outer, ast.ClassDef) else [outer]
            prefix = f"{outer.name}." if isinstance(outer, ast.ClassDef) else ""
            for each in inner:
                if isinstance(each, ast.FunctionDef):
                    yield f"{prefix}{each.name}", "\n".join(lines[each.lineno : each.end_lineno])


def test_what_the_breakdown_looks_for_is_there() -> None:
    there = list(functions())

    for stage, function, words in RULES:
        found = [text for name, text in there if re.fullmatch(function, name)]
        assert found, stage
        assert any(re.search(words, text) for text in found), stage
