"""C-FIND, from the identifier to exactly one final response."""

from __future__ import annotations

import asyncio
import hashlib
import struct
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from pydicom import dcmread
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence

from dicomnode.dimse.command import CCancelRQ, CFindRQ, Command, Response
from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Catalog, SearchStopped
from dicomnode.registry import AE, Registry
from dicomnode.services.dispatch import AssociationHandler, Dispatcher, Operation
from dicomnode.services.identifier import Bounds
from dicomnode.services.outcomes import QueryOutcome
from dicomnode.services.query import Query, QueryRules
from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import file_meta
from dicomnode.ul.negotiation import AcceptedContext
from tests.index.entries import add, entry, sqlite_url
from tests.storage.objects import BIG, CT_STORAGE, DEFLATED, EXPLICIT, IMPLICIT, data_set, encoded

PATIENT_ROOT = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_STUDY_ONLY = "1.2.840.10008.5.1.4.1.2.3.1"
SYNTAXES = (EXPLICIT, IMPLICIT, BIG, DEFLATED)


class Lease:
    def retain(self) -> None: ...

    def release(self) -> None: ...


class FakeChannel:
    number = 1
    called_ae_title = "DICOMNODE"
    peer_address = "192.0.2.7"

    def __init__(self, root: str, syntax: str, extended: bytes, title: str) -> None:
        self.calling_ae_title = title
        self.negotiated = SimpleNamespace(
            contexts={1: AcceptedContext(1, root, syntax, True, False)},
            extended={root: extended} if extended else {},
        )
        self.sent: list[tuple[Response, bytes | None]] = []
        self.on_send: Callable[[int], None] = lambda count: None
        self.readable = asyncio.Event()
        self.readable.set()
        self.final = asyncio.Event()

    def send(self, context_id: int, command: Command, data_set: bytes | None = None) -> None:
        assert isinstance(command, Response)
        assert command.has_data_set is (data_set is not None)
        self.sent.append((command, data_set))
        self.on_send(len(self.sent))
        if command.status not in (0xFF00, 0xFF01):
            self.final.set()

    async def drained(self) -> None:
        await self.readable.wait()


class Fixture:
    """A query service over a small archive, and associations with it."""

    def __init__(self, directory: Path) -> None:
        self.catalog = Catalog(sqlite_url(directory), synchronous="OFF")
        self.catalog.open()
        self.files = FileStore(directory, durability="relaxed")
        self.files.open()
        self.registry = Registry()
        self.max_matches = 10_000
        self.outcomes: list[QueryOutcome] = []
        self.told = asyncio.Event()
        self.errors: list[BaseException] = []
        self.channel: FakeChannel
        self._services: list[Query] = []

    def close(self) -> None:
        for service in self._services:
            service.close()
        self.files.close()
        self.catalog.close()

    # -- the journal -----------------------------------------------------------------------------

    def operation_ended(self, operation: Operation, status: int, comment: str) -> None: ...

    def query_ended(self, operation: Operation, outcome: QueryOutcome) -> None:
        self.outcomes.append(outcome)
        self.told.set()

    def internal_error(self, what: str, error: BaseException) -> None:
        self.errors.append(error)

    # -- asking ----------------------------------------------------------------------------------

    def associate(
        self,
        root: str = STUDY_ROOT,
        syntax: str = EXPLICIT,
        *,
        extended: bytes = b"",
        title: str = "WS_1",
    ) -> AssociationHandler:
        bounds = Bounds(max_identifier_bytes=4 * 1024 * 1024, max_list_values=20_000)
        rules = QueryRules("DICOMNODE", self.max_matches, bounds)
        query = Query(self.catalog, self.files, self, rules, lambda: self.registry)
        self._services.append(query)
        self.channel = FakeChannel(root, syntax, extended, title)
        return AssociationHandler(self.channel, Dispatcher({CFindRQ: query}, self))

    def ask(self, handler: AssociationHandler, data: bytes, message_id: int = 1) -> None:
        root = self.channel.negotiated.contexts[1].abstract_syntax
        request = CFindRQ(affected_sop_class_uid=root, message_id=message_id, has_data_set=True)
        sink = handler.message(1, request)
        if sink is not None:
            sink.write(memoryview(data), Lease())
            sink.finish()

    async def find(
        self,
        identifier: Dataset | bytes,
        root: str = STUDY_ROOT,
        syntax: str = EXPLICIT,
        **more: Any,
    ) -> tuple[list[Dataset], Response]:
        """Return the matches of a query and its final response."""
        handler = self.associate(root, syntax, **more)
        data = identifier if isinstance(identifier, bytes) else written(identifier, syntax)
        self.ask(handler, data)
        await asyncio.wait_for(self.channel.final.wait(), 20)
        *pending, (final, rest) = self.channel.sent
        assert rest is None
        return [read(data, syntax) for _, data in pending if data], final

    def store(self, ds: Dataset) -> None:
        """Store an object, with its file."""
        data = encoded(ds)
        meta = file_meta(str(ds.SOPClassUID), str(ds.SOPInstanceUID), EXPLICIT)
        incoming = self.files.begin(meta)
        incoming.append([memoryview(data)])
        incoming.place(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        values = {e.keyword: e.value for e in ds if e.keyword not in ("SOPInstanceUID",)}
        study, series = values.pop("StudyInstanceUID"), values.pop("SeriesInstanceUID")
        number = values.pop("InstanceNumber")
        add(self.catalog, entry(int(number), study, series, **values))


@pytest_asyncio.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Fixture]:
    fixture = Fixture(tmp_path)
    yield fixture
    await asyncio.to_thread(fixture.close)


