"""``verify --against``: does a peer still hold what the node holds?"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import typer

from dicomnode.cli.associating import perform_fast
from dicomnode.cli.common import EXIT_FAILED, cleaned_up, explained, fail, user_here
from dicomnode.cli.held import own_objects
from dicomnode.cli.peers import Options, called, settings_file
from dicomnode.cli.progress import bar
from dicomnode.cli.queries import keys_of
from dicomnode.cli.target import Target
from dicomnode.cli.telling import tell_node
from dicomnode.index.entry import InstanceRow
from dicomnode.integrity.record import Event
from dicomnode.observe.words import counted, escape
from dicomnode.scu.keys import name_of
from dicomnode.settings import Settings, load_settings
from dicomnode.storage.differences import Difference
from dicomnode.sync.against import Against, Comparison

_MOST_TOLD: Final = 50


def verify_against(
    peer: str,
    study: list[str] | None,
    series: list[str] | None,
    options: Options,
    *,
    values: bool,
    as_json: bool,
) -> None:
    """Retrieve studies or series from ``peer``, and compare them with the node's own objects."""
    if not study and not series:
        fail("--against: say what to compare: --study UID, or --series UID")
    wanted = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
    keys = {keyword: uids for keyword, uids in wanted.items() if uids}
    with explained(), cleaned_up():
        settings = load_settings(settings_file(options))
        target = called(peer, options)
        title = target.peer.title
        with own_objects(settings) as own:
            rows = list(own.rows(keys))
        with (
            tempfile.TemporaryDirectory(prefix="dicomnode-verify-") as scratch,
            bar(f"from {title}") as shown,
        ):
            against = Against(
                Target(target, options),
                rows,
                settings.storage.directory,
                Path(scratch),
                lambda done, total: shown.update(done, total),
            )
            comparison = perform_fast(against.compare(keys_of(study, series)), target)
        _record(settings, rows, comparison, title)
    if as_json:
        typer.echo(json.dumps(_to_json(comparison, title, values=values), ensure_ascii=False))
    else:
        _tell(comparison, title, values=values)
    if not comparison.verified:
        raise typer.Exit(EXIT_FAILED)


def _record(
    settings: Settings, rows: list[InstanceRow], comparison: Comparison, title: str
) -> None:
    """Have the node record of which objects it is proven that the peer holds them, and how."""
    for uids, how in ((comparison.identical, "byte for byte"), (comparison.same, "by elements")):
        proven = uids - comparison.differ.keys() - comparison.pixels_differ
        some = [row for row in rows if row.sop_instance_uid in proven]
        if some:
            details = {"asked_by": user_here(), "against": title, "compared": how}
            tell_node(settings, Event.VERIFIED, some, details)


def _tell(comparison: Comparison, title: str, *, values: bool) -> None:
    from dicomnode.cli.verify import headline

    typer.echo(headline(verified=comparison.verified))
    lines = list(_lines(comparison, title, values=values))
    for line in lines[:_MOST_TOLD]:
        typer.echo(f"  {line}")
    if (more := len(lines) - _MOST_TOLD) > 0:
        typer.echo(f"  and {more} more")
    for words, count in comparison.refusals.items():
        typer.echo(f"{words} ({counted(count, 'time', 'times')})", err=True)
    if not comparison.objects:
        typer.echo(f"neither the node nor {title} has anything of it")
        return
    objects = counted(comparison.objects, "object", "objects")
    typer.echo(
        f"{objects} compared with {title}: {len(comparison.identical)} the same byte for byte,"
        f" {len(comparison.same)} the same by elements"
    )


def _lines(comparison: Comparison, title: str, *, values: bool) -> list[str]:
    lines = [f"missing    {uid}: {escape(why)}" for uid, why in comparison.missing.items()]
    lines += [
        f"extra      {escape(uid)}: {title} has it, the node has not" for uid in comparison.extra
    ]
    lines += [f"unclear    {uid}: {escape(why)}" for uid, why in comparison.unclear.items()]
    lines += [
        f"pixels     {uid}: the pixel data differs" for uid in sorted(comparison.pixels_differ)
    ]
    for uid, found in comparison.differ.items():
        lines += [f"element    {uid}: {_element(each, title, values=values)}" for each in found]
    return lines


def _element(difference: Difference, title: str, *, values: bool) -> str:
    name = _path(difference.path)
    if difference.theirs is None:
        words = f"{name} is missing at {title}"
    elif difference.ours is None:
        words = f"{name} is only at {title}"
    else:
        words = f"{name} differs"
    if values:
        ours, theirs = (
            "-" if each is None else escape(each.shown())
            for each in (difference.ours, difference.theirs)
        )
        words += f": here {ours}, at {title} {theirs}"
    return words


def _path(path: tuple[int, ...]) -> str:
    """Write the way to an element: ``(0008,1140)[1].(0008,1150) ReferencedSOPClassUID``."""
    words = ""
    for place, number in enumerate(path):
        words += f"[{number}]." if place % 2 else f"({number >> 16:04X},{number & 0xFFFF:04X})"
    keyword = name_of(path[-1])
    return words if keyword.startswith(("(", "0")) else f"{words} {keyword}"


def _to_json(comparison: Comparison, title: str, *, values: bool) -> dict[str, Any]:
    def shown(each: Difference) -> dict[str, str]:
        where = {"element": _path(each.path)}
        where["is"] = (
            "missing" if each.theirs is None else "extra" if each.ours is None else "different"
        )
        if values:
            where["ours"] = each.ours.shown() if each.ours else ""
            where["theirs"] = each.theirs.shown() if each.theirs else ""
        return where

    return {
        "verified": comparison.verified,
        "peer": title,
        "objects": comparison.objects,
        "identical": len(comparison.identical),
        "same": len(comparison.same),
        "missing": comparison.missing,
        "extra": comparison.extra,
        "unclear": comparison.unclear,
        "pixels_differ": sorted(comparison.pixels_differ),
        "differ": {
            uid: [shown(each) for each in found] for uid, found in comparison.differ.items()
        },
    }
