"""What the commands share: the ``--config`` option, and how they fail."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dicomnode.errors import ConfigurationError, DicomnodeError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
# sysexits.h: EX_CONFIG; a supervisor can tell that starting again will not help.
EXIT_CONFIGURATION = 78

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The settings file; without it ./config/dicomnode.toml, then "
        "/etc/dicomnode/dicomnode.toml. The registry ae.toml stands beside it.",
    ),
]


StudyOption = Annotated[
    list[str] | None, typer.Option("--study", metavar="UID", help="Study Instance UID.")
]
SeriesOption = Annotated[
    list[str] | None, typer.Option("--series", metavar="UID", help="Series Instance UID.")
]


def fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    """Write ``message`` to standard error and end with ``code``."""
    typer.echo(f"dicomnode: {message}", err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the errors that a user can mend into words and an exit code."""
    try:
        yield
    except ConfigurationError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        count = len(error.problems)
        noun = "mistake" if count == 1 else "mistakes"
        fail(f"{count} {noun} in the configuration", EXIT_CONFIGURATION)
    except DicomnodeError as error:
        fail(str(error))
    except BrokenPipeError:
        # Whoever read our output has seen enough; Typer ends the command without a word.
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """End the command with its own exit code on Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted", EXIT_INTERRUPTED)


@contextlib.contextmanager
def cleaned_up() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the block as Ctrl-C does, so that it leaves nothing behind."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL  # nohup has SIGHUP ignored
    ]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def user_here() -> str:
    """Return who runs the command, for what is recorded."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
