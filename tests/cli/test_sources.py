"""What is found to be sent, and what is not."""

import os
import zipfile
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from dicomnode.cli.sources import Item, Skipped, named
from dicomnode.errors import Unreadable
from dicomnode.scu.fronts import FRONT_BYTES, read_identity
from tests.cli.commands import CT, make_study
from tests.interop.samples import data_set_bytes

EXPLICIT = "1.2.840.10008.1.2.1"


def items(path: Path) -> list[Item]:
    return [found for found in named(path) if isinstance(found, Item)]


def skipped(path: Path) -> dict[str, str]:
    return {Path(one.name).name: one.why for one in named(path) if isinstance(one, Skipped)}


def test_a_folder_is_walked_and_what_is_no_object_is_passed_over(tmp_path: Path) -> None:
    make_study(tmp_path / "a" / "b", 2)
    make_study(tmp_path / "c", 1)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty").touch()
    dicomdir = Path(str(get_testdata_file("DICOMDIR")))
    (tmp_path / "DICOMDIR").write_bytes(dicomdir.read_bytes())
    assert len(items(tmp_path)) == 3
    assert skipped(tmp_path) == {
        "notes.txt": "no DICM prefix: not a DICOM file",
        "empty": "no DICM prefix: not a DICOM file",
        "DICOMDIR": "a DICOMDIR: it is no object",
    }


def test_links_lead_nowhere(tmp_path: Path) -> None:
    (outside,) = make_study(tmp_path / "outside", 1)
    (inside,) = make_study(tmp_path / "folder", 1)
    (tmp_path / "folder" / "link.dcm").symlink_to(outside)
    (tmp_path / "folder" / "again.dcm").symlink_to(inside)
    (tmp_path / "folder" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [item.name for item in items(tmp_path / "folder")] == [str(inside)]
    assert skipped(tmp_path / "folder") == {
        "link.dcm": "a link out of the folder",
        "again.dcm": "a link within the folder",
        "loop": "a link to a folder",
    }


def test_what_is_named_and_cannot_be_sent_is_a_failure(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    for path in (text, tmp_path / "missing"):
        (found,) = named(path)
        assert isinstance(found, Skipped) and found.is_wanted


@pytest.mark.parametrize(
    ("was", "written", "words"),
    [
        (b"1.2.840.10008.5.1.4.1.1.2", b"\x1b[31m\xff", "its SOP class is '\\x1b[31m"),
        (b"1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322", b"../../x", "its SOP instance is"),
        (b"1.2.840.10008.1.2.1", b"none", "its transfer syntax is 'none', which is no UID"),
        (b"UI\x1a\x001.2.840", b"UI\xff\xff1", "cut short"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_dicom_file_that_cannot_be_sent_is_a_failure(
    tmp_path: Path, was: bytes, written: bytes, words: str, packed: bool
) -> None:
    content = CT.read_bytes()
    assert was in content
    content = content.replace(was, written.ljust(len(was), b"\0"))
    path = tmp_path / "folder"
    path.mkdir()
    (path / "bad.dcm").write_bytes(content)
    if packed:
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr("bad.dcm", content)
        path = tmp_path / "bad.zip"
    (found,) = named(path)
    assert isinstance(found, Skipped) and words in found.why and found.is_wanted


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert skipped(tmp_path) == {"pipe": "no file"}


@pytest.mark.parametrize("lacking", [128 + 4, None], ids=["preamble", "file meta"])
def test_files_that_lack_preamble_or_file_meta_are_told(
    tmp_path: Path, lacking: int | None
) -> None:
    content = CT.read_bytes()
    bare = data_set_bytes(CT) if lacking is None else content[lacking:]
    path = tmp_path / "bare"
    path.write_bytes(bare)
    (item,) = items(path)
    image = pydicom.dcmread(CT)
    assert item.kind == (image.SOPClassUID, EXPLICIT)
    assert item.sop_instance_uid == image.SOPInstanceUID
    assert item.size == len(data_set_bytes(CT))
    assert item.load().offset == len(bare) - item.size


def test_members_of_a_zip_file_are_objects(tmp_path: Path) -> None:
    paths = make_study(tmp_path / "files", 2)
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(paths[0], "../../etc/passwd")
        packed.write(paths[1], "/abs/olute.dcm")
        packed.writestr("readme.txt", "hello")
        packed.mkdir("folder")
    found = items(archive)
    assert [bytes(item.load().data_set) for item in found] == list(map(data_set_bytes, paths))  # type: ignore[arg-type]
    assert skipped(archive) == {"study.zip!readme.txt": "no DICM prefix: not a DICOM file"}


async def test_a_long_member_is_unpacked_while_it_is_sent(tmp_path: Path) -> None:
    content = CT.read_bytes() + bytes(5 * 1024 * 1024)
    archive = tmp_path / "long.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a", content)
    (item,) = items(archive)
    source = item.load().data_set
    sent = b""
    while piece := await source.read():  # type: ignore[union-attr]
        assert len(piece) <= 1024 * 1024
        sent += piece
    assert content.endswith(sent) and len(sent) == item.size


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_is_damaged_is_a_failure(tmp_path: Path, method: int) -> None:
    (path,) = make_study(tmp_path / "files", 1)
    archive = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive, "w", method) as packed:
        packed.write(path, "a")
    content = bytearray(archive.read_bytes())
    content[200:210] = bytes(10)
    archive.write_bytes(content)
    found = list(named(archive))
    if isinstance(found[0], Item):
        with pytest.raises(Unreadable, match="cannot be unpacked"):
            found[0].load()
    else:
        assert found[0].is_wanted


def test_a_member_without_a_name_is_looked_into(tmp_path: Path) -> None:
    archive = tmp_path / "nameless.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("nameless", CT.read_bytes())
    archive.write_bytes(archive.read_bytes().replace(b"nameless", bytes(8)))
    assert len(items(archive)) == 1


def test_a_file_that_only_begins_as_a_zip_file_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK\x03\x04 and nothing else")
    (found,) = named(path)
    assert isinstance(found, Skipped) and "damaged ZIP" in found.why


@pytest.mark.parametrize("cut", [0, 1, 100, 131, 132, 140, 200, 300, 339])
def test_a_front_that_is_cut_short_is_unreadable_or_names_the_object(cut: int) -> None:
    content = CT.read_bytes()
    try:
        front = read_identity(content[:cut], is_whole=True)
    except Unreadable:
        return
    assert front.sop_instance_uid == pydicom.dcmread(CT).SOPInstanceUID


def test_the_data_set_is_believed_where_the_file_meta_disagrees() -> None:
    content = CT.read_bytes()
    image = pydicom.dcmread(CT)
    real = image.SOPInstanceUID.encode()
    at = content.index(real)
    wrong = content[:at] + real[:-1] + b"9" + content[at + len(real) :]
    front = read_identity(wrong[:FRONT_BYTES], is_whole=True)
    assert front.sop_instance_uid == image.SOPInstanceUID
