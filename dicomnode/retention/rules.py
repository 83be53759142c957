"""The rules of retention, as the settings and the registry make them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from dicomnode import configuration
from dicomnode.configuration import Document
from dicomnode.fetch_settings import read_every
from dicomnode.index.criteria import accepts, class_keywords, may_be_class, names_of_class
from dicomnode.index.wildcards import Wild
from dicomnode.registry import Registry
from dicomnode.retention_settings import DeletionSettings, RetentionRule

DAY_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What a rule looks at of an object that is held."""

    sop_class_uid: str
    source_ae: str
    modality: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One ``[[retention]]``; ``keep_seconds`` None keeps objects for ever.

    ``committed`` are the titles of the AEs that must have committed, folded.
    """

    name: str
    sources: tuple[Wild, ...]
    sop_classes: tuple[Wild, ...]
    modalities: tuple[Wild, ...]
    keep_seconds: float | None
    by_study_date: bool
    free_bytes: int | None
    committed: tuple[str, ...]

    def takes(self, kept: Kept, source: str) -> bool:
        """Tell whether an object that came from ``source`` (folded) is under this rule."""
        return (
            accepts(self.sources, (source,))
            and accepts(self.sop_classes, names_of_class(kept.sop_class_uid))
            and accepts(self.modalities, (kept.modality,))
        )

    def due_at(self, newest: float, study_date: str, protect_seconds: float) -> float | None:
        """Return when objects of a study may go, in seconds since 1970 UTC; None: never.

        ``newest`` is when the last object of the study was received.
        """
        if self.keep_seconds is None:
            return None
        since = newest
        if self.by_study_date and (day := _day(study_date)) is not None:
            since = day
        return max(since + self.keep_seconds, newest + protect_seconds)


class Rules:
    """All rules, in the order of the file, and how they are carried out."""

    def __init__(
        self, settings: Iterable[RetentionRule], how: DeletionSettings, *, strict: bool
    ) -> None:
        self.fold: Callable[[str], str] = str if strict else str.upper
        self.all = tuple(_rule(each, self.fold, how) for each in settings)
        self.protect_seconds = how.protect_days * DAY_SECONDS
        self.every_seconds = read_every(how.every)
        self.objects_per_second = how.objects_per_second
        self.max_jump_seconds = how.max_clock_jump_days * DAY_SECONDS

    def of(self, kept: Kept) -> Rule | None:
        """Return the rule that an object is under."""
        source = self.fold(kept.source_ae.strip(" "))
        return next((rule for rule in self.all if rule.takes(kept, source)), None)


def _rule(settings: RetentionRule, fold: Callable[[str], str], how: DeletionSettings) -> Rule:
    days = settings.keep_days
    if days is None:
        days = None if settings.keep_forever else how.protect_days
    return Rule(
        name=settings.name,
        sources=tuple(Wild(fold(pattern.strip(" "))) for pattern in settings.sources),
        sop_classes=tuple(map(Wild, settings.sop_classes)),
        modalities=tuple(map(Wild, settings.modalities)),
        keep_seconds=None if days is None else days * DAY_SECONDS,
        by_study_date=settings.counted_from == "study_date",
        free_bytes=settings.free_bytes,
        committed=tuple(fold(title.strip(" ")) for title in settings.only_after_committed),
    )


def _day(study_date: str) -> float | None:
    """Return the end of a day in UTC; None for what is no date."""
    if len(study_date) != 8 or not (study_date.isascii() and study_date.isdecimal()):
        return None
    year, month, day = int(study_date[:4]), int(study_date[4:6]), int(study_date[6:])
    try:
        return datetime(year, month, day, tzinfo=UTC).timestamp() + DAY_SECONDS
    except ValueError:
        return None


def mistakes(
    rules: Sequence[RetentionRule], registry: Registry, document: Document, *, strict: bool
) -> list[str]:
    """Return one line for each mistake of the rules that are each well-formed."""
    told = ((rule.name, _mistakes_of(rule, registry, strict)) for rule in rules)
    return configuration.table_mistakes(document, "retention", told)


def _mistakes_of(
    rule: RetentionRule, registry: Registry, strict: bool
) -> Iterator[tuple[str, str]]:
    goes = rule.keep_days is not None or rule.free_bytes is not None
    if rule.keep_forever and (goes or rule.only_after_committed):
        yield "keep_forever", "excludes keep_days, free_bytes and only_after_committed"
    if not rule.keep_forever and not goes:
        yield "name", "it says not when: give keep_days, free_bytes or keep_forever"
    if rule.counted_from == "study_date" and rule.keep_days is None:
        yield "counted_from", "needs keep_days: there is nothing to count"
    for title in rule.only_after_committed:
        if registry.lookup(title, strict) is None:
            yield "only_after_committed", f"{title!r} is not in ae.toml"
    for pattern in rule.sop_classes:
        if not may_be_class(pattern):
            meant = configuration.closest(pattern, class_keywords())
            hint = f"; did you mean {meant}?" if meant else ""
            yield "sop_classes", f"{pattern!r} is no SOP class of the standard{hint}"
