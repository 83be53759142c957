"""Damaged associations of every service to a live node: ``tests.fuzz.live`` says what must hold."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests import proof
from tests.fuzz.arena import arena
from tests.fuzz.live import Campaign
from tests.fuzz.mutations import course
from tests.fuzz.recordings import recordings

_WARM_UP = proof.count(short=300, long=5000)
_NUMBER = proof.count(short=1000, long=100_000)
# A long run begins anywhere, unless DICOMNODE_FUZZ_SEED says where; a short one is always the same.
_FIRST = int(
    os.environ.get("DICOMNODE_FUZZ_SEED") or (random.randrange(10**9) if proof.long else 1)
)
#: The index grows with what is stored, and its page caches with it: 16 MiB of the writer and 2 MiB
#: of each of 16 readers. A leak of a kilobyte an association would be 100 MiB in the long form.
_MOST_GROWTH_BYTES = proof.count(short=24, long=64) << 20


def test_a_seed_stands_for_one_course_and_the_services_all_have_some() -> None:
    assert course(7) == course(7)
    services = Counter(course(seed).service for seed in range(300))
    assert services.keys() == {recording.service for recording in recordings()}


@pytest.mark.proof
# Connections that never came to anything are left to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(120 if not proof.long else 60 + 0.2 * (_WARM_UP + _NUMBER))
def test_damaged_associations_hurt_neither_the_node_nor_the_peer_beside_them(
    tmp_path: Path,
) -> None:
    print(f"DICOMNODE_FUZZ_SEED={_FIRST}")
    with arena(tmp_path) as running:
        figures = Campaign(running, _FIRST).run(_WARM_UP, _NUMBER)
    print(figures)
    grown = figures.after.resident_bytes - figures.before.resident_bytes
    assert grown < _MOST_GROWTH_BYTES, figures
    assert figures.operations > 0
