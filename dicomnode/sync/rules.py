"""The rules of fetching, as the settings and the registry make them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from dicomnode import configuration
from dicomnode.configuration import Document
from dicomnode.fetch_settings import FetchRule, read_at, read_every
from dicomnode.forward_settings import read_window
from dicomnode.registry import Registry
from dicomnode.sync.schedule import Schedule
from dicomnode.sync.syncing import Mode
from dicomnode.sync.wish import Direction, Span, Wish, make_wish


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``[[fetch]]``; ``source`` is a title as the settings spell it."""

    name: str
    source: str
    schedule: Schedule
    direction: Direction
    mode: Mode
    wish: Wish
    last_days: int | None

    def wish_on(self, today: date) -> Wish:
        """Return what is wanted on a day."""
        if self.last_days is None:
            return self.wish
        since = date.fromordinal(max(today.toordinal() - self.last_days, 1))
        return Wish(self.wish.keys, Span(since, None), self.wish.modality)


def make_rules(settings: Iterable[FetchRule]) -> tuple[Rule, ...]:
    """Return the rules, in the order of the file. Raises ValueError for bad keys."""
    return tuple(_rule(each) for each in settings)


def _rule(settings: FetchRule) -> Rule:
    return Rule(
        name=settings.name,
        source=settings.source,
        schedule=Schedule(
            read_every(settings.every) if settings.every else None,
            read_at(settings.at) if settings.at else None,
            read_window(settings.window) if settings.window else None,
        ),
        direction=Direction(settings.direction),
        mode=Mode(settings.mode),
        wish=make_wish(
            [f"{key}={value}" for key, value in settings.keys.items()],
            modality=settings.modality,
        ),
        last_days=settings.last_days,
    )


def mistakes(
    rules: Sequence[FetchRule], registry: Registry, document: Document, *, strict: bool
) -> list[str]:
    """Return one line for each mistake of the rules that are each well-formed."""
    told = ((rule.name, _mistakes_of(rule, registry, strict)) for rule in rules)
    return configuration.table_mistakes(document, "fetch", told)


def _mistakes_of(rule: FetchRule, registry: Registry, strict: bool) -> Iterator[tuple[str, str]]:
    yield from (("from", words) for words in registry.unreachable(rule.source, strict))
    if rule.every is not None and rule.at is not None:
        yield "at", "excludes every: give one of them"
    if rule.every is None and rule.at is None and rule.window is None:
        yield "name", 'it says not when: give every, such as "1h", or at, such as "02:30"'
    if rule.at is not None and rule.window is not None:
        at = read_at(rule.at)
        if not read_window(rule.window).is_open_at(at):
            yield "at", f"is outside of the window {rule.window}"
    try:
        made = make_wish([f"{key}={value}" for key, value in rule.keys.items()])
    except ValueError as error:
        yield "keys", str(error)
    else:
        if rule.last_days is not None and made.span.is_bounded:
            yield "last_days", "excludes StudyDate in keys"
