"""The ``dicomnode`` command."""

from __future__ import annotations

import typer

from dicomnode.cli import archive, explain, serve, status, worklist

app = typer.Typer(
    name="dicomnode",
    help="A DICOM network node: receives, keeps and finds DICOM objects.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("run")(serve.run)
app.command("check-config")(serve.check_config)
app.command("status")(status.status)
app.command("explain")(explain.explain)
app.command("reindex")(archive.reindex)
app.add_typer(worklist.worklist, name="worklist")
app.command("version")(serve.version)


def main() -> None:
    """Run the command line; ends the process with the command's exit code."""
    app(prog_name="dicomnode")
