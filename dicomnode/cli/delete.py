"""``delete``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from dicomnode.cli.archive_access import ArchiveAccess, archive_of
from dicomnode.cli.common import ConfigOption, explained, fail
from dicomnode.cli.progress import bar
from dicomnode.cli.terminal import console, plain
from dicomnode.observe.words import counted, size

EXIT_REFUSED: Final = 2
"""Nothing was deleted: something is pending, or there is nothing."""

_MOST_ROWS: Final = 50


def _level(help: str, metavar: str = "UID") -> Any:
    return typer.Option(metavar=metavar, help=f"{help} May be given several times.")


def delete(
    config: ConfigOption = None,
    patient: Annotated[
        list[str] | None, _level("Delete all that is held of a Patient ID.", "ID")
    ] = None,
    study: Annotated[list[str] | None, _level("Delete a study.")] = None,
    series: Annotated[list[str] | None, _level("Delete a series.")] = None,
    instance: Annotated[list[str] | None, _level("Delete an object.")] = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded for good.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go, and delete nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Delete objects for good, after showing what goes.

    Refused while one of them is still to be sent or committed to. Works while the node runs and
    while it does not; interrupted, it is gone on with by the node.
    """
    level, values = _chosen(patient=patient, study=study, series=series, instance=instance)
    if not reason.strip() and not dry_run:
        fail("--reason TEXT is needed: it is recorded with what is deleted")
    with explained(), archive_of(config) as archive:
        plan = archive.plan(level, values)
        if dry_run and as_json:
            typer.echo(json.dumps(plan, indent=2, ensure_ascii=False))
        elif not as_json:
            _show(plan)
        if not plan["objects"]:
            fail(f"nothing is held of {level} {', '.join(values)}", EXIT_REFUSED)
        if plan["pending"]:
            fail(_refusal(plan), EXIT_REFUSED)
        if dry_run:
            return
        _ask(plan, yes=yes)
        order = _carry_out(archive, level, values, reason, plan["mark"])
    _tell(order, as_json=as_json)


def _chosen(**given: Sequence[str] | None) -> tuple[str, list[str]]:
    named = [(level, list(values)) for level, values in given.items() if values]
    if len(named) != 1:
        fail("give one of --patient, --study, --series and --instance")
    return named[0]


def _ask(plan: dict[str, Any], *, yes: bool) -> None:
    if yes:
        return
    what = f"{counted(plan['objects'], 'object', 'objects')} ({size(plan['bytes'])})"
    if not sys.stdin.isatty():
        fail(f"this deletes {what} for good; give --yes")
    typer.confirm(f"Delete {what} for good?", abort=True, err=True)


def _carry_out(
    archive: ArchiveAccess, level: str, values: list[str], reason: str, mark: str
) -> dict[str, Any]:
    order = archive.order(level, values, reason, mark)
    with bar("deleting") as shown:
        return archive.finish(
            order,
            lambda done: shown.update(done["position"], done["total"], done["deleted_bytes"]),
        )


def _tell(order: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(order, indent=2))
    else:
        deleted = counted(order["deleted"], "object", "objects")
        typer.echo(f"deleted {deleted}, {size(order['deleted_bytes'])} (deletion {order['id']})")
    if order["kept"]:
        kept = counted(order["kept"], "object stays", "objects stay")
        fail(f"{kept}: {order['last_error']}", EXIT_REFUSED)


def _refusal(plan: dict[str, Any]) -> str:
    lines = [f"\n  {each['sop_instance_uid']} {each['why']}" for each in plan["pending_list"][:10]]
    more = plan["pending"] - len(lines)
    also = f"\n  and {more} more" if more > 0 else ""
    noun = counted(plan["pending"], "object", "objects")
    return f"nothing was deleted: {noun} may not go yet:{''.join(lines)}{also}"


def _show(plan: dict[str, Any]) -> None:
    table = Table("patient", "name", "date", "study", "description")
    for heading in ("going", "of", "bytes"):
        table.add_column(heading, justify="right")
    for row in plan["study_list"][:_MOST_ROWS]:
        table.add_row(
            plain(row["patient_id"]),
            plain(row["patient_name"]),
            plain(row["study_date"]),
            plain(row["study_instance_uid"]),
            plain(row["study_description"]),
            f"{row['going']:,}",
            f"{row['objects']:,}",
            size(row["going_bytes"]),
        )
    if plan["study_list"]:
        console().print(table)
    if (more := plan["studies"] - min(len(plan["study_list"]), _MOST_ROWS)) > 0:
        typer.echo(f"and {counted(more, 'more study', 'more studies')}")
    typer.echo(
        f"{counted(plan['studies'], 'study', 'studies')}, {plan['series']:,} series,"
        f" {counted(plan['objects'], 'object', 'objects')}, {size(plan['bytes'])}"
    )
