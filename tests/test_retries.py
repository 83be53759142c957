"""When what could not be delivered is tried again."""

from __future__ import annotations

import pytest

from dicomnode.retries import RetrySettings


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 30), (1, 60), (2, 120), (7, 3600), (10**6, 3600)]
)
def test_each_pause_is_twice_the_one_before_up_to_the_longest(
    failures: int, seconds: float
) -> None:
    for _ in range(100):
        assert 0.8 * seconds <= RetrySettings().pause(failures) <= seconds


def test_what_failed_together_is_not_tried_again_together() -> None:
    assert len({RetrySettings().pause(0) for _ in range(20)}) > 1


def test_no_pause_is_longer_than_the_time_after_which_it_is_given_up() -> None:
    assert RetrySettings(give_up_seconds=10.0).pause(5) <= 10
