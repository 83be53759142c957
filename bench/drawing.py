"""Draws panels of a dashboard as SVG: numbers, and lines over time."""

from __future__ import annotations

import time
from typing import Any, Final
from xml.sax.saxutils import escape

_COLUMN: Final = 62
_LINE: Final = 32
_GAP: Final = 6
_HEAD: Final = 40
_COLOURS: Final = (
    "#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d",
)  # fmt: skip
_WORDS: Final = (
    "dicomnode: the queries of docker/grafana/dashboards/dicomnode.json as Prometheus answered them"
    " (drawn by bench/dashboard.py, not by Grafana)"
)

Point = tuple[float, float]
Series = tuple[str, list[Point]]


def draw(panels: list[dict[str, Any]]) -> str:
    """Return the picture; each panel has its ``series`` beside what the dashboard says of it."""
    bottom = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in panels)
    width, height = 24 * _COLUMN, bottom * _LINE + _HEAD
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#111217"/>',
        _text(12, 25, _WORDS, size=14),
        *(_panel(each) for each in panels),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(panel: dict[str, Any]) -> str:
    place = panel["gridPos"]
    x, y = place["x"] * _COLUMN + _GAP / 2, place["y"] * _LINE + _HEAD
    width, height = place["w"] * _COLUMN - _GAP, place["h"] * _LINE - _GAP
    inside = _number if panel["type"] == "stat" else _lines
    return "\n".join(
        [
            f'<g transform="translate({x:g},{y:g})">',
            f'<rect width="{width}" height="{height}" rx="3" fill="#181b1f" stroke="#2c3235"/>',
            _text(8, 18, panel["title"], weight="bold"),
            inside(panel, width, height),
            "</g>",
        ]
    )


def _number(panel: dict[str, Any], width: float, height: float) -> str:
    points = panel["series"][0][1] if panel["series"] else []
    if not points:
        return _text(width / 2, height / 2 + 14, "No data", size=20, anchor="middle")
    defaults = panel["fieldConfig"]["defaults"]
    shown, colour = value_in(points[-1][1], defaults["unit"]), "#73bf69"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or points[-1][1] >= step["value"]:
            colour = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}[step["color"]]
    for mapping in defaults.get("mappings", []):
        found = mapping["options"].get(f"{points[-1][1]:g}")
        shown = found["text"] if found else shown
    return _text(width / 2, height / 2 + 18, shown, size=26, anchor="middle", colour=colour)


def _lines(panel: dict[str, Any], width: float, height: float) -> str:
    series: list[Series] = [each for each in panel["series"] if each[1]]
    if not series:
        return _text(width / 2, height / 2, "No data", size=16, anchor="middle")
    defaults = panel["fieldConfig"]["defaults"]
    if defaults["custom"]["stacking"]["mode"] == "normal":
        series = _stacked(series)
    times = [at for _, points in series for at, _ in points]
    first, last = min(times), max(max(times), min(times) + 1)
    top = max(max(value for _, points in series for _, value in points), 1e-9) * 1.1
    left, upper, right, lower = 70.0, 30.0, width - 10, height - 46
    parts = []
    for part in range(5):
        y = lower - (lower - upper) * part / 4
        parts.append(f'<path d="M{left:g} {y:.1f}H{right:g}" stroke="#2c3235"/>')
        label = value_in(top * part / 4, defaults["unit"])
        parts.append(_text(left - 6, y + 4, label, size=10, anchor="end", colour="#9fa7b3"))
    for part in range(4):
        x = left + (right - left) * part / 3
        clock = time.strftime("%H:%M:%S", time.localtime(first + (last - first) * part / 3))
        parts.append(_text(x, lower + 14, clock, size=10, anchor="middle", colour="#9fa7b3"))
    x = left - 60
    for number, (legend, points) in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(
            f"{left + (right - left) * (at - first) / (last - first):.1f},"
            f"{lower - (lower - upper) * value / top:.1f}"
            for at, value in points
        )
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        if x < width - 60:
            parts.append(_text(x, height - 10, f"— {legend}", size=11, colour=colour))
        x += 24 + 6.2 * len(legend)
    return "\n".join(parts)


def _stacked(series: list[Series]) -> list[Series]:
    """Put each series on top of those before it."""
    below: dict[float, float] = {}
    stacked = []
    for legend, points in series:
        for at, value in points:
            below[at] = below.get(at, 0.0) + value
        stacked.append((legend, [(at, below[at]) for at, _ in points]))
    return stacked


def value_in(value: float, unit: str) -> str:
    """Write a value in a unit as Grafana names it."""
    if unit in ("bytes", "Bps"):
        for name in ("B", "KiB", "MiB", "GiB"):
            if value < 1024:
                break
            value, name = value / 1024, "TiB"
        return f"{value:.3g} {name}" + ("/s" if unit == "Bps" else "")
    if unit == "s":
        if value < 1:
            return f"{value * 1000:.3g} ms"
        return f"{value:.3g} s" if value < 120 else f"{value / 60:.3g} min"
    words = f"{value:.3g}" if value < 1000 else f"{value / 1000:.3g} K"
    return f"{words} op/s" if unit == "ops" else words


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 13,
    anchor: str = "start",
    colour: str = "#ccccdc",
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
        f' font-weight="{weight}">{escape(words)}</text>'
    )
