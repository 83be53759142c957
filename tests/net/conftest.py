"""What the tests of the asyncio shell share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def endless_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, turns end only where a test says so."""
    monkeypatch.setattr("dicomnode.net.reading._TURN_SECONDS", 1e9)
