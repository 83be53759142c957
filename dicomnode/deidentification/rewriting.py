"""The elements of a de-identified copy, written as a walk over the original yields them.

Values that stay are copied as they are, pixel data a piece at a time. Sequences and items get
undefined length, because then one pass is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, assert_never

from dicomnode import __version__
from dicomnode.deidentification import report as done
from dicomnode.deidentification.dates import age_of_group
from dicomnode.deidentification.options import Column, Dates, Options
from dicomnode.deidentification.profile import Action
from dicomnode.deidentification.replacing import Replacements
from dicomnode.deidentification.report import Report
from dicomnode.deidentification.survey import (
    ACCESSION_NUMBER,
    PATIENT_ID,
    PATIENT_NAME,
    SOP_CLASS_UID,
    Survey,
)
from dicomnode.deidentification.treatment import (
    DEIDENTIFICATION_METHOD,
    DEIDENTIFICATION_METHOD_CODES,
    LONGITUDINAL_INFORMATION_MODIFIED,
    PATIENT_IDENTITY_REMOVED,
    is_removed,
    treatment_of,
)
from dicomnode.deidentification.values import (
    STRING_VRS,
    WRITTEN_VRS,
    dummy,
    padded,
    vr_of,
    vrs_of,
)
from dicomnode.storage.elements import (
    PIXEL_DATA,
    DataSet,
    Element,
    Encapsulated,
    Event,
    ItemEnd,
    ItemStart,
    SequenceEnd,
    SequenceStart,
    Source,
    implicit_vr,
)
from dicomnode.storage.encoding import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, Encoding
from dicomnode.storage.text import decode_text

_PIECE_BYTES: Final = 1024 * 1024
# No identifier, moment or description is longer; what is goes.
_MAX_VALUE_BYTES: Final = 256 * 1024
_END: Final = 0x1_0000_0000
_METHODS: Final = ("DICOM PS3.15 2026d, Table E.1-1", f"dicomnode {__version__}")
_LONGITUDINAL: Final = {
    Dates.REMOVED: b"REMOVED ",
    Dates.SHIFTED: b"MODIFIED",
    Dates.KEPT: b"UNMODIFIED",
}
_NO_COLUMNS: Final[frozenset[Column]] = frozenset()
_AGE: Final = 0x0010_1010
_CODE_PARTS: Final = frozenset(
    (0x0008_0100, 0x0008_0102, 0x0008_0103, 0x0008_0104, 0x0008_0119, 0x0008_0120)
)
# Of these, codes and their meanings are published; of others they may be anything.
_SCHEMES: Final = """
    DCM SCT SRT SNM3 LN UCUM RADLEX RADELEMENT FMA UMLS NCIt NEU MDC BI MSH I10 I10P I9C I9
    ICDO3 IVDT UNS PUBCHEM_CID ITIS_TSN
"""
_PUBLISHED: Final = frozenset(_SCHEMES.split())


class Mode(Enum):
    """What becomes of a sequence's contents, beside what the table says of each."""

    PLAIN = auto()
    CLEANED = auto()
    DUMMIES = auto()


@dataclass(slots=True)
class _Open:
    """A sequence that is being written, and how its items are laid out."""

    mode: Mode
    encoding: Encoding