def written(identifier: Dataset, syntax: str) -> bytes:
    data = encoded(identifier, EXPLICIT if syntax == DEFLATED else syntax)
    if syntax != DEFLATED:
        return data
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def read(data: bytes, syntax: str) -> Dataset:
    if syntax == DEFLATED:
        data = zlib.decompress(data, wbits=-15)
    ds = read_dataset(DicomBytesIO(data), syntax == IMPLICIT, syntax != BIG)
    tags = list(ds.keys())
    assert tags == sorted(tags)
    ds.decode()
    return ds


def keys(level: str = "STUDY", **values: Any) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def many(archive: Fixture, count: int) -> None:
    for number in range(count):
        uid = f"1.{number + 1}"
        add(archive.catalog, entry(1, uid, f"{uid}.1", PatientID=f"P{number}"))


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


# -- cancel, ends, turns -----------------------------------------------------------------------


async def test_cancel_ends_a_query_at_once_with_one_final_response(archive: Fixture) -> None:
    many(archive, 300)
    handler = archive.associate()
    archive.channel.readable.clear()
    sent_first = asyncio.Event()
    archive.channel.on_send = lambda count: sent_first.set() if count >= 128 else None
    archive.ask(handler, written(keys(StudyInstanceUID=""), EXPLICIT))
    await asyncio.wait_for(sent_first.wait(), 20)
    handler.message(1, CCancelRQ(message_id_being_responded_to=1))
    assert archive.channel.sent[-1][0].status == 0xFE00
    archive.channel.readable.set()
    await asyncio.wait_for(archive.told.wait(), 20)
    statuses = [response.status for response, _ in archive.channel.sent]
    assert statuses == [0xFF00] * 128 + [0xFE00]
    handler.message(1, CCancelRQ(message_id_being_responded_to=1))
    assert len(archive.channel.sent) == 129


