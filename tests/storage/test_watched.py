"""A directory that others write into, listed and read."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from dicomnode.storage.watched import Contents, Locked, WatchedDirectory


def watched(
    root: Path, *, max_files: int = 100, pauses: list[float] | None = None
) -> WatchedDirectory:
    waited = pauses if pauses is not None else []
    return WatchedDirectory(
        root,
        suffixes=(".wl",),
        admits=lambda name: "is not admitted" if name == "NO" else None,
        pause=waited.append,
        max_files=max_files,
    )


def write(path: Path, data: bytes = b"data") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def contents(directory: WatchedDirectory, *paths: str, most: int = 100) -> dict[str, object]:
    found: dict[str, object] = {}
    for some in directory.read(paths, most):
        for path, each in some.items():
            found[path] = each.data if isinstance(each, Contents) else each
    return found


def test_files_are_listed_one_folder_deep(tmp_path: Path) -> None:
    for name in ("a.wl", "B.WL", "c.txt", ".d.wl", "CT/e.wl", "NO/f.wl"):
        write(tmp_path / name)
    listing = watched(tmp_path).listing()
    assert list(listing.files) == ["B.WL", "a.wl", "CT/e.wl"]
    assert listing.strange == {"NO": "is not admitted"}
    assert listing.unread == {}


def test_a_stamp_changes_with_size_time_and_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wl")
    stamps = [watched(tmp_path).listing().files["a.wl"]]
    os.utime(path, ns=(0, 1))
    stamps.append(watched(tmp_path).listing().files["a.wl"])
    path.write_bytes(b"longer data")
    os.utime(path, ns=(0, 1))
    stamps.append(watched(tmp_path).listing().files["a.wl"])
    other = write(tmp_path / "other", b"longer data")
    os.utime(other, ns=(0, 1))
    other.replace(path)
    stamps.append(watched(tmp_path).listing().files["a.wl"])
    assert len(set(stamps)) == 4


def test_the_stamp_of_what_is_read_is_that_of_the_listing(tmp_path: Path) -> None:
    write(tmp_path / "a.wl")
    directory = watched(tmp_path)
    (found,) = directory.read(["a.wl"], 100)
    content = found["a.wl"]
    assert isinstance(content, Contents)
    assert content.stamp == directory.listing().files["a.wl"]


def test_no_more_files_are_listed_than_may_be(tmp_path: Path) -> None:
    for name in ("a.wl", "b.wl", "c.wl"):
        write(tmp_path / name)
    listing = watched(tmp_path, max_files=2).listing()
    assert list(listing.files) == ["a.wl", "b.wl"]
    assert listing.strange == {"c.wl": "is beyond the first 2 files"}


def test_a_file_that_is_too_long_has_no_data(tmp_path: Path) -> None:
    write(tmp_path / "a.wl", b"x" * 101)
    write(tmp_path / "b.wl", b"x" * 100)
    assert contents(watched(tmp_path), "a.wl", "b.wl") == {"a.wl": None, "b.wl": b"x" * 100}


def test_what_became_a_link_or_pipe_since_it_was_listed_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "secret")
    (tmp_path / "a.wl").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "b.wl")
    found = contents(watched(tmp_path), "a.wl", "b.wl")
    assert isinstance(found["a.wl"], OSError)
    assert found["b.wl"] is None


def test_what_went_since_it_was_listed_is_told(tmp_path: Path) -> None:
    found = contents(watched(tmp_path), "a.wl", "CT/b.wl")
    assert isinstance(found["a.wl"], FileNotFoundError)
    assert list(found) == ["a.wl"]


def test_a_folder_that_became_a_link_is_not_entered(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.wl")
    (tmp_path / "CT").symlink_to(tmp_path / "elsewhere")
    assert contents(watched(tmp_path), "CT/a.wl") == {}


def test_a_locked_folder_is_waited_for_a_moment_only(tmp_path: Path) -> None:
    write(tmp_path / "CT" / "a.wl")
    pauses: list[float] = []
    directory = watched(tmp_path, pauses=pauses)
    with (tmp_path / "CT" / "lockfile").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        listing = directory.listing()
        assert listing.files == {}
        assert isinstance(listing.unread["CT"], Locked)
        assert contents(directory, "CT/a.wl") == {}
    assert 0 < sum(pauses) < 1
    assert list(directory.listing().files) == ["CT/a.wl"]


def test_a_directory_that_is_not_there_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        watched(tmp_path / "nothing").listing()
    with pytest.raises(FileNotFoundError):
        contents(watched(tmp_path / "nothing"), "a.wl")


def test_a_directory_may_be_a_link_itself(tmp_path: Path) -> None:
    write(tmp_path / "files" / "a.wl")
    (tmp_path / "link").symlink_to(tmp_path / "files")
    assert list(watched(tmp_path / "link").listing().files) == ["a.wl"]
