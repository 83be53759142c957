"""The pictures of docs/performance.md, drawn with matplotlib (the extra ``bench``).

The same figures make the same bytes: nothing in the files is of the day or of chance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.breakdown import STAGES, Breakdown
from bench.growth import Grown
from bench.load import percentiles
from bench.measure import MEBIBYTE
from bench.report import PAGE, sections
from bench.soak import SERVICES, Shown

_OURS, _ORTHANC, _DCMTK, _LIMIT = "#2b6cb0", "#dd8a2d", "#2f855a", "#7a7a7a"
_NAMES = {_LIMIT: "the limit of the hardware", _ORTHANC: "Orthanc", _DCMTK: "DCMTK"}
_PEERS = {
    "Orthanc": _ORTHANC,
    **dict.fromkeys(("storescp", "storescu", "dcmqrscp", "wlmscpfs"), _DCMTK),
    **dict.fromkeys(("plain copy", "plain copy with SHA-256", "flushes of a log"), _LIMIT),
}
_ROW = re.compile(r"\| (.+?); (.+?) \| .+? \| .+? \| ([\d.]+) \| (.*?) \|")


def _save(figure: Figure, name: str) -> None:
    folder = PAGE.with_suffix("")
    folder.mkdir(exist_ok=True)
    # Text stays text, which is small and can be searched.
    with matplotlib.rc_context({"svg.hashsalt": "dicomnode", "svg.fonttype": "none"}):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def _axes(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure, axes = pyplot.subplots(
        1, columns, figsize=(width, height), layout="constrained", squeeze=False
    )
    figure.patch.set_facecolor("white")
    for each in axes[0]:
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])


def save_ratios() -> None:
    """Draw how many times as fast as each peer the node is, by what the page says."""
    rows = _ratios()
    figure, (axes,) = _axes(10, 1.2 + 0.25 * len(rows))
    for at, (_, faster, colour) in enumerate(rows):
        if not colour:
            continue
        axes.barh(at, faster - 1, left=1, color=colour, height=0.65)
        side = "left" if faster >= 1 else "right"
        words = f" {faster:.2f} " if faster < 10 else f" {faster:.0f} "
        axes.annotate(words, (faster, at), va="center", ha=side, fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    for label, (_, _, colour) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("normal" if colour else "bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log", base=2)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as what is named last (right of 1: dicomnode is faster)")
    colours = dict.fromkeys(colour for _, _, colour in rows if colour)
    patches = [Patch(color=colour, label=_NAMES[colour]) for colour in colours]
    figure.legend(handles=patches, loc="outside upper center", ncols=3, frameon=False)
    _save(figure, "ratios")


def _ratios() -> list[tuple[str, float, str]]:
    """Return what was compared, how many times as fast the node is, and the peer's colour.

    A section begins with a row of its title alone.
    """
    rows: list[tuple[str, float, str]] = []
    for section in sections(PAGE.read_text(encoding="utf-8")).values():
        found = []
        for what, peer, figure, target in _ROW.findall(section):
            if colour := _PEERS.get(peer.partition(",")[0]):
                faster = float(figure) if target.startswith("≥") else 1 / max(float(figure), 0.01)
                found.append((f"{what}; {peer}", faster, colour))
        if found:
            title = section.partition("\n")[0].removeprefix("## ")
            rows += [(title, 1.0, ""), *found]
    return rows


def save_load(shown: Shown) -> None:
    """Draw the latencies of each operation, and memory and buffers over time."""
    figure, (left, right) = _axes(10, 3.6, 2)
    taken = [percentiles(list(shown.latencies[service])) for service in SERVICES]
    names = ("median", "99th percentile", "maximum")
    for number, (name, colour) in enumerate(zip(names, (_OURS, _ORTHANC, _LIMIT), strict=True)):
        places = [at + 0.25 * (number - 1) for at in range(len(SERVICES))]
        left.bar(places, [each[number] for each in taken], 0.25, label=name, color=colour)
    left.set_xticks(range(len(SERVICES)), SERVICES, fontsize=9)
    left.set_yscale("log")
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.set_ylabel("milliseconds")
    left.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    times = [sample.at for sample in shown.during]
    memory = [sample.resident_bytes / MEBIBYTE for sample in shown.during]
    buffers = [sample.buffer_bytes / MEBIBYTE for sample in shown.during]
    right.plot(times, memory, color=_OURS, label="resident memory")
    right.plot(times, buffers, color=_ORTHANC, label="receive buffers", linewidth=0.8)
    right.set_ylim(0, 1.25 * max(memory))
    right.set_xlabel("seconds")
    right.set_ylabel("MiB")
    right.legend(frameon=False, fontsize=8, loc="center right")
    _save(figure, "load")


def save_breakdown(measured: Sequence[Breakdown]) -> None:
    """Draw the stages of one object of each size."""
    figure, axes = _axes(10, 3.4, len(measured))
    for each, panel in zip(measured, axes, strict=True):
        values = [each.stages.get(stage, 0.0) for stage in STAGES]
        bars = panel.barh(range(len(STAGES)), values, color=_OURS, height=0.65)
        panel.bar_label(bars, fmt=" %.2f", fontsize=8)
        panel.axvline(each.seen_milliseconds, color="black", linewidth=0.8, linestyle="--")
        panel.set_title(f"one object of {each.what} (dashed: request to answer)", fontsize=10)
        panel.set_xlabel("milliseconds, with py-spy looking")
        panel.margins(x=0.12)
        panel.set_yticks(range(len(STAGES)), STAGES if panel is axes[0] else [], fontsize=9)
        panel.invert_yaxis()
    _save(figure, "breakdown")


def save_growth(measured: Sequence[Grown]) -> None:
    """Draw queries and storing by what is held."""
    figure, (left, right) = _axes(10, 3.2, 2)
    held = [each.studies for each in measured]
    for name, colour, values in (
        ("by Study Instance UID", _OURS, [each.by_uid_milliseconds for each in measured]),
        ("by Patient ID", _ORTHANC, [each.by_patient_milliseconds for each in measured]),
    ):
        left.plot(held, values, marker="o", color=colour, label=name)
    left.set_ylabel("C-FIND, milliseconds")
    left.legend(frameon=False, fontsize=8, loc="lower left")
    right.plot(held, [each.objects_a_second for each in measured], marker="o", color=_OURS)
    right.set_ylabel("objects of 12 KB stored a second")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
        axes.set_xlabel("studies held")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _save(figure, "growth")
