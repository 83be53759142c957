"""How UIDs become paths of the store."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache

from dicomnode.errors import DataSetMismatch

_UID = re.compile(r"[0-9.]{1,64}\Z")


def valid_uid(uid: str) -> bool:
    """Tell whether ``uid`` may name a file: 1-64 digits and dots, and not dots alone.

    Wider than PS3.5 §9.1 on purpose: leading zeros and doubled dots exist in real archives.
    """
    return _UID.match(uid) is not None and uid.strip(".") != ""


def uid_path_component(uid: str) -> str:
    """Return ``uid`` as a path component; the only way for a UID into a path.

    Raises DataSetMismatch when it is no UID.
    """
    if not valid_uid(uid):
        raise DataSetMismatch("a UID of the data set is missing or no UID")
    return uid


@lru_cache(maxsize=256)  # asked for again at each step of an object's way
def object_path(study_uid: str, series_uid: str, sop_uid: str) -> str:
    """Return the path of an object, relative to the storage directory; checks the UIDs."""
    study = uid_path_component(study_uid)
    series = uid_path_component(series_uid)
    sop = uid_path_component(sop_uid)
    fan_out = hashlib.sha256(study.encode()).hexdigest()[:2]
    return f"objects/{fan_out}/{study}/{series}/{sop}.dcm"


def stem(rel: str) -> str:
    """Return the SOP Instance UID that a stored object's path ends with."""
    return os.path.basename(rel).removesuffix(".dcm")
