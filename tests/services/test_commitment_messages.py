"""Action and Event Information: against pydicom, and against what peers get wrong."""

from __future__ import annotations

import io
import zlib

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from dicomnode.dimse.status import Status
from dicomnode.errors import StatusError
from dicomnode.services import commitment_messages
from dicomnode.services.commitment_messages import (
    MAX_REFERENCES,
    Failure,
    Reference,
    Report,
    Request,
    decode_report,
    decode_request,
    encode_report,
    encode_request,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
SYNTAXES = [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN]
TRANSACTION = "1.2.826.0.1.3680043.10.1666.7"

REQUEST = Request(TRANSACTION, (Reference(CT, "1.2.3.4"), Reference(MR, "1.2.3.45")))
REPORT = Report(
    TRANSACTION,
    (Reference(CT, "1.2.3.4"),),
    (Failure(Reference(MR, "1.2.3.45"), 0x0112), Failure(Reference(MR, "1.2.3.46"), 0x0119)),
    "ARCHIVE",
)


def item(sop_class: str, sop_instance: str, reason: int | None = None) -> Dataset:
    each = Dataset()
    each.ReferencedSOPClassUID = sop_class
    each.ReferencedSOPInstanceUID = sop_instance
    if reason is not None:
        each.FailureReason = reason
    return each


def asked(*items: Dataset, transaction_uid: str | None = TRANSACTION) -> Dataset:
    data_set = Dataset()
    if transaction_uid is not None:
        data_set.TransactionUID = transaction_uid
    data_set.ReferencedSOPSequence = Sequence(items)
    return data_set


def encoded(data_set: Dataset, syntax: str = IMPLICIT, *, undefined: bool = False) -> bytes:
    """Return what pydicom makes of a data set, sequences and items of undefined length or not."""
    for element in data_set:
        element.is_undefined_length = undefined and element.VR == "SQ"
        for each in element.value if element.VR == "SQ" else ():
            each.is_undefined_length_sequence_item = undefined
    out = DicomBytesIO()
    out.is_implicit_VR = syntax == IMPLICIT
    out.is_little_endian = syntax != BIG_ENDIAN
    write_dataset(out, data_set)
    data = out.getvalue()
    if syntax != DEFLATED:
        return data
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def decoded(data: bytes, syntax: str) -> Dataset:
    if syntax == DEFLATED:
        data = zlib.decompress(data, -zlib.MAX_WBITS)
    return pydicom.filereader.read_dataset(
        io.BytesIO(data), syntax == IMPLICIT, syntax != BIG_ENDIAN
    )


def refused(data: bytes, syntax: str = IMPLICIT) -> tuple[int, tuple[int, ...]]:
    with pytest.raises(StatusError) as raised:
        decode_request(data, syntax)
    assert len(raised.value.comment) <= 64
    return raised.value.status, raised.value.offending


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_request_of_pydicom_is_read(syntax: str, undefined: bool) -> None:
    data_set = asked(item(CT, "1.2.3.4"), item(MR, "1.2.3.45"))
    assert decode_request(encoded(data_set, syntax, undefined=undefined), syntax) == REQUEST


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_report_of_pydicom_is_read(syntax: str) -> None:
    data_set = asked(item(CT, "1.2.3.4"))
    data_set.RetrieveAETitle = "ARCHIVE"
    data_set.FailedSOPSequence = [item(MR, "1.2.3.45", 0x0112), item(MR, "1.2.3.46", 0x0119)]
    assert decode_report(encoded(data_set, syntax), syntax) == REPORT


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pydicom_reads_a_request(syntax: str) -> None:
    data_set = decoded(encode_request(REQUEST, syntax), syntax)
    assert data_set == asked(item(CT, "1.2.3.4"), item(MR, "1.2.3.45"))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pydicom_reads_a_report_with_its_elements_in_order(syntax: str) -> None:
    data = encode_report(REPORT, syntax)
    data_set = decoded(data, syntax)
    assert data_set.TransactionUID == TRANSACTION
    assert data_set.RetrieveAETitle == "ARCHIVE"
    assert list(data_set.ReferencedSOPSequence) == [item(CT, "1.2.3.4")]
    assert list(data_set.FailedSOPSequence) == [
        item(MR, "1.2.3.45", 0x0112),
        item(MR, "1.2.3.46", 0x0119),
    ]
    assert [element.tag for element in data_set] == sorted(data_set.keys())
    assert len(data) % 2 == 0


def test_a_report_without_failures_has_event_type_1_and_no_failed_sop_sequence() -> None:
    report = Report(TRANSACTION, REQUEST.references, ())
    assert report.event_type_id == 1
    assert "FailedSOPSequence" not in decoded(encode_report(report, IMPLICIT), IMPLICIT)


def test_a_report_of_failures_alone_has_event_type_2_and_no_referenced_sop_sequence() -> None:
    report = Report(TRANSACTION, (), REPORT.failed)
    assert report.event_type_id == 2
    assert "ReferencedSOPSequence" not in decoded(encode_report(report, IMPLICIT), IMPLICIT)
    assert decode_report(encode_report(report, IMPLICIT), IMPLICIT) == report


def test_a_failure_without_a_reason_counts_as_a_processing_failure() -> None:
    data_set = Dataset()
    data_set.TransactionUID = TRANSACTION
    data_set.FailedSOPSequence = [item(MR, "1.2.3.45")]
    (failure,) = decode_report(encoded(data_set), IMPLICIT).failed
    assert failure.reason == Status.PROCESSING_FAILURE


@pytest.mark.parametrize(
    ("data_set", "answer"),
    [
        (asked(item(CT, "1.2.3"), transaction_uid=None), (0x0120, (0x00081195,))),
        (asked(item(CT, "1.2.3"), transaction_uid=""), (0x0121, (0x00081195,))),
        (asked(), (0x0121, (0x00081199,))),
        (asked(item(CT, "")), (0x0121, (0x00081155,))),
        (asked(item("", "1.2.3")), (0x0121, (0x00081150,))),
        (asked(Dataset()), (0x0120, (0x00081150,))),
        (Dataset(), (0x0120, (0x00081199,))),
    ],
)
def test_what_is_missing_is_named(data_set: Dataset, answer: tuple[int, tuple[int, ...]]) -> None:
    assert refused(encoded(data_set)) == answer


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2.x", "1" * 65, "1.2\\1.3", "..", "1.2\n"])
def test_what_is_no_uid_is_refused(uid: str) -> None:
    data = encode_request(Request(TRANSACTION, (Reference(CT, uid),)), IMPLICIT)
    assert refused(data) == (0x0106, (0x00081155,))


def test_attributes_that_nobody_asked_for_are_passed_over() -> None:
    more = item(CT, "1.2.3.4")
    more.StorageMediaFileSetID = "DISK"
    more.ReferencedSeriesSequence = [item(MR, "9.9")]
    data_set = asked(more, item(MR, "1.2.3.45"))
    data_set.ReferencedPerformedProcedureStepSequence = [item(MR, "9.8")]
    assert decode_request(encoded(data_set, undefined=True), IMPLICIT) == REQUEST


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_request_that_is_cut_short_is_refused_at_every_offset(syntax: str) -> None:
    whole = encode_request(REQUEST, syntax)
    for end in range(len(whole) - 1 if syntax == DEFLATED else len(whole)):
        try:
            request = decode_request(whole[:end], syntax)
        except StatusError:
            continue
        # Only a deflated one can lack nothing but its end.
        assert syntax == DEFLATED
        assert request == REQUEST


@pytest.mark.parametrize("data", [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\0" * 7, b"\x08\0"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_no_data_set_is_refused(data: bytes, syntax: str) -> None:
    assert refused(data, syntax)[0] in (0x0115, 0x0120)


def test_as_many_references_as_are_allowed_are_read() -> None:
    references = tuple(Reference(CT, f"1.2.3.{number}") for number in range(MAX_REFERENCES))
    request = Request(TRANSACTION, references)
    assert decode_request(encode_request(request, IMPLICIT), IMPLICIT) == request


def test_more_references_than_are_allowed_are_a_resource_limitation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commitment_messages, "MAX_REFERENCES", 1)
    assert refused(encode_request(REQUEST, IMPLICIT))[0] == 0x0213


def test_a_data_set_that_inflates_without_end_is_a_resource_limitation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commitment_messages, "MAX_MESSAGE_BYTES", 1 << 16)
    bomb = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = bomb.compress(b"\0" * (1 << 24)) + bomb.flush()
    assert refused(data, DEFLATED)[0] == 0x0213


def test_sequences_nested_without_end_are_refused() -> None:
    data = b"\x08\0\x99\x11\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 10_000
    assert refused(data)[0] == 0x0115
