"""``dicomnode worklist``: with a node that runs, and with one that does not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicomnode.api.token import LocalToken, write_token
from dicomnode.cli import app
from dicomnode.storage.files import FileStore
from tests import peers
from tests.conftest import StartNode
from tests.worklist_data import worklist_json, write_worklist_file

Run = Callable[..., Result]
DOE = (
    *("--patient-name", "Doe^John", "--patient-id", "4711", "--modality", "ct"),
    *("--station", "CT_1,CT_2", "--start", "2031-01-31 09:30", "--description", "Thorax"),
    *("--accession", "ACC 1", "--birth-date", "1970-01-31", "--sex", "m"),
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DICOMNODE__"):
            monkeypatch.delenv(name)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "node"


@pytest.fixture(params=["running", "stopped"])
def run(request: pytest.FixtureRequest, directory: Path, start_node: StartNode) -> Run:
    """Run ``dicomnode worklist`` on a node that runs, or has run."""
    node = start_node(directory=directory)
    if request.param == "stopped":
        node.stop()

    def invoke(*arguments: str | Path) -> Result:
        command, *rest = map(str, arguments)
        return CliRunner().invoke(
            app, ["worklist", command, "--config", str(node.config), *rest], env={"COLUMNS": "200"}
        )

    return invoke


def key_of(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout.split()[-1]


def test_an_item_is_added_listed_shown_and_removed(run: Run) -> None:
    added = run("add", *DOE)
    key = key_of(added)
    assert added.stdout == f"added {key}\n"
    assert key.startswith("ACC-1-")
    (item,) = json.loads(run("list", "--json").stdout)
    assert item["patient_name"] == "Doe^John"
    assert item["station_ae_titles"] == ["CT_1", "CT_2"]
    assert (item["modality"], item["start_date"], item["start_time"]) == (
        "CT",
        "20310131",
        "093000",
    )
    assert (item["origin"], item["state"]) == ("command", "SCHEDULED")
    shown = json.loads(run("show", key, "--json").stdout)
    assert shown["attributes"]["00100030"]["Value"] == ["19700131"]
    assert run("remove", key).stdout == f"removed {key}\n"
    assert run("list").stdout == "no worklist item is there\n"


def test_the_list_is_a_table_of_what_is_needed_at_night(run: Run) -> None:
    key = key_of(run("add", *DOE))
    (row,) = [line for line in run("list").stdout.splitlines() if "Doe" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == [
        "2031-01-31 09:30",
        "CT_1 CT_2",
        "CT",
        "Doe^John",
        "4711",
        "ACC 1",
        "scheduled",
        key,
        "command",
    ]


def test_the_list_can_be_of_one_station_and_day(run: Run) -> None:
    run("add", *DOE)
    for wanted in (("--station", "CT_1"), ("--date", "2031-01-31"), ("--date", "20310131")):
        assert "Doe^John" in run("list", *wanted).stdout
    assert run("list", "--station", "MR_1").stdout == ("no worklist item is scheduled for MR_1\n")
    assert run("list", "--date", "2031-02-01").stdout == (
        "no worklist item is scheduled on 2031-02-01\n"
    )
    assert "no worklist item" in run("list", "--date", "today").stdout


def test_an_item_is_shown_with_its_names_and_without_what_is_empty(run: Run) -> None:
    text = run("show", key_of(run("add", *DOE))).stdout
    for part in (
        "state    scheduled",
        "seen by  every caller",
        "performed steps\nnone",
        "(0010,0010) Patient's Name: Doe^John",
        "(0040,0100) Scheduled Procedure Step Sequence #1",
        "(0040,0001) Scheduled Station AE Title: CT_1\\CT_2",
        "(0020,000D) Study Instance UID: 2.25.",
    ):
        assert part in text
    assert "Allergies" not in text


def test_files_are_added_under_their_names_and_replaced(run: Run, tmp_path: Path) -> None:
    first = write_worklist_file(tmp_path / "first.wl")
    second = tmp_path / "second item.json"
    second.write_text(json.dumps(worklist_json(StudyInstanceUID="1.2.3.2")))
    assert run("add", first, second).stdout == "added first\nadded second-item\n"
    assert run("add", first).stdout == "replaced first\n"
    assert [item["key"] for item in json.loads(run("list", "--json").stdout)] == [
        "first",
        "second-item",
    ]


def test_a_key_and_a_called_title_can_be_given(run: Run) -> None:
    assert key_of(run("add", *DOE, "--key", "mine", "--called-ae-title", "WARD")) == "mine"
    assert "seen by  who calls WARD" in run("show", "mine").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "a worklist item needs --patient-name, --patient-id, --modality, --station, --start"),
        (DOE[:4], "a worklist item needs --modality, --station, --start too, or give a file"),
        ((*DOE, "--start", "tomorrow"), '--start must be a date and a time such as "2026-11-21'),
        ((*DOE, "--start", "2026-11-21"), "--start must be a date and a time"),
        ((*DOE, "--modality", "x-ray"), "the item is not taken: Modality (0008,0060) must be"),
        ((*DOE, "--key", "../../etc"), "the key must be 1 to 64 letters"),
        ((*DOE, "--called-ae-title", "A" * 17), "the called AE title is no AE title"),
        (("nothing.wl",), "No such file or directory"),
        ((*DOE, "x.wl"), "give files, or options that describe an item, not both"),
        (("a.wl", "b.wl", "--key", "k"), "--key is for one item"),
        ((__file__,), "is no DICOM file, nor a data set"),
    ],
)
def test_what_cannot_be_added_is_told(run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = run("add", *arguments)
    assert result.exit_code == 1
    assert words.removeprefix("the item is not taken: ") in result.stderr
    assert "Traceback" not in result.output


def test_a_second_item_for_the_same_step_is_refused(run: Run, tmp_path: Path) -> None:
    path = write_worklist_file(tmp_path / "first.wl")
    run("add", path)
    result = run("add", path, "--key", "other")
    assert result.exit_code == 1
    assert "is for the same scheduled procedure step as first" in result.stderr


@pytest.mark.parametrize("command", ["show", "remove"])
def test_an_item_that_is_not_there_is_told(run: Run, command: str) -> None:
    result = run(command, "nothing")
    assert (result.exit_code, result.stderr) == (
        1,
        "dicomnode: there is no worklist item nothing\n",
    )


def test_an_item_of_a_file_is_left_to_the_file(directory: Path, start_node: StartNode) -> None:
    write_worklist_file(directory / "wl" / "CT_1" / "a #1.wl")
    node = start_node(directory=directory, worklist={"directory": str(directory / "wl")})
    arguments = ["worklist", "remove", "--config", str(node.config), "file:CT_1/a #1.wl"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "is what the file CT_1/a #1.wl in worklist.directory says" in result.stderr


def test_what_is_added_is_there_after_a_restart(directory: Path, start_node: StartNode) -> None:
    node = start_node(directory=directory)
    add = ["worklist", "add", "--config", str(node.config), *DOE, "--key", "mine"]
    assert CliRunner().invoke(app, add).exit_code == 0
    node.stop()
    node = start_node(directory=directory)
    assert node.metric("dicomnode_worklist_items", state="SCHEDULED") == 1


def test_a_token_that_a_killed_node_left_misleads_nobody(
    directory: Path, start_node: StartNode
) -> None:
    node = start_node(directory=directory)
    node.stop()
    write_token(node.store_directory, LocalToken("stale", peers.free_port()))
    result = CliRunner().invoke(app, ["worklist", "list", "--config", str(node.config)])
    assert (result.exit_code, result.stdout) == (0, "no worklist item is there\n")


def test_a_node_that_serves_no_http_is_said_to_be_one(tmp_path: Path) -> None:
    config = peers.write_config(tmp_path, http={"enabled": False})
    with FileStore(tmp_path / "store", durability="relaxed"):
        result = CliRunner().invoke(app, ["worklist", "list", "--config", str(config)])
    assert result.exit_code == 1
    assert "no node that serves HTTP runs on" in result.stderr
    assert "see http.enabled" in result.stderr


def test_a_storage_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    config = peers.write_config(tmp_path)
    result = CliRunner().invoke(app, ["worklist", "list", "--config", str(config)])
    assert result.exit_code == 1
    assert "(storage.directory): start the node once" in result.stderr
    assert not (tmp_path / "store").exists()


def test_another_users_index_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = peers.write_config(tmp_path)
    (tmp_path / "store").mkdir()
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    result = CliRunner().invoke(app, ["worklist", "list", "--config", str(config)])
    assert result.exit_code == 1
    assert "run this as that user, or start the node" in result.stderr
    assert list((tmp_path / "store").iterdir()) == []
