"""``show``: what index and file have of a study, a series or an object."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicomnode.cli.asking import moment, plain
from dicomnode.cli.common import EXIT_FAILED, ConfigOption, explained, fail
from dicomnode.errors import CannotUnderstand
from dicomnode.observe.words import size
from dicomnode.settings import Settings, load_settings
from dicomnode.storage.paths import valid_uid

if TYPE_CHECKING:
    from dicomnode.index.catalog import InstanceRow

_MOST_ROWS = 200


def show(
    uid: Annotated[
        str,
        typer.Argument(metavar="UID", help="SOP Instance, Series Instance or Study Instance UID."),
    ],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read all files of the study or series, and compare them."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show what is held of a study, a series or an object: keys, digests, files.

    The file of an object is read and compared; those of a study or series with --verify. Works
    while the node runs and while it does not. The exit code is 0 only when nothing is known to
    be wrong with the files.
    """
    if not valid_uid(uid):
        fail(f"{uid!r} is no UID")
    with explained():
        shown = _shown(load_settings(config), uid, verify)
        if shown is None:
            fail(f"there is no object, series or study {uid} in the archive")
        if as_json:
            typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        else:
            console = Console(highlight=False)
            for part in lines(shown):
                console.print(part, soft_wrap=isinstance(part, Text))
    if any(_wrong(each) for each in shown["objects"]):
        raise typer.Exit(EXIT_FAILED)


def _shown(settings: Settings, uid: str, verify: bool) -> dict[str, Any] | None:
    # Here, since the other commands are quicker without SQLAlchemy.
    from dicomnode.cli.held import opened_index
    from dicomnode.index.scrubbing import ScrubReport
    from dicomnode.index.showing import held_of

    with opened_index(settings) as backend:
        read = backend.reader.connect
        held = held_of(read, uid)
        if held is None:
            return None
        report = ScrubReport(read, backend.byte_collation)
        bad = {each.path: each.words for each in report.bad_files_of(held.rows)}
        passes = report.passes()
    from dicomnode.services.scrub import proven_at

    directory = settings.storage.directory
    return {
        "level": held.level.name.lower(),
        "keys": held.keys,
        "objects": [
            {
                **_indexed(row),
                "proven_at": proven_at(row, *passes),
                "not_whole": bad.get(row.path),
                "file": _file(str(directory / row.path), row)
                if verify or held.level.name == "INSTANCE"
                else None,
            }
            for row in held.rows
        ],
    }


def _indexed(row: InstanceRow) -> dict[str, Any]:
    return {
        "sop_instance_uid": row.sop_instance_uid,
        "sop_class_uid": row.sop_class_uid,
        "series_instance_uid": row.series_instance_uid,
        "study_instance_uid": row.study_instance_uid,
        "transfer_syntax_uid": row.transfer_syntax_uid,
        "source_ae_title": row.source_ae,
        "received_at": row.received_at,
        "path": row.path,
        "file_bytes": row.size_bytes,
        "data_set_bytes": row.data_set_bytes,
        "data_set_sha256": row.sha256,
        "file_sha256": row.file_sha256,
    }


def _file(path: str, row: InstanceRow) -> dict[str, Any]:
    """Read a file; say what it has, and whether it is what was received."""
    from dicomnode.storage.part10 import both_digests, read_file_meta

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return {"is_whole": False, "error": error.strerror}
    try:
        found: dict[str, Any] = {"file_bytes": os.fstat(fd).st_size}
        meta = read_file_meta(fd)
        found["transfer_syntax_uid"] = meta.transfer_syntax_uid
        found["source_ae_title"] = meta.source_ae_title
        offset = meta.data_set_offset
        found["data_set_sha256"], found["file_sha256"] = both_digests(fd, offset)
    except OSError as error:
        return {"is_whole": False, "error": error.strerror}
    except CannotUnderstand as error:
        return found | {"is_whole": False, "error": error.comment}
    finally:
        os.close(fd)
    return found | {"is_whole": found["file_sha256"] == row.file_sha256, "error": None}


def _wrong(each: dict[str, Any]) -> bool:
    file = each["file"]
    return not file["is_whole"] if file is not None else each["not_whole"] is not None


# -- for people ------------------------------------------------------------------------------------


def lines(shown: dict[str, Any]) -> list[Text | Table]:
    """Lay out what is held."""
    objects = shown["objects"]
    keys = Table("attribute", "value", title=f"{shown['level']}, as indexed", title_justify="left")
    for keyword, value in shown["keys"].items():
        keys.add_row(keyword, plain(str(value)))
    if shown["level"] == "instance":
        return [keys, _object(objects[0]), _verdict(objects)]
    total = sum(each["file_bytes"] for each in objects)
    series = len({each["series_instance_uid"] for each in objects})
    head = plain(f"{series:,} series, {len(objects):,} objects, {size(total)}")
    return [keys, head, _objects(objects), *_more(objects), _verdict(objects)]


def _object(each: dict[str, Any]) -> Table:
    table = Table("", "index", "file")
    for column in table.columns[1:]:
        column.overflow = "fold"
    file = each["file"] or {}
    for name in (
        "transfer_syntax_uid",
        "source_ae_title",
        "file_bytes",
        "data_set_sha256",
        "file_sha256",
    ):
        table.add_row(name, plain(str(each[name])), plain(str(file.get(name, ""))))
    table.add_row("received", moment(each["received_at"]), "")
    table.add_row("proven whole", _since(each), moment(time.time()) if file["is_whole"] else "no")
    table.add_row("path", plain(each["path"]), plain(file["error"] or ""))
    return table


def _since(each: dict[str, Any]) -> str:
    if each["not_whole"] is not None:
        return str(each["not_whole"])
    return f"{moment(each['proven_at'])} or later"


def _objects(objects: list[dict[str, Any]]) -> Table:
    table = Table("series", "object", "bytes", "received", "from", "file SHA-256", "whole")
    for index in (0, 1, 5):
        table.columns[index].overflow = "fold"
    for each in objects[:_MOST_ROWS]:
        file = each["file"]
        whole = _since(each) if file is None else "yes" if file["is_whole"] else "no"
        table.add_row(
            plain(each["series_instance_uid"]),
            plain(each["sop_instance_uid"]),
            str(each["file_bytes"]),
            moment(each["received_at"]),
            plain(each["source_ae_title"]),
            each["file_sha256"],
            plain(whole),
        )
    return table


def _more(objects: list[dict[str, Any]]) -> list[Text | Table]:
    more = len(objects) - _MOST_ROWS
    return [plain(f"and {more:,} more; --json lists them")] if more > 0 else []


def _verdict(objects: list[dict[str, Any]]) -> Text:
    wrong = sum(map(_wrong, objects))
    is_read = all(each["file"] is not None for each in objects)
    if wrong:
        noun = "file is" if wrong == 1 else "files are"
        told = plain(f"{wrong:,} {noun} not what was received.")
        told.stylize("bold red")
        return told
    noun = "The file is" if len(objects) == 1 else f"All {len(objects):,} files are"
    read = f"{noun} what was received." if is_read else "No file is known to be damaged or missing."
    told = plain(read)
    told.stylize("green")
    return told
