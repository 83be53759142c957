"""Worklist files that are damaged or hostile are left out, named, counted; the rest is served."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.storage import watched
from tests.worklist_data import worklist_json, write_worklist_file
from tests.worklist_ward import LOOKS, Ward, worklist_ward

GOOD = "file:CT_1/good.wl"


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with worklist_ward(tmp_path) as ward:
        yield ward


@pytest.fixture
def folder(ward: Ward) -> Path:
    write_worklist_file(ward.directory / "CT_1" / "good.wl", StudyInstanceUID="1.2.3.9")
    return ward.directory / "CT_1"


def left_out(ward: Ward, reason: str) -> str:
    """Look until everything is believed; return what is said of the one bad file."""
    ward.poll(LOOKS)
    assert ward.keys == [GOOD]
    assert ward.files.figures.reasons[reason] == 1
    ((path, words),) = ward.left_out.items()
    assert f"worklist file {path} is left out: {words}" in ward.log
    return words


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 200, b"DICM", bytes(128) + b"DICM", b"text " * 100, os.urandom(4096)],
    ids=["empty", "zeros", "prefix", "preamble", "text", "noise"],
)
def test_what_is_no_dicom(ward: Ward, folder: Path, data: bytes) -> None:
    (folder / "bad.wl").write_bytes(data)
    ward.poll(LOOKS)
    assert ward.keys == [GOOD]
    assert list(ward.left_out) == ["CT_1/bad.wl"]


def test_a_file_cut_short_at_any_place_is_never_served_in_part(
    ward: Ward,
    folder: Path,
) -> None:
    whole = write_worklist_file(folder / "bad.wl").read_bytes()
    for length in range(0, len(whole) - 1, 7):
        (folder / "bad.wl").write_bytes(whole[:length])
        ward.poll()
        assert "file:CT_1/bad.wl" not in ward.keys
    (folder / "bad.wl").write_bytes(whole)
    ward.poll()
    assert ward.keys == ["file:CT_1/bad.wl", GOOD]


def test_a_character_set_that_is_not_known(ward: Ward, folder: Path) -> None:
    data = write_worklist_file(folder / "bad.wl").read_bytes()
    (folder / "bad.wl").write_bytes(data.replace(b"ISO_IR 100", b"KLINGON 99"))
    assert left_out(ward, "unreadable") == "Specific Character Set is not known"


def test_a_file_that_is_too_long(ward: Ward, folder: Path) -> None:
    with (folder / "bad.wl").open("wb") as file:
        file.truncate(1 << 40)
    assert left_out(ward, "too long") == "is longer than 1048576 bytes"


def test_a_link_out_of_the_directory(ward: Ward, folder: Path) -> None:
    outside = write_worklist_file(ward.directory.with_name("outside.wl"))
    (folder / "bad.wl").symlink_to(outside)
    assert "is a symbolic link" in left_out(ward, "misplaced")


def test_a_link_that_leads_nowhere(ward: Ward, folder: Path) -> None:
    (folder / "bad.wl").symlink_to(folder / "nothing")
    assert "is a symbolic link" in left_out(ward, "misplaced")


def test_a_folder_that_is_a_link(ward: Ward, folder: Path) -> None:
    outside = ward.directory.with_name("outside")
    write_worklist_file(outside / "a.wl")
    (ward.directory / "CT_2").symlink_to(outside, target_is_directory=True)
    assert "is a symbolic link" in left_out(ward, "misplaced")


def test_a_pipe_holds_nobody_up(ward: Ward, folder: Path) -> None:
    os.mkfifo(folder / "bad.wl")
    assert left_out(ward, "misplaced") == "is no regular file"


def test_a_lockfile_that_is_a_pipe_holds_nobody_up(ward: Ward, folder: Path) -> None:
    os.mkfifo(folder / "lockfile")
    ward.poll()
    assert ward.keys == [GOOD]


def test_a_directory_with_the_name_of_a_file(ward: Ward, folder: Path) -> None:
    (folder / "bad.wl").mkdir()
    ward.poll(LOOKS)
    assert ward.keys == [GOOD]


@pytest.mark.parametrize("name", ["AN AE TITLE TOO LONG", "CT\\1", "CT\n1", "Röntgen"])
def test_a_folder_whose_name_is_no_ae_title(
    ward: Ward,
    folder: Path,
    name: str,
) -> None:
    write_worklist_file(ward.directory / name / "a.wl")
    ward.poll(LOOKS)
    assert ward.keys == [GOOD]
    assert ward.left_out == {name: "is a folder whose name is no AE title"}
    assert "CT\n1" not in ward.log


def test_a_name_that_is_no_text(ward: Ward, folder: Path) -> None:
    path = os.fsencode(folder) + b"/b\xffd.wl"
    Path(os.fsdecode(path)).write_bytes(b"")
    ward.poll(LOOKS)
    assert ward.keys == [GOOD]
    assert ward.left_out == {"CT_1/b\\udcffd.wl": "has a name that is not printable text"}
    assert "worklist file CT_1/b\\udcffd.wl is left out" in ward.log


def test_a_station_whose_name_is_a_path_reaches_no_path(
    ward: Ward,
    folder: Path,
) -> None:
    write_worklist_file(folder / "a.wl", {"ScheduledStationAETitle": "../../x"})
    before = sorted(ward.directory.parent.rglob("*"))
    ward.poll(LOOKS)
    assert ward.keys == ["file:CT_1/a.wl", GOOD]
    assert sorted(ward.directory.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "text",
    [
        "[" * 500_000,
        '{"00400100":{"vr":"SQ","Value":[' * 30_000,
        "1" * 900_000,
        '{"00100010": {"vr": "PN", "Value": [' + '{"Alphabetic":"A"},' * 40_000 + "null]}}",
        "[" + "{}," * 300_000 + "{}]",
        "\ud83d",
        "",
    ],
    ids=["arrays", "sequences", "digits", "values", "data sets", "surrogate", "empty"],
)
def test_json_made_to_hurt(ward: Ward, folder: Path, text: str) -> None:
    (folder / "bad.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    ward.poll(LOOKS)
    assert ward.keys == [GOOD]
    assert list(ward.left_out) == ["CT_1/bad.json"]
    assert len(ward.log) < 4000


def test_sequences_nested_deeper_than_any_item_needs(
    ward: Ward,
    folder: Path,
) -> None:
    attributes = inner = worklist_json()
    for _ in range(20):
        deeper: dict[str, object] = {}
        inner["00081110"] = {"vr": "SQ", "Value": [deeper]}
        inner = deeper
    (folder / "bad.json").write_text(json.dumps(attributes))
    assert "nested deeper" in left_out(ward, "unreadable")


def test_many_bad_files_do_not_flood_the_log(ward: Ward, folder: Path) -> None:
    for number in range(200):
        (folder / f"{number:03}.wl").write_bytes(b"bad")
    ward.poll(LOOKS + 1)
    assert ward.keys == [GOOD]
    assert ward.log.count("is left out") == 20
    assert "180 more worklist files left out" in ward.log
    assert len(ward.left_out) == 100
    assert ward.files.figures.reasons["unreadable"] == 200


def test_a_file_that_may_not_be_read_is_told_and_read_when_it_may(
    ward: Ward,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contents = watched._contents
    write_worklist_file(folder / "bad.wl")

    def denied(name: str, folder: int, max_bytes: int) -> watched.Contents:
        if name == "bad.wl":
            raise PermissionError(13, "Permission denied")
        return contents(name, folder, max_bytes)

    monkeypatch.setattr(watched, "_contents", denied)
    assert left_out(ward, "unreadable") == "cannot be read: Permission denied"
    monkeypatch.setattr(watched, "_contents", contents)
    ward.poll()
    assert ward.keys == ["file:CT_1/bad.wl", GOOD]
