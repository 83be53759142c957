"""``dicomnode get`` and ``dicomnode move``, between nodes of ours."""

from pathlib import Path

import pytest

from tests.cli.commands import STUDY, make_study, run, written
from tests.conftest import RunningNode, StartNode
from tests.interop.samples import data_set_bytes


@pytest.fixture
def archive(start_node: StartNode, tmp_path: Path) -> RunningNode:
    """Return a node with one study of four objects in two series, and one of one object."""
    node = start_node(directory=tmp_path / "archive")
    make_study(tmp_path / "in" / "1", 4, series=2)
    make_study(tmp_path / "in" / "2", 1, study="1.2.3")
    assert run("send", written(node.dicom_address), tmp_path / "in").code == 0
    return node


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_study_becomes_files_named_by_its_uids(archive: RunningNode, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = run("get", written(archive.dicom_address), "--study", STUDY, "-od", out, "--verify")
    assert ended.code == 0, ended.err
    assert below(out) == sorted(
        f"{STUDY}/{STUDY}.{n % 2 + 1}/{STUDY}.{n % 2 + 1}.{n + 1}.dcm" for n in range(4)
    )
    held = {path.name: data_set_bytes(path) for path in archive.files()}
    assert all(data_set_bytes(path) == held[path.name] for path in out.rglob("*.dcm"))
    assert "DICOMNODE has 4: 0 were here, 4 received" in ended.out
    assert "verified 4 of 4, 0 differ" in ended.out


def test_only_what_is_missing_is_asked_for(archive: RunningNode, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("get", written(archive.dicom_address), "-k", "PatientID=4711", "-od", out)
    assert len(below(out)) == 5
    gone = next(out.rglob(f"{STUDY}.1.1.dcm"))
    gone.unlink()
    before = archive.metric("dicomnode_retrieve_sub_operations_total")
    ended = run("get", written(archive.dicom_address), "-k", "PatientID=4711", "-od", out)
    assert "5: 4 were here, 1 received" in ended.out
    assert gone.exists()
    assert archive.metric("dicomnode_retrieve_sub_operations_total") - before <= 1


def test_a_file_with_other_bytes_is_told_and_never_replaced(
    archive: RunningNode, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run("get", written(archive.dicom_address), "--study", STUDY, "-od", out)
    changed = next(out.rglob("*.dcm"))
    content = changed.read_bytes()
    changed.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
    ended = run("get", written(archive.dicom_address), "--study", STUDY, "-od", out, "--verify")
    assert ended.code == 1
    assert f"differs from what DICOMNODE holds: {changed.stem}" in ended.err
    assert "verified 3 of 4, 1 differ" in ended.out
    assert changed.read_bytes() != content


def test_keys_of_lower_levels_narrow_what_is_retrieved(
    archive: RunningNode, tmp_path: Path
) -> None:
    peer, out = written(archive.dicom_address), tmp_path / "out"
    ended = run("get", peer, "--study", STUDY, "-k", "InstanceNumber=2", "-od", out)
    assert ended.code == 0, ended.err
    assert [Path(name).stem for name in below(out)] == [f"{STUDY}.2.2"]
    ended = run("get", peer, "--study", STUDY, "--series", f"{STUDY}.1", "-od", out)
    assert "DICOMNODE has 2: 0 were here, 2 received" in ended.out


def test_nothing_that_matches_is_a_failure(archive: RunningNode, tmp_path: Path) -> None:
    ended = run("get", written(archive.dicom_address), "--study", "9.9", "-od", tmp_path / "out")
    assert ended.code == 1
    assert "DICOMNODE has nothing that matches" in ended.err
    assert run("get", written(archive.dicom_address)).code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-k", "QueryRetrieveLevel=STUDY"], "say what to get"),
        (["-k", "PatientID"], "say what to get"),
        (["--study", ""], "say what to get"),
        (["-k", "RequestAttributesSequence[0].RequestedProcedureID=7"], "in a sequence"),
        (["--study", "../x"], "StudyInstanceUID: '../x' is no UID"),
    ],
)
def test_keys_that_narrow_nothing_do_not_retrieve_everything(
    archive: RunningNode, tmp_path: Path, arguments: list[str], words: str
) -> None:
    ended = run("get", written(archive.dicom_address), "-od", tmp_path / "out", *arguments)
    assert ended.code == 1 and words in ended.err
    assert below(tmp_path / "out") == []


def test_objects_are_brought_into_the_own_store(
    archive: RunningNode, start_node: StartNode, tmp_path: Path
) -> None:
    ours = start_node(directory=tmp_path / "ours")
    command = ("get", written(archive.dicom_address), "--study", STUDY, "--into-store")
    ended = run(*command, "--verify", "--config", ours.config)
    assert ended.code == 0, ended.err
    assert len(ours.files()) == 4
    again = run(*command, "--verify", "--config", ours.config)
    assert "4: 4 were here, 0 received" in again.out
    assert "verified 4 of 4, 0 differ" in again.out


def test_without_a_running_node_nothing_is_brought(
    archive: RunningNode, start_node: StartNode, tmp_path: Path
) -> None:
    ours = start_node(directory=tmp_path / "ours")
    ours.stop()
    ended = run(
        *("get", written(archive.dicom_address), "--study", STUDY, "--into-store"),
        *("--config", ours.config),
    )
    assert ended.code == 1


def test_a_move_goes_where_it_is_told(start_node: StartNode, tmp_path: Path) -> None:
    there = start_node(directory=tmp_path / "there", node={"ae_title": "THERE"})
    host, port = there.dicom_address
    archive = start_node(
        directory=tmp_path / "archive",
        entities=[{"title": "THERE", "host": host, "port": port}, {"title": "OFF"}],
    )
    peer = written(archive.dicom_address)
    make_study(tmp_path / "in", 3)
    run("send", peer, tmp_path / "in")
    ended = run("move", peer, "--study", STUDY, "--to", "THERE")
    assert (ended.code, ended.out) == (0, "DICOMNODE sent 3 to THERE, 0 failed\n")
    assert len(there.files()) == 3
    unknown = run("move", peer, "-k", f"StudyInstanceUID={STUDY}", "-aem", "NOWHERE")
    assert unknown.code == 1
    assert "A801H" in unknown.err and "Give DICOMNODE the address of NOWHERE" in unknown.err
    there.stop()
    failed = run("move", peer, "--study", STUDY, "--to", "THERE")
    assert failed.code == 1
    assert "DICOMNODE sent 0 to THERE, 3 failed" in failed.out
    assert "say what to move" in run("move", peer, "-k", "PatientName=DOE*").err
