"""The settings of the custody log: ``[custody]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class CustodySettings(BaseModel):
    """``[custody]``: whether it is recorded what happens to each object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
