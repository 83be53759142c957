"""The options of whatever makes de-identified copies, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dicomnode.cli.common import fail
from dicomnode.cli.shared_options import SharedOptions, with_shared
from dicomnode.deidentification.files import deidentify
from dicomnode.deidentification.options import Dates, Options
from dicomnode.deidentification.project import Project, read_key
from dicomnode.errors import NotDeidentified
from dicomnode.observe.words import escape
from dicomnode.users import open_to_others


def _flag(name: str, words: str) -> tuple[Any, bool]:
    return Annotated[bool, typer.Option(name, help=words)], False


_OPTIONS: Final[SharedOptions] = {
    "retain_uids": _flag("--retain-uids", "Keep UIDs: whoever has the originals can tell."),
    "shift_dates": _flag("--shift-dates", "Shift dates, of each patient by a number of days."),
    "keep_dates": _flag("--keep-dates", "Keep dates and times."),
    "clean_descriptors": _flag(
        "--clean-descriptors", "Keep known words of descriptions and comments."
    ),
    "retain_device": _flag("--retain-device", "Keep which device made the object."),
    "retain_institution": _flag("--retain-institution", "Keep the institution's name and address."),
    "retain_patient_characteristics": _flag(
        "--retain-patient-characteristics", "Keep age, sex, size, weight and such."
    ),
    "allow_burned_in": _flag(
        "--allow-burned-in", "Take objects whose pixels may have names in them."
    ),
    "allow_recognizable": _flag("--allow-recognizable", "Take objects that may show faces."),
    "issuer": (
        Annotated[
            str,
            typer.Option("--issuer", help="Who gave the Patient IDs that come without an issuer."),
        ],
        "",
    ),
}


def _chosen(
    *,
    retain_uids: bool,
    shift_dates: bool,
    keep_dates: bool,
    clean_descriptors: bool,
    retain_device: bool,
    retain_institution: bool,
    retain_patient_characteristics: bool,
    allow_burned_in: bool,
    allow_recognizable: bool,
    issuer: str,
) -> Options:
    """Return what the options come to; ends the command where they contradict each other."""
    if shift_dates and keep_dates:
        fail("--shift-dates and --keep-dates exclude each other")
    dates = Dates.SHIFTED if shift_dates else Dates.KEPT if keep_dates else Dates.REMOVED
    return Options(
        retain_uids=retain_uids,
        dates=dates,
        clean_descriptors=clean_descriptors,
        retain_device_identity=retain_device,
        retain_institution_identity=retain_institution,
        retain_patient_characteristics=retain_patient_characteristics,
        allow_burned_in=allow_burned_in,
        allow_recognizable=allow_recognizable,
        issuer=issuer,
    )


with_copy_options: Final = with_shared(_OPTIONS, _chosen)
"""Gives a command the options of de-identified copies, as its parameter ``options``."""


def project_of(file: Path) -> Project:
    """Return the project whose key is in a file; warns of one that others can read.

    Raises KeyUnusable, OSError.
    """
    project = read_key(file)
    if open_to_others(file):
        typer.echo(f"note: {file} can be read by others than its owner: chmod 600", err=True)
    return project


@dataclass(slots=True)
class Copying:
    """Makes the de-identified copies of an export.

    ``refused`` counts the objects that cannot be copied; without ``skip_refused`` the first of
    them ends the export.
    """

    project: Project
    options: Options
    skip_refused: bool
    copied: set[str] = field(default_factory=set)
    refused: int = 0

    def __call__(self, original: Path, copy: Path) -> bool:
        """Write a copy, and tell whether there is one. Raises NotDeidentified, OSError."""
        try:
            deidentify(original, lambda names: copy, self.project, self.options)
        except NotDeidentified as error:
            words = f"{original.stem}: {error}"
            if error.advice:
                words += f"; {error.advice}"
            if not self.skip_refused:
                raise NotDeidentified(
                    f"{words}. Nothing was exported; --skip-refused leaves such objects out"
                ) from None
            typer.echo(escape(f"left out: {words}"), err=True)
            self.refused += 1
            return False
        self.copied.add(original.stem)
        return True
