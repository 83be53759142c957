"""Part 10 File Meta, written and read, against pydicom."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.errors import CannotUnderstand
from dicomnode.storage.part10 import file_meta, read_file_meta
from tests.storage.objects import CT_STORAGE, EXPLICIT, data_set, encoded, open_bytes

uids = st.from_regex(r"[1-9](\.[1-9][0-9]{0,4}){1,9}", fullmatch=True)


@given(uids, uids, st.sampled_from(["", "CT_1", "A", "SIXTEEN CHARS AE"]))
def test_pydicom_reads_the_file_meta_as_it_was_written(
    sop_class: str, sop_instance: str, title: str
) -> None:
    data = file_meta(sop_class, sop_instance, EXPLICIT, source_ae_title=title)
    meta = pydicom.dcmread(io.BytesIO(data + encoded(data_set()))).file_meta
    assert data[:128] == bytes(128)
    assert meta.FileMetaInformationVersion == b"\x00\x01"
    assert meta.FileMetaInformationGroupLength == len(data) - 128 - 4 - 12
    assert meta.MediaStorageSOPClassUID == sop_class
    assert meta.MediaStorageSOPInstanceUID == sop_instance
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert meta.get("SourceApplicationEntityTitle", "") == title


def test_what_was_written_is_read_back_with_the_offset_of_the_data_set(tmp_path: Path) -> None:
    data = file_meta(CT_STORAGE, "1.2.3", EXPLICIT, source_ae_title="CT_1")
    meta = read_file_meta(open_bytes(tmp_path, data + encoded(data_set())))
    assert (meta.sop_class_uid, meta.sop_instance_uid) == (CT_STORAGE, "1.2.3")
    assert (meta.transfer_syntax_uid, meta.source_ae_title) == (EXPLICIT, "CT_1")
    assert meta.data_set_offset == len(data)


def test_a_wrong_group_length_is_not_relied_on(tmp_path: Path) -> None:
    data = bytearray(file_meta(CT_STORAGE, "1.2.3", EXPLICIT))
    data[140:144] = b"\xff\xff\xff\x7f"
    meta = read_file_meta(open_bytes(tmp_path, bytes(data) + encoded(data_set())))
    assert meta.data_set_offset == len(data)


def test_a_data_set_may_begin_with_elements_of_group_0002(tmp_path: Path) -> None:
    data = file_meta(CT_STORAGE, "1.2.3", EXPLICIT)
    stray = b"\x02\x00\x10\x00UI\x06\x001.2.9\x00"
    meta = read_file_meta(open_bytes(tmp_path, data + stray + encoded(data_set())))
    assert (meta.transfer_syntax_uid, meta.data_set_offset) == (EXPLICIT, len(data))


@pytest.mark.parametrize("data", [b"", b"DICM", bytes(200), bytes(128) + b"DICM"])
def test_what_is_no_part_10_file_is_not_understood(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CannotUnderstand):
        read_file_meta(open_bytes(tmp_path, data))


def test_private_information_longer_than_the_cap_is_not_understood(tmp_path: Path) -> None:
    head = bytearray(file_meta(CT_STORAGE, "1.2.3", EXPLICIT))
    private = b"\x02\x00\x02\x01OB\x00\x00" + (10**6).to_bytes(4, "little") + bytes(10**6)
    head[140:144] = (len(head) - 144 + len(private)).to_bytes(4, "little")
    with pytest.raises(CannotUnderstand):
        read_file_meta(open_bytes(tmp_path, bytes(head) + private))


@given(st.binary(max_size=300))
def test_any_bytes_are_file_meta_or_not_understood(data: bytes) -> None:
    fd = os.memfd_create("meta")
    try:
        os.write(fd, bytes(128) + b"DICM" + data)
        read_file_meta(fd)
    except CannotUnderstand:
        pass
    finally:
        os.close(fd)
