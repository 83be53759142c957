"""pynetdicom as SCU: every file that it can send arrives with the same bytes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID, AllTransferSyntaxes
from pynetdicom import AE, _config, build_context
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification

from tests.interop.samples import STORAGE_CLASSES, Sample, data_set_bytes, samples
from tests.peers import NodeProcess


@contextlib.contextmanager
def associated(archive: NodeProcess, pairs: Iterable[tuple[str, str]]) -> Iterator[Association]:
    """Associate with one context for each (abstract syntax, transfer syntax)."""
    entity = AE("PYNETDICOM")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    contexts = [build_context(UID(sop), UID(syntax)) for sop, syntax in pairs]
    host, port = archive.dicom_address
    association = entity.associate(host, port, contexts, ae_title="DICOMNODE")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


@pytest.fixture(autouse=True)
def chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pynetdicom send a file's data set as it stands, not decoded and encoded anew."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)


def store_directory(archive: NodeProcess) -> Path:
    return archive.config.parent / "store"


def name_of(sample: Sample) -> str:
    return sample.path.name


def test_echo_is_answered(archive: NodeProcess) -> None:
    with associated(archive, [(Verification, "1.2.840.10008.1.2")]) as association:
        assert association.send_c_echo().Status == 0x0000


# Sending a file's bytes, pynetdicom names the instance of the File Meta, right or wrong.
AGREEING = [each for each in samples() if each.meta_agrees]
DISAGREEING = [each for each in samples() if not each.meta_agrees]


@pytest.mark.parametrize("sample", AGREEING, ids=name_of)
def test_a_file_arrives_byte_identical(archive: NodeProcess, sample: Sample) -> None:
    pair = (sample.sop_class_uid, sample.transfer_syntax_uid)
    with associated(archive, [pair]) as association:
        assert association.send_c_store(sample.path).Status == 0x0000
    kept = sample.stored_path(store_directory(archive))
    assert data_set_bytes(kept) == sample.data_set
    meta = pydicom.dcmread(kept, defer_size=1024).file_meta
    assert meta.TransferSyntaxUID == sample.transfer_syntax_uid
    assert meta.MediaStorageSOPClassUID == sample.sop_class_uid
    assert meta.MediaStorageSOPInstanceUID == sample.sop_instance_uid
    assert meta.SourceApplicationEntityTitle == "PYNETDICOM"


@pytest.mark.parametrize("sample", DISAGREEING, ids=name_of)
def test_a_file_sent_under_its_data_sets_uid_arrives_byte_identical(
    archive: NodeProcess, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", False)
    read = pydicom.dcmread(sample.path)
    syntax = UID(sample.transfer_syntax_uid)
    sent = encode(read, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    with associated(archive, [(sample.sop_class_uid, syntax)]) as association:
        assert association.send_c_store(read).Status == 0x0000
    assert data_set_bytes(sample.stored_path(store_directory(archive))) == sent


@pytest.mark.parametrize("sample", DISAGREEING, ids=name_of)
def test_a_command_that_names_another_instance_than_the_data_set_is_answered_a900(
    archive: NodeProcess, sample: Sample
) -> None:
    pair = (sample.sop_class_uid, sample.transfer_syntax_uid)
    other = next(each for each in samples() if each.meta_agrees)
    pairs = [pair, (other.sop_class_uid, other.transfer_syntax_uid)]
    with associated(archive, pairs) as association:
        assert association.send_c_store(sample.path).Status == 0xA900
        assert association.send_c_store(other.path).Status == 0x0000, "the next object goes on"


def test_a_data_set_without_study_is_refused_and_the_association_goes_on(
    archive: NodeProcess,
) -> None:
    whole = next(each for each in samples() if each.path.name == "CT_small.dcm")
    read = pydicom.dcmread(whole.path)
    del read.StudyInstanceUID
    buffer = io.BytesIO()
    read.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    with associated(archive, [(whole.sop_class_uid, whole.transfer_syntax_uid)]) as association:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", False)
            status = association.send_c_store(pydicom.dcmread(buffer)).Status
        assert status == 0xA900 or 0xC000 <= status <= 0xCFFF
        assert association.send_c_store(whole.path).Status == 0x0000


def test_every_storage_class_is_accepted_in_every_transfer_syntax(archive: NodeProcess) -> None:
    pairs = list(product(sorted(STORAGE_CLASSES), map(str, AllTransferSyntaxes)))
    accepted: set[tuple[str, str]] = set()
    for batch in _batches(pairs, 128):
        with associated(archive, batch) as association:
            accepted |= {
                (str(each.abstract_syntax), str(each.transfer_syntax[0]))
                for each in association.accepted_contexts
            }
    assert set(pairs) - accepted == set()


def _batches(pairs: list[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    for at in range(0, len(pairs), size):
        yield pairs[at : at + size]
