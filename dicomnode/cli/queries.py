"""What queries and retrievals have in common on the command line: keys, level, model."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from dicomnode.cli.common import fail
from dicomnode.scu.keys import UNIQUE_KEYS, Keys

LEVELS: Final = tuple(UNIQUE_KEYS)
_DEFAULT_LEVEL: Final = "STUDY"
_LEVEL: Final = "QueryRetrieveLevel"

KeysOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        "-k",
        metavar="KEY[=VALUE]",
        help="Such as PatientName=SMI*, 0010,0020=4711, or"
        " ScheduledProcedureStepSequence[0].Modality=CT; without a value it asks for one.",
    ),
]
LevelOption = Annotated[
    str | None,
    typer.Option(
        "--level", "-l", metavar="|".join(LEVELS), help="Query/retrieve level. [default: STUDY]"
    ),
]
StudyRootOption = Annotated[
    bool, typer.Option("--study-root", "-S", help="Use the Study Root model (the default).")
]
PatientRootOption = Annotated[
    bool, typer.Option("--patient-root", "-P", help="Use the Patient Root model.")
]


def add_keys(query: Keys, keys: list[str] | None) -> None:
    """Add the keys of the command line; ends the command over one that is none."""
    try:
        for key in keys or ():
            query.add(key)
    except ValueError as error:
        fail(f"-k: {error}")


def at_level(query: Keys, level: str | None) -> str:
    """Return the level of ``query``, as the option, a key or nobody says, and set it."""
    wanted = (level or query.text(_LEVEL) or _DEFAULT_LEVEL).upper()
    if wanted not in LEVELS:
        fail(f"the level is one of {', '.join(LEVELS)}, not {wanted!r}")
    query.set(_LEVEL, wanted)
    return wanted


def keys_of(study: list[str] | None, series: list[str] | None) -> Keys:
    """Return the keys that stand for --study and --series."""
    query = Keys()
    if study:
        query.set("StudyInstanceUID", "\\".join(study))
    if series:
        query.set("SeriesInstanceUID", "\\".join(series))
    return query


def level_of(query: Keys) -> str | None:
    """Return the level of the lowest unique key of ``query``; None where it says itself."""
    if query.text(_LEVEL):
        return None
    lowest = [level for level, keyword in UNIQUE_KEYS.items() if query.text(keyword)]
    return lowest[-1] if lowest else None
