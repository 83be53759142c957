"""The settings of fetching: the tables ``[[fetch]]``."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dicomnode import configuration
from dicomnode.forward_settings import checked_name, checked_window
from dicomnode.value_types import Number

_EVERY: Final = re.compile(r"(\d{1,5})\s*([smhd])")
_UNIT_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LEAST_SECONDS: Final = 10.0
_AT: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
_MODALITY: Final = re.compile(r"[A-Z0-9_ ]{1,16}")


def read_every(text: str) -> float:
    """Read ``"1h"``, ``"30m"``, ``"45s"`` or ``"1d"`` as seconds; raises ValueError."""
    found = _EVERY.fullmatch(text.strip())
    seconds = float(found[1]) * _UNIT_SECONDS[found[2]] if found is not None else 0.0
    if seconds < _LEAST_SECONDS:
        raise ValueError('must be a time such as "1h", "30m" or "1d", of 10 s or more')
    return seconds


def read_at(text: str) -> time:
    """Read ``"02:30"``; raises ValueError."""
    found = _AT.fullmatch(text.strip())
    if found is None:
        raise ValueError('must be a time of day such as "02:30"')
    return time(int(found[1]), int(found[2]))


def _every(value: str) -> str:
    read_every(value)
    return value


def _at(value: str) -> str:
    read_at(value)
    return value


def _modality(value: str) -> str:
    if not _MODALITY.fullmatch(value):
        raise ValueError('must be a modality such as "CT"')
    return value


class FetchRule(BaseModel):
    """``[[fetch]]``: what is compared with another archive, when, and what is moved then.

    It is done ``every`` so often, or ``at`` a time of day (local), or with neither of them each
    time that ``window`` opens; with a window it is done in these hours only. ``last_days`` are
    the studies dated so many days back and later, ``keys`` attributes of patients and studies to
    their values, ``modality`` one that is in the study.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(max_length=64), AfterValidator(checked_name)]
    source: Annotated[str, AfterValidator(configuration.ae_title), Field(alias="from")]
    every: Annotated[str, AfterValidator(_every)] | None = None
    at: Annotated[str, AfterValidator(_at)] | None = None
    window: Annotated[str, AfterValidator(checked_window)] | None = None
    last_days: Annotated[Number, Field(ge=0, le=36500)] | None = None
    keys: dict[str, str] = {}
    modality: Annotated[str, AfterValidator(_modality)] = ""
    direction: Literal["pull", "push", "both"] = "pull"
    mode: Literal["auto", "get", "move"] = "auto"