class Rewriter:
    """Takes the events of a walk over an original, and puts the copy's bytes."""

    def __init__(
        self,
        source: Source,
        encoding: Encoding,
        found: Survey,
        options: Options,
        replacements: Replacements,
        report: Report,
        put: Callable[[bytes], None],
    ) -> None:
        self._source = source
        self._found = found
        self._columns = options.columns
        self._sop_class = found.fact(SOP_CLASS_UID)
        self._replacements = replacements
        self._report = report
        self._put = put
        self._open = [_Open(Mode.PLAIN, encoding)]
        self._left_out = 0
        patient_id = replacements.patient_id if found.is_of_patient else ""
        self._statements = list(_statements(patient_id, options, encoding))

    def write(self, event: Event) -> None:
        """Write what becomes of an event."""
        if self._left_out:
            self._left_out += isinstance(event, SequenceStart) - isinstance(event, SequenceEnd)
            return
        encoding = self._open[-1].encoding
        match event:
            case Element():
                self._state(event.tag, event.data_set)
                self._element(event)
            case SequenceStart():
                self._sequence(event)
            case ItemStart():
                self._put(encoding.tag_and_length(ITEM, UNDEFINED))
            case ItemEnd():
                self._put(encoding.tag_and_length(ITEM_END, 0))
            case SequenceEnd():
                self._put(encoding.tag_and_length(SEQUENCE_END, 0))
                self._open.pop()
            case Encapsulated(data_set=data_set, start=start, end=end):
                self._state(PIXEL_DATA, data_set)
                self._put(encoding.header(PIXEL_DATA, b"OB", UNDEFINED))
                self._copy(start, end)
            case _:
                assert_never(event)

    def close(self) -> None:
        """Write what follows the original's last element."""
        self._state(_END, None)

    def _state(self, tag: int, data_set: DataSet | None) -> None:
        """Write the statements about the copy whose place is before an element."""
        if data_set is not None and data_set.around is not None:
            return
        while self._statements and self._statements[0][0] < tag:
            self._put(self._statements.pop(0)[1])

    def _sequence(self, event: SequenceStart) -> None:
        tag, outer = event.tag, event.holder.around
        self._state(tag, outer)
        above = self._open[-1]
        action = self._sequence_action(tag, outer)
        if action is None:
            self._left_out = 1
            self._report.count(tag, done.REMOVED)
            return
        if action is Action.EMPTY:
            self._left_out = 1
            self._put(above.encoding.header(tag, b"SQ", 0))
            self._report.count(tag, done.EMPTIED)
            return
        mode = above.mode
        if action is Action.DUMMY:
            mode = Mode.DUMMIES
            self._report.count(tag, done.REPLACED)
        elif action is Action.CLEAN and mode is Mode.PLAIN:
            mode = Mode.CLEANED
            self._report.count(tag, done.CLEANED)
        inner = event.holder.encoding
        # As UN a sequence has items without VRs (PS3.5 §6.2.2).
        vr = b"SQ" if inner == above.encoding else b"UN"
        self._put(above.encoding.header(tag, vr, UNDEFINED))
        self._open.append(_Open(mode, inner))

    def _sequence_action(self, tag: int, outer: DataSet | None) -> Action | None:
        """Return what becomes of a sequence; None if it goes."""
        if is_removed(tag):
            return None
        in_item = outer is not None and outer.around is not None
        vrs = frozenset(("SQ", implicit_vr(tag).decode()))
        action = treatment_of(tag, vrs, self._columns, self._sop_class, in_item)
        if action is Action.REMOVE or vrs != {"SQ"}:
            return None  # what the dictionary does not know as a sequence is none
        return action

    def _element(self, element: Element) -> None:
        tag = element.tag
        # What should be a sequence and is none holds nothing that the table knows of.
        if is_removed(tag) or (element.length and implicit_vr(tag) == b"SQ"):
            self._report.count(tag, done.REMOVED)
            return
        in_item = element.data_set.around is not None
        if tag in (PATIENT_NAME, PATIENT_ID) and not in_item:
            self._report.count(tag, done.REPLACED)
            return
        action = treatment_of(tag, vrs_of(element), self._columns, self._sop_class, in_item)
        mode = self._open[-1].mode
        if mode is Mode.DUMMIES and action in (Action.KEEP, Action.CLEAN, Action.EMPTY):
            action = Action.DUMMY
        elif mode is Mode.CLEANED and action is Action.KEEP and self._is_cleaned(element):
            action = Action.CLEAN
        self._apply(action, element, in_item)

    def _is_cleaned(self, element: Element) -> bool:
        """Tell whether a text in a cleaned sequence is cleaned: all but published codes."""
        known = self._found.schemes.get(element.data_set.start) in _PUBLISHED
        if element.tag in _CODE_PARTS and known:
            return False
        return not vrs_of(element).isdisjoint(WRITTEN_VRS)

    def _apply(self, action: Action, element: Element, in_item: bool) -> None:
        tag = element.tag
        if action is Action.REMOVE:
            self._report.count(tag, done.REMOVED)
        elif element.length == 0 or vr_of(element) == "SQ":
            self._replace(element, b"")
        elif action is Action.KEEP:
            self._keep(element)
        elif element.length > _MAX_VALUE_BYTES:
            self._replace(element, b"", done.EMPTIED)
        else:
            self._change(action, element, in_item)

    def _change(self, action: Action, element: Element, in_item: bool) -> None:
        tag, vr, text = element.tag, self._written_vr(element), self._text(element)
        if action is Action.UID or (action is Action.DUMMY and vr == "UI"):
            replaced = padded(self._replacements.uid(text).encode("ascii", "replace"), "UI")
            self._replace(element, replaced, done.REPLACED)
        elif tag == ACCESSION_NUMBER and text and not in_item:
            self._replace(element, self._replacements.word(tag, text), done.REPLACED)
        elif action is Action.EMPTY:
            self._replace(element, b"", done.EMPTIED)
        elif action is Action.DUMMY:
            self._replace(element, self._replacements.dummy(tag, vr, text), done.REPLACED)
        else:
            self._clean(element, vr, text, in_item)

    def _clean(self, element: Element, vr: str, text: str, in_item: bool) -> None:
        tag = element.tag
        value = self._replacements.clean(tag, vr, text)
        if value is not None:
            shifted = vr in ("DA", "DT", "TM")
            self._replace(element, value, done.SHIFTED if shifted else done.CLEANED)
            return
        # Nothing of it may stay: then as if it were not to be cleaned.
        basic = treatment_of(tag, vrs_of(element), _NO_COLUMNS, self._sop_class, in_item)
        match basic:
            case Action.REMOVE:
                self._report.count(tag, done.REMOVED)
            case Action.DUMMY:
                self._replace(element, dummy(vr), done.REPLACED)
            case _:
                self._replace(element, b"", done.EMPTIED)

    def _keep(self, element: Element) -> None:
        if element.tag == _AGE:
            text = self._text(element)
            age = age_of_group(text)
            if age != text:
                self._replace(element, (age or "").encode(), done.REPLACED)
                return
        encoding = self._open[-1].encoding
        self._put(encoding.header(element.tag, element.vr, element.length))
        self._copy(element.start, element.start + element.length)

    def _replace(self, element: Element, value: bytes, what: str = "") -> None:
        """Write an element with another value; ``what`` is for the report."""
        encoding = self._open[-1].encoding
        vr = self._written_vr(element).encode()
        if not encoding.fits(vr, len(value)):
            value = b""
        self._put(encoding.header(element.tag, vr, len(value)) + value)
        if what:
            self._report.count(element.tag, what)

    def _written_vr(self, element: Element) -> str:
        """Return the VR for another value: text in what came as numbers would be misread."""
        said, meant = element.vr.decode("ascii", "replace"), implicit_vr(element.tag).decode()
        if said in STRING_VRS or len(meant) != 2 or meant == "UN":
            return said if len(said) == 2 else "UN"
        return meant

    def _text(self, element: Element) -> str:
        value = self._source.exactly(element.start, element.length)
        return decode_text(value, self._found.character_sets.of(element.data_set), vr_of(element))

    def _copy(self, position: int, end: int) -> None:
        while position < end:
            piece = self._source.exactly(position, min(_PIECE_BYTES, end - position))
            position += len(piece)
            self._put(piece)


