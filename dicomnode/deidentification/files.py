"""One file de-identified: an original in, a new Part 10 file out, and a report."""

from __future__ import annotations

import filecmp
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Final

from dicomnode.deidentification.leaks import LeakCheck
from dicomnode.deidentification.options import Options
from dicomnode.deidentification.project import Project
from dicomnode.deidentification.refusals import refuse, warnings
from dicomnode.deidentification.replacing import Replacements, own_names
from dicomnode.deidentification.report import NewNames, Report
from dicomnode.deidentification.rewriting import Rewriter
from dicomnode.deidentification.survey import SOP_CLASS_UID, Survey, survey
from dicomnode.errors import CannotUnderstand, ConversionFailed, NotDeidentified
from dicomnode.storage.deflation import Output, inflate
from dicomnode.storage.disk import fsync_directory, rename_without_replacing
from dicomnode.storage.elements import Source, encoding_of, walk
from dicomnode.storage.encoding import (
    DEFLATED,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    Encoding,
)
from dicomnode.storage.part10 import file_meta, read_file_meta
from dicomnode.storage.paths import valid_uid

# What a deflated data set may become; others are as long as their file, and a little.
_MAX_INFLATED_BYTES: Final = 1024**3
_MAX_ADDED_BYTES: Final = 64 * 1024**2


def deidentify(
    original: Path, choose: Callable[[NewNames], Path], project: Project, options: Options
) -> Report:
    """Write a de-identified copy of a Part 10 file to the path that is chosen for its names.

    The directory of that path must be there. The copy has its name once it is whole, durable and
    looked through; nothing is replaced. Bytes are read and written a piece at a time; blocks.

    Raises NotDeidentified for what cannot be made safe or is no DICOM file, FileExistsError where
    the path has another file, other OSErrors.
    """
    fd = os.open(original, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with tempfile.TemporaryFile() as inflated:
            return _Work(fd, inflated, project, options).into(choose)
    except CannotUnderstand as error:
        raise NotDeidentified(str(error)) from error
    except ConversionFailed as error:
        raise NotDeidentified(f"it is not well-formed: {error}") from error
    finally:
        os.close(fd)


class _Work:
    """An original that is open, surveyed, and not refused."""

    def __init__(self, fd: int, inflated: BinaryIO, project: Project, options: Options) -> None:
        meta = read_file_meta(fd)
        if not valid_uid(meta.transfer_syntax_uid):
            raise NotDeidentified("what File Meta has as transfer syntax is no UID")
        self._size = os.fstat(fd).st_size
        self._source = Source(fd, meta.data_set_offset, self._size - meta.data_set_offset)
        self._deflated = meta.transfer_syntax_uid == DEFLATED
        if self._deflated:
            size = inflate(self._source, inflated, _MAX_INFLATED_BYTES)
            self._source = Source(inflated.fileno(), 0, size)
        self._encoding = encoding_of(self._source, meta.transfer_syntax_uid)
        self._transfer_syntax = _true_syntax(meta.transfer_syntax_uid, self._encoding)
        self._options = options
        self._project = project
        self._found: Survey = survey(self._source, self._encoding)
        refuse(self._found, meta.sop_class_uid, options)
        self._replacements = Replacements(project, options, self._found)
        names = NewNames(self._replacements.patient_id, *own_names(self._replacements))
        self._report = Report(names, warnings(self._found))

    def into(self, choose: Callable[[NewNames], Path]) -> Report:
        """Write the copy, look it through, and give it its name."""
        path = choose(self._report.names)
        part = path.with_name(f".{token_hex(8)}.part")
        try:
            with part.open("xb+") as file:
                self._write(file)
                file.flush()
                os.fsync(file.fileno())
            self._name(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        fsync_directory(str(path.parent))
        return self._report

    def _name(self, part: Path, path: Path) -> None:
        """Give the copy its name; the same one that is there already needs no second."""
        try:
            rename_without_replacing(str(part), str(path))
        except FileExistsError:
            if not filecmp.cmp(part, path, shallow=False):
                raise
            part.unlink()
            self._report.was_there = True

    def _write(self, file: BinaryIO) -> None:
        head = file_meta(
            self._found.fact(SOP_CLASS_UID),
            self._report.names.sop_instance_uid,
            self._transfer_syntax,
        )
        file.write(head)
        if not self._deflated:
            size = self._write_data_set(file, deflated=False)
            self._check(file, len(head), size)
            return
        with tempfile.TemporaryFile() as plain:
            self._check(plain, 0, self._write_data_set(plain, deflated=False))
        self._report.done.clear()
        self._write_data_set(file, deflated=True)

    def _write_data_set(self, target: BinaryIO, *, deflated: bool) -> int:
        output = Output(
            target, max(self._size, self._source.size) + _MAX_ADDED_BYTES, deflated=deflated
        )
        rewriter = Rewriter(
            self._source,
            self._encoding,
            self._found,
            self._options,
            self._replacements,
            self._report,
            output.write,
        )
        for event in walk(self._source, self._encoding, into_unknown=True):
            rewriter.write(event)
        rewriter.close()
        return output.close()

    def _check(self, file: BinaryIO, offset: int, size: int) -> None:
        kept = own_names(self._replacements) if self._options.retain_uids else ()
        check = LeakCheck(self._found, kept=kept, pseudonym=self._report.names.patient_id)
        check.check(Source(file.fileno(), offset, size), self._encoding)


def _true_syntax(said: str, encoding: Encoding) -> str:
    """Return the transfer syntax that a copy of a data set laid out like that has."""
    match said:
        case _ if said == IMPLICIT_VR_LITTLE_ENDIAN and encoding.explicit:
            return EXPLICIT_VR_LITTLE_ENDIAN
        case _ if said == EXPLICIT_VR_LITTLE_ENDIAN and not encoding.explicit:
            return IMPLICIT_VR_LITTLE_ENDIAN
    return said
