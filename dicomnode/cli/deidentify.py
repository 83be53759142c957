"""``deidentify`` and ``deidentify-key``: copies that tell nobody whose they are."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from dicomnode.cli.common import cleaned_up, explained, fail, interruptible
from dicomnode.cli.deidentifying import project_of, with_copy_options
from dicomnode.cli.progress import bar
from dicomnode.cli.sources import Item, Skipped, named
from dicomnode.deidentification.files import deidentify as deidentified
from dicomnode.deidentification.options import Options
from dicomnode.deidentification.project import Project, make_key
from dicomnode.deidentification.report import NewNames, Report
from dicomnode.errors import DataSetMismatch, NotDeidentified
from dicomnode.observe.words import escape
from dicomnode.storage.paths import uid_path_component


def deidentify_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to be made.")],
    project: Annotated[
        str,
        typer.Option(
            "--project", help="Its name, which Patient IDs begin with: A-Z, 0-9, - and _."
        ),
    ],
) -> None:
    """Make the key of a project; what it replaces is replaced alike as long as you have it.

    Whoever has the key can tell which copy is of whom: keep it where the originals are.
    """
    with explained():
        try:
            make_key(file, project)
        except FileExistsError:
            fail(f"{file} is there already; a key is never replaced")
    typer.echo(f"{file}: the key of {project}, for your eyes only (mode 0600); keep a copy of it")


@with_copy_options
def deidentify(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|DIR...", help="DICOM files, or directories of them."),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where the copies go.")],
    project: Annotated[
        Path, typer.Option("--project", metavar="KEYFILE", help="From deidentify-key.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was done to each, a line of JSON.")
    ] = False,
    *,
    options: Options,
) -> None:
    """Make de-identified copies of DICOM files (PS3.15 Annex E).

    Copies are DIR/<Patient ID>/<Study>/<Series>/<SOP Instance UID>.dcm, all of them new. Nothing
    is replaced; objects that cannot be made safe are refused, and the exit code is 1.
    """
    for path in paths:
        if to.resolve().is_relative_to(path.resolve()):
            fail(f"--to is within {path}: the copies would be copied, too")
    with explained(), interruptible(), cleaned_up():
        run = _Run(project_of(project), options, to, as_json)
        with bar("de-identifying") as progress:
            for path in paths:
                for found in named(path):
                    run.take(found)
                    progress.update(run.taken, None)
    if not as_json:
        run.show()
    if run.refused:
        raise typer.Exit(1)
    if not run.taken:
        fail("there is no DICOM file")


@dataclass(slots=True)
class _Run:
    """What has been copied so far, and what has not."""

    project: Project
    options: Options
    root: Path
    as_json: bool
    taken: int = 0
    refused: int = 0
    there: int = 0
    copies: Counter[str] = field(default_factory=Counter)
    studies: set[str] = field(default_factory=set)
    totals: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)

    def take(self, found: Item | Skipped) -> None:
        """Copy one file, or say why not."""
        if isinstance(found, Skipped) and not found.is_wanted:
            return
        self.taken += 1
        try:
            if isinstance(found, Skipped):
                raise NotDeidentified(found.why)
            path = Path(found.name)
            if not path.is_file():
                raise NotDeidentified("a file in a ZIP file: unpack it first")
            self._note(deidentified(path, self._place, self.project, self.options))
        except NotDeidentified as error:
            self._refuse(found.name, str(error), error.advice)
        except DataSetMismatch as error:
            self._refuse(found.name, error.comment)
        except FileExistsError:
            self._refuse(found.name, "another copy has its UID already; nothing was replaced")

    def _place(self, names: NewNames) -> Path:
        uids = names.study_instance_uid, names.series_instance_uid, names.sop_instance_uid
        study, series, instance = (uid_path_component(uid) if uid else "none" for uid in uids)
        folder = self.root / names.patient_id / study / series
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{instance}.dcm"

    def _note(self, report: Report) -> None:
        self.there += report.was_there
        self.copies[report.names.patient_id] += 1
        self.studies.add(report.names.study_instance_uid)
        self.totals.update(report.totals)
        self.warnings.update(report.warnings)
        if self.as_json:
            self._print(report.to_json())

    def _refuse(self, name: str, why: str, advice: str = "") -> None:
        self.refused += 1
        # Names of files may be names of patients: they are told here, and not in the report.
        words = f"{why}; {advice}" if advice else why
        typer.echo(escape(f"not copied: {name}: {words}"), err=True)
        if self.as_json:
            self._print({"number": self.taken, "refused": why})

    def _print(self, value: dict[str, Any]) -> None:
        typer.echo(json.dumps(value))

    def show(self) -> None:
        """Print what was done, in words that tell nothing of the patients."""
        count = sum(self.copies.values())
        typer.echo(
            f"objects {count}, patients {len(self.copies)}, studies {len(self.studies)},"
            f" refused {self.refused}, there already {self.there}: {self.root}"
        )
        if self.totals:
            told = ", ".join(f"{what} {count}" for what, count in sorted(self.totals.items()))
            typer.echo(f"attributes: {told}")
        for warning, count in sorted(self.warnings.items()):
            typer.echo(f"note, objects {count}: {warning}")