def _statements(
    patient_id: str, options: Options, encoding: Encoding
) -> Iterator[tuple[int, bytes]]:
    """Yield the elements that say of whom the copy is and what was done (PS3.15 §E.1.1), in order.

    The patient, if there is one, has a name and an ID even where the original has none: no two
    become one.
    """

    def element(tag: int, vr: bytes, value: bytes) -> bytes:
        return encoding.header(tag, vr, len(value)) + value

    def text(tag: int, vr: str, value: str) -> bytes:
        return element(tag, vr.encode(), padded(value.encode(), vr))

    if patient_id:
        yield PATIENT_NAME, text(PATIENT_NAME, "PN", patient_id)
        yield PATIENT_ID, text(PATIENT_ID, "LO", patient_id)
    tag = PATIENT_IDENTITY_REMOVED
    yield tag, text(tag, "CS", "YES")
    tag = DEIDENTIFICATION_METHOD
    yield tag, text(tag, "LO", "\\".join(_METHODS))
    items = []
    for code in options.codes:
        item = text(0x0008_0100, "SH", code.value) + text(0x0008_0102, "SH", "DCM")
        item += text(0x0008_0104, "LO", code.meaning)
        items.append(encoding.tag_and_length(ITEM, len(item)) + item)
    tag = DEIDENTIFICATION_METHOD_CODES
    yield tag, element(tag, b"SQ", b"".join(items))
    tag = LONGITUDINAL_INFORMATION_MODIFIED
    yield tag, element(tag, b"CS", _LONGITUDINAL[options.dates])
