"""Exports of unknown origin: what is missing, added, or meant to do harm."""

import dataclasses
import errno
import hashlib
import os
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dicomnode.errors import ExportFailed
from dicomnode.integrity import canonical, manifest, sidecar
from dicomnode.integrity.exporting import export
from dicomnode.integrity.findings import Differs, Kind, Report
from dicomnode.integrity.signature import CMS_SIGNATURE, Trust, check
from dicomnode.integrity.verifying import verify_file, verify_path
from dicomnode.integrity.writing import writing
from tests.authority import of_version
from tests.integrity.certificates import ec_signer
from tests.integrity.exports import Memory, ed25519_signer, small_object, written


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return an export of two objects."""
    export(written(tmp_path / "in", [small_object(1), small_object(2)]), tmp_path / "out")
    return tmp_path / "out"


def kinds(report: Report) -> set[tuple[Kind, str]]:
    return {(each.kind, each.name) for each in report.findings}


def zipped(folder: Path, path: Path) -> Path:
    """Pack a folder with Python's own tool."""
    return Path(shutil.make_archive(str(path), "zip", folder))


IMAGE = "DICOM/ST000001/SE000001/IM000001"


def test_what_is_missing_or_added_is_told_by_name(out: Path) -> None:
    (out / IMAGE).unlink()
    (out / "Thumbs.db").write_text("x")
    (out / "DICOM" / "EMPTY").mkdir()
    os.mkfifo(out / "DICOM" / "PIPE")
    assert kinds(verify_path(out, Trust())) == {
        (Kind.MISSING, IMAGE),
        (Kind.ADDED, "Thumbs.db"),
        (Kind.ADDED, "DICOM/EMPTY"),
        (Kind.ADDED, "DICOM/PIPE"),
    }


def test_a_link_is_told_and_never_followed(out: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(out / IMAGE, elsewhere)
    (out / IMAGE).symlink_to(elsewhere)
    (out / "LOOP").symlink_to(out)
    assert kinds(verify_path(out, Trust())) == {
        (Kind.MISSING, IMAGE),
        (Kind.ADDED, IMAGE),
        (Kind.ADDED, "LOOP"),
    }


def test_two_files_that_have_changed_places_are_found_alone_and_together(out: Path) -> None:
    one, other = out / IMAGE, out / "DICOM/ST000001/SE000001/IM000002"
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)
    assert len(verify_path(out, Trust()).findings) == 2
    for name in (one, other):
        beside = name.with_name(f"{name.name}.dcm.sig")
        assert not verify_file(name, beside).verified


def test_a_directory_without_a_manifest_proves_nothing(tmp_path: Path) -> None:
    report = verify_path(tmp_path, Trust())
    assert kinds(report) == {(Kind.MISSING, "SHA256SUMS")}
    assert not report.verified


def test_an_object_that_is_taken_out_of_the_manifest_leaves_a_sidecar_behind(out: Path) -> None:
    memory = Memory(out)
    digests = manifest.parse(bytes(memory.files["SHA256SUMS"]))
    del digests[IMAGE], memory.files[IMAGE]
    memory.files["SHA256SUMS"] = bytearray(manifest.encode(digests))
    assert (Kind.MISSING, f"{IMAGE}.dcm.sig") in kinds(memory.verified())


@pytest.mark.parametrize(
    "line",
    [
        b"../../etc/passwd",
        b"/etc/passwd",
        b"DICOM/../../x",
        b"a//b",
        b"a\\b",
        b"a b",
        b"",
        b".",
        b"\xc3\xa4",
    ],
)
def test_names_in_a_manifest_that_were_never_written_are_refused(line: bytes) -> None:
    with pytest.raises(Differs) as refused:
        manifest.parse(b"0" * 64 + b"  " + line + b"\n")
    assert refused.value.kind is Kind.MANIFEST


