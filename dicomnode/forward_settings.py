"""The settings of forwarding: the tables ``[[forward]]`` and the section ``[forwarding]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from dicomnode import configuration
from dicomnode.retries import Pause, RetrySettings
from dicomnode.value_types import Number

_TITLE_PATTERN = re.compile(r"[ -\[\]-~]{1,16}")
_CODE_PATTERN = re.compile(r"[A-Z0-9 _*?]{1,16}")
_CLASS_PATTERN = re.compile(r"[A-Za-z0-9.*?]{1,64}")
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day, local, in which something may be done; it may go past midnight."""

    opens: time
    closes: time

    def is_open(self, at: datetime) -> bool:
        """Tell whether ``at`` lies in it; it closes with the beginning of its last minute."""
        return self.is_open_at(at.time())

    def is_open_at(self, now: time) -> bool:
        """Tell the same of a time of day."""
        if self.opens < self.closes:
            return self.opens <= now < self.closes
        return now >= self.opens or now < self.closes

    def opening(self, after: datetime) -> datetime:
        """Return when it next opens."""
        today = after.replace(
            hour=self.opens.hour, minute=self.opens.minute, second=0, microsecond=0
        )
        return today if today > after else today + timedelta(days=1)


def read_window(text: str) -> Window:
    """Read ``"22:00-06:00"``; raises ValueError."""
    found = _WINDOW.fullmatch(text.strip())
    if found is None or found.group(1, 2) == found.group(3, 4):
        raise ValueError('must be two different times of day such as "22:00-06:00"')
    hours = [int(part) for part in found.groups()]
    return Window(time(hours[0], hours[1]), time(hours[2], hours[3]))


def checked_window(value: str) -> str:
    """Check a setting that is a ``Window``; raises ValueError."""
    read_window(value)
    return value


def checked_title_pattern(value: str) -> str:
    """Check a setting that is a pattern of AE titles; raises ValueError."""
    if not _TITLE_PATTERN.fullmatch(value):
        raise ValueError('must be an AE title, or a pattern of one such as "CT_*"')
    return value


def checked_code_pattern(value: str) -> str:
    """Check a setting that is a pattern of modalities; raises ValueError."""
    if not _CODE_PATTERN.fullmatch(value):
        raise ValueError('must be a modality such as "CT", or a pattern of one')
    return value


def checked_class_pattern(value: str) -> str:
    """Check a setting that is a pattern of SOP classes; raises ValueError."""
    if not _CLASS_PATTERN.fullmatch(value):
        raise ValueError(
            'must be a SOP class such as "CTImageStorage" or its UID, or a pattern such as "CT*"'
        )
    return value


def checked_name(value: str) -> str:
    """Check the name of a rule; raises ValueError."""
    if not value.isprintable() or not value.strip():
        raise ValueError('must be a name such as "CT to archive"')
    return value


def _listed(value: object) -> object:
    """Let one pattern stand for a list of one."""
    return (value,) if isinstance(value, str) else value


_AETitle = Annotated[str, AfterValidator(configuration.ae_title)]


class ForwardRule(BaseModel):
    """``[[forward]]``: which objects are sent on, where, and when; or, with ``what`` "mpps",
    which performed procedure steps: their N-CREATE and all N-SET, in their order.

    An object has to satisfy every criterion that is given, each by one of its patterns; a rule
    without criteria takes everything. ``attributes`` has keywords or tags of attributes at the
    top level of the data set. ``alternate`` maps a destination to the one that is used after that
    has been down for a time. With ``window``, local times, objects are sent at these hours only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(max_length=64), AfterValidator(checked_name)]
    what: Literal["objects", "mpps"] = "objects"
    sources: Annotated[
        tuple[Annotated[str, AfterValidator(checked_title_pattern)], ...], Field(alias="from")
    ] = ()
    sop_classes: tuple[Annotated[str, AfterValidator(checked_class_pattern)], ...] = ()
    modalities: tuple[Annotated[str, AfterValidator(checked_code_pattern)], ...] = ()
    attributes: dict[str, Annotated[tuple[str, ...], BeforeValidator(_listed)]] = {}
    to: Annotated[tuple[_AETitle, ...], Field(min_length=1)]
    alternate: dict[_AETitle, _AETitle] = {}
    when: Literal["received", "study_stable"] = "received"
    stable_seconds: Pause = 120.0
    window: Annotated[str, AfterValidator(checked_window)] | None = None
    priority: Literal["high", "normal", "low"] = "normal"
    commit: bool = False
    delete_when_committed: bool = False


class ForwardingSettings(RetrySettings):
    """``[forwarding]``: how objects are sent on.

    A destination that cannot be had is tried again after ``retry_seconds``, the next time after
    twice as long, and so on up to ``max_retry_seconds``; so is an object that it refuses. An
    object that it refused ``max_refusals`` times, or that has been waiting for
    ``give_up_seconds``, is set aside until ``dicomnode outbox retry``. After a destination has
    been down for ``alternate_after_seconds`` its alternate is used. ``max_associations`` is how
    many destinations are sent to at once.
    """

    max_refusals: Annotated[Number, Field(ge=1)] = 10
    alternate_after_seconds: Pause = 600.0
    max_associations: Annotated[Number, Field(ge=1, le=1000)] = 8
