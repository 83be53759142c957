"""The options of whatever makes de-identified copies, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicomnode.cli.common import fail
from dicomnode.deidentification.options import Dates
from dicomnode.deidentification.project import Project, read_key
from dicomnode.users import open_to_others

RetainUidsOption = Annotated[
    bool, typer.Option("--retain-uids", help="Keep UIDs: whoever has the originals can tell.")
]
ShiftDatesOption = Annotated[
    bool,
    typer.Option("--shift-dates", help="Shift dates, of each patient by a number of days."),
]
KeepDatesOption = Annotated[bool, typer.Option("--keep-dates", help="Keep dates and times.")]
CleanDescriptorsOption = Annotated[
    bool,
    typer.Option("--clean-descriptors", help="Keep known words of descriptions and comments."),
]
RetainDeviceOption = Annotated[
    bool, typer.Option("--retain-device", help="Keep which device made the object.")
]
RetainInstitutionOption = Annotated[
    bool, typer.Option("--retain-institution", help="Keep the institution's name and address.")
]
RetainPatientOption = Annotated[
    bool,
    typer.Option("--retain-patient-characteristics", help="Keep age, sex, size, weight and such."),
]
AllowBurnedInOption = Annotated[
    bool,
    typer.Option("--allow-burned-in", help="Take objects whose pixels may have names in them."),
]
AllowRecognizableOption = Annotated[
    bool, typer.Option("--allow-recognizable", help="Take objects that may show faces.")
]
IssuerOption = Annotated[
    str, typer.Option("--issuer", help="Who gave the Patient IDs that come without an issuer.")
]


def dates(shift: bool, keep: bool) -> Dates:
    """Return what becomes of dates; ends the command where both are wanted."""
    if shift and keep:
        fail("--shift-dates and --keep-dates exclude each other")
    if shift:
        return Dates.SHIFTED
    return Dates.KEPT if keep else Dates.REMOVED


def project_of(file: Path) -> Project:
    """Return the project whose key is in a file; warns of one that others can read.

    Raises KeyUnusable, OSError.
    """
    project = read_key(file)
    if open_to_others(file):
        typer.echo(f"note: {file} can be read by others than its owner: chmod 600", err=True)
    return project
