"""What came of an operation, in words and figures for its line in the log."""

from __future__ import annotations

from typing import Final

from dicomnode.dimse.status import Category, category
from dicomnode.observe.words import size
from dicomnode.services.dispatch import Operation
from dicomnode.services.explanations import sub_operations_in_words
from dicomnode.services.outcomes import Outcome, QueryOutcome, RetrieveOutcome, StepOutcome

QUIET: Final = (Category.SUCCESS, Category.PENDING, Category.CANCEL)
"""What is nobody's fault."""

_MOST_KEYS: Final = 4


def is_refused(operation: Operation, status: int) -> bool:
    """Tell whether ``operation`` came to nothing: there is nothing to count, only the reason."""
    match operation.outcome:
        case None:
            return category(status) not in QUIET
        case QueryOutcome(matches=0):
            return category(status) is Category.FAILURE
        case RetrieveOutcome() as outcome if not outcome.sub_operations:
            return category(status) is Category.FAILURE
        case StepOutcome():
            return category(status) not in QUIET
        case _:
            return False


def yield_in_words(operation: Operation, status: int | None) -> str:
    """Say what came of ``operation``, between the status and the duration of its line."""
    match operation.outcome:
        case QueryOutcome(matches=matches):
            if status is not None and is_refused(operation, status):
                return ""
            return f" {matches} {'match' if matches == 1 else 'matches'}"
        case RetrieveOutcome() as outcome:
            to = f" to {outcome.destination}" if outcome.destination else ""
            counts = sub_operations_in_words(outcome, status)
            sent = f", {size(outcome.sent_bytes)}" if outcome.sent_bytes else ""
            return f"{to}{':' if to and counts else ''}{' ' if counts else ''}{counts}{sent}"
        case StepOutcome() as outcome:
            return f" {outcome.step_status}{_followed(outcome.followed or ())}"
        case None if operation.service == "C-STORE" and operation.received_bytes:
            return f" {size(operation.received_bytes)}"
        case _:
            return ""


def _followed(keys: tuple[str, ...]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else ""
    noun = "item" if len(keys) == 1 else "items"
    return f", worklist {noun} followed: {', '.join(keys[:_MOST_KEYS])}{more}"


def figures_of(outcome: Outcome) -> dict[str, object]:
    """Return the figures of ``outcome`` for a line in JSON."""
    if isinstance(outcome, QueryOutcome):
        return {"matches": outcome.matches, "sent_bytes": outcome.sent_bytes}
    figures = ("destination", "completed", "warning", "failed", "remaining", "sent_bytes")
    return {name: getattr(outcome, name) for name in figures}