async def test_cancel_stops_a_search_that_is_running(
    archive: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(level: object, conditions: object, limit: int, stop: Any) -> None:
        begun.set()
        while not stop.stopped:
            pass
        ended.set()
        raise SearchStopped

    monkeypatch.setattr(archive.catalog, "find", slow)
    handler = archive.associate()
    archive.ask(handler, written(keys(StudyInstanceUID=""), EXPLICIT))
    await asyncio.to_thread(begun.wait, 20)
    handler.message(1, CCancelRQ(message_id_being_responded_to=1))
    assert [response.status for response, _ in archive.channel.sent] == [0xFE00]
    assert await asyncio.to_thread(ended.wait, 20)
    await asyncio.wait_for(archive.told.wait(), 20)
    assert len(archive.channel.sent) == 1


async def test_the_end_of_the_association_ends_its_query(archive: Fixture) -> None:
    many(archive, 300)
    handler = archive.associate()
    archive.channel.readable.clear()
    sent_first = asyncio.Event()
    archive.channel.on_send = lambda count: sent_first.set() if count >= 128 else None
    archive.ask(handler, written(keys(StudyInstanceUID=""), EXPLICIT))
    await asyncio.wait_for(sent_first.wait(), 20)
    handler.closed("aborted by peer")
    archive.channel.readable.set()
    await asyncio.wait_for(archive.told.wait(), 20)
    assert len(archive.channel.sent) == 128
    assert archive.outcomes[0].matches == 128


async def test_no_more_is_read_than_the_peer_takes(archive: Fixture) -> None:
    many(archive, 300)
    handler = archive.associate()
    archive.channel.readable.clear()
    sent_first = asyncio.Event()
    archive.channel.on_send = lambda count: sent_first.set() if count >= 128 else None
    archive.ask(handler, written(keys(StudyInstanceUID=""), EXPLICIT))
    await asyncio.wait_for(sent_first.wait(), 20)
    await asyncio.to_thread(lambda: None)
    assert len(archive.channel.sent) == 128
    archive.channel.readable.set()
    await asyncio.wait_for(archive.channel.final.wait(), 20)
    assert len(archive.channel.sent) == 301


async def test_queries_of_one_association_are_answered_in_order(archive: Fixture) -> None:
    many(archive, 200)
    handler = archive.associate()
    data = written(keys(StudyInstanceUID=""), EXPLICIT)
    archive.ask(handler, data, 1)
    archive.ask(handler, data, 2)
    while len(archive.outcomes) < 2:
        archive.told.clear()
        await asyncio.wait_for(archive.told.wait(), 20)
    ids = [response.message_id_being_responded_to for response, _ in archive.channel.sent]
    assert ids == [1] * 201 + [2] * 201


async def test_a_slow_query_holds_up_no_other(
    archive: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(archive, 1)
    gate, find = threading.Event(), archive.catalog.find

    def slow(level: Any, conditions: Any, limit: int, stop: Any) -> Any:
        if conditions:
            assert gate.wait(20)
        return find(level, conditions, limit, stop)

    monkeypatch.setattr(archive.catalog, "find", slow)
    archive.ask(archive.associate(), written(keys(StudyInstanceUID="1.1"), EXPLICIT))
    slow_channel = archive.channel
    matches, _ = await archive.find(keys(StudyInstanceUID=""))
    assert len(matches) == 1 and not slow_channel.sent
    gate.set()
    await asyncio.wait_for(slow_channel.final.wait(), 20)


# -- outcomes ----------------------------------------------------------------------------------


async def test_an_empty_answer_is_explained_by_the_key_that_matches_nothing(
    archive: Fixture,
) -> None:
    many(archive, 2)
    await archive.find(keys(PatientID="P0", AccessionNumber="A77"))
    await asyncio.wait_for(archive.told.wait(), 20)
    (outcome,) = archive.outcomes
    assert (outcome.level, outcome.matches) == ("STUDY", 0)
    assert set(outcome.keys) == {"PatientID", "AccessionNumber"}
    (finding,) = outcome.findings
    assert finding.words == "no STUDY has this AccessionNumber"
    assert finding.patient_value == "A77"


async def test_keys_that_match_each_for_itself_are_told_so(archive: Fixture) -> None:
    many(archive, 2)
    await archive.find(keys(PatientID="P0", StudyInstanceUID="1.2"))
    await asyncio.wait_for(archive.told.wait(), 20)
    (finding,) = archive.outcomes[0].findings
    assert finding.words == "each key matches some STUDY, but none matches all of them"


async def test_an_outcome_tells_matches_bytes_and_keys(archive: Fixture) -> None:
    many(archive, 2)
    await archive.find(keys(PatientID="P*"))
    await asyncio.wait_for(archive.told.wait(), 20)
    (outcome,) = archive.outcomes
    assert (outcome.matches, outcome.keys, outcome.findings) == (2, ("PatientID",), ())
    assert outcome.sent_bytes == sum(len(data or b"") for _, data in archive.channel.sent)


async def test_a_uid_that_matches_nothing_is_named(archive: Fixture) -> None:
    many(archive, 1)
    await archive.find(keys(StudyInstanceUID="1.77"))
    await asyncio.wait_for(archive.told.wait(), 20)
    (finding,) = archive.outcomes[0].findings
    assert (finding.words, finding.patient_value) == (
        "no STUDY has this StudyInstanceUID 1.77",
        "",
    )


async def test_the_next_query_does_not_wait_for_the_explanation_of_an_empty_answer(
    archive: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(archive, 1)
    gate, find = threading.Event(), archive.catalog.find

    def find_slowly(level: Any, conditions: Any, limit: int, stop: Any) -> Any:
        if limit == 1:
            assert gate.wait(20)
        return find(level, conditions, limit, stop)

    monkeypatch.setattr(archive.catalog, "find", find_slowly)
    handler = archive.associate()
    archive.ask(handler, written(keys(PatientID="NONE"), EXPLICIT), 1)
    archive.ask(handler, written(keys(PatientID="P0"), EXPLICIT), 2)
    second = asyncio.Event()
    archive.channel.on_send = lambda count: second.set() if count == 3 else None
    try:
        await asyncio.wait_for(second.wait(), 20)
    finally:
        gate.set()
    ids = [command.message_id_being_responded_to for command, _ in archive.channel.sent]
    assert ids == [1, 2, 2]


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
