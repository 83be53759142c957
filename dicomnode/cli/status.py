"""``status``: what a running node does, from its /api/status."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dicomnode.cli.asking import NodeUnavailable, UrlOption, ask, moment, plain, url_of
from dicomnode.cli.common import ConfigOption, explained
from dicomnode.cli.live_associations import table_of
from dicomnode.observe.words import counted, duration, size
from dicomnode.settings import load_settings

_REFRESH_SECONDS = 2.0
_MOST_ROWS = 15
# What a run of a fetch rule has moved, in words.
_MOVED = {"fetched": "received", "sent": "queued"}

Figures = Mapping[str, Any]


def status(
    config: ConfigOption = None,
    url: UrlOption = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object and end.")] = False,
) -> None:
    """Show what a running node does.

    On a terminal the summary is kept up to date until Ctrl-C.
    """
    with explained():
        address = url or url_of(load_settings(config))
        figures = _fetch(address)
        if as_json:
            typer.echo(json.dumps(figures, indent=2))
            return
        console = Console()
        if once or not console.is_terminal:
            console.print(summary(figures))
            return
        _watch(console, address, figures)


def _watch(console: Console, address: str, figures: Figures) -> None:
    shown: RenderableType = summary(figures)
    with Live(shown, console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(_REFRESH_SECONDS)
                try:
                    shown = summary(_fetch(address))
                except NodeUnavailable as error:
                    # The node may be restarting: say so below the last figures and go on asking.
                    live.update(Group(shown, Text(str(error), style="red")), refresh=True)
                else:
                    live.update(shown, refresh=True)
        except KeyboardInterrupt:
            return


def _fetch(url: str) -> dict[str, Any]:
    return ask(url, "/api/status")


def summary(figures: Figures) -> RenderableType:
    """Lay out ``figures``, the object of /api/status, for a terminal."""
    parts: list[RenderableType] = [_headline(figures), _archive(figures.get("archive", {}))]
    parts += _scrub(figures.get("scrub", {}))
    parts += _since_start(figures.get("since_start", {}))
    parts += _worklist(figures.get("worklist", {}))
    parts += _performed_steps(figures.get("performed_steps", {}))
    parts += _fetches(figures.get("fetch", []))
    parts += _removal(figures.get("deletions", []), figures.get("retention", {}))
    parts += _audit(figures.get("audit", {}))
    parts += _custody(figures.get("custody", {}))
    parts += _commitments(figures.get("commitments", {}))
    parts += _commitment_requests(figures.get("commitment_requests", {}))
    parts += _outbox(figures.get("outbox", []))
    parts += _tls(figures.get("tls", {}))
    associations = figures.get("associations", [])
    if associations:
        parts += ["", _associations(associations)]
    else:
        parts += [Text("no association is open", style="dim")]
    if outgoing := figures.get("outgoing_associations", []):
        parts += ["", _outgoing(outgoing)]
    if rejections := figures.get("last_rejections", []):
        parts += ["", _rejections(rejections)]
    if conflicts := figures.get("identity_conflict_list", []):
        parts += ["", _conflicts(conflicts)]
    return Group(*parts)


def _headline(figures: Figures) -> Text:
    line = Text(f"{_text(figures, 'ae_title')}", style="bold")
    line.append(f" on {_text(figures, 'host')}:{_text(figures, 'port')}", style="not bold")
    line.append(f", dicomnode {_text(figures, 'version')}", style="not bold")
    line.append(f", up {duration(float(figures.get('uptime_seconds', 0)))}", style="not bold")
    if figures.get("draining"):
        line.append(", shutting down", style="yellow")
    if figures.get("durability") == "relaxed":
        line.append(", durability relaxed", style="yellow")
    return line


def _archive(archive: Figures) -> RenderableType:
    def count(key: str) -> str:
        return f"{int(archive.get(key, 0)):,}"

    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "left", "right"):
        table.add_column(justify=justify)
    table.add_row("patients", count("patients"), "objects", count("instances"))
    table.add_row("studies", count("studies"), "held", size(int(archive.get("bytes", 0))))
    table.add_row("series", count("series"), "free", size(int(archive.get("free_bytes", 0))))
    conflicts = int(archive.get("identity_conflicts", 0))
    if not conflicts:
        return table
    noun = "patient ID" if conflicts == 1 else "patient IDs"
    words = f"{conflicts} {noun} came with different names and birth dates (identity conflicts)"
    return Group(table, Text(words, style="bold yellow"))


def _scrub(scrub: Figures) -> list[RenderableType]:
    """Tell of files that are not whole, and of a run through all of them that goes on."""
    lines: list[RenderableType] = []
    found = {kind: count for kind, count in scrub.get("not_whole", {}).items() if count}
    if found:
        words = ", ".join(f"{count:,} {kind}" for kind, count in found.items())
        told = f"stored files that are not whole: {words}; see dicomnode scrub --report"
        lines.append(Text(told, style="bold red"))
    if scrub.get("is_running"):
        done, total = int(scrub.get("objects", 0)), int(scrub.get("total_objects", 0))
        since = _moment(scrub.get("proven_since"))
        words = f"scrub: {done:,} of {total:,} objects read, all of them since {since}"
        lines.append(Text(words, style="dim"))
    return lines


def _since_start(totals: Figures) -> list[RenderableType]:
    def number(key: str) -> int:
        return int(totals.get(key, 0))

    lines: list[RenderableType] = []
    if queries := number("queries"):
        matches, empty = number("matches"), number("empty_queries")
        lines.append(
            Text(f"queries since start: {queries:,}, {matches:,} matches, {empty:,} without any")
        )
    if retrievals := number("retrievals"):
        objects, sent = number("objects_sent"), size(number("sent_bytes"))
        line = Text(f"retrievals since start: {retrievals:,}, {objects:,} objects sent, {sent}")
        if failed := number("objects_failed"):
            line.append(f", {failed:,} failed (see dicomnode explain)", style="yellow")
        lines.append(line)
    return lines


def _worklist(worklist: Figures) -> list[RenderableType]:
    counts = worklist.get("items", {})
    told = ", ".join(f"{number:,} {state.lower()}" for state, number in counts.items() if number)
    lines: list[RenderableType] = [Text(f"worklist items: {told}")] if told else []
    if trouble := worklist.get("trouble"):
        where = plain(f"{_text(worklist, 'directory')} cannot be read: {trouble}")
        lines.append(Text("worklist: ", style="bold yellow").append_text(where))
    if left_out := int(worklist.get("files_left_out", 0)):
        noun = "file is" if left_out == 1 else "files are"
        words = f"{left_out:,} worklist {noun} left out:"
        lines.append(Text(words, style="bold yellow"))
        shown = worklist.get("left_out", [])[:_MOST_ROWS]
        lines += [plain(f"  {each.get('file')}: {each.get('why')}") for each in shown]
        if left_out > len(shown):
            lines.append(Text("  and more: see /api/status or the log", style="dim"))
    return lines


def _performed_steps(counts: Figures) -> list[RenderableType]:
    told = ", ".join(f"{number:,} {status.lower()}" for status, number in counts.items() if number)
    return [Text(f"performed steps: {told}")] if told else []


def _commitments(commitments: Figures) -> list[RenderableType]:
    states = {"pending": "to be checked", "checked": "to be reported", "delivered": "reported"}
    counts = {words: int(commitments.get(state, 0)) for state, words in states.items()}
    told = ", ".join(f"{number:,} {words}" for words, number in counts.items() if number)
    lines: list[RenderableType] = [Text(f"storage commitments: {told}")] if told else []
    if given_up := int(commitments.get("given_up", 0)):
        noun = "report was" if given_up == 1 else "reports were"
        words = f"{given_up:,} storage commitment {noun} given up (see dicomnode explain):"
        lines.append(Text(words, style="bold yellow"))
        for row in commitments.get("given_up_list", [])[:_MOST_ROWS]:
            asked = moment(float(row.get("requested", 0)))
            lines.append(plain(f"  {row.get('requester')}, asked {asked}: {row.get('why')}"))
    return lines


def _commitment_requests(counts: Figures) -> list[RenderableType]:
    told = ", ".join(f"{int(number):,} {state}" for state, number in counts.items() if number)
    return [plain(f"storage commitments asked of others: {told}")] if told else []


def _outbox(rows: list[Figures]) -> list[RenderableType]:
    told = [row for row in rows if row["oldest"] is not None or row["down_since"] is not None]
    told.sort(key=lambda row: row["down_since"] is None)
    lines: list[RenderableType] = [Text("outbox:")] if told else []
    lines += [_destination(row) for row in told[:_MOST_ROWS]]
    if (more := len(told) - _MOST_ROWS) > 0:
        lines.append(Text(f"  and {more} more: see dicomnode outbox list", style="dim"))
    return lines


def _destination(row: Figures) -> Text:
    """Say of one AE what waits for it, since when, and why."""
    objects, reports, now = row["objects"], row["reports"], time.time()
    dead = int(objects["dead"]) + int(reports["dead"])
    counts = {
        "waiting": int(objects["ready"]) + int(objects["paused"]),
        "waiting for their study": int(objects["unsettled"]),
        "to be committed": int(objects["sent"]),
        "reports waiting": int(reports["waiting"]),
        "set aside": dead,
    }
    told = [f"{number:,} {words}" for words, number in counts.items() if number]
    if row["oldest"] is not None:
        told.append(f"oldest {duration(max(now - row['oldest'], 0.0))}")
    line = plain(f"  {row['destination']}: {', '.join(told) or 'nothing waits'}")
    if dead:
        line.append(" (see dicomnode outbox list --dead)")
        line.stylize("yellow")
    if row["down_since"] is not None:
        since = duration(max(now - row["down_since"], 0.0))
        until = duration(max(row["next_attempt"] - now, 0.0))
        line.append(f"; down for {since}, tried in {until}: ")
        line.append_text(plain(row["last_error"])).stylize("red")
    return line


def _fetches(rules: list[Figures]) -> list[RenderableType]:
    """Tell how it stands with the rules of fetching."""
    lines: list[RenderableType] = []
    for row in rules[:_MOST_ROWS]:
        line = Text("fetch ").append_text(_text(row, "name")).append(" with ")
        line.append_text(_text(row, "from"))
        moved = [f"{int(row.get(key, 0)):,} {word}" for key, word in _MOVED.items()]
        line.append(f": {', '.join(moved)}, last run {_moment(row.get('last_run'))}")
        line.append(f", last complete {_moment(row.get('last_success'))}")
        line.append(", running" if row.get("running") else f", next {_moment(row.get('next_run'))}")
        lines.append(line)
        if missing := int(row.get("missing_studies", 0)):
            lines.append(Text(f"  studies that lack something: {missing:,}", style="yellow"))
        if error := row.get("last_error"):
            lines.append(Text("  ", style="yellow").append_text(plain(error)))
    return lines


def _removal(orders: list[Figures], retention: Figures) -> list[RenderableType]:
    """Tell what is being deleted, and how it stands with the rules of retention."""
    lines: list[RenderableType] = [
        plain(
            f"deletion {row.get('id')} of {row.get('what')}: {int(row.get('position', 0)):,} of"
            f" {int(row.get('total', 0)):,} objects"
        )
        for row in orders[:_MOST_ROWS]
    ]
    for row in retention.get("rules", [])[:_MOST_ROWS]:
        line = Text("retention ").append_text(_text(row, "name"))
        line.append(f": {int(row.get('deleted', 0)):,} deleted")
        line.append(f", last run {_moment(row.get('last_run'))}")
        if held := int(row.get("held_back", 0)):
            line.append(f", {held:,} held back (see dicomnode explain)", style="yellow")
        lines.append(line)
    if clock := retention.get("clock"):
        alarm = plain(f"retention does nothing: {clock}")
        alarm.stylize("bold red")
        lines.append(alarm)
    return lines


def _audit(audit: Figures) -> list[RenderableType]:
    """Tell of an audit trail that is on whether it arrives."""
    lines: list[RenderableType] = []
    for row in audit.get("targets", []):
        line = Text("audit trail to ").append_text(_text(row, "target"))
        line.append(f": {counted(int(row.get('waiting', 0)), 'message waits', 'messages wait')}")
        if error := row.get("error"):
            line.append(": ", style="yellow").append_text(plain(error))
        lines.append(line)
    if error := audit.get("spool_error"):
        lines.append(Text("audit trail: ", style="bold yellow").append_text(plain(error)))
    if lost := int(audit.get("lost", 0)):
        words = counted(lost, "message was lost", "messages were lost")
        lines.append(Text(f"audit trail: {words} since start", style="bold yellow"))
    return lines


def _custody(custody: Figures) -> list[RenderableType]:
    """Tell of a custody log that cannot be written, or could not."""
    waiting, lost = int(custody.get("waiting", 0)), int(custody.get("lost", 0))
    if not lost and not (waiting and custody.get("failures")):
        return []
    waits = counted(waiting, "record waits", "records wait")
    losses = counted(lost, "was lost", "were lost")
    return [Text(f"custody log: {waits}, {losses} since start", style="bold yellow")]


def _moment(seconds: float | None) -> str:
    return moment(float(seconds)) if seconds else "never"


def _tls(tls: Figures) -> list[RenderableType]:
    lines: list[RenderableType] = []
    if tls.get("port") is not None:
        alone = ", and nothing without it" if tls.get("only") else ""
        lines.append(plain(f"TLS on port {tls['port']}{alone}"))
    lines += [Text(str(each), style="bold yellow") for each in tls.get("warnings", [])]
    return lines


def _associations(rows: list[Figures]) -> Table:
    return table_of(rows, f"open associations: {len(rows)}", "calling_ae_title")


def _outgoing(rows: list[Figures]) -> Table:
    return table_of(rows, f"open to destinations: {len(rows)}", "called_ae_title")


def _rejections(rejections: list[Figures]) -> Table:
    table = Table("time", "calling AE", "from", "why", title="last rejections")
    table.title_justify = "left"
    for row in rejections[-_MOST_ROWS:]:
        table.add_row(
            moment(float(row.get("time", 0))),
            _text(row, "calling_ae_title"),
            _text(row, "peer_address"),
            _text(row, "words"),
        )
    return table


def _conflicts(conflicts: list[Figures]) -> Table:
    keys = list(conflicts[0])
    table = Table(*(key.replace("_", " ") for key in keys), title="identity conflicts")
    table.title_justify = "left"
    for row in conflicts[:_MOST_ROWS]:
        table.add_row(*(_text(row, key) for key in keys))
    return table


def _text(row: Figures, key: str) -> Text:
    return plain(row.get(key, "?"))
