"""The coverage-guided targets (``fuzz/``): on what is well-formed and a little damaged in
``make test``, for minutes each in ``make proof``."""

from __future__ import annotations

import importlib
import importlib.util
import random
import subprocess
import sys

import pytest

from fuzz import TARGETS
from tests import proof

_DAMAGED = 150
_SECONDS = proof.count(short=0, long=600)
_BYTES = (0, 1, 0x20, 0x5C, 0x7F, 0x80, 0xFE, 0xFF)


def _damaged(chance: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.choice((*_BYTES, chance.randrange(256)))
    return bytes(data[: chance.choice((len(data), chance.randrange(1, len(data) + 1)))])


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_read_is_understood_or_refused(name: str) -> None:
    target = importlib.import_module(f"fuzz.{name}")
    seeds = list(target.seeds())
    assert seeds
    for seed in seeds:
        target.one(seed)
    chance = random.Random(name)
    for _ in range(_DAMAGED):
        data = _damaged(chance, chance.choice(seeds))
        try:
            target.one(data)
        except Exception as error:
            raise AssertionError(f"fuzz.{name}.one({data!r})") from error


@pytest.mark.proof
@pytest.mark.skipif(not proof.long, reason="takes minutes")
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.timeout(_SECONDS + 120)
@pytest.mark.parametrize("name", TARGETS)
def test_what_coverage_leads_to_is_understood_or_refused(name: str) -> None:
    command = [sys.executable, "-m", "fuzz.run", name, f"-max_total_time={_SECONDS}"]
    done = subprocess.run(
        [*command, "-print_final_stats=1", "-timeout=20", "-rss_limit_mb=1024"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    output = done.stdout + done.stderr
    print(output[-1500:])
    assert done.returncode == 0, output[-5000:]
