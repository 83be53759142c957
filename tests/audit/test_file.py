"""The audit file: appended to, its owner's alone, and followed when it is rotated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicomnode.audit.file import AuditFile


def test_messages_are_lines_of_a_file_of_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "audit.xml"
    audit_file = AuditFile(path)
    audit_file.deliver([b"<a/>", b"<b/>"])
    audit_file.deliver([b"<c/>"])
    audit_file.close()
    assert path.read_bytes() == b"<a/>\n<b/>\n<c/>\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_there_stays_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "audit.xml"
    path.write_bytes(b"<before/>\n")
    path.chmod(0o640)
    audit_file = AuditFile(path)
    audit_file.deliver([b"<after/>"])
    audit_file.close()
    assert path.read_bytes() == b"<before/>\n<after/>\n"
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_rotated_away_is_followed_by_a_new_one(
    tmp_path: Path, replaced: bool
) -> None:
    path, old = tmp_path / "audit.xml", tmp_path / "audit.xml.1"
    audit_file = AuditFile(path)
    audit_file.deliver([b"<a/>"])
    os.rename(path, old)
    if replaced:
        path.touch(0o600)
    audit_file.deliver([b"<b/>"])
    audit_file.close()
    assert (old.read_bytes(), path.read_bytes()) == (b"<a/>\n", b"<b/>\n")
    assert path.stat().st_mode & 0o777 == 0o600


def test_half_a_line_that_a_crash_left_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "audit.xml"
    path.write_bytes(b"<a/>\n<b")
    audit_file = AuditFile(path)
    audit_file.deliver([b"<b/>"])
    audit_file.close()
    assert path.read_bytes() == b"<a/>\n<b\n<b/>\n"


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.xml"
    audit_file = AuditFile(path)
    audit_file.deliver([b"<a/>"])
    write = os.write

    def full(fd: int, data: memoryview) -> int:
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return write(fd, data[:10])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        audit_file.deliver([b"<bbbbbbbb/>"])
    monkeypatch.undo()
    audit_file.deliver([b"<b/>"])
    audit_file.close()
    assert path.read_bytes() == b"<a/>\n<b/>\n"


@pytest.mark.parametrize("kind", ["directory", "fifo", "missing folder"])
def test_what_is_no_file_is_an_error_and_nothing_waits_for_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audit.xml"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = tmp_path / "missing" / "audit.xml"
    with pytest.raises(OSError, match=r"audit\.xml"):
        AuditFile(path).deliver([b"<a/>"])
