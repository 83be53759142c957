"""Some seconds of the load that ``make proof`` puts on a node for an hour."""

from __future__ import annotations

import pytest

from bench.load import faults
from bench.soak import SERVICES, Load, soak


@pytest.mark.timeout(120)
def test_a_hundred_associations_of_mixed_work_lose_nothing_and_leave_nothing_behind() -> None:
    shown = soak(Load(seconds=6, rate=75))

    assert faults(shown) == []
    assert shown.acknowledged > 0
    assert shown.with_idle.associations == 500
    assert all(shown.latencies[service] for service in SERVICES)
