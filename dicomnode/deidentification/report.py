"""What was done to an object, in terms that tell nothing of its patient."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.datadict import keyword_for_tag

REMOVED: Final = "removed"
EMPTIED: Final = "emptied"
REPLACED: Final = "replaced"
SHIFTED: Final = "shifted"
CLEANED: Final = "cleaned"


@dataclass(frozen=True, slots=True)
class NewNames:
    """What the copy goes by; all of it is new, unless UIDs are retained."""

    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str


@dataclass(slots=True)
class Report:
    """What was done to one object: how often to which attribute, in items as well.

    ``was_there`` tells that the same copy had been made before.
    """

    names: NewNames
    warnings: list[str]
    done: Counter[tuple[int, str]] = field(default_factory=Counter)
    was_there: bool = False

    def count(self, tag: int, what: str) -> None:
        """Note that an element was removed, emptied, replaced, shifted or cleaned."""
        self.done[tag, what] += 1

    @property
    def totals(self) -> Counter[str]:
        """How many elements were removed, emptied, replaced, shifted, cleaned."""
        totals: Counter[str] = Counter()
        for (_, what), count in self.done.items():
            totals[what] += count
        return totals

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "patient_id": self.names.patient_id,
            "study_instance_uid": self.names.study_instance_uid,
            "series_instance_uid": self.names.series_instance_uid,
            "sop_instance_uid": self.names.sop_instance_uid,
            "warnings": self.warnings,
            "attributes": [
                {
                    "tag": f"{tag:08X}",
                    # The name of a private attribute is its sender's, and is not known.
                    "keyword": keyword_for_tag(tag),
                    "done": what,
                    "count": count,
                }
                for (tag, what), count in sorted(self.done.items())
            ],
        }
