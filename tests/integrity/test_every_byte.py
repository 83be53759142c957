"""A change of any single byte of an export is found."""

from pathlib import Path

import pytest

from dicomnode.integrity.exporting import export
from dicomnode.integrity.findings import Kind
from dicomnode.integrity.signature import Signer, Trust
from dicomnode.integrity.verifying import verify_file, verify_path
from tests.integrity.certificates import ec_signer, rsa_signer
from tests.integrity.exports import Memory, ed25519_signer, small_object, written

# What a byte is changed with, in turn: case, a bit, a digit for its neighbour, all bits.
_CHANGES = (0x20, 0x01, 0x02, 0xFF, 0x10)


@pytest.mark.parametrize("make_signer", [None, ed25519_signer, ec_signer, rsa_signer])
def test_each_byte_of_a_small_export_counts(make_signer, tmp_path: Path) -> None:
    signer: Signer | None = make_signer and make_signer()
    export(written(tmp_path / "in", [small_object()]), tmp_path / "out", signer=signer)
    memory = Memory(tmp_path / "out")
    assert memory.verified().verified
    # What is the same in all of them is looked at once.
    names = [name for name in memory.files if signer is None or name.startswith("S")]
    undetected = []
    for name in names:
        content = memory.files[name]
        for position in range(len(content)):
            before = content[position]
            content[position] ^= _CHANGES[position % len(_CHANGES)]
            if memory.verified().verified:
                undetected.append((name, position))
            content[position] = before
    assert undetected == []
    assert memory.verified().verified


def test_each_kind_of_change_of_a_byte_of_manifest_and_sidecar_counts(tmp_path: Path) -> None:
    export(written(tmp_path / "in", [small_object()]), tmp_path / "out")
    memory = Memory(tmp_path / "out")
    (sidecar,) = (name for name in memory.files if name.endswith(".dcm.sig"))
    for name in ("SHA256SUMS", sidecar):
        content = memory.files[name]
        for position in range(0, len(content), 5):
            before = content[position]
            for other in {0x00, 0x09, 0x0A, 0x20, 0x2B, 0x30, 0x41, 0x5C, 0x80} - {before}:
                content[position] = other
                assert not memory.verified().verified, (name, position, other)
            content[position] = before


def test_each_byte_of_a_file_and_its_sidecar_counts_without_the_rest(tmp_path: Path) -> None:
    export(written(tmp_path / "in", [small_object()]), tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("IM000001")
    beside = path.with_name("IM000001.dcm.sig")
    for changed in (path, beside):
        content = bytearray(changed.read_bytes())
        for position in range(len(content)):
            content[position] ^= _CHANGES[position % len(_CHANGES)]
            changed.write_bytes(content)
            assert not verify_file(path, beside).verified, (changed.name, position)
            content[position] ^= _CHANGES[position % len(_CHANGES)]
        changed.write_bytes(content)
    assert verify_file(path, beside).verified


def test_each_byte_of_a_zip_file_counts_those_between_its_files_too(tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    export(written(tmp_path / "in", [small_object()]), path)
    content = path.read_bytes()
    assert verify_path(path, Trust()).verified
    with path.open("r+b", buffering=0) as file:
        for position in range(len(content)):
            changed = content[position] ^ _CHANGES[position % len(_CHANGES)]
            file.seek(position)
            file.write(bytes([changed]))
            assert not verify_path(path, Trust()).verified, position
            file.seek(position)
            file.write(content[position : position + 1])
    assert verify_path(path, Trust()).verified


def test_sampled_bytes_of_a_larger_export_count_and_are_told_apart(tmp_path: Path) -> None:
    objects = [small_object(number, value=b"y" * 900) for number in range(1, 31)]
    export(written(tmp_path / "in", objects), tmp_path / "out", signer=ed25519_signer())
    memory = Memory(tmp_path / "out")
    expected = {"SHA256SUMS": {Kind.MANIFEST, Kind.FILE, Kind.SIDECAR, Kind.MISSING, Kind.ADDED}}
    for number, (name, content) in enumerate(sorted(memory.files.items())):
        position = (number * 7919) % len(content)
        content[position] ^= 1
        report = memory.verified()
        content[position] ^= 1
        assert {each.kind for each in report.findings} & expected.get(name, _kinds(name)), name
        assert name in {each.name for each in report.findings} or name == "SHA256SUMS"


def _kinds(name: str) -> set[Kind]:
    if name.endswith(".sig"):
        return {Kind.SIDECAR, Kind.SNAPSHOT}
    if name in ("SHA256SUMS.SIG", "SIGNER.PEM"):
        return {Kind.SIGNATURE}
    return {Kind.SNAPSHOT} if name == "CUSTODY.JSON" else {Kind.FILE}
