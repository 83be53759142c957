"""AE titles (PS3.5 §6.2, VR AE; PS3.8 §9.3.2)."""

from __future__ import annotations


def ae_title(value: str) -> str:
    """Return ``value`` without its outer spaces; raises ValueError if it is no AE title.

    1 to 16 characters of the default repertoire, no backslash, no control characters, not
    only spaces.
    """
    title = value.strip(" ")
    if not 1 <= len(title) <= 16:
        raise ValueError("must be an AE title of 1 to 16 characters")
    if any(not " " <= character <= "~" or character == "\\" for character in title):
        raise ValueError("must be an AE title of plain ASCII characters without a backslash")
    return title
