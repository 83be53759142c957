"""The settings of retention: the tables ``[[retention]]`` and the section ``[deletion]``."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dicomnode import configuration
from dicomnode.fetch_settings import read_every
from dicomnode.forward_settings import (
    checked_class_pattern,
    checked_code_pattern,
    checked_name,
    checked_title_pattern,
)
from dicomnode.value_types import Number, Size

_MOST_SECONDS: Final = 24 * 3600.0


def _every(value: str) -> str:
    if read_every(value) > _MOST_SECONDS:
        raise ValueError('must be a time such as "1h", of a day or less')
    return value


class RetentionRule(BaseModel):
    """``[[retention]]``: which objects are deleted, when, and on what condition.

    An object is under the first rule whose criteria it satisfies, each by one of its patterns; one
    under no rule stays. It is due ``keep_days`` after the newest object of its study was received,
    or after the date of the study; with ``free_bytes`` only as long as less is free, the study
    that was received first going first. With ``only_after_committed`` it goes when all of these AEs
    have committed to keep it. ``keep_forever`` excepts objects from the rules that follow.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(max_length=64), AfterValidator(checked_name)]
    sources: Annotated[
        tuple[Annotated[str, AfterValidator(checked_title_pattern)], ...], Field(alias="from")
    ] = ()
    sop_classes: tuple[Annotated[str, AfterValidator(checked_class_pattern)], ...] = ()
    modalities: tuple[Annotated[str, AfterValidator(checked_code_pattern)], ...] = ()
    keep_forever: bool = False
    keep_days: Annotated[Number, Field(ge=1, le=36500)] | None = None
    counted_from: Literal["received", "study_date"] = "received"
    free_bytes: Annotated[Size, Field(ge=1)] | None = None
    only_after_committed: tuple[Annotated[str, AfterValidator(configuration.ae_title)], ...] = ()


class DeletionSettings(BaseModel):
    """``[deletion]``: how retention rules are carried out.

    They are applied ``every`` so often, to at most ``objects_per_second``. What was received in the
    last ``protect_days`` is never deleted by a rule. A clock that is more than
    ``max_clock_jump_days`` from when rules were applied last is not believed: nothing is deleted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: Annotated[str, AfterValidator(_every)] = "1h"
    objects_per_second: Annotated[Number, Field(ge=1, le=100_000)] = 50
    protect_days: Annotated[Number, Field(ge=1, le=36500)] = 7
    max_clock_jump_days: Annotated[Number, Field(ge=1, le=365)] = 7
