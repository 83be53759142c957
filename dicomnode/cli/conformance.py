"""``conformance``: the DICOM conformance statement of the node as it is configured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicomnode.cli.common import ConfigOption, explained
from dicomnode.configuration import find_settings_file, registry_path
from dicomnode.registry import load_registry
from dicomnode.settings import load_settings


def conformance(
    config: ConfigOption = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write it as Markdown.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page of HTML.")
    ] = None,
) -> None:
    """Write the DICOM conformance statement of the node as it is configured.

    It is made from the settings and ae.toml, and says the titles, limits and times in force.
    Without an option it is printed as Markdown.
    """
    # Here, since the other commands are quicker without the tables of SOP classes.
    from dicomnode.conformance.page import page
    from dicomnode.conformance.statement import statement

    with explained():
        file = find_settings_file(config)
        settings = load_settings(file)
        registry = load_registry(registry_path(file), settings.node.strict_ae_titles)
        text = statement(settings, registry)
        if markdown is not None:
            markdown.write_text(text, "utf-8")
        if html is not None:
            html.write_text(page(text), "utf-8")
        if markdown is None and html is None:
            typer.echo(text, nl=False)
