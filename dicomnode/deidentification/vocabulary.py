"""Descriptions cleaned: words that the standard itself uses stay, all others go.

No list of names is complete, so what stays is listed, not what goes: the words of the code
meanings in PS3.16, and those that protocols are called by.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from functools import lru_cache
from typing import Final

# Not in PS3.16, or only as part of a word.
_OF_PROTOCOLS: Final = """
    2d 3d 4d abd abdo acq adc ap arterial asl ax axial b0 bh blade bold bone brain bravo breast
    bw c+ ce cervical chest ciss coil contrast cor coronal cr ct cta ctp cube cxr cyst dce delay
    delayed diff diffusion dixon dsa dsc dti dual dwi dx dyn dynamic ecg echo ep epi exp
    expiration fa fast fat fatsat fbp fgre fiesta flair flash follow followup fov fp fs fse
    fspgr gated gd gradient grappa gre haste head hip hr hrct iac in inn insp inspiration inv ir
    iso kidney knee l lao lat lateral lava left liver loc localiser localizer low lung map max
    mdc mediastinum medic mg mip mono motion mpr mprage mr mra mrcp mri mrv multi native neck nm
    non nonc noncontrast np oblique op opp opposed out pa pc pd pdfs pelvis perf perfusion pet
    phase plain portal post postcontrast pre precontrast prone propeller psif pv qc r radial rao
    raw recon ref reformat rest rf right run s sag sagittal scan scout se sense seq series
    shoulder sinus slab slice soft space spair spgr spinal spine spir standard std stir stress
    sub subtraction supine survey swi t t1 t1w t2 t2* t2w te tfe tfl thick thin thorax ti tirm
    tissue tof tool topogram tr tra trace transverse true trufi tse turbo us ute venous vibe
    view views vol volume vr w water weighted window with without wo xa xr
"""
# Context groups of PS3.16 for anatomy, laterality, modifiers, positions, views, routes, contrast
# agents and modalities. Not all codes: they name diseases, tests and formulae by surnames.
_COLLECTIONS: Final = (
    *("CID2", "CID4", "CID6", "CID11", "CID12", "CID19", "CID20", "CID23", "CID26"),
    *("CID29", "CID244", "CID4010", "CID4014", "CID4030", "CID4031", "CID4032"),
)
# Numbers with what stands between them, as in dates, are one word.
_WORD: Final = re.compile(r"\d+(?:[\W_]+\d+)+[^\W_]*|[^\W_]+(?:['\u2019][^\W_]+)?[+*]?")
# A number of up to three digits, with a unit: no date, no telephone number, nobody's ID.
_NUMBER: Final = re.compile(
    r"(?:\d{1,3}|\d\.\d\d?|\d\d\.\d)(?:mm|cm|ml|mg|s|ms|sec|min|hz|kv|t|x|d|%)?\Z", re.IGNORECASE
)
_PUNCTUATION: Final = " *-/.,^_\r\n\\"
_LEAST_LETTERS: Final = 3
_SPACES: Final = re.compile(r"[ \t]+")


@lru_cache(maxsize=1)
def words() -> frozenset[str]:
    """Return the words that may stay, in small letters."""
    # Late: a tenth of a second, for those alone who have descriptions cleaned.
    from pydicom.sr.codedict import codes

    found = set(_OF_PROTOCOLS.split())
    for name in _COLLECTIONS:
        for code in getattr(codes, name).concepts.values():
            found.update(_words_of(code.meaning))
    return frozenset(found)


def _words_of(meaning: str) -> Iterable[str]:
    return (
        word.casefold()
        for word in _WORD.findall(meaning)
        if word.isalpha() and len(word) >= _LEAST_LETTERS
    )


def cleaned(text: str, identifying: Set[str]) -> str:
    """Return what of a description may stay; ``identifying`` are words of this patient that go.

    They are in small letters. Punctuation goes where a word beside it does.
    """
    allowed = words()
    # Two numbers may be a date without its month.
    alone = sum(word.isdigit() for word in _WORD.findall(text)) < 2

    def keep(match: re.Match[str]) -> str:
        word = match[0].casefold()
        if word in identifying:
            return " "
        if word.isdigit() and not alone:
            return " "
        return match[0] if word in allowed or _NUMBER.match(word) else " "

    kept = _WORD.sub(keep, text)
    text = "".join(one if _may_stay(one) else " " for one in kept)
    return _SPACES.sub(" ", text).strip(_PUNCTUATION)


def _may_stay(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character in "+()%" + _PUNCTUATION)
