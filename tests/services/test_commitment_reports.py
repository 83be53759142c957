"""When a report that was not taken is sent again. Its ways are in tests/faults."""

from __future__ import annotations

import pytest

from dicomnode.services.commitment_reports import ReportRules


def rules(**changed: float) -> ReportRules:
    settings = {"retry_seconds": 30.0, "max_retry_seconds": 3600.0, "give_up_seconds": 259200.0}
    return ReportRules(
        retrieve_ae_title="DICOMNODE",
        strict_ae_titles=False,
        response_seconds=60.0,
        **(settings | changed),
    )


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 30), (2, 60), (3, 120), (8, 3600), (10**6, 3600)]
)
def test_each_pause_is_twice_the_one_before_up_to_the_longest(
    attempts: int, seconds: float
) -> None:
    for _ in range(100):
        assert 0.8 * seconds <= rules().pause_seconds(attempts) <= 1.2 * seconds


def test_what_failed_together_is_not_tried_again_together() -> None:
    assert len({rules().pause_seconds(1) for _ in range(20)}) > 1


def test_no_pause_is_longer_than_the_time_after_which_it_is_given_up() -> None:
    assert rules(give_up_seconds=10.0).pause_seconds(5) <= 12
