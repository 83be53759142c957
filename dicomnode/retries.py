"""When what could not be delivered is tried again: the same for all that the node sends on."""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dicomnode.value_types import Seconds

Pause = Annotated[Seconds, Field(gt=0, allow_inf_nan=False)]


class RetrySettings(BaseModel):
    """The first pause is ``retry_seconds``; each is twice the one before, up to
    ``max_retry_seconds``. What has been waiting for ``give_up_seconds`` is set aside.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    retry_seconds: Pause = 30.0
    max_retry_seconds: Pause = 3600.0
    give_up_seconds: Pause = 7 * 24 * 3600.0

    def pause(self, failures: int) -> float:
        """Return the pause after a failure with so many before it; no two are quite the same."""
        pause = self.retry_seconds * 2.0 ** min(failures, 30)
        longest = min(self.max_retry_seconds, self.give_up_seconds)
        return min(pause, longest) * random.uniform(0.8, 1.0)  # noqa: S311  no secret
