"""How text, sizes and durations are written for people; light, so that commands start fast."""

from __future__ import annotations

# Unicode's space separators (Zs): names in Japanese have U+3000 between their parts.
_SPACES = frozenset("\u00a0\u1680\u202f\u205f\u3000").union(map(chr, range(0x2000, 0x200B)))


def escape(text: str, *, keep: str = "") -> str:
    """Return ``text`` with everything that is not printable written as ``\\n``, ``\\x1b``, …

    Python's idea of printable leaves out controls, line separators, bidirectional marks and
    lone surrogates, whose encoding would fail. Spaces, and what is in ``keep``, stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _SPACES or c in keep else c.encode("unicode_escape").decode()
        for c in text
    )


def counted(count: int, one: str, many: str) -> str:
    """Write a number with its noun."""
    return f"{count} {one if count == 1 else many}"


def size(count: int) -> str:
    """Write a number of bytes in at most four figures: ``512KB``, ``1.2MB`` (1024 to the KB)."""
    if count < 1024:
        return f"{count}B"
    amount = float(count)
    for unit in ("KB", "MB", "GB"):
        amount /= 1024
        if amount < 1023.5:
            return f"{amount:.1f}{unit}" if amount < 9.95 else f"{amount:.0f}{unit}"
    return f"{amount / 1024:.1f}TB"


def duration(seconds: float) -> str:
    """Write a duration in the unit that suits it: ``0.4ms``, ``4ms``, ``1.25s``, ``3m05s``."""
    if seconds < 0.00095:
        return f"{seconds * 1000:.1f}ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.995:
        return f"{seconds:.2f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
