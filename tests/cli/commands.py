"""Runs commands in this process, and makes what they send."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from dicomnode.cli import app
from tests import peers

CT = Path(str(get_testdata_file("CT_small.dcm")))
STUDY = "1.2.826.0.1.3680043.10.1666.5"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def run(*arguments: object) -> Ended:
    """Run ``dicomnode`` with arguments; what it raises is raised here."""
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    return Ended(result.exit_code, result.stdout, result.stderr)


def written(address: peers.Address, title: str = "DICOMNODE") -> str:
    """Return a peer as the command line has it."""
    return f"{title}@{address[0]}:{address[1]}"


def make_study(
    folder: Path,
    objects: int,
    *,
    study: str = STUDY,
    series: int = 1,
    name: str = "Doe^Jane",
    patient_id: str = "4711",
) -> list[Path]:
    """Write CT images of one study, in ``series`` series; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(objects):
        image = pydicom.dcmread(CT)
        image.pop(0xFFFC_FFFC, None)  # DCMTK leaves out what is padding (PS3.10 §7.2)
        image.SpecificCharacterSet = "ISO_IR 192"
        image.PatientName = name
        image.PatientID = patient_id
        image.StudyInstanceUID = study
        image.SeriesInstanceUID = f"{study}.{number % series + 1}"
        image.SOPInstanceUID = f"{study}.{number % series + 1}.{number + 1}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.InstanceNumber = number + 1
        paths.append(folder / f"{number:03d}.dcm")
        image.save_as(paths[-1])
    return paths
