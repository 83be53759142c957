"""Which objects are forwarded, and where: the rules of ``[[forward]]``, ready to be applied.

They are applied in a worker thread to every object that is received, from its header alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

from dicomnode import configuration
from dicomnode.configuration import Document
from dicomnode.forward_settings import ForwardRule, Window, read_window
from dicomnode.index.criteria import accepts, class_keywords, may_be_class, names_of_class
from dicomnode.index.entry import InstanceEntry
from dicomnode.index.matching import BadKey, Match, read_key
from dicomnode.index.wildcards import Wild
from dicomnode.registry import Registry
from dicomnode.storage.header import HEADER_END, Header
from dicomnode.storage.json_model import Attributes, text_of

_MODALITY: Final = 0x0008_0060
_PIXELS: Final = 0x7FE0_0000
_TEXT_VR: Final = re.compile("A[ES]|CS|D[AST]|IS|L[OT]|PN|S[HT]|TM|U[CIRST]")
_NUMBER_VRS: Final = frozenset(("IS", "US"))
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}")
# What a rule for performed steps does not have.
_OF_OBJECTS: Final = (
    "sop_classes",
    "when",
    "stable_seconds",
    "commit",
    "delete_when_committed",
)


class Priority(IntEnum):
    """In which order the objects of one destination are sent."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """One attribute that a rule looks at; ``match`` None accepts everything."""

    tag: int
    vr: str
    match: Match | None

    def accepts(self, header: Header) -> bool:
        """Tell whether the object has a value that matches."""
        if self.match is None:
            return True
        if self.vr in _NUMBER_VRS:
            return self.match.accepts(header.integer(self.tag, self.vr))
        if self.vr == "UI":
            return self.match.accepts(header.uid(self.tag))
        return self.match.accepts(header.text(self.tag, self.vr))

    def accepts_step(self, attributes: Attributes) -> bool:
        """Tell the same of a performed step."""
        held = text_of(attributes, self.tag)
        if self.match is None:
            return True
        if self.vr in _NUMBER_VRS:
            return any(
                self.match.accepts(int(part))
                for part in held.split("\\")
                if _INTEGER.fullmatch(part)
            )
        return self.match.accepts(held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One ``[[forward]]``; ``destinations`` are titles as the registry spells them.

    ``stable_seconds`` is None for what is sent as soon as it is received.
    """

    name: str
    of_steps: bool
    sources: tuple[Wild, ...]
    sop_classes: tuple[Wild, ...]
    modalities: tuple[Wild, ...]
    attributes: tuple[Wanted, ...]
    destinations: tuple[str, ...]
    alternates: Mapping[str, str]
    priority: Priority
    stable_seconds: float | None
    window: Window | None
    commit: bool
    delete_when_committed: bool

    def takes_step(self, attributes: Attributes, source: str) -> bool:
        """Tell whether a performed step that ``source`` creates satisfies every criterion."""
        modality = text_of(attributes, _MODALITY)
        return (
            accepts(self.sources, (source,))
            and accepts(self.modalities, (modality,))
            and all(wanted.accepts_step(attributes) for wanted in self.attributes)
        )

    def takes(self, entry: InstanceEntry, source: str) -> bool:
        """Tell whether an object that came from ``source`` satisfies every criterion."""
        names = names_of_class(entry.sop_class_uid) if self.sop_classes else ()
        modality = (entry.header.text(_MODALITY, "CS"),) if self.modalities else ()
        return (
            accepts(self.sources, (source,))
            and accepts(self.sop_classes, names)
            and accepts(self.modalities, modality)
            and all(wanted.accepts(entry.header) for wanted in self.attributes)
        )


@dataclass(frozen=True, slots=True)
class Order:
    """That an object is to be sent to ``destination``, by a rule."""

    destination: str
    rule: Rule


class Rules:
    """All rules, in the order of the file."""

    def __init__(self, settings: Iterable[ForwardRule], registry: Registry, *, strict: bool):
        self._fold: Callable[[str], str] = str if strict else str.upper
        self.all = tuple(_rule(each, registry, self._fold, strict) for each in settings)
        self.by_name = {rule.name: rule for rule in self.all}
        self._of_objects = tuple(rule for rule in self.all if not rule.of_steps)
        self._of_steps = tuple(rule for rule in self.all if rule.of_steps)
        wanted = [each.tag for rule in self._of_objects for each in rule.attributes]
        # Headers are read up to here, so that every rule finds its attributes.
        self.header_end = max([HEADER_END, *(tag + 1 for tag in wanted)])

    @property
    def titles(self) -> set[str]:
        """All destinations, alternates included."""
        return {
            title for rule in self.all for title in (*rule.destinations, *rule.alternates.values())
        }

    def orders(self, entry: InstanceEntry) -> list[Order]:
        """Return where an object goes: to each destination once, by the first rule that says so.

        It is not sent back to where it came from.
        """
        source = self._fold(entry.source_ae.strip(" "))
        rules = (rule for rule in self._of_objects if rule.takes(entry, source))
        return self._orders(rules, source)

    def step_orders(self, attributes: Attributes, source_ae: str) -> list[Order]:
        """Return who is told of a performed step that ``source_ae`` creates, likewise."""
        source = self._fold(source_ae.strip(" "))
        rules = (rule for rule in self._of_steps if rule.takes_step(attributes, source))
        return self._orders(rules, source)

    def _orders(self, rules: Iterable[Rule], source: str) -> list[Order]:
        found: dict[str, Order] = {}
        for rule in rules:
            for destination in rule.destinations:
                if self._fold(destination) != source:
                    found.setdefault(destination, Order(destination, rule))
        return list(found.values())


