"""How queries and retrievals ended, for metrics, logs and ``dicomnode explain``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Stands for the level of queries that have none: those of the worklist.
WORKLIST: Final = "WORKLIST"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why there was less than was asked for.

    ``words`` is a sentence without patient data; ``patient_value`` the value that it is about,
    shown only where ``log.patient_data`` allows it; ``advice`` what to change, as a sentence.
    """

    words: str
    patient_value: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryOutcome:
    """A C-FIND that has its final response.

    ``keys`` are the keywords that were matched on, ``unsupported`` the tags that the index does
    not have; ``findings`` say why nothing matched. ``level`` is WORKLIST for a query of the
    worklist, "" when the request was refused before its identifier was understood.
    """

    level: str
    keys: tuple[str, ...]
    unsupported: tuple[int, ...] = ()
    matches: int
    sent_bytes: int
    seconds: float
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveOutcome:
    """A C-GET or C-MOVE that has its final response; ``destination`` is "" for C-GET.

    ``level`` is "" when the request was refused before its identifier was read.
    """

    level: str
    destination: str = ""
    completed: int = 0
    warning: int = 0
    failed: int = 0
    remaining: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0
    findings: tuple[Finding, ...] = ()

    @property
    def sub_operations(self) -> int:
        """How many sub-operations there were to be."""
        return self.completed + self.warning + self.failed + self.remaining


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """An N-CREATE, N-SET or N-GET of a performed procedure step that was performed.

    ``step_status`` is the step's afterwards; ``followed`` are the keys of the worklist items that
    have followed it, None for an N-GET.
    """

    sop_instance_uid: str
    step_status: str
    followed: tuple[str, ...] | None = None
    level: str = ""
    sent_bytes: int = 0
    seconds: float = 0.0
    findings: tuple[Finding, ...] = ()


Outcome = QueryOutcome | RetrieveOutcome | StepOutcome
