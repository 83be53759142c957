"""The ``dicomnode`` command."""

from __future__ import annotations

import io
import sys
import warnings
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

# Where each command is: module and function, or module and group. A command is imported when it is
# run, so that none takes longer to start than what it needs.
_COMMANDS: Final = {
    "run": ("serve", "run"),
    "init": ("init", "init"),
    "check-config": ("serve", "check_config"),
    "healthcheck": ("healthcheck", "healthcheck"),
    "status": ("status", "status"),
    "explain": ("explain", "explain"),
    "trace": ("trace", "trace"),
    "conformance": ("conformance", "conformance"),
    "show": ("show", "show"),
    "scrub": ("scrub", "scrub"),
    "reindex": ("archive", "reindex"),
    "delete": ("delete", "delete"),
    "retention": ("retention", "retention"),
    "custody": ("custody", "custody"),
    "user": ("user", "user"),
    "worklist": ("worklist", "worklist"),
    "outbox": ("outbox", "outbox"),
    "echo": ("echo", "echo"),
    "send": ("send", "send"),
    "find": ("find", "find"),
    "get": ("get", "get"),
    "move": ("move", "move"),
    "sync": ("sync", "sync"),
    "commit": ("commit", "commit"),
    "deidentify": ("deidentify", "deidentify"),
    "deidentify-key": ("deidentify", "deidentify_key"),
    "export": ("export", "export"),
    "verify": ("verify", "verify"),
    "version": ("serve", "version"),
}


class _Commands(TyperGroup):
    """Makes each command when it is asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # Names that are mistyped are compared with these.
        self.commands: Any = dict.fromkeys(_COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        found = getattr(import_module(f"dicomnode.cli.{module}"), name)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        alone = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
        )
        alone.command(cmd_name)(found)
        return typer.main.get_command(alone)


app = typer.Typer(
    name="dicomnode",
    cls=_Commands,
    help="A DICOM network node: receives, keeps and finds DICOM objects, and asks others for them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _dicomnode() -> None:
    """Nothing comes before the command."""


def main() -> None:
    """Run the command line; ends the process with the command's exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or a file that lacks a peer's characters still gets the rest.
        sys.stdout.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        # Of odd values in objects: where they matter, the command says so itself.
        warnings.filterwarnings("ignore", module="pydicom")
    app(prog_name="dicomnode")
