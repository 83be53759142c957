"""C-FIND: what is refused, what is bounded, and what senders of identifiers do."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom.dataset import Dataset

from dicomnode.dimse.command import CFindRQ
from dicomnode.errors import CatalogError
from dicomnode.storage.part10 import file_meta
from tests.index.entries import add, entry
from tests.services.querying import (
    PATIENT_ROOT,
    PATIENT_STUDY_ONLY,
    STUDY_ROOT,
    SYNTAXES,
    Fixture,
    keys,
    many,
    written,
)
from tests.storage.objects import CT_STORAGE, DEFLATED, EXPLICIT, IMPLICIT, data_set, encoded


@pytest_asyncio.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Fixture]:
    fixture = Fixture(tmp_path)
    yield fixture
    await asyncio.to_thread(fixture.close)


# -- rules -------------------------------------------------------------------------------------


async def test_relational_queries_are_answered_where_negotiated(archive: Fixture) -> None:
    many(archive, 2)
    identifier = keys("IMAGE", SOPInstanceUID="", PatientID="P1")
    assert (await archive.find(identifier))[1].status == 0xA900
    matches, _ = await archive.find(identifier, extended=b"\1")
    assert [match.SOPInstanceUID for match in matches] == ["1.2.1.1"]
    identifier = keys("PATIENT", PatientID="", Modality="CT", StudyInstanceUID="1.2")
    matches, _ = await archive.find(identifier, PATIENT_ROOT, extended=b"\1")
    assert [match.PatientID for match in matches] == ["P1"]


async def test_date_and_time_are_combined_where_negotiated(archive: Fixture) -> None:
    add(archive.catalog, entry(1, StudyDate="20240131", StudyTime="2300"))
    identifier = keys(StudyDate="20240131-20240201", StudyTime="2200-0500")
    assert not (await archive.find(identifier))[0]
    assert len((await archive.find(identifier, extended=b"\0\1"))[0]) == 1


@pytest.mark.parametrize(
    ("root", "identifier", "offending"),
    [
        (STUDY_ROOT, Dataset(), 0x00080052),
        (STUDY_ROOT, keys("PATIENT", PatientID=""), 0x00080052),
        (PATIENT_STUDY_ONLY, keys("SERIES", StudyInstanceUID="1.2"), 0x00080052),
        (PATIENT_ROOT, keys("FRAME"), 0x00080052),
        (PATIENT_ROOT, keys("STUDY", StudyInstanceUID=""), 0x00100020),
        (PATIENT_ROOT, keys("STUDY", PatientID="P*"), 0x00100020),
        (STUDY_ROOT, keys("SERIES"), 0x0020000D),
        (STUDY_ROOT, keys("SERIES", StudyInstanceUID="1.2\\1.3"), 0x0020000D),
        (STUDY_ROOT, keys("STUDY", SeriesInstanceUID="1.2"), 0x0020000E),
        (STUDY_ROOT, keys("STUDY", StudyDate="yesterday"), 0x00080020),
        (STUDY_ROOT, keys("STUDY", StudyID="x" * 1025), 0x00200010),
    ],
    ids=lambda value: str(value)[-40:],
)
async def test_an_identifier_against_the_rules_is_refused_with_what_offends(
    archive: Fixture, root: str, identifier: Dataset, offending: int
) -> None:
    _, final = await archive.find(identifier, root)
    assert final.status == 0xA900
    assert final.offending_element == (offending,)
    assert final.error_comment and len(final.error_comment) <= 64


async def test_bytes_that_the_character_set_does_not_have_are_refused(archive: Fixture) -> None:
    identifier = keys(SpecificCharacterSet="ISO_IR 192")
    data = written(identifier, EXPLICIT) + b"\x10\0\x10\0PN\x04\0M\xfcl "
    _, final = await archive.find(data)
    assert final.status == 0xA900
    assert final.offending_element == (0x00080005, 0x00100010)
    _, final = await archive.find(b"\x08\0\x05\0CS\x08\0KLINGON " + written(keys(), EXPLICIT))
    assert final.offending_element == (0x00080005,)


async def test_too_many_values_and_too_long_identifiers_are_refused(archive: Fixture) -> None:
    uids = "\\".join(["1.2"] * 100_000).encode() + b"\0"
    data = written(keys(), IMPLICIT) + b"\x20\0\x0d\0" + len(uids).to_bytes(4, "little") + uids
    _, final = await archive.find(data, syntax=IMPLICIT)
    assert final.status == 0xA900
    assert "limits.max_list_values" in (final.error_comment or "")
    _, final = await archive.find(bytes(5_000_000))
    assert "limits.max_identifier_bytes" in (final.error_comment or "")


async def test_a_deflated_identifier_is_inflated_to_its_limit_only(archive: Fixture) -> None:
    data = written(keys(PatientComments="x" * 8_000_000), DEFLATED)
    assert len(data) < 100_000
    _, final = await archive.find(data, syntax=DEFLATED)
    assert final.status == 0xC000


async def test_identifiers_that_wait_are_bounded(
    archive: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.services.query._MAX_WAITING_BYTES", 80)
    handler = archive.associate()
    data = written(keys(StudyInstanceUID=""), EXPLICIT)
    for message_id in range(1, 6):
        archive.ask(handler, data, message_id)
    refused = [response for response, _ in archive.channel.sent]
    assert [response.status for response in refused] == [0xA700] * 2
    assert refused[0].error_comment == "too many queries are waiting"
    while len(archive.outcomes) < 3:
        archive.told.clear()
        await asyncio.wait_for(archive.told.wait(), 20)


async def test_what_is_no_data_set_is_not_understood(archive: Fixture) -> None:
    _, final = await archive.find(b"\x08\0\x05\0CS\xff\0junk")
    assert final.status == 0xC000


async def test_a_request_without_an_identifier_is_refused(archive: Fixture) -> None:
    handler = archive.associate()
    request = CFindRQ(affected_sop_class_uid=STUDY_ROOT, message_id=1, has_data_set=False)
    assert handler.message(1, request) is None
    assert archive.channel.sent[0][0].status == 0xA900


async def test_past_the_limit_the_first_matches_and_a700_are_sent(archive: Fixture) -> None:
    many(archive, 5)
    archive.max_matches = 3
    matches, final = await archive.find(keys(StudyInstanceUID=""))
    assert len(matches) == 3
    assert final.status == 0xA700
    assert final.error_comment == "more than 3 matches (limits.max_matches)"
    archive.max_matches = 5
    matches, final = await archive.find(keys(StudyInstanceUID=""))
    assert (len(matches), final.status) == (5, 0x0000)


async def test_without_a_limit_everything_is_sent(archive: Fixture) -> None:
    many(archive, 300)
    archive.max_matches = 0
    matches, final = await archive.find(keys(StudyInstanceUID=""))
    assert (len({match.StudyInstanceUID for match in matches}), final.status) == (300, 0x0000)


async def test_a_failing_index_is_a_failure_of_the_query_and_logged(
    archive: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise CatalogError("disk gone")

    monkeypatch.setattr(archive.catalog, "find", fails)
    _, final = await archive.find(keys(StudyInstanceUID=""))
    assert final.status == 0xC000
    assert isinstance(archive.errors[0], CatalogError)


# -- what senders of identifiers do, and attackers ---------------------------------------------


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


STUDY_LEVEL = element(0x00080052, b"CS", b"STUDY ")


@pytest.mark.parametrize("syntax", SYNTAXES)
async def test_binary_numbers_are_matched(archive: Fixture, syntax: str) -> None:
    archive.store(data_set(1, "1.2", "1.2.3", Rows=200))
    levels = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
    for rows, matches in ((200, 1), (512, 0)):
        found, final = await archive.find(keys("IMAGE", **levels, Rows=rows), syntax=syntax)
        assert (len(found), final.status) == (matches, 0)


async def test_a_star_in_a_unique_key_below_the_level_asks_for_nothing(archive: Fixture) -> None:
    many(archive, 1)
    stars = element(0x0020000D, b"UI", b"*\0") + element(0x0020000E, b"UI", b"*\0")
    found, final = await archive.find(STUDY_LEVEL + stars)
    assert (len(found), final.status) == (1, 0)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_without_a_character_set_text_is_utf_8_or_else_latin_1(
    archive: Fixture, encoding: str
) -> None:
    name = "M\u00fcller^J\u00f6rg"
    archive.store(data_set(1, "1.2", "1.2.3", SpecificCharacterSet="ISO_IR 100", PatientName=name))
    value = "m\u00fcller^j\u00f6*".encode(encoding)
    value += b" " * (len(value) % 2)
    ((match,), final) = await archive.find(STUDY_LEVEL + element(0x00100010, b"PN", value))
    assert (match.SpecificCharacterSet, str(match.PatientName)) == ("ISO_IR 192", name)
    assert final.status == 0


def stored_as(archive: Fixture, data: bytes, syntax: str) -> None:
    """Put a file of these bytes where that of object 1 belongs, and enter the object."""
    ds = data_set(1, "1.2", "1.2.3")
    incoming = archive.files.begin(file_meta(CT_STORAGE, ds.SOPInstanceUID, syntax))
    incoming.append([memoryview(data)])
    incoming.place("1.2", "1.2.3", ds.SOPInstanceUID)
    add(archive.catalog, entry(1, "1.2", "1.2.3"))


OF_SERIES = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}


async def test_a_deflated_object_is_inflated_no_further_than_it_is_asked_for(
    archive: Fixture,
) -> None:
    pixels = 64 * 1024 * 1024
    head = encoded(data_set(1, "1.2", "1.2.3", WindowCenter="40"))
    head += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, pixels)
    compressor = zlib.compressobj(wbits=-15)
    deflated = compressor.compress(head) + compressor.compress(bytes(pixels))
    stored_as(archive, deflated + compressor.flush(), DEFLATED)
    tracemalloc.start()
    try:
        ((match,), _) = await archive.find(keys("IMAGE", **OF_SERIES, WindowCenter=None))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert match.WindowCenter == 40
    assert peak_bytes < pixels / 4


async def test_sequences_nested_without_end_come_back_empty(archive: Fixture) -> None:
    start = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    nested = (start + item) * 3000
    whole = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, len(nested) + 8)
    last = struct.pack("<HHI", 0xFFFE, 0xE000, len(nested))
    stored_as(archive, encoded(data_set(1, "1.2", "1.2.3")) + whole + last + nested, EXPLICIT)
    ((match,), final) = await archive.find(keys("IMAGE", **OF_SERIES, ContentSequence=None))
    assert (len(match.ContentSequence), final.status) == (0, 0)
    # The tag looks like no ASCII, but nothing has a character set to be said.
    assert "SpecificCharacterSet" not in match


async def test_long_texts_come_back_whole(archive: Fixture) -> None:
    archive.store(data_set(1, "1.2", "1.2.3", AdditionalPatientHistory="x" * 10_000))
    ((match,), _) = await archive.find(keys(AdditionalPatientHistory=""))
    assert match.AdditionalPatientHistory == "x" * 10_000
