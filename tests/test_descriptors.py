"""How many descriptors the node takes, and how many connections it admits with them."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from dicomnode.descriptors import connection_shares
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[1])))
shares = connection_shares(100)
print(shares.total, shares.per_address, bool(shares.lacking))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("hard", "told", "soft"),
    [
        # 264 connections, two files for each of 100 associations, and the node's own.
        (4096, "264 132 False", 976),
        (976, "264 132 False", 976),
        (812, "100 50 True", 812),
        (128, "8 4 True", 128),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be_and_connections_make_do(
    hard: int, told: str, soft: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(hard)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [told, str(soft)]
