"""The objects that the benchmarks send, made once into a cache below the temp directory."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.10.1666"
SEED = 20261121
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Corpus:
    """Files in ``parts`` sub-directories, each one series of one study of one patient."""

    name: str
    objects: int
    rows: int
    columns: int
    parts: int
    frames: int = 1

    @property
    def object_bytes(self) -> int:
        """Bytes of pixel data in one object."""
        return self.rows * self.columns * 2 * self.frames


LARGE = Corpus("large", 516, 512, 512, 4)
SMALL = Corpus("small", 1000, 64, 96, 8)
# One study: what a single C-GET or C-MOVE asks for.
STUDY = Corpus("study", 516, 512, 512, 1)
GIANT = Corpus("giant", 1, 1024, 1024, 1, frames=512)


def cache_directory() -> Path:
    """Return where the objects are kept between runs."""
    return Path(tempfile.gettempdir()) / "dicomnode-bench"


def directory_of(corpus: Corpus) -> Path:
    """Return the directory of a corpus, made when it is not there yet."""
    finished = cache_directory() / corpus.name
    if not finished.is_dir():
        building = finished.with_suffix(".part")
        shutil.rmtree(building, ignore_errors=True)
        _make(corpus, building)
        building.rename(finished)
    return finished


def part_directories(corpus: Corpus) -> list[Path]:
    """Return the sub-directories of a corpus, for one association each."""
    return sorted(path for path in directory_of(corpus).iterdir() if path.is_dir())


def study_uid(corpus: Corpus, part: int = 0) -> str:
    """Return the Study Instance UID of one part of a corpus."""
    return f"{ROOT}.{sum(corpus.name.encode())}.{part + 1}"


def _make(corpus: Corpus, directory: Path) -> None:
    noise = random.Random(SEED)
    for number in range(corpus.objects):
        part = number % corpus.parts
        where = directory / f"{part}"
        where.mkdir(parents=True, exist_ok=True)
        image = _image(corpus, part, number)
        block = noise.randbytes(min(corpus.object_bytes, _BLOCK_BYTES))
        image.PixelData = block * (corpus.object_bytes // len(block))
        dcmwrite(where / f"{number:04d}.dcm", image, enforce_file_format=True)


def _image(corpus: Corpus, part: int, number: int) -> Dataset:
    study = study_uid(corpus, part)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SpecificCharacterSet = "ISO_IR 100"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = UID(f"{study}.1.{number + 1}")
    image.StudyDate = image.SeriesDate = image.ContentDate = "20260102"
    image.StudyTime = image.SeriesTime = image.ContentTime = "101112"
    image.AccessionNumber = f"A{part}"
    image.Modality = "CT"
    image.Manufacturer = "dicomnode"
    image.ReferringPhysicianName = "Referring^Doctor"
    image.StudyDescription = "CT of a benchmark"
    image.SeriesDescription = "noise"
    image.PatientName = f"Bench^{corpus.name}^{part}"
    image.PatientID = f"BENCH-{corpus.name}-{part}"
    image.PatientBirthDate = "19700101"
    image.PatientSex = "O"
    image.StudyInstanceUID = UID(study)
    image.SeriesInstanceUID = UID(f"{study}.1")
    image.SeriesNumber = 1
    image.InstanceNumber = number + 1
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    if corpus.frames > 1:
        image.NumberOfFrames = corpus.frames
    image.Rows = corpus.rows
    image.Columns = corpus.columns
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 0
    return image