def test_a_signature_that_is_taken_away_or_asked_for_is_missed(tmp_path: Path) -> None:
    signer = ed25519_signer()
    originals = written(tmp_path / "in", [small_object()])
    export(originals, tmp_path / "signed", signer=signer)
    export(originals, tmp_path / "unsigned")
    ours = Trust(public_key=signer.key.public_key())
    assert verify_path(tmp_path / "signed", ours).verified
    other = Trust(public_key=ed25519_signer().key.public_key())
    assert kinds(verify_path(tmp_path / "signed", other)) == {(Kind.SIGNATURE, "SHA256SUMS.SIG")}
    assert not verify_path(tmp_path / "unsigned", ours).verified
    (tmp_path / "signed" / "SHA256SUMS.SIG").unlink()
    assert not verify_path(tmp_path / "signed", Trust()).verified


# -- ZIP files -------------------------------------------------------------------------------------


def test_an_export_that_was_packed_later_is_verified_by_what_is_in_it(
    out: Path, tmp_path: Path
) -> None:
    packed = zipped(out, tmp_path / "packed")
    assert verify_path(packed, Trust()).verified
    (out / IMAGE).write_bytes(small_object(9))
    assert kinds(verify_path(zipped(out, tmp_path / "again"), Trust())) == {(Kind.FILE, IMAGE)}


