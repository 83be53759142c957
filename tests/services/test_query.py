"""C-FIND: what is answered, and in which character set."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import dcmread
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomnode.registry import AE, Registry
from tests.index.entries import add, entry
from tests.services.querying import SYNTAXES, Fixture, keys, written
from tests.storage.objects import CT_STORAGE, EXPLICIT, IMPLICIT, data_set, encoded


@pytest_asyncio.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Fixture]:
    fixture = Fixture(tmp_path)
    yield fixture
    await asyncio.to_thread(fixture.close)


# -- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
async def test_a_match_is_answered_with_the_keys_asked_for(archive: Fixture, syntax: str) -> None:
    add(archive.catalog, entry(1, StudyDate="20240131", StudyDescription="Chest", Rows=512))
    identifier = keys(PatientName="doe*", StudyDate="", StudyDescription="", PatientID="")
    identifier.StudyInstanceUID = ""
    identifier.NumberOfStudyRelatedInstances = ""
    (match,), final = await archive.find(identifier, syntax=syntax)
    assert final.status == 0x0000
    assert {element.keyword: element.value for element in match} == {
        "QueryRetrieveLevel": "STUDY",
        "RetrieveAETitle": "DICOMNODE",
        "StudyDate": "20240131",
        "StudyDescription": "Chest",
        "PatientName": "Doe^Jane",
        "PatientID": "4711",
        "StudyInstanceUID": "1.2.3",
        "NumberOfStudyRelatedInstances": 1,
    }
    assert [response.status for response, _ in archive.channel.sent] == [0xFF00, 0x0000]


@pytest.mark.parametrize("syntax", SYNTAXES)
async def test_numbers_and_sequences_are_answered(archive: Fixture, syntax: str) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "7", "99", "Müller"
    add(
        archive.catalog,
        entry(
            1, Rows=512, SpecificCharacterSet="ISO_IR 100", ProcedureCodeSequence=Sequence([code])
        ),
    )
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "7", ""
    identifier = keys("IMAGE", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4")
    identifier.ProcedureCodeSequence = Sequence([item])
    identifier.Rows = None
    identifier.NumberOfFrames = ""
    identifier.InstanceAvailability = ""
    (match,), _ = await archive.find(identifier, syntax=syntax)
    assert match.Rows == 512
    assert match.NumberOfFrames is None
    assert match.InstanceAvailability == "ONLINE"
    (found,) = match.ProcedureCodeSequence
    assert {element.keyword: element.value for element in found} == {
        "CodeValue": "7",
        "CodeMeaning": "Müller",
    }


async def test_keys_that_are_not_supported_are_told_with_ff01(archive: Fixture) -> None:
    add(archive.catalog, entry(1))
    identifier = keys(StudyInstanceUID="", Rows=None)
    matches, _ = await archive.find(identifier)
    assert "Rows" not in matches[0]
    assert archive.channel.sent[0][0].status == 0xFF01
    await archive.told.wait()
    assert archive.outcomes[0].unsupported == (0x00280010,)


async def test_a_study_has_the_institutions_and_modalities_of_its_series(archive: Fixture) -> None:
    add(archive.catalog, entry(1, InstitutionName="North", BodyPartExamined="HEAD"))
    add(archive.catalog, entry(1, series="1.2.3.5", Modality="SR", InstitutionName="West"))
    identifier = keys(
        ModalitiesInStudy="SR\\MR", InstitutionName="N*", BodyPartExamined="", PatientAge=""
    )
    (match,), _ = await archive.find(identifier)
    assert list(match.ModalitiesInStudy) == ["CT", "SR"]
    assert list(match.InstitutionName) == ["North", "West"]
    assert match.BodyPartExamined == "HEAD"
    assert archive.channel.sent[0][0].status == 0xFF00


@pytest.mark.parametrize("syntax", SYNTAXES)
async def test_any_attribute_of_an_object_can_be_asked_back(archive: Fixture, syntax: str) -> None:
    item = Dataset()
    item.ReferencedSOPClassUID = CT_STORAGE
    item.PurposeOfReferenceCodeSequence = []
    archive.store(
        data_set(
            1,
            SpecificCharacterSet="ISO_IR 100",
            KVP="120",
            ImagePositionPatient=[1, 2, 3],
            WindowCenterWidthExplanation=["grün", "x"],
            SourceImageSequence=Sequence([item]),
            TableTopLongitudinalPosition=1.5,
        )
    )
    identifier = keys("IMAGE", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4")
    for keyword in ("KVP", "ImagePositionPatient", "WindowCenterWidthExplanation", "EchoTime"):
        setattr(identifier, keyword, "")
    identifier.SourceImageSequence = []
    identifier.TableTopLongitudinalPosition = None
    (match,), _ = await archive.find(identifier, syntax=syntax)
    assert archive.channel.sent[0][0].status == 0xFF00
    assert match.KVP == 120
    assert list(match.ImagePositionPatient) == [1, 2, 3]
    assert list(match.WindowCenterWidthExplanation) == ["grün", "x"]
    assert match.SpecificCharacterSet == "ISO_IR 192"
    assert match.SourceImageSequence[0].ReferencedSOPClassUID == CT_STORAGE
    assert match.TableTopLongitudinalPosition == 1.5
    assert match.EchoTime is None


async def test_an_attribute_of_the_file_can_be_returned_but_not_matched(archive: Fixture) -> None:
    archive.store(data_set(1, KVP="120"))
    identifier = keys("IMAGE", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4", KVP="80")
    (match,), _ = await archive.find(identifier)
    assert match.KVP == 120
    assert archive.channel.sent[0][0].status == 0xFF01


async def test_an_object_without_its_file_is_answered_all_the_same(archive: Fixture) -> None:
    add(archive.catalog, entry(1))
    identifier = keys("IMAGE", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4", KVP="")
    (match,), final = await archive.find(identifier)
    assert match.KVP is None and final.status == 0x0000


@pytest.mark.parametrize("syntax", SYNTAXES)
async def test_hash_and_size_can_be_asked_for_in_a_private_block(
    archive: Fixture, syntax: str
) -> None:
    ds = data_set(1)
    archive.store(ds)
    identifier = keys("IMAGE", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4")
    block = identifier.private_block(0x0099, "DICOMNODE", create=True)
    block.add_new(1, "LO", "")
    block.add_new(2, "DS", "")
    block.add_new(3, "UI", "")
    (match,), _ = await archive.find(identifier, syntax=syntax)
    told = [match[0x0099, element].value for element in (0x0010, 0x1001, 0x1002, 0x1003)]
    if syntax == IMPLICIT:
        told = [told[0], *(value.decode().strip(" \0") for value in told[1:])]
    expected = ["DICOMNODE", hashlib.sha256(encoded(ds)).hexdigest(), len(encoded(ds)), EXPLICIT]
    assert list(map(str, told)) == list(map(str, expected))
    assert archive.channel.sent[0][0].status == 0xFF00


# -- character sets ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "name", "answered"),
    [
        ("ISO_IR 100", "Müller^Jörg", "ISO_IR 100"),
        ("ISO_IR 100", "山田^太郎", "ISO_IR 192"),
        ("ISO_IR 144", "Люкceмб", "ISO_IR 144"),  # noqa: RUF001
        ("\\ISO 2022 IR 87", "Yamada=山田^太郎=やまだ", ["", "ISO 2022 IR 87"]),
        ("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞", ["", "ISO 2022 IR 149"]),
        ("GB18030", "王^小东", "GB18030"),
        ("ISO_IR 192", "Doe^Jane", "ISO_IR 192"),
        ("", "Müller", "ISO_IR 192"),
        ("", "Doe", None),
    ],
)
async def test_the_answer_is_in_the_character_set_of_the_query_where_that_has_it(
    archive: Fixture, asked: str, name: str, answered: str | list[str] | None
) -> None:
    add(archive.catalog, entry(1, SpecificCharacterSet="ISO_IR 192", PatientName=name))
    identifier = keys(PatientName=name)
    identifier.SpecificCharacterSet = asked.split("\\") if asked else "ISO_IR 192"
    data = written(identifier, EXPLICIT)
    if not asked:
        identifier = keys(PatientName="*")
        data = written(identifier, EXPLICIT)
    (match,), _ = await archive.find(data)
    assert match.get("SpecificCharacterSet") == answered
    assert str(match.PatientName) == name


async def test_the_registry_may_say_the_character_set(archive: Fixture) -> None:
    archive.registry = Registry([AE(title="WS_1", character_set="ISO_IR 100")])
    add(archive.catalog, entry(1, SpecificCharacterSet="ISO_IR 192", PatientName="Müller"))
    add(archive.catalog, entry(1, "1.9", "1.9.1", PatientID="1", PatientName="Doe"))
    matches, _ = await archive.find(keys(PatientName="", SpecificCharacterSet="ISO_IR 192"))
    assert [match.SpecificCharacterSet for match in matches] == ["ISO_IR 100"] * 2


def _charset_files() -> list[str]:
    return [path for path in get_charset_files("*.dcm") if "chrSQ" not in path]


@pytest.mark.parametrize("path", _charset_files(), ids=lambda path: Path(path).stem)
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
async def test_names_of_every_repertoire_are_found_and_come_back(
    archive: Fixture, path: str, syntax: str
) -> None:
    stored = dcmread(path)
    stored.decode()
    name = stored.PatientName
    add(
        archive.catalog,
        entry(1, SpecificCharacterSet=stored.SpecificCharacterSet, PatientName=name),
    )
    for said in (stored.SpecificCharacterSet, "ISO_IR 192"):
        identifier = keys(PatientName=name, SpecificCharacterSet=said)
        (match,), _ = await archive.find(identifier, syntax=syntax)
        assert match.SpecificCharacterSet == said
        assert str(match.PatientName).rstrip("=") == str(name).rstrip("=")
