"""Progress bars, as a terminal gets them."""

from __future__ import annotations

import io
import sys

import pytest

from dicomnode.cli.progress import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_has_what_it_is_for_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar("to [/b][red]X") as shown:
        shown.update(1, 3, 2048)
    assert "to [/b][red]X" in terminal.getvalue()
    assert "1/3" in terminal.getvalue() and "2.0KB" in terminal.getvalue()


def test_a_pipe_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with bar("to X") as shown:
        shown.update(1, 3, 2048)
    assert pipe.getvalue() == ""
