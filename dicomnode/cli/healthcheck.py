"""``healthcheck``: whether a running node is ready, as an exit code."""

from __future__ import annotations

import typer

from dicomnode.cli.asking import UrlOption, ask_ready, url_of
from dicomnode.cli.common import ConfigOption, explained, fail
from dicomnode.settings import load_settings


def healthcheck(config: ConfigOption = None, url: UrlOption = None) -> None:
    """Ask a running node whether it is ready; end with 0 if it is.

    For containers and load balancers, which need no other program then.
    """
    with explained():
        failed = ask_ready(url or url_of(load_settings(config)))
    if failed:
        fail("; ".join(f"{name}: {words}" for name, words in failed.items()))
    typer.echo("ready")