def _rule(
    settings: ForwardRule, registry: Registry, fold: Callable[[str], str], strict: bool
) -> Rule:
    def title(given: str) -> str:
        ae = registry.lookup(given, strict)
        return ae.title if ae is not None else given

    return Rule(
        name=settings.name,
        of_steps=settings.what == "mpps",
        sources=tuple(Wild(fold(pattern.strip(" "))) for pattern in settings.sources),
        sop_classes=tuple(map(Wild, settings.sop_classes)),
        modalities=tuple(map(Wild, settings.modalities)),
        attributes=tuple(_wanted(*pair) for pair in settings.attributes.items()),
        destinations=tuple(map(title, settings.to)),
        alternates={title(key): title(value) for key, value in settings.alternate.items()},
        priority=Priority[settings.priority.upper()],
        stable_seconds=settings.stable_seconds if settings.when == "study_stable" else None,
        window=read_window(settings.window) if settings.window else None,
        commit=settings.commit,
        delete_when_committed=settings.delete_when_committed,
    )


# -- attributes ------------------------------------------------------------------------------------


def _wanted(name: str, patterns: Sequence[str]) -> Wanted:
    """Read one entry of ``attributes``; raises ValueError in words for the administrator."""
    tag = _tag(name)
    vr = dictionary_VR(tag)
    if not _TEXT_VR.fullmatch(vr):
        raise ValueError(f"has the value representation {vr}, which cannot be matched")
    if tag >= _PIXELS:
        raise ValueError("stands behind the pixels, which are not looked through")
    if not patterns or not all(patterns):
        raise ValueError('must have a value or a pattern such as "X*"')
    try:
        match = read_key("LO" if vr == "UI" else vr, patterns, multiple=dictionary_VM(tag) != "1")
    except BadKey as error:
        raise ValueError(str(error)) from None
    return Wanted(tag, vr, match)


def _tag(name: str) -> int:
    digits = name.strip("() ").replace(",", "").replace(" ", "")
    tag = tag_for_keyword(name)
    if (
        tag is None
        and len(digits) == 8
        and all(each in "0123456789abcdefABCDEF" for each in digits)
    ):
        tag = int(digits, 16)
    try:
        dictionary_VR(tag if tag is not None else name)
    except (KeyError, ValueError):
        raise ValueError(
            'is no attribute of the standard; give a keyword such as "PatientID" or a tag'
        ) from None
    assert tag is not None
    return tag


# -- mistakes --------------------------------------------------------------------------------------


def mistakes(
    rules: Sequence[ForwardRule], registry: Registry, document: Document, *, strict: bool
) -> list[str]:
    """Return one line for each mistake of the rules that are each well-formed."""
    told = ((rule.name, _mistakes_of(rule, registry, strict)) for rule in rules)
    return configuration.table_mistakes(document, "forward", told)


def _mistakes_of(rule: ForwardRule, registry: Registry, strict: bool) -> Iterator[tuple[str, str]]:
    for title in rule.to:
        yield from (("to", words) for words in registry.unreachable(title, strict))
    for title, other in rule.alternate.items():
        if title not in rule.to:
            yield "alternate", f"{title!r} is none of the destinations in to"
        yield from (("alternate", words) for words in registry.unreachable(other, strict))
    for pattern in rule.sop_classes:
        if not may_be_class(pattern):
            meant = configuration.closest(pattern, class_keywords())
            hint = f"; did you mean {meant}?" if meant else ""
            yield "sop_classes", f"{pattern!r} is no SOP class of the standard{hint}"
    for name, patterns in rule.attributes.items():
        try:
            _wanted(name, patterns)
        except ValueError as error:
            yield "attributes", f"{name}: {error}"
    if rule.what == "mpps":
        for key in _OF_OBJECTS:
            if key in rule.model_fields_set:
                yield key, 'is of objects; a rule with what = "mpps" does not have it'
    elif rule.delete_when_committed and not rule.commit:
        yield "delete_when_committed", "needs commit = true: only then is it known"
