"""``dicomnode send``, to nodes of ours and to peers that misbehave."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pydicom
import pytest

from dicomnode.cli.sending import Sending
from dicomnode.cli.sources import Item
from dicomnode.integrity.record import Event
from tests import peers
from tests.cli.commands import STUDY, make_study, run, written
from tests.conftest import RunningNode, StartNode
from tests.custody_log import recorded


def test_a_folder_arrives_byte_for_byte(node: RunningNode, tmp_path: Path) -> None:
    from tests.interop.samples import data_set_bytes

    paths = make_study(tmp_path / "in", 5, series=2)
    ended = run("send", written(node.dicom_address), tmp_path / "in")
    assert ended.code == 0, ended.err
    assert ended.lines[0].startswith("DICOMNODE stored 5 of 5, ")
    stored = sorted(map(data_set_bytes, node.files()))
    assert stored == sorted(map(data_set_bytes, paths))


def test_what_fails_keeps_none_of_the_others(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(storage={"on_conflict": "refuse"})
    paths = make_study(tmp_path / "in", 4)
    assert run("send", written(node.dicom_address), paths[1]).code == 0
    changed = pydicom.dcmread(paths[1])
    changed.PatientComments = "changed"
    changed.save_as(paths[1])
    (tmp_path / "in" / "notes.txt").write_text("x")
    ended = run("send", written(node.dicom_address), tmp_path / "in")
    assert ended.code == 1
    assert "stored 3 of 4" in ended.out
    assert "  3  0000H Success" in ended.lines
    assert "  1  0111H Duplicate SOP Instance" in ended.lines
    assert f"failed {paths[1]}: 0111H Duplicate SOP Instance" in ended.err
    assert "skipped 1: no DICM prefix" in ended.err


def test_what_a_peer_warns_of_is_told_with_its_words(node: RunningNode, tmp_path: Path) -> None:
    (path,) = make_study(tmp_path / "in", 1)
    assert run("send", written(node.dicom_address), path).err == ""
    changed = pydicom.dcmread(path)
    changed.PatientComments = "changed"
    changed.save_as(path)
    ended = run("send", written(node.dicom_address), path)
    assert ended.code == 0
    assert f"stored with a warning {path}: B000H Warning: Coercion" in ended.err


def test_a_study_of_the_store_is_sent_while_the_node_runs(
    start_node: StartNode, tmp_path: Path
) -> None:
    ours = start_node(directory=tmp_path / "ours")
    theirs = start_node(directory=tmp_path / "theirs")
    make_study(tmp_path / "in", 3, series=2)
    run("send", written(ours.dicom_address), tmp_path / "in")
    ended = run("send", written(theirs.dicom_address), "--study", STUDY, "--config", ours.config)
    assert ended.code == 0, ended.err
    assert len(theirs.files()) == 3
    told = [each for each in recorded(ours.store_directory) if each.event is Event.FORWARDED]
    assert len(told) == 3 and {each.details["by"] for each in told} == {"dicomnode send"}
    assert {each.details["address"] for each in told} == {"{}:{}".format(*theirs.dicom_address)}
    missing = run("send", written(theirs.dicom_address), "--study", "1.2", "--config", ours.config)
    assert missing.code == 1
    assert "failed 1.2: not in the store" in missing.err


def test_a_study_of_a_store_that_is_not_there_is_told(node: RunningNode, tmp_path: Path) -> None:
    config = peers.write_config(tmp_path / "other")
    ended = run("send", written(node.dicom_address), "--study", "1.2", "--config", config)
    assert ended.code == 1
    assert "there is no index" in ended.err


def test_nothing_to_send_is_a_failure(node: RunningNode, tmp_path: Path) -> None:
    assert run("send", written(node.dicom_address)).code == 1
    ended = run("send", written(node.dicom_address), tmp_path)
    assert ended.code == 1
    assert "there was nothing to send" in ended.err


def test_a_sop_class_that_is_refused_fails_alone(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node()
    paths = make_study(tmp_path / "in", 2)
    private = pydicom.dcmread(paths[0])
    private.SOPClassUID = private.file_meta.MediaStorageSOPClassUID = "1.2.826.0.1.3680043.10.9"
    private.SOPInstanceUID = private.file_meta.MediaStorageSOPInstanceUID = f"{STUDY}.9"
    private.save_as(paths[0])
    ended = run("send", written(node.dicom_address), tmp_path / "in")
    assert ended.code == 1
    assert "stored 1 of 2" in ended.out
    assert "no presentation context accepted by DICOMNODE" in ended.err
    assert "  1  not sent" in ended.lines


class Dropping:
    """An SCP that aborts after so many objects on each association."""

    def __init__(self, node: peers.Address, after: int) -> None:
        import socket

        self._node = node
        self._after = after
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address: peers.Address = self._server.getsockname()
        self.associations = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        import socket

        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.associations += 1
            with client, socket.create_connection(self._node) as node:
                self._relay(client, node)

    def _relay(self, client: object, node: object) -> None:
        """Pass everything on until enough answers have gone back."""
        import selectors
        import socket

        assert isinstance(client, socket.socket) and isinstance(node, socket.socket)
        with selectors.DefaultSelector() as waiting:
            waiting.register(client, selectors.EVENT_READ, node)
            waiting.register(node, selectors.EVENT_READ, client)
            answers = 0
            while True:
                for key, _ in waiting.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is node:
                        answers += 1
                        if answers > self._after + 1:  # the first accepted the association
                            return
                    key.data.sendall(data)

    def close(self) -> None:
        self._server.close()


@pytest.mark.parametrize("after", [1, 2])
def test_an_association_that_is_lost_is_made_again(
    node: RunningNode, tmp_path: Path, after: int
) -> None:
    make_study(tmp_path / "in", 5)
    relay = Dropping(node.dicom_address, after)
    try:
        ended = run("send", written(relay.address), tmp_path / "in", "--window", "1")
    finally:
        relay.close()
    assert ended.code == 0, ended.err
    assert "stored 5 of 5" in ended.out
    assert relay.associations > 1
    assert len(node.files()) == 5


def test_a_peer_that_never_answers_is_given_up(
    node: RunningNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.cli.sending._FIRST_PAUSE_SECONDS", 0.001)
    make_study(tmp_path / "in", 2)
    relay = Dropping(node.dicom_address, 0)
    try:
        ended = run("send", written(relay.address), tmp_path / "in")
    finally:
        relay.close()
    assert ended.code == 1
    assert "stored 0 of 2" in ended.out
    assert ended.err.count("failed ") == 2


def test_a_peer_that_cannot_be_reached_is_told_once(tmp_path: Path) -> None:
    make_study(tmp_path / "in", 2)
    ended = run("send", f"PACS@127.0.0.1:{peers.free_port()}", tmp_path / "in")
    assert ended.code == 1
    assert ended.err.count("cannot connect to PACS") == 1


def test_broken_off_it_says_what_was_stored(
    node: RunningNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Sending.send

    async def interrupted(self: Sending, items: Sequence[Item]) -> None:
        await send(self, items[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Sending, "send", interrupted)
    make_study(tmp_path / "in", 3)
    ended = run("send", written(node.dicom_address), tmp_path / "in")
    assert ended.code == 130
    assert "interrupted" in ended.err and "stored 2 of 3" in ended.out


def test_a_reason_that_goes_for_many_is_told_once(node: RunningNode, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.txt", "b.txt")]
    for path in paths:
        path.write_text("no image")
    ended = run("send", written(node.dicom_address), *paths, *make_study(tmp_path / "in", 1))
    assert ended.code == 1
    assert f"failed {paths[0]}: no DICM prefix" in ended.err
    assert f"failed {paths[1]}: the same" in ended.err
    assert "stored 1 of 3" in ended.out and "  2  not sent" in ended.lines
