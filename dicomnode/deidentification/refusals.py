"""Which objects are not de-identified: what cannot be made safe, or cannot be told to be.

PS3.15 §E.1 to E.3 leave these to who de-identifies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dicomnode.deidentification.options import Options
from dicomnode.deidentification.survey import (
    BURNED_IN_ANNOTATION,
    CONVERSION_TYPE,
    IMAGE_TYPE,
    RECOGNIZABLE_VISUAL_FEATURES,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    Survey,
)
from dicomnode.errors import NotDeidentified
from dicomnode.storage.paths import valid_uid

_DIRECTORY: Final = "1.2.840.10008.1.3.10"
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
# Voices are known by their sound.
_AUDIO: Final = frozenset(_STORAGE + end for end in ("9.4.1", "9.4.2"))
# Whose pixels a person, a camera or a screen made: Secondary Capture, ultrasound, visible light.
_RISKY: Final = ("7", "7.1", "7.2", "7.3", "7.4", "3", "3.1", "6", "6.1", "6.2")
_RISKY_CLASSES: Final = frozenset(_STORAGE + end for end in _RISKY)
_VISIBLE_LIGHT: Final = _STORAGE + "77.1."
# Slides have labels, which are images of their own (PS3.3 §C.8.12.4.1.1).
_RISKY_TYPES: Final = ("SCREEN", "SAVE", "CAPTURE", "LABEL", "OVERVIEW")
_LOOK: Final = "look at the pixels, then allow it with --allow-burned-in"


def refuse(found: Survey, media_storage: str, options: Options) -> None:
    """Raise NotDeidentified for what must not be handed out; the message says why.

    ``media_storage`` is the SOP class of File Meta, which is the only one that a DICOMDIR has.
    """
    sop_class = found.fact(SOP_CLASS_UID)
    if media_storage == _DIRECTORY:
        raise NotDeidentified(
            "a DICOMDIR is not de-identified", "make a new one for the de-identified files"
        )
    if not valid_uid(sop_class) or not found.fact(SOP_INSTANCE_UID):
        raise NotDeidentified("the object has no SOP Class UID, or no SOP Instance UID")
    if found.has_content:
        raise NotDeidentified(
            "it is a structured report: Content Sequence (0040,A730) holds what was said of the"
            " patient, and the Clean Structured Content Option is not supported"
        )
    if found.has_document:
        raise NotDeidentified("it holds a document, in Encapsulated Document (0042,0011)")
    if sop_class in _AUDIO:
        raise NotDeidentified("it holds sound, which may be a voice")
    if found.has_pixels:
        _refuse_pixels(found, options)


def _refuse_pixels(found: Survey, options: Options) -> None:
    burned_in = found.fact(BURNED_IN_ANNOTATION)
    if not options.allow_burned_in:
        if burned_in == "YES":
            raise NotDeidentified("Burned In Annotation (0028,0301) is YES", _LOOK)
        if found.embedded_overlay:
            raise NotDeidentified("an overlay is hidden in unused bits of the pixels", _LOOK)
        reason = next(_risks(found), None)
        if reason is not None and burned_in != "NO":
            raise NotDeidentified(
                f"{reason}, and Burned In Annotation (0028,0301) does not say NO", _LOOK
            )
    features = found.fact(RECOGNIZABLE_VISUAL_FEATURES)
    if features == "YES" and not options.allow_recognizable:
        raise NotDeidentified(
            "Recognizable Visual Features (0028,0302) is YES",
            "if a face may be seen, allow it with --allow-recognizable",
        )


def warnings(found: Survey) -> list[str]:
    """Return what who hands the copy out should know of its pixels."""
    if not found.has_pixels:
        return []
    said = found.fact(BURNED_IN_ANNOTATION)
    if said == "YES" or found.embedded_overlay or (next(_risks(found), None) and said != "NO"):
        return ["the pixels may show who the patient is: they were allowed as they are"]
    if said != "NO":
        return ["nothing says whether annotation is burned into the pixels"]
    return []


def _risks(found: Survey) -> Iterator[str]:
    sop_class = found.fact(SOP_CLASS_UID)
    if sop_class in _RISKY_CLASSES or sop_class.startswith(_VISIBLE_LIGHT):
        yield "objects of its SOP class often have text in the pixels"
    if found.fact(CONVERSION_TYPE):
        yield "it was captured or scanned (Conversion Type)"
    image_type = found.fact(IMAGE_TYPE).upper()
    if any(word in image_type for word in _RISKY_TYPES):
        yield "Image Type says that it shows a screen or a label"
