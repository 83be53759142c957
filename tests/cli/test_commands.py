"""The command line as a whole."""

import re
import subprocess
import sys

import pytest

from dicomnode.cli import _COMMANDS
from tests.cli.commands import run


def test_the_help_has_every_command_with_what_it_does() -> None:
    ended = run("--help")
    assert ended.code == 0
    listed = dict(re.findall(r"^  ([a-z-]+)  +(\S.*)$", ended.out, re.MULTILINE))
    assert set(_COMMANDS) <= set(listed)


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_a_help_of_its_own(name: str) -> None:
    ended = run(name, "--help")
    assert ended.code == 0
    assert f"{name} " in ended.out


def test_a_command_that_is_not_there_is_answered_with_the_closest_one() -> None:
    ended = run("ehco", "X")
    assert ended.code == 2
    assert "echo" in ended.err


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "dicomnode", "version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dicomnode ")
