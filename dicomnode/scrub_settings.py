"""The settings of the scrub: ``[scrub]``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dicomnode.value_types import Number, Size


class ScrubSettings(BaseModel):
    """``[scrub]``: stored files are read again and compared with what was received.

    A run through all of them begins ``every_days`` days after the last one began, and reads
    ``bytes_per_second`` on average.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    bytes_per_second: Annotated[Size, Field(ge=64 * 1024)] = 10_000_000
    every_days: Annotated[Number, Field(ge=1, le=3650)] = 7
