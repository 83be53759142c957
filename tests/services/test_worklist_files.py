"""The worklist follows a directory of files."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.index.steps import PerformedStep
from dicomnode.index.worklist import NewItem, State
from dicomnode.storage.json_model import text_of
from tests.worklist_data import worklist_json, write_worklist_file
from tests.worklist_ward import LOOKS, Ward, worklist_ward


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with worklist_ward(tmp_path) as ward:
        yield ward


def test_files_become_items_of_the_title_of_their_folder(ward: Ward) -> None:
    write_worklist_file(ward.directory / "CT_1" / "a.wl")
    write_worklist_file(ward.directory / "b.wl", StudyInstanceUID="1.2.3.2")
    ward.poll()
    assert [(item.key, item.called_ae_title, item.origin) for item in ward.held] == [
        ("file:CT_1/a.wl", "CT_1", "file"),
        ("file:b.wl", "", "file"),
    ]
    assert text_of(ward.held[0].attributes, "PatientName") == "Müller^Änne"
    assert "worklist: 2 items of 2 files taken in" in ward.log
    assert ward.files.figures.files == 2


def test_json_files_are_taken_in_too(ward: Ward) -> None:
    path = ward.directory / "a.json"
    path.write_text(json.dumps(worklist_json()), encoding="utf-8")
    ward.poll()
    assert ward.keys == ["file:a.json"]


def test_a_data_set_without_file_meta_is_taken_in(ward: Ward) -> None:
    whole = write_worklist_file(ward.directory / "a.wl")
    data = whole.read_bytes()
    whole.write_bytes(data[132 + 12 + int.from_bytes(data[140:144], "little") :])
    ward.poll()
    assert ward.keys == ["file:a.wl"]


def test_files_with_other_names_are_not_looked_at(ward: Ward) -> None:
    for name in (".hidden.wl", "lockfile", "a.dump", "CT_1/lockfile", "CT_1/deeper/a.wl"):
        write_worklist_file(ward.directory / name)
    ward.poll(LOOKS)
    assert ward.keys == []
    assert ward.log == ""


def test_a_file_that_changes_is_taken_in_anew_and_keeps_its_state(ward: Ward) -> None:
    path = write_worklist_file(ward.directory / "a.wl")
    ward.poll()
    ward.items._catalog.transact(
        lambda cursor: ward.items.follow(
            cursor, "1.2.3.1", "SPS1", "", lambda *_: (State.IN_PROGRESS, "1.9")
        )
    )
    write_worklist_file(path, PatientID="P2")
    ward.poll()
    (item,) = ward.held
    assert (text_of(item.attributes, "PatientID"), item.state) == ("P2", State.IN_PROGRESS)


def test_a_file_that_is_unchanged_is_not_read_again(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_worklist_file(ward.directory / "a.wl")
    ward.now = 1e12
    ward.poll()
    read = list(ward.held)
    monkeypatch.setattr("dicomnode.storage.watched._contents", None)
    ward.poll()
    ward.restart()
    ward.poll()
    assert ward.held == read


def test_a_change_within_the_same_tick_of_the_clock_is_seen(ward: Ward) -> None:
    path = write_worklist_file(ward.directory / "a.wl", PatientID="P1")
    ward.poll()
    status = path.stat()
    data = path.read_bytes().replace(b"P1", b"P9")
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    ward.poll()
    assert text_of(ward.held[0].attributes, "PatientID") == "P9"


def test_an_item_goes_with_its_file(ward: Ward) -> None:
    path = write_worklist_file(ward.directory / "CT_1" / "a.wl", {}, {"Modality": "MR"})
    ward.poll()
    path.unlink()
    ward.poll()
    assert ward.keys == []


def test_a_file_with_fewer_steps_than_before_has_fewer_items(ward: Ward) -> None:
    steps = [{"ScheduledProcedureStepID": f"S{number}"} for number in range(3)]
    path = write_worklist_file(ward.directory / "a.wl", *steps)
    ward.poll()
    assert ward.keys == ["file:a.wl", "file:a.wl#2", "file:a.wl#3"]
    write_worklist_file(path, *steps[:2])
    ward.poll()
    assert ward.keys == ["file:a.wl", "file:a.wl#2"]


def test_what_went_while_the_node_was_down_goes_at_the_start(ward: Ward) -> None:
    path = write_worklist_file(ward.directory / "a.wl")
    ward.poll()
    path.unlink()
    ward.restart()
    ward.poll()
    assert ward.keys == []


def test_a_file_that_is_half_written_is_tried_again_before_it_is_told(ward: Ward) -> None:
    path = write_worklist_file(ward.directory / "a.wl")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    ward.poll(LOOKS - 1)
    assert (ward.keys, ward.log, ward.left_out) == ([], "", {})
    path.write_bytes(whole)
    ward.poll()
    assert ward.keys == ["file:a.wl"]
    assert "left out" not in ward.log


def test_a_file_that_stays_bad_is_told_once_and_served_when_it_is_good(ward: Ward) -> None:
    path = ward.directory / "CT_1" / "a.wl"
    path.parent.mkdir()
    path.write_bytes(b"this is no DICOM")
    write_worklist_file(ward.directory / "CT_1" / "b.wl")
    ward.poll(LOOKS + 2)
    assert ward.keys == ["file:CT_1/b.wl"]
    assert ward.log.count("worklist file CT_1/a.wl is left out: is no DICOM file") == 1
    assert list(ward.left_out) == ["CT_1/a.wl"]
    assert ward.files.figures.reasons["unreadable"] == 1
    write_worklist_file(path, StudyInstanceUID="1.2.3.2")
    ward.poll()
    assert ward.keys == ["file:CT_1/a.wl", "file:CT_1/b.wl"]
    assert ward.left_out == {}


def test_a_good_file_that_turns_bad_loses_its_items_and_that_is_said(ward: Ward) -> None:
    path = write_worklist_file(ward.directory / "a.wl")
    ward.poll()
    write_worklist_file(path, PatientID=None)
    ward.poll(LOOKS - 1)
    assert ward.keys == ["file:a.wl"]
    ward.poll()
    assert ward.keys == []
    assert (
        "worklist file a.wl is left out: Patient ID (0010,0020) is missing or empty;"
        " 1 item of it removed" in ward.log
    )


def test_a_second_file_for_the_same_step_is_left_out_until_the_first_goes(ward: Ward) -> None:
    first = write_worklist_file(ward.directory / "a.wl")
    write_worklist_file(ward.directory / "b.wl")
    ward.poll(LOOKS)
    assert ward.keys == ["file:a.wl"]
    assert "is for the same scheduled procedure step as file:a.wl" in ward.left_out["b.wl"]
    first.unlink()
    ward.poll()
    assert (ward.keys, ward.left_out) == (["file:b.wl"], {})


def test_the_same_step_may_stand_on_the_worklists_of_two_titles(ward: Ward) -> None:
    write_worklist_file(ward.directory / "CT_1" / "a.wl")
    write_worklist_file(ward.directory / "CT_2" / "a.wl")
    ward.poll()
    write_worklist_file(ward.directory / "a.wl")
    ward.poll(LOOKS)
    assert ward.keys == ["file:CT_1/a.wl", "file:CT_2/a.wl"]
    assert list(ward.left_out) == ["a.wl"]


def test_of_a_file_with_a_step_twice_the_rest_is_served_and_not_written_again(ward: Ward) -> None:
    write_worklist_file(ward.directory / "a.wl", {}, {}, {"ScheduledProcedureStepID": "SPS3"})
    ward.poll(LOOKS)
    assert ward.keys == ["file:a.wl", "file:a.wl#3"]
    assert list(ward.left_out) == ["a.wl"]
    before = [item.changed_at for item in ward.held]
    ward.poll(LOOKS)
    assert [item.changed_at for item in ward.held] == before
    ward.restart()
    ward.poll(LOOKS)
    assert list(ward.left_out) == ["a.wl"]


def test_a_file_that_gets_another_name_keeps_its_place(ward: Ward) -> None:
    path = write_worklist_file(ward.directory / "a.wl")
    ward.poll()
    path.rename(ward.directory / "b.wl")
    ward.poll(LOOKS)
    assert (ward.keys, ward.left_out) == (["file:b.wl"], {})


def test_while_the_directory_cannot_be_read_everything_stays(ward: Ward) -> None:
    write_worklist_file(ward.directory / "a.wl")
    ward.poll()
    away = ward.directory.with_name("away")
    ward.directory.rename(away)
    ward.poll(LOOKS)
    assert ward.keys == ["file:a.wl"]
    assert ward.log.count("cannot be read: No such file or directory") == 1
    assert ward.files.figures.trouble == "No such file or directory"
    away.rename(ward.directory)
    ward.poll()
    assert ward.keys == ["file:a.wl"]
    assert "can be read again" in ward.log
    assert ward.files.figures.trouble == ""


def test_an_empty_directory_in_the_place_of_a_share_does_not_empty_the_list(ward: Ward) -> None:
    write_worklist_file(ward.directory / "a.wl")
    ward.poll()
    ward.directory.rename(ward.directory.with_name("share"))
    ward.directory.mkdir()
    ward.poll(LOOKS)
    assert ward.keys == ["file:a.wl"]
    assert "is it not mounted?" in ward.log
    write_worklist_file(ward.directory / "b.wl")
    ward.poll()
    assert ward.keys == ["file:b.wl"]


def test_a_directory_that_is_emptied_empties_the_list_and_says_so(ward: Ward) -> None:
    path = write_worklist_file(ward.directory / "a.wl")
    ward.poll()
    path.unlink()
    ward.poll()
    assert ward.keys == []
    assert "worklist: 1 item removed with the files" in ward.log


def test_a_folder_that_its_writer_has_locked_is_read_when_it_is_free(ward: Ward) -> None:
    first = write_worklist_file(ward.directory / "CT_1" / "a.wl")
    ward.poll()
    with (ward.directory / "CT_1" / "lockfile").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        first.unlink()
        write_worklist_file(ward.directory / "CT_1" / "b.wl", StudyInstanceUID="1.2.3.2")
        ward.poll(LOOKS - 1)
        assert (ward.keys, "cannot be read" in ward.log) == (["file:CT_1/a.wl"], False)
        ward.poll()
        assert "worklist: CT_1 cannot be read: another program has its lockfile locked" in ward.log
    ward.poll()
    assert ward.keys == ["file:CT_1/b.wl"]


def test_the_lock_is_shared_with_other_readers(ward: Ward) -> None:
    write_worklist_file(ward.directory / "CT_1" / "a.wl")
    with (ward.directory / "CT_1" / "lockfile").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        ward.poll()
    assert ward.keys == ["file:CT_1/a.wl"]


def test_items_of_other_origins_are_left_alone(ward: Ward) -> None:
    write_worklist_file(ward.directory / "a.wl")
    ward.poll()
    (item,) = ward.held
    (ward.directory / "a.wl").unlink()
    other = NewItem("mine", "http", "", "", worklist_json())
    ward.intake.exchange([other], [item.key])
    ward.poll(LOOKS)
    assert ward.keys == ["mine"]


@pytest.mark.parametrize("state", [State.IN_PROGRESS, State.COMPLETED])
def test_an_item_whose_step_has_been_begun_keeps_its_state_under_another_name(
    ward: Ward, state: State
) -> None:
    path = write_worklist_file(ward.directory / "a.wl")
    ward.poll()
    scheduled = {
        "0020000D": {"vr": "UI", "Value": ["1.2.3.1"]},
        "00400009": {"vr": "SH", "Value": ["SPS1"]},
    }
    attributes = {"00400270": {"vr": "SQ", "Value": [scheduled]}}
    ward.steps.create(PerformedStep("1.9", state, attributes, "CT_1", 0.0, 0.0))
    assert ward.held[0].state is state
    path.rename(ward.directory / "b.wl")
    ward.poll()
    (item,) = ward.held
    assert (item.key, item.state, item.step_uid) == ("file:b.wl", state, "1.9")
