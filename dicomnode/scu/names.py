"""SOP classes by the words that people use for them, and by the standard's keywords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

VERIFICATION: Final = "1.2.840.10008.1.1"
MODALITY_WORKLIST: Final = "1.2.840.10008.5.1.4.31"
MODALITY_PERFORMED_PROCEDURE_STEP: Final = "1.2.840.10008.3.1.2.3.3"
STORAGE_COMMITMENT_PUSH_MODEL: Final = "1.2.840.10008.1.20.1"

Model = Literal["patient", "study", "patient_study_only", "worklist"]
_MODELS: Final = ("patient", "study", "patient_study_only")
_QUERY_RETRIEVE: Final = "1.2.840.10008.5.1.4.1.2"

# PS3.6 Annex A; the words are ours.
FIND: Final[Mapping[str, str]] = {
    **{model: f"{_QUERY_RETRIEVE}.{root}.1" for root, model in enumerate(_MODELS, 1)},
    "worklist": MODALITY_WORKLIST,
}
MOVE: Final[Mapping[str, str]] = {
    model: f"{_QUERY_RETRIEVE}.{root}.2" for root, model in enumerate(_MODELS, 1)
}
GET: Final[Mapping[str, str]] = {
    model: f"{_QUERY_RETRIEVE}.{root}.3" for root, model in enumerate(_MODELS, 1)
}

# What one word stands for where SOP classes are proposed.
SERVICES: Final[Mapping[str, tuple[str, ...]]] = {
    "echo": (VERIFICATION,),
    "find": (FIND["patient"], FIND["study"]),
    "move": (MOVE["patient"], MOVE["study"]),
    "get": (GET["patient"], GET["study"]),
    "worklist": (MODALITY_WORKLIST,),
    "mpps": (MODALITY_PERFORMED_PROCEDURE_STEP,),
    "commitment": (STORAGE_COMMITMENT_PUSH_MODEL,),
}
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAX_UID: Final = 64


def uid_of(name: str) -> str:
    """Return the UID that ``name`` is, or is the keyword of in PS3.6, such as CTImageStorage.

    Raises ValueError.
    """
    if _UID.fullmatch(name) and len(name) <= _MAX_UID:
        return name
    # Late: this takes longer than a C-ECHO.
    from pydicom._uid_dict import UID_dictionary

    for uid, entry in UID_dictionary.items():
        if entry[4] == name:
            return uid
    raise ValueError(f"{name!r} is neither a UID nor a keyword of PS3.6 such as CTImageStorage")


def named(uid: str) -> str:
    """Return the standard's name of ``uid``, or itself when the standard has none."""
    # Not by pydicom's UID, which warns of each value that is none.
    from pydicom._uid_dict import UID_dictionary

    return UID_dictionary[uid][0] if uid in UID_dictionary else uid


def model_uid(models: Mapping[str, str], model: str) -> str:
    """Return the SOP class of an information model among ``models``, or ``model`` as a UID."""
    return models[model] if model in models else uid_of(model)
