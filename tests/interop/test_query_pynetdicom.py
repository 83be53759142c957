"""pynetdicom as SCU of queries: character sets, extended negotiation, C-CANCEL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from hashlib import sha256

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)

from tests.interop.holdings import Holdings, identifier
from tests.interop.samples import Sample, charset_samples

STUDY_ROOT = StudyRootQueryRetrieveInformationModelFind
PATIENT_ROOT = PatientRootQueryRetrieveInformationModelFind
CANCEL = 0xFE00


@contextlib.contextmanager
def associated(
    holdings: Holdings, extended: dict[str, bytes] | None = None
) -> Iterator[Association]:
    entity = AE("PYNETDICOM")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    items = []
    for uid, information in (extended or {}).items():
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid = uid
        item.service_class_application_information = information
        items.append(item)
    host, port = holdings.address
    contexts = [build_context(uid) for uid in (STUDY_ROOT, PATIENT_ROOT)]
    association = entity.associate(
        host, port, contexts, ae_title="DICOMNODE", ext_neg=items or None
    )
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def find(
    association: Association, query: Dataset, model: str = STUDY_ROOT
) -> tuple[int, list[Dataset]]:
    """Return the final status and the identifiers of the pending responses."""
    answers = list(association.send_c_find(query, model))
    *pending, (final, nothing) = answers
    assert nothing is None
    assert {status.Status for status, _ in pending} <= {0xFF00, 0xFF01}
    return final.Status, [each for _, each in pending if each is not None]


def name_of(sample: Sample) -> str:
    return sample.path.name


@pytest.mark.parametrize("sample", charset_samples(), ids=name_of)
def test_a_name_is_found_in_the_character_set_of_the_query(
    holdings: Holdings, sample: Sample
) -> None:
    read = pydicom.dcmread(sample.path)
    query = identifier("STUDY", PatientName=read.PatientName, StudyInstanceUID="")
    query.SpecificCharacterSet = read.SpecificCharacterSet
    with associated(holdings) as association:
        status, answers = find(association, query)
    assert status == 0x0000
    (answer,) = [each for each in answers if each.StudyInstanceUID == sample.study_uid]
    assert answer.PatientName == read.PatientName


@pytest.mark.parametrize("sample", charset_samples(), ids=name_of)
def test_a_name_is_found_by_its_unicode_spelling_in_utf_8(
    holdings: Holdings, sample: Sample
) -> None:
    read = pydicom.dcmread(sample.path)
    query = identifier("STUDY", PatientName=str(read.PatientName), StudyInstanceUID="")
    query.SpecificCharacterSet = "ISO_IR 192"
    with associated(holdings) as association:
        status, answers = find(association, query)
    assert status == 0x0000
    (answer,) = [each for each in answers if each.StudyInstanceUID == sample.study_uid]
    assert str(answer.PatientName) == str(read.PatientName)


@pytest.mark.parametrize("sample", charset_samples(), ids=name_of)
def test_a_name_that_the_query_cannot_spell_is_returned_in_utf_8(
    holdings: Holdings, sample: Sample
) -> None:
    query = identifier("STUDY", PatientName="", StudyInstanceUID=sample.study_uid)
    with associated(holdings) as association:
        status, (answer,) = find(association, query)
    assert status == 0x0000
    assert answer.SpecificCharacterSet == "ISO_IR 192"
    assert str(answer.PatientName) == str(pydicom.dcmread(sample.path).PatientName)


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("chrFren.dcm", ("buc^jerome", "BUC^JÉRÔME", "Buc*", "*^j?rôme")),
        ("chrGerm.dcm", ("Aneas^Rudiger", "äneas^rüdiger")),
        ("chrH31.dcm", ("Yamada^Tarou", "山田^太郎", "やまだ*", "=山田*")),
        ("chrI2.dcm", ("Hong*", "=洪^吉洞", "==홍^길동")),
        ("chrGreek.dcm", ("διονυσιος", "ΔΙΟΝΥΣΙΟΣ")),
        ("chrX2.dcm", ("wang^xiaodong", "=王^小?")),
    ],
)
def test_names_are_found_without_regard_to_case_and_accents_in_every_group(
    holdings: Holdings, name: str, spellings: tuple[str, ...]
) -> None:
    study = next(each for each in charset_samples() if each.path.name == name).study_uid
    with associated(holdings) as association:
        for spelling in spellings:
            query = identifier("STUDY", PatientName=spelling, StudyInstanceUID="")
            query.SpecificCharacterSet = "ISO_IR 192"
            _, answers = find(association, query)
            assert study in [each.StudyInstanceUID for each in answers], spelling


def test_a_query_for_series_of_any_study_needs_relational_negotiation(holdings: Holdings) -> None:
    query = identifier("SERIES", SeriesInstanceUID="", Modality="MR")
    with associated(holdings) as association:
        assert find(association, query)[0] == 0xA900
    with associated(holdings, {STUDY_ROOT: b"\1"}) as association:
        negotiated = association.acceptor.sop_class_extended
        assert negotiated[STUDY_ROOT][:1] == b"\1"
        status, answers = find(association, query)
    assert status == 0x0000
    expected = {
        each.series_uid
        for uid, each in holdings.held.items()
        if holdings.header(uid).get("Modality") == "MR"
    }
    assert {each.SeriesInstanceUID for each in answers} == expected


def test_what_is_not_supported_is_not_negotiated(holdings: Holdings) -> None:
    with associated(holdings, {STUDY_ROOT: b"\1\1\1\1\1"}) as association:
        assert association.acceptor.sop_class_extended[STUDY_ROOT] == b"\1\1\0\0\0"


def test_an_attribute_that_only_the_object_has_is_returned_at_the_image_level(
    holdings: Holdings,
) -> None:
    sample = holdings.named("CT_small.dcm")
    query = identifier(
        "IMAGE",
        StudyInstanceUID=sample.study_uid,
        SeriesInstanceUID=sample.series_uid,
        SOPInstanceUID=sample.sop_instance_uid,
        KVP=None,
        ConvolutionKernel=None,
        PixelSpacing=None,
    )
    with associated(holdings) as association:
        status, (answer,) = find(association, query)
    assert status == 0x0000
    header = holdings.header(sample.sop_instance_uid)
    for keyword in ("KVP", "PixelSpacing"):
        assert answer[keyword].value == header[keyword].value


def test_the_stored_digest_and_size_are_returned_when_asked_for(holdings: Holdings) -> None:
    sample = holdings.named("CT_small.dcm")
    query = identifier(
        "IMAGE",
        StudyInstanceUID=sample.study_uid,
        SeriesInstanceUID=sample.series_uid,
        SOPInstanceUID=sample.sop_instance_uid,
    )
    block = query.private_block(0x0099, "DICOMNODE", create=True)
    block.add_new(0x01, "LO", "")
    block.add_new(0x02, "DS", "")
    block.add_new(0x04, "LO", "")
    with associated(holdings) as association:
        status, (answer,) = find(association, query)
    assert status == 0x0000
    answered = answer.private_block(0x0099, "DICOMNODE")
    assert _text(answered[0x01].value) == sha256(sample.data_set).hexdigest()
    assert int(_text(answered[0x02].value)) == len(sample.data_set)
    stored = holdings.stored(sample.sop_instance_uid).read_bytes()
    assert _text(answered[0x04].value) == sha256(stored).hexdigest()


def _text(value: object) -> str:
    return (value.decode() if isinstance(value, bytes) else str(value)).strip(" \0")


def test_a_missing_unique_key_is_explained(holdings: Holdings) -> None:
    with associated(holdings) as association:
        (status, nothing), *rest = association.send_c_find(
            identifier("SERIES", SeriesInstanceUID=""), STUDY_ROOT
        )
    assert (status.Status, nothing, rest) == (0xA900, None, [])
    assert 0x0020000D in _tags(status.OffendingElement)
    assert status.ErrorComment


def _tags(value: object) -> list[int]:
    many = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    return [int(each) for each in many]


@pytest.mark.parametrize("after", [0, 1, 10])
def test_a_cancel_gets_exactly_one_final_response(holdings: Holdings, after: int) -> None:
    query = identifier("STUDY", StudyInstanceUID="", PatientName="")
    with associated(holdings) as association:
        finals = []
        for number, (status, _) in enumerate(association.send_c_find(query, STUDY_ROOT, msg_id=7)):
            if number == after:
                association.send_c_cancel(7, query_model=STUDY_ROOT)
            if status.Status not in (0xFF00, 0xFF01):
                finals.append(status.Status)
        assert len(finals) == 1
        assert finals[0] in (CANCEL, 0x0000)
        status, answers = find(association, query)
        assert status == 0x0000
        assert answers


def test_a_cancel_that_comes_too_late_is_taken_calmly(holdings: Holdings) -> None:
    query = identifier("STUDY", StudyInstanceUID="1.2.3.4")
    with associated(holdings) as association:
        assert [each.Status for each, _ in association.send_c_find(query, STUDY_ROOT)] == [0]
        association.send_c_cancel(1, query_model=STUDY_ROOT)
        assert find(association, identifier("STUDY", StudyInstanceUID=""))[0] == 0x0000
