"""What peers answer: a response with its data set, if it has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicomnode.dimse.command import Response, SubOperationsResponse
from dicomnode.dimse.status import Category, category, describe
from dicomnode.errors import StatusError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Encoded:
    """A data set as bytes in a transfer syntax."""

    data: bytes
    transfer_syntax_uid: str

    def decode(self) -> Dataset:
        """Return it as a pydicom Dataset; raises Unreadable."""
        from dicomnode.scu.datasets import decode

        return decode(self)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; a failure status is no exception unless ``raise_for_status`` is called."""

    response: Response
    encoded: Encoded | None = None

    @property
    def status(self) -> int:
        """Status (0000,0900)."""
        return self.response.status

    @property
    def category(self) -> Category:
        """What the status means for the operation."""
        return category(self.response.status)

    @property
    def words(self) -> str:
        """The standard's words for the status."""
        return describe(self.response.status, self.response.service)

    @property
    def comment(self) -> str:
        """Error Comment (0000,0902), "" without one."""
        return self.response.error_comment or ""

    @property
    def ok(self) -> bool:
        """Whether the operation was performed: success, or a warning without failed parts."""
        if self.category is Category.WARNING and isinstance(self.response, SubOperationsResponse):
            return self.response.number_of_failed_suboperations == 0
        return self.category in (Category.SUCCESS, Category.WARNING)

    def raise_for_status(self) -> Answer:
        """Return itself if ``ok``; raises StatusError, which says what was answered."""
        if self.ok:
            return self
        comment = f": {self.comment}" if self.comment else ""
        raise StatusError(
            f"{self.response.service} was answered with {self.status:04X}H {self.words}{comment}",
            status=self.status,
            offending=self.response.offending_element,
        )

    def data_set(self) -> Dataset | None:
        """Return the data set of the response as a pydicom Dataset; raises Unreadable."""
        return None if self.encoded is None else self.encoded.decode()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a C-GET or C-MOVE is; a counter is None when the peer left it out."""

    remaining: int | None
    completed: int | None
    failed: int | None
    warning: int | None

    @property
    def done(self) -> int:
        """How many were tried, as far as the peer tells."""
        return (self.completed or 0) + (self.failed or 0) + (self.warning or 0)

    @property
    def total(self) -> int | None:
        """How many there are; None when the peer does not tell."""
        return None if self.remaining is None else self.done + self.remaining

    @classmethod
    def of(cls, response: Response) -> Progress:
        """Read the counters of a response (PS3.7 §9.3.3.2, §9.3.4.2)."""
        assert isinstance(response, SubOperationsResponse)
        return cls(
            response.number_of_remaining_suboperations,
            response.number_of_completed_suboperations,
            response.number_of_failed_suboperations,
            response.number_of_warning_suboperations,
        )
