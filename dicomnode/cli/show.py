"""``show``: what index and file have of a study, a series or an object."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
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
_WORDS = {
    "path": "path",
    "transfer_syntax_uid": "transfer syntax",
    "source_ae_title": "received from",
    "file_bytes": "file, bytes",
    "file_sha256": "file, SHA-256",
    "data_set_bytes": "data set, bytes",
    "data_set_sha256": "data set, SHA-256",
}


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
                console.print(part, soft_wrap=True)
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


def lines(shown: dict[str, Any]) -> list[Text]:
    """Lay out what is held; lines are not broken, so that UIDs and digests can be copied."""
    objects = shown["objects"]
    told = [plain(f"{shown['level'].capitalize()}, as indexed:")]
    told += [plain(f"  {keyword}: {value}") for keyword, value in shown["keys"].items()]
    if len(objects) == 1:
        return [*told, *_object(objects[0]), _verdict(objects)]
    total = sum(each["file_bytes"] for each in objects)
    by_series: dict[str, list[dict[str, Any]]] = {}
    for each in objects:
        by_series.setdefault(each["series_instance_uid"], []).append(each)
    told.append(plain(f"{len(by_series):,} series, {len(objects):,} objects, {size(total)}"))
    left = _MOST_ROWS
    for uid, those in by_series.items():
        told.append(plain(f"Series {uid}: {len(those):,} objects"))
        told += [_line(each) for each in those[:left]]
        left -= min(left, len(those))
    if len(objects) > _MOST_ROWS:
        told.append(plain(f"{_MOST_ROWS} objects are shown; --json lists all"))
    return [*told, _verdict(objects)]


def _object(each: dict[str, Any]) -> list[Text]:
    file = each["file"] or {}
    told = [plain("Object:")]
    for name, words in _WORDS.items():
        value = each[name]
        told.append(plain(f"  {words}: {value}"))
        if name in file and file[name] != value:
            told.append(plain(f"    the file has: {file[name]}"))
            told[-1].stylize("bold red")
    told.append(plain(f"  received: {moment(each['received_at'])}"))
    told.append(plain(f"  last proven whole: {_since(each)}"))
    if file.get("error"):
        told.append(plain(f"  the file cannot be read: {file['error']}"))
    return told


def _line(each: dict[str, Any]) -> Text:
    file = each["file"]
    how = _since(each) if file is None else "whole" if file["is_whole"] else "NOT WHOLE"
    return plain(
        f"  {each['sop_instance_uid']}  {each['file_bytes']}B  {each['file_sha256']}  {how}"
    )


def _since(each: dict[str, Any]) -> str:
    if (file := each["file"]) is not None and file["is_whole"]:
        return "just now"
    if each["not_whole"] is not None:
        return f"not any more: {each['not_whole']}"
    since = moment(each["proven_at"])
    return f"{since} or later" if file is None else f"not any more, it was so {since} or later"


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
