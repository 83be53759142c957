"""Keeps the worklist in step with a directory of files.

``<AE title>/*.wl`` holds what callers of that title of ours see, ``*.wl`` in the directory itself
what everyone sees; ``*.json`` is the DICOM JSON model. A file that cannot be served is tried again
before anything is said of it, as it may still be being written, and its old items stay until then.
Where the directory itself cannot be read, everything stays.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Final

from dicomnode.errors import CatalogError
from dicomnode.index.worklist import NewItem
from dicomnode.observe.logs import Logger
from dicomnode.services.worklist_intake import FILE, WorklistIntake, source_key
from dicomnode.services.worklist_items import MAX_BYTES, Source, Unfit, UnfitItem, is_ae_title
from dicomnode.services.worklist_reading import SUFFIXES, items_of_file
from dicomnode.storage.watched import Contents, Listing, Locked, WatchedDirectory

_MAX_FILES: Final = 250_000
# What has not changed since so many looks is as it was meant to be.
_PATIENCE: Final = 2
# Clocks of file servers differ, and the times of their files are coarse.
_FRESH_SECONDS: Final = 3.0
_TOLD_TOGETHER: Final = 20
_LISTED: Final = 100
_PREFIX: Final = f"{FILE}:"


@dataclass(slots=True)
class _File:
    """What is known of a file: what it was when it was read, and what came of it.

    ``unfit`` says why items of it are left out, found at the last ``looks`` looks. ``is_fresh``
    when it was read so soon after it was written that it may have changed unnoticed since.
    """

    stamp: str
    keys: tuple[str, ...] = ()
    digest: bytes = b""
    is_fresh: bool = False
    unfit: UnfitItem | None = None
    looks: int = 0

    def is_to_be_read(self, stamp: str, *, duplicates: bool) -> bool:
        """Tell whether the file that has ``stamp`` now may hold something else than was read."""
        if stamp != self.stamp or self.is_fresh or 0 < self.looks <= _PATIENCE:
            return True
        return duplicates and self.unfit is not None and self.unfit.reason is Unfit.DUPLICATE

    def leave_out(self, unfit: UnfitItem, before: _File) -> bool:
        """Note why; return whether that is to be believed and said now."""
        self.unfit = unfit
        self.looks = before.looks + 1 if before.stamp == self.stamp else 1
        return self.looks == _PATIENCE + 1


_UNKNOWN: Final = _File("")


@dataclass(frozen=True, slots=True)
class Figures:
    """What the last look at the directory found.

    ``trouble`` says why the directory could not be read, "" when it was. ``left_out`` are files
    and what is wrong with them, the first hundred; ``reasons`` counts them all.
    """

    directory: str
    trouble: str = ""
    files: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()


class WorklistFiles:
    """Keeps the items of ``intake`` in step with the files in ``directory``.

    For one thread. ``pause`` waits for so many seconds, ``clock`` gives seconds since 1970.
    """

    def __init__(
        self,
        directory: Path,
        intake: WorklistIntake,
        log: Logger,
        *,
        pause: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._watched = WatchedDirectory(
            directory,
            suffixes=SUFFIXES,
            admits=_folder_problem,
            pause=pause,
            max_files=_MAX_FILES,
        )
        self._intake = intake
        self._log = log
        self._clock = clock
        self._files: dict[str, _File] | None = None
        self._identity: tuple[int, int] | None = None
        self._changes_seen = -1
        self._strange: dict[str, str] = {}
        self._troubles = _Troubles(log)
        self.figures = Figures(str(directory))

    def poll(self) -> None:
        """Look at the directory and have the worklist follow; returns when that is durable."""
        try:
            if self._files is None:
                self._files = _remembered(self._intake.items.sources(FILE))
            listing = self._watched.listing()
            self._refuse_to_lose_all(self._files, listing)
            self._follow(self._files, listing)
        except (OSError, CatalogError) as error:
            self._troubles.note({self.figures.directory: error})
            self.figures = replace(self.figures, trouble=_words(error))
            return
        self._troubles.note(listing.unread)
        self._tell_strange(listing.strange)
        self._count(self._files, listing)

    def _refuse_to_lose_all(self, files: Mapping[str, _File], listing: Listing) -> None:
        """Keep everything while another, empty directory is where the files were.

        That is what a share that is not mounted any more looks like. Raises OSError.
        """
        if files and not listing.files and self._identity not in (None, listing.identity):
            raise OSError(0, "it is another directory than before, and empty; is it not mounted?")
        self._identity = listing.identity

    def _follow(self, files: dict[str, _File], listing: Listing) -> None:
        gone = [
            path
            for path in files
            if path not in listing.files and _folder_of(path) not in listing.unread
        ]
        if keys := [key for path in gone for key in files[path].keys]:
            removed = self._intake.remove(keys)
            self._log.info(f"worklist: {_many(removed, 'item')} removed with the files")
        for path in gone:
            del files[path]
        # An item that went may have been the one that a file's item is a duplicate of.
        duplicates = self._intake.changes != self._changes_seen
        wanted = [
            path
            for path, stamp in listing.files.items()
            if path not in files or files[path].is_to_be_read(stamp, duplicates=duplicates)
        ]
        self._changes_seen = self._intake.changes
        taken = Counter[str]()
        told: list[tuple[str, UnfitItem, int]] = []
        for contents in self._watched.read(wanted, MAX_BYTES):
            taken += self._take(files, contents, told)
        self._tell(told)
        if taken["files"]:
            items, sources = _many(taken["items"], "item"), _many(taken["files"], "file")
            self._log.info(f"worklist: {items} of {sources} taken in")

    def _take(
        self,
        files: dict[str, _File],
        contents: Mapping[str, Contents | OSError],
        told: list[tuple[str, UnfitItem, int]],
    ) -> Counter[str]:
        """Take in some files in as few transactions as can be; count them and their items.

        What is to be said of those left out is added to ``told``.
        """
        seen: dict[str, _File] = {}
        entered: dict[str, list[NewItem]] = {}
        removed: list[str] = []
        for path, content in contents.items():
            before = files.get(path, _UNKNOWN)
            file = seen[path] = self._file(content, before)
            is_same = bool(file.digest) and file.digest == before.digest
            if is_same and before.unfit is None:
                continue
            try:
                items = self._items(path, content)
            except UnfitItem as unfit:
                if file.leave_out(unfit, before):
                    told.append((path, unfit, len(file.keys)))
                    removed += file.keys
                    file.keys = ()
                continue
            if not is_same:
                removed += file.keys
                file.keys = ()
            # Of the same content only those that were duplicates are not held.
            entered[path] = [item for item in items if item.key not in file.keys]
        left_out = self._exchange(entered, removed)
        for path, of_file in entered.items():
            seen[path].keys += tuple(item.key for item in of_file if item.key not in left_out)
            duplicate = next((left_out[each.key] for each in of_file if each.key in left_out), None)
            if duplicate is not None and seen[path].leave_out(duplicate, files.get(path, _UNKNOWN)):
                told.append((path, duplicate, 0))
        files.update(seen)
        fit = [item for of_file in entered.values() for item in of_file if item.key not in left_out]
        return Counter(items=len(fit), files=len({source_key(item.key) for item in fit}))

    def _exchange(
        self, entered: Mapping[str, Sequence[NewItem]], removed: Sequence[str]
    ) -> Mapping[str, UnfitItem]:
        items = [item for of_file in entered.values() for item in of_file]
        return self._intake.exchange(items, removed) if items or removed else {}

    def _items(self, path: str, content: Contents | OSError) -> list[NewItem]:
        """Return the items that a file holds. Raises UnfitItem."""
        if isinstance(content, OSError):
            raise UnfitItem(Unfit.UNREADABLE, f"cannot be read: {_words(content)}")
        if content.data is None:
            raise UnfitItem(Unfit.TOO_LONG, f"is longer than {MAX_BYTES} bytes")
        source = Source(
            key=f"{_PREFIX}{path}",
            origin=FILE,
            fingerprint=content.stamp,
            called_ae_title=_folder_of(path),
            strict=False,
        )
        items = items_of_file(path, content.data, source)
        # So that a start knows whether all of them had been taken in.
        return [replace(item, fingerprint=f"{content.stamp}/{len(items)}") for item in items]

    def _file(self, content: Contents | OSError, before: _File) -> _File:
        if isinstance(content, OSError):
            return _File("", keys=before.keys)
        digest = hashlib.sha256(content.data).digest() if content.data is not None else b""
        # Looked at once more only: its time may lie in the future for good.
        is_fresh = (
            before.stamp != content.stamp and content.modified_at > self._clock() - _FRESH_SECONDS
        )
        return _File(content.stamp, before.keys, digest, is_fresh)

    # -- telling -----------------------------------------------------------------------------------

    def _tell(self, left_out: Sequence[tuple[str, UnfitItem, int]]) -> None:
        """Say which files are left out, and what became of the items that they had."""
        for path, unfit, removed in left_out[:_TOLD_TOGETHER]:
            lost = f"; {_many(removed, 'item')} of it removed" if removed else ""
            self._log.warning(f"worklist file {path} is left out: {unfit}{lost}")
        if (more := len(left_out) - _TOLD_TOGETHER) > 0:
            self._log.warning(f"{_many(more, 'more worklist file')} left out")

    def _tell_strange(self, strange: Mapping[str, str]) -> None:
        new = {path: words for path, words in strange.items() if self._strange.get(path) != words}
        self._tell([(path, UnfitItem(Unfit.MISPLACED, words), 0) for path, words in new.items()])
        self._strange = dict(strange)

    def _count(self, files: Mapping[str, _File], listing: Listing) -> None:
        unfit = {
            path: file.unfit
            for path, file in files.items()
            if file.unfit is not None and file.looks > _PATIENCE
        }
        reasons = Counter(each.reason.value for each in unfit.values())
        reasons[Unfit.MISPLACED.value] += len(listing.strange)
        left_out = chain(
            ((path, str(each)) for path, each in unfit.items()), listing.strange.items()
        )
        self.figures = Figures(
            self.figures.directory,
            "; ".join(f"{name}: {_words(error)}" for name, error in listing.unread.items()),
            len(listing.files),
            {reason.value: reasons[reason.value] for reason in Unfit},
            tuple((_printable(path), words) for path, words in islice(left_out, _LISTED)),
        )


class _Troubles:
    """Says what cannot be read, once, and when it can be again."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._looks: Counter[str] = Counter()

    def note(self, troubles: Mapping[str, Exception]) -> None:
        """Note what could not be read at this look, by name."""
        for name, error in troubles.items():
            self._looks[name] += 1
            # Writers hold their lock for a moment.
            if self._looks[name] == (_PATIENCE + 1 if isinstance(error, Locked) else 1):
                self._log.warning(
                    f"worklist: {name} cannot be read: {_words(error)}; its items stay as they are"
                )
        for name in [name for name in self._looks if name not in troubles]:
            del self._looks[name]
            self._log.info(f"worklist: {name} can be read again")


def _remembered(sources: Mapping[str, str]) -> dict[str, _File]:
    """Return what was known of the files when the items that are held were taken in."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key, fingerprint in sources.items():
        found.setdefault(source_key(key).removeprefix(_PREFIX), []).append((key, fingerprint))
    files: dict[str, _File] = {}
    for path, held in found.items():
        fingerprints = {fingerprint for _, fingerprint in held}
        stamp, _, number = fingerprints.pop().partition("/")
        is_whole = not fingerprints and number == str(len(held))
        files[path] = _File(stamp if is_whole else "", tuple(key for key, _ in held))
    return files


def _folder_problem(name: str) -> str | None:
    return None if is_ae_title(name) else "is a folder whose name is no AE title"


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def _printable(path: str) -> str:
    """Return a path as text that can be encoded, whatever bytes it has."""
    return path.encode("utf-8", "backslashreplace").decode()


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
