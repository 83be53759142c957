"""``init``: the settings of a node that is to be a service."""

from __future__ import annotations

import contextlib
import grp
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from dicomnode.cli.common import explained
from dicomnode.shared_files import shared_file

_DIRECTORY: Final = Path("/etc/dicomnode")
_DIRECTORY_MODE: Final = 0o750
_FILE_MODE: Final = 0o640
# The user and group that the service runs as.
_SERVICE: Final = "dicomnode"
_SERVICE_PROGRAM: Final = "/opt/dicomnode/bin/dicomnode"

_HEAD: Final = """\
# Settings of this node. Calling AE titles that ae.toml does not hold are refused, and HTTP answers
# this machine only.
#
# Every key can be left out; what is commented out shows the value it then has. Any key can be
# overridden by an environment variable: DICOMNODE__NODE__PORT=104.
# Sizes are bytes, or text such as "256MB" (millions) or "64 MiB" (of 1048576).
# `dicomnode check-config` checks this file and ae.toml. SIGHUP (systemctl reload dicomnode) has
# [[forward]], [jwt], log.level, ae.toml, users.toml and the files of [tls] read again; the rest
# needs a restart.

"""
# What the sample says for trying out, and what is safe for good.
_FOR_GOOD: Final = (
    ('host = "127.0.0.1"\nport = 11112', '# host = "0.0.0.0"\n# port = 11112'),
    (
        "# Relative paths start at the directory in which the node is started.\n"
        '# Left out, the directory is "/var/lib/dicomnode".\n'
        'directory = "var/storage"',
        'directory = "/var/lib/dicomnode"',
    ),
    ('unknown_ae = "allow"', 'unknown_ae = "refuse"'),
)


def init(
    directory: Annotated[
        Path, typer.Option("--directory", metavar="DIRECTORY", help="Where the settings go.")
    ] = _DIRECTORY,
) -> None:
    """Write dicomnode.toml and ae.toml with safe defaults, and say what to do next.

    Asks nothing and overwrites nothing.
    """
    directory = directory.absolute()
    files = {
        "dicomnode.toml": settings_text(shared_file("config/dicomnode.toml").read_text()),
        "ae.toml": registry_text(shared_file("config/ae.toml").read_text()),
    }
    with explained():
        _make_directory(directory)
        for name, text in files.items():
            path = directory / name
            typer.echo(f"{path}: {'written' if _write_new(path, text) else 'is there, kept'}")
    typer.echo(_what_next(directory))


def settings_text(sample: str) -> str:
    """Return settings for good, made from the sample that is for trying out."""
    text = sample
    for trying, safe in _FOR_GOOD:
        before, found, after = text.partition(trying)
        assert found, f"the sample settings lack {trying!r}"
        text = before + safe + after
    return _HEAD + text[text.index("[node]") :]


def registry_text(sample: str) -> str:
    """Return a registry without entries, made from the sample."""
    head, _, rest = sample.partition("\n\n")
    examples = re.findall(r"^# \[\[ae\]\]\n(?:#.*\n?)*", rest, re.MULTILINE)
    return "\n\n".join([head, *examples])


def _make_directory(directory: Path) -> None:
    if directory.is_dir():
        return
    directory.mkdir(_DIRECTORY_MODE, parents=True)
    # Whatever the umask says.
    directory.chmod(_DIRECTORY_MODE)
    _let_service_read(directory)


def _write_new(path: Path, text: str) -> bool:
    """Write a file that is not there yet; tell whether it was not."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE)
    except FileExistsError:
        return False
    try:
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, _FILE_MODE)
            file.write(text)
    except OSError:
        path.unlink()  # half of it would be kept the next time
        raise
    _let_service_read(path)
    return True


def _let_service_read(path: Path) -> None:
    """Give the service's group what was made, where there is such a group and we may."""
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(path, -1, grp.getgrnam(_SERVICE).gr_gid)


def _what_next(directory: Path) -> str:
    program = _program()
    config = "" if directory == _DIRECTORY else f" --config {shlex.quote(str(directory))}/"
    config += "dicomnode.toml" if config else ""
    unit, users, places = (
        shlex.quote(str(shared_file(f"packaging/dicomnode.{kind}")))
        for kind in ("service", "sysusers", "tmpfiles")
    )
    lines = [
        "",
        "Next:",
        f"1. Register your devices in {directory / 'ae.toml'}; whoever is not there is refused.",
        f"2. Let the node check both files: {program} check-config{config}",
        "3. As a service of systemd, as root:",
        f"     cp {unit} /etc/systemd/system/",
        f"     cp {users} /etc/sysusers.d/dicomnode.conf && systemd-sysusers",
        f"     cp {places} /etc/tmpfiles.d/dicomnode.conf && systemd-tmpfiles --create",
    ]
    if program != _SERVICE_PROGRAM or config:
        start = f"{program} run --config {shlex.quote(str(directory / 'dicomnode.toml'))}"
        lines += [
            "     systemctl edit dicomnode, and in the editor:",
            "       [Service]",
            "       ExecStart=",
            f"       ExecStart={start}",
        ]
    lines += [
        "     systemctl daemon-reload && systemctl enable --now dicomnode",
        f"   Or in this terminal, by a user who may write storage.directory: {program} run{config}",
        f"4. See what it does: {program} status{config}",
    ]
    return "\n".join(lines)


def _program() -> str:
    """Return how this command was called, as a service would have to."""
    called = Path(sys.argv[0])
    return shlex.quote(str(called.absolute())) if called.name == "dicomnode" else "dicomnode"
