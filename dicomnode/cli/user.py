"""``user``: who may identify themselves with a passcode, or by name alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from dicomnode.cli.asking import plain
from dicomnode.cli.common import ConfigOption, explained, fail
from dicomnode.configuration import find_settings_file, registry_path
from dicomnode.settings import load_settings
from dicomnode.users import (
    User,
    Users,
    change_users,
    hash_passcode,
    load_users,
    open_to_others,
    users_path,
)

_LEAST_CHARACTERS: Final = 8
_MOST_BYTES: Final = 1024
_RELOAD: Final = "Send SIGHUP to the node to have it read the file again."

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="As the requestor sends it.")]

user = typer.Typer(
    help="Manage who may identify themselves in associations (users.toml beside ae.toml).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@user.command()
def add(
    name: NameArgument,
    config: ConfigOption = None,
    description: Annotated[str | None, typer.Option("--description", help="For people.")] = None,
    without_passcode: Annotated[
        bool, typer.Option("--without-passcode", help="Believe the name alone.")
    ] = False,
    passcode_stdin: Annotated[
        bool, typer.Option("--passcode-stdin", help="Read the passcode from standard input.")
    ] = False,
) -> None:
    """Add a user, or give one that is there a new passcode.

    The passcode is asked for. What is kept of it is a salted hash, in a file of mode 0600.
    """
    if without_passcode and passcode_stdin:
        fail("--without-passcode and --passcode-stdin exclude each other")
    with explained():
        path, owner = _paths(config)
        hashed = None if without_passcode else hash_passcode(_passcode(passcode_stdin))
        try:
            fresh = User(name=name, passcode=hashed, description=description or "")
        except ValidationError as error:
            fail(f"NAME {error.errors()[0]['ctx']['error']}")

        def change(users: Users) -> Iterable[User]:
            before = users.lookup(name)
            kept = before.description if before is not None and description is None else ""
            added = fresh.model_copy(update={"description": kept}) if kept else fresh
            return [*(each for each in users if each.name != name), added]

        change_users(path, change, owner)
    typer.echo(f"{path}: {plain(name)} added. {_RELOAD}")


@user.command()
def remove(name: NameArgument, config: ConfigOption = None) -> None:
    """Remove a user."""
    with explained():
        path, owner = _paths(config)
        if load_users(path).lookup(name) is None:
            fail(f"there is no user {name!r} in {path}")
        change_users(path, lambda users: [each for each in users if each.name != name], owner)
    typer.echo(f"{path}: {plain(name)} removed. {_RELOAD}")


@user.command("list")
def list_(config: ConfigOption = None) -> None:
    """List the users; passcodes are not shown, as nobody knows them."""
    with explained():
        path, _ = _paths(config)
        users = load_users(path)
    if open_to_others(path):
        typer.echo(f"note: {path} can be read by others than its owner: chmod 600", err=True)
    if not len(users):
        typer.echo(f"{path}: no users")
        return
    table = Table("user", "proves it by", "description")
    for each in users:
        proof = "passcode" if each.passcode is not None else "nothing: the name is believed"
        table.add_row(plain(each.name), proof, plain(each.description))
    Console(highlight=False).print(table)


def _paths(config: Path | None) -> tuple[Path, Path]:
    """Return the file of users, and one that belongs to the user who runs the node."""
    file = find_settings_file(config)
    return users_path(registry_path(file)), load_settings(file).storage.directory


def _passcode(from_stdin: bool) -> bytes:
    if from_stdin:
        text = sys.stdin.readline(_MOST_BYTES + 2).rstrip("\r\n")
    elif sys.stdin.isatty():
        text = typer.prompt("Passcode", hide_input=True, confirmation_prompt=True)
    else:
        fail("there is no terminal to ask for the passcode: use --passcode-stdin")
    if not _LEAST_CHARACTERS <= len(text) <= _MOST_BYTES:
        fail(f"a passcode has {_LEAST_CHARACTERS} to {_MOST_BYTES} characters")
    return text.encode()
