"""Names and numbers where nobody looks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicomnode.deidentification.files import deidentify
from dicomnode.deidentification.options import Options
from tests.deidentification.originals import PROJECT, appended, copied, original, refused


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x00081140, b"LO"),  # Referenced Image Sequence
        (0x00081140, b"OB"),
        (0x00180050, b"UC"),  # Slice Thickness
        (0x00280106, b"LO"),  # Smallest Image Pixel Value
        (0x00280106, b"CS"),
        (0x00282000, b"SH"),  # ICC Profile
    ],
)
def test_what_has_a_vr_of_another_kind_may_say_anything_and_goes(
    tmp_path: Path, tag: int, vr: bytes
) -> None:
    source = appended(tmp_path, original(), (tag, vr, b"seen by Erna"))
    target = tmp_path / "copy.dcm"
    deidentify(source, lambda names: target, PROJECT, Options())
    assert b"Erna" not in target.read_bytes()


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("EncryptedContent", b"Erna"),
        ("Signature", b"Erna"),
        ("BoardingPassID", "Erna"),
        ("BreedRegistrationNumber", "Erna"),
        ("ReferenceToRecordedSound", "Erna"),
    ],
)
def test_strays_that_may_name_somebody_go(tmp_path: Path, keyword: str, value: Any) -> None:
    _, path, _ = copied(tmp_path, original(**{keyword: value}))
    assert b"Erna" not in path.read_bytes()


@pytest.mark.parametrize(
    "text",
    ["ID4711001", "4711001B", "QUACKSALBER2", "of2quacksalber", "B\0Quacksalber", "Quack\0salber"],
)
def test_a_name_or_number_is_found_with_others_around_it(tmp_path: Path, text: str) -> None:
    held = original(PatientID="4711001", ConvolutionKernel=text)
    assert "ConvolutionKernel" in refused(tmp_path, held)


def test_a_number_within_a_longer_one_says_nothing(tmp_path: Path) -> None:
    copied(tmp_path, original(PatientID="4711001", ConvolutionKernel="1471100110"))


def test_short_names_and_ids_are_cleaned_away(tmp_path: Path) -> None:
    cleaned = Options(clean_descriptors=True)
    told = original(
        PatientID="123", PatientName="Ax^Ti", SeriesDescription="Ti Ax Brain 123 T2 5mm"
    )
    assert copied(tmp_path, told, cleaned)[0].SeriesDescription == "Brain T2 5mm"