def test_a_zip_file_that_was_packed_anew_is_not_the_one_exported(tmp_path: Path) -> None:
    export(written(tmp_path / "in", [small_object()]), tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert verify_path(tmp_path / "unpacked", Trust()).verified
    report = verify_path(zipped(tmp_path / "unpacked", tmp_path / "again"), Trust())
    assert kinds(report) == {(Kind.CONTAINER, "")}


def test_hostile_members_of_a_zip_file_are_told_and_nothing_is_unpacked(
    out: Path, tmp_path: Path
) -> None:
    path = zipped(out, tmp_path / "packed")
    before = sorted(tmp_path.rglob("*"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../outside", "x")
        archive.writestr("/absolute", "x")
        link = zipfile.ZipInfo("LINK")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("DICOMDIR", "x")
    assert kinds(verify_path(path, Trust())) == {
        (Kind.ADDED, "../../outside"),
        (Kind.ADDED, "/absolute"),
        (Kind.CONTAINER, "LINK"),
        (Kind.CONTAINER, "DICOMDIR"),
    }
    assert sorted(tmp_path.rglob("*")) == before


def test_a_member_of_a_zip_file_without_a_name_is_told(out: Path, tmp_path: Path) -> None:
    path = zipped(out, tmp_path / "packed")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("NAMELESS", "x")
    content = bytearray(path.read_bytes())
    # APPNOTE 4.3.12: the lengths of name, extra field and comment in the central directory.
    struct.pack_into("<HHH", content, content.rindex(b"PK\1\2") + 28, 0, 0, len("NAMELESS"))
    path.write_bytes(content)
    assert kinds(verify_path(path, Trust())) == {(Kind.CONTAINER, "")}


def test_a_zip_bomb_is_not_unpacked(out: Path, tmp_path: Path) -> None:
    path = zipped(out, tmp_path / "packed")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("BOMB", bytes(80 * 1024 * 1024))
    report = verify_path(path, Trust())
    assert [each.kind for each in report.findings] == [Kind.CONTAINER]
    assert "64 times its size" in report.findings[0].words


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_zip_file_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    assert not verify_path(tmp_path / "x.zip", Trust()).verified


# -- sidecars --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
        b"\xff\n",
        b'{"a":NaN}\n',
        b'{"a":1,"a":1}\n',
        b'{"a":"\\ud800"}\n',
        b'{"a":' + b"9" * 5000 + b"}\n",
    ],
)
def test_what_is_no_sidecar_is_told(content: bytes) -> None:
    with pytest.raises(Differs) as refused:
        sidecar.parse(content)
    assert refused.value.kind is Kind.SIDECAR


def test_json_that_says_the_same_in_other_bytes_is_another_sidecar(out: Path) -> None:
    content = (out / f"{IMAGE}.dcm.sig").read_bytes()
    for other in (
        content.replace(b",", b", ", 1),
        content.replace(b"IM000001", b"\\u0049M000001"),
        content.replace(b'"size":', b'"size":0', 1),
        content[:-1],
        b" " + content,
        b"\xef\xbb\xbf" + content,
    ):
        assert other != content
        with pytest.raises(Differs):
            sidecar.parse(other)
    assert canonical.decode(content[:-1])["file"] == "IM000001"


def test_a_sidecar_that_is_too_long_is_not_read(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "MAX_BYTES", 100)
    report = verify_file(out / IMAGE, out / f"{IMAGE}.dcm.sig")
    assert "longer than 100 bytes" in report.findings[0].words


# -- all or nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_what_fails_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    originals = written(tmp_path / "in", [small_object(1), small_object(2)])
    originals[1].path.write_bytes(b"not what was received")
    with pytest.raises(ExportFailed):
        export(originals, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_who_cannot_be_told_undoes_the_export(tmp_path: Path) -> None:
    def refuse(exported: object) -> None:
        raise ExportFailed("the node does not answer")

    originals = written(tmp_path / "in", [small_object()])
    with pytest.raises(ExportFailed, match="does not answer"):
        export(originals, tmp_path / "out", on_whole=refuse)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_what_comes_into_being_meanwhile_is_not_written_over(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportFailed, match="meanwhile"), writing(tmp_path / name) as target:
        target.write("FILE", 1, [b"x"])
        target.finish()
        (tmp_path / name).write_text("somebody else's")
    assert (tmp_path / name).read_text() == "somebody else's"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_filesystems_that_cannot_rename_without_replacing_are_exported_to(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", source)

    monkeypatch.setattr("dicomnode.integrity.writing.rename_without_replacing", refuse)
    export(written(tmp_path / "in", [small_object()]), tmp_path / name)
    assert verify_path(tmp_path / name, Trust()).verified
    with pytest.raises(ExportFailed, match="meanwhile"), writing(tmp_path / f"2{name}") as target:
        target.write("FILE", 1, [b"x"])
        target.finish()
        (tmp_path / f"2{name}").write_text("somebody else's")
    assert (tmp_path / f"2{name}").read_text() == "somebody else's"


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_a_full_disk_is_explained_and_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    originals = written(tmp_path / "in", [small_object(value=b"x" * 60_000)] * 3)
    # In a process of its own, whose files may have no more than 50 KB.
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from dicomnode.errors import ExportFailed\n"
        "from dicomnode.integrity.exporting import Original, export\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "path, size, digest, to = sys.argv[1:]\n"
        "original = Original(Path(path), int(size), digest, '1.2.3.1', ())\n"
        "try:\n    export([original] * 3, Path(to))\n"
        "except ExportFailed as error:\n    print(error)\n"
    )
    one = originals[0]
    done = subprocess.run(
        [sys.executable, "-c", program, one.path, str(one.size), one.sha256, tmp_path / name],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stdout.startswith(f"no room for the export at {tmp_path}"), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# -- certificates ----------------------------------------------------------------------------------


def test_a_certificate_of_a_version_that_is_not_known_is_told(tmp_path: Path) -> None:
    signer = ec_signer()
    manifest_bytes = manifest.encode({"A": "0" * 64})
    odd = of_version(signer.public, 7)
    with pytest.raises(Differs, match="7 is not a valid X509 version"):
        check(CMS_SIGNATURE, signer.sign(manifest_bytes), manifest_bytes, odd, Trust())


def test_a_sidecar_written_anew_for_a_changed_file_contradicts_what_was_received(out: Path) -> None:
    image, beside = out / IMAGE, out / f"{IMAGE}.dcm.sig"
    said = sidecar.parse(beside.read_bytes())
    image.write_bytes(image.read_bytes()[:-1] + b"y")
    changed = hashlib.sha256(image.read_bytes()).hexdigest()
    beside.write_bytes(dataclasses.replace(said, sha256=changed).encoded())
    (finding,) = verify_file(image, beside).findings
    assert (finding.kind, finding.name) == (Kind.SNAPSHOT, "IM000001.dcm.sig")
    assert "tell of a file with another SHA-256" in finding.words
