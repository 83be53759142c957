"""The command line that all benchmarks share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

from bench.report import Figure, Section, table, write

# Takes how often to run; most parts give one figure, some that share their servers give several.
Part = Callable[[int], Figure | Sequence[Figure]]


def main(
    section: Section,
    parts: Mapping[str, Part],
    *,
    runs: int,
    arguments: Sequence[str] | None = None,
) -> int:
    """Measure, print the table, and say with the exit code whether every target was met."""
    program = f"python -m bench.{section.name}"
    parser = argparse.ArgumentParser(prog=program, description=section.title)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--runs", type=int, default=runs, help=f"runs of each (default {runs})")
    parser.add_argument("--quick", action="store_true", help="one run, and less of everything")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(parts):
        parser.error(f"unknown part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    if options.write and (options.parts or options.quick):
        parser.error("--write needs every part and every run")
    chosen = 1 if options.quick else options.runs
    figures: list[Figure] = []
    for name in options.parts or parts:
        print(f"{name}: {parts[name].__doc__}", file=sys.stderr, flush=True)
        measured = parts[name](chosen)
        for figure in [measured] if isinstance(measured, Figure) else measured:
            figures.append(figure)
            print(figure.row(), file=sys.stderr, flush=True)
    print(table(figures))
    if options.write:
        from bench.plots import save_ratios  # needs the extra "bench"

        write(section.name, section.text(figures, chosen))
        save_ratios()
    return 0 if all(figure.met for figure in figures) else 1
