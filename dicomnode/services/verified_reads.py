"""Objects that are handed out are what was received: ``storage.verify_on_read``."""

from __future__ import annotations

import hashlib
import random
from typing import Final, Literal

from dicomnode.errors import OutOfResources, Unreadable
from dicomnode.index.catalog import InstanceRow
from dicomnode.services.bad_files import BadFiles
from dicomnode.services.wholeness import Wholeness

VerifyOnRead = Literal["off", "sampled", "always"]

# With "sampled" one object in so many is compared, chosen by chance.
_SAMPLED: Final = 16


class VerifiedReads:
    """Compares what is read with its digest; everything but ``wants`` blocks.

    What is on the list of files that are not whole is compared however ``policy`` is.
    """

    def __init__(self, policy: VerifyOnRead, wholeness: Wholeness, bad: BadFiles) -> None:
        self._policy = policy
        self._wholeness = wholeness
        self._bad = bad

    def wants(self, row: InstanceRow) -> bool:
        """Tell whether an object is to be compared this time."""
        match self._policy:
            case "always":
                return True
            case "sampled" if random.randrange(_SAMPLED) == 0:  # noqa: S311  no secret
                return True
        return self._bad.is_known(row.path)

    def check_bytes(self, row: InstanceRow, data: bytes) -> None:
        """Compare a whole file that has been read. Raises Unreadable, CatalogError."""
        if hashlib.sha256(data).hexdigest() != row.file_sha256:
            raise Unreadable("the file is not what was received")
        self._bad.proven(row)

    def check_file(self, row: InstanceRow) -> None:
        """Read a file and compare it, before it is read for being handed out.

        Raises Unreadable, CatalogError.
        """
        try:
            fault = self._wholeness.fault_of(row, from_disk=False)
        except OutOfResources as error:
            raise Unreadable(error.comment) from error
        if fault is not None:
            raise Unreadable(fault.words)
        self._bad.proven(row)

    def failed(self, row: InstanceRow, by: str) -> None:
        """Put a file on the list that ``by`` could not read as it should be, if it is so still.

        Another object may have taken its place meanwhile. Raises CatalogError.
        """
        try:
            certain = self._wholeness.certain_fault_of(row)
        except OutOfResources:
            return  # the process lacks what it takes to tell
        if certain is not None and certain[1] is not None:
            self._bad.found(certain[0], certain[1], by)
