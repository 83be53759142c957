"""Reports on storage commitments that we asked for: what is believed, kept, answered and told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dicomnode.dimse.command import NEventReportRQ
from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Catalog
from dicomnode.index.commitment_requests import CommitmentRequests, State
from dicomnode.services.commitment_messages import (
    MAX_MESSAGE_BYTES,
    Failure,
    Reference,
    Report,
    encode_report,
)
from dicomnode.services.commitment_results import CommitmentResults, reason_in_words, weigh
from dicomnode.services.dispatch import Dispatcher
from dicomnode.services.outcomes import Finding
from dicomnode.services.sop_classes import (
    STORAGE_COMMITMENT_PUSH_MODEL,
    STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
)
from dicomnode.ul.negotiation import AcceptedContext

IMPLICIT = "1.2.840.10008.1.2"
CT = "1.2.840.10008.5.1.4.1.1.2"
ASKED = [(CT, "1.2.1"), (CT, "1.2.2"), (CT, "1.2.3")]
FIRST, SECOND, THIRD = (Reference(*instance) for instance in ASKED)
ALL = Report("1.9", (FIRST, SECOND, THIRD), ())
SOME = Report("1.9", (FIRST,), (Failure(SECOND, 0x0112),))
REPORT = NEventReportRQ(
    message_id=4,
    affected_sop_class_uid=STORAGE_COMMITMENT_PUSH_MODEL,
    affected_sop_instance_uid=STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
    event_type_id=1,
    has_data_set=True,
)


class NoLease:
    def retain(self) -> None:
        raise AssertionError("what is collected is copied")

    def release(self) -> None:
        raise AssertionError("nothing was retained")


class Fixture:
    """A service with one request that waits; it is the journal, the log and the channel as well."""

    def __init__(self, catalog: Catalog) -> None:
        self.requests = CommitmentRequests(catalog)
        self.requests.enter("1.9", "Orthanc", ASKED)
        self.requests.answered("1.9", State.WAITING)
        self.told: list[str] = []
        self.explained: list[tuple[str, str, list[str]]] = []
        log: Any = SimpleNamespace(info=self._tell, warning=self._tell)
        self.results = CommitmentResults(self.requests, self, self, log)
        self.statuses: list[int] = []
        self.comments: list[str] = []
        self.answered = asyncio.Event()

    def _tell(self, line: str, **fields: str) -> None:
        self.told.append(" | ".join([line, *filter(None, fields.values())]))

    def operation_ended(self, operation: object, status: int, comment: str) -> None:
        self.comments.append(comment)

    def internal_error(self, what: str, error: BaseException) -> None:
        self.told.append(f"{what}: {error}")

    def not_committed(
        self, title: str, address: str, answer: str, findings: Sequence[Finding]
    ) -> None:
        self.explained.append((title, answer, [finding.words for finding in findings]))

    def _sent(self, context_id: int, response: Any, data_set: object = None) -> None:
        assert self.requests.get("1.9") is not None
        self.statuses.append(response.status)
        self.answered.set()

    async def report(
        self,
        report: Report | bytes = ALL,
        request: NEventReportRQ = REPORT,
        *,
        title: str = "ORTHANC",
        as_scu: bool = True,
    ) -> int:
        """Have a peer send a report; return the status that answers it."""
        context = AcceptedContext(
            1, STORAGE_COMMITMENT_PUSH_MODEL, IMPLICIT, as_scp=not as_scu, as_scu=as_scu
        )
        channel: Any = SimpleNamespace(
            number=1,
            peer_ae_title=title,
            peer_address="192.0.2.9",
            negotiated=SimpleNamespace(contexts={1: context}),
            send=self._sent,
        )
        handler = Dispatcher({NEventReportRQ: (self.results,)}, self).established(channel)
        self.answered.clear()
        sink = handler.message(1, request)
        if sink is not None:
            data = report if isinstance(report, bytes) else encode_report(report, IMPLICIT)
            for start in range(0, len(data), 2**20):
                sink.write(memoryview(data)[start : start + 2**20], NoLease())
            sink.finish()
        await self.answered.wait()
        return self.statuses[-1]

    def state(self) -> tuple[State, int, int, int]:
        found = self.requests.get("1.9")
        assert found is not None
        return found.state, found.committed, found.failed, found.not_mentioned


@pytest.fixture
async def on(tmp_path: Path) -> AsyncIterator[Fixture]:
    with Catalog(f"sqlite:///{tmp_path}/index.sqlite", synchronous="OFF") as catalog:
        fixture = Fixture(catalog)
        yield fixture
        await fixture.results.close()


# -- what is taken -----------------------------------------------------------------------------


@pytest.mark.parametrize("as_scu", [True, False])
async def test_a_report_is_kept_and_answered_with_success(on: Fixture, as_scu: bool) -> None:
    assert await on.report(ALL, as_scu=as_scu) == 0x0000
    assert on.state() == (State.COMMITTED, 3, 0, 0)
    assert on.told == ["Orthanc committed 3 of 3 objects, transaction 1.9"]
    assert on.explained == []


async def test_what_failed_or_is_not_mentioned_is_told_with_what_to_do(on: Fixture) -> None:
    assert await on.report(SOME, replace(REPORT, event_type_id=2)) == 0x0000
    assert on.state() == (State.PARTLY, 1, 1, 1)
    (line,) = on.told
    assert line.startswith(
        "Orthanc committed 1 of 3 objects, transaction 1.9: 1 failed: 0112H No such object"
        " instance; 1 not mentioned in the report | Where it failed with 0112H, send the"
        " objects to Orthanc again, then ask again."
    )
    words = ["1 failed: 0112H No such object instance", "1 not mentioned in the report"]
    assert on.explained == [("Orthanc", "1 of 3 objects committed", words)]


async def test_whoever_waits_for_a_report_learns_of_it(on: Fixture) -> None:
    reported = on.results.expect("1.9")
    assert await on.report(replace(ALL, transaction_uid="1.8")) == 0x0115
    assert not reported.is_set()
    await on.report(ALL)
    await asyncio.wait_for(reported.wait(), 10)


async def test_a_report_that_comes_again_is_answered_alike_and_not_told_again(
    on: Fixture,
) -> None:
    await on.report(SOME)
    again = Report("1.9", SOME.committed, SOME.failed, "ORTHANC")
    assert await on.report(again) == 0x0000
    assert on.state() == (State.PARTLY, 1, 1, 1) and len(on.told) == 1


async def test_a_report_before_the_answer_to_the_request_counts(on: Fixture) -> None:
    on.requests.enter("1.10", "ORTHANC", ASKED)
    assert await on.report(replace(ALL, transaction_uid="1.10")) == 0x0000


# -- what is refused ---------------------------------------------------------------------------


async def test_another_outcome_of_the_same_transaction_is_refused(on: Fixture) -> None:
    await on.report(SOME)
    assert await on.report(ALL) == 0x0115
    assert on.comments[-1] == "the transaction has another outcome already"
    assert on.state() == (State.PARTLY, 1, 1, 1)


async def test_only_the_node_that_was_asked_is_believed(on: Fixture) -> None:
    assert await on.report(ALL, title="STRANGER") == 0x0115
    assert on.comments == ["the transaction was asked of another AE title"]
    assert on.state() == (State.WAITING, 0, 0, 0)


async def test_a_transaction_that_is_not_ours_is_refused(on: Fixture) -> None:
    assert await on.report(replace(ALL, transaction_uid="1.8")) == 0x0115
    assert on.comments == ["not a transaction of this node"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (replace(REPORT, affected_sop_instance_uid="1.2.3"), 0x0112),
        (replace(REPORT, event_type_id=3), 0x0113),
        (replace(REPORT, has_data_set=False), 0x0115),
    ],
)
async def test_what_is_no_report_is_refused(
    on: Fixture, request_: NEventReportRQ, status: int
) -> None:
    assert await on.report(ALL, request_) == status
    assert on.state() == (State.WAITING, 0, 0, 0)


async def test_what_cannot_be_read_is_refused(on: Fixture) -> None:
    assert await on.report(encode_report(replace(ALL, transaction_uid="x"), IMPLICIT)) == 0x0106
    assert await on.report(b"no data set") >= 0x0106
    assert await on.report(bytes(MAX_MESSAGE_BYTES + 1)) == 0x0213
    assert on.state() == (State.WAITING, 0, 0, 0)
    assert await on.report(ALL) == 0x0000


async def test_a_report_that_cannot_be_kept_is_not_answered_with_success(
    on: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> bool:
        raise CatalogError("disk full")

    monkeypatch.setattr(on.requests, "conclude", fail)
    assert await on.report(ALL) == 0x0110
    assert on.told == ["N-EVENT-REPORT: disk full"]


# -- what a report means -----------------------------------------------------------------------


def test_what_is_named_as_committed_and_as_failed_has_failed() -> None:
    outcome = weigh(ASKED, replace(ALL, failed=(Failure(SECOND, 0x0110),)))
    assert (outcome.committed, outcome.failed) == (2, ((CT, "1.2.2", 0x0110),))


def test_what_was_not_asked_for_does_not_count() -> None:
    stranger = Reference(CT, "1.2.99")
    outcome = weigh(ASKED, Report("1.9", (FIRST, stranger), (Failure(stranger, 0x0112),)))
    assert (outcome.committed, outcome.failed) == (1, ())
    assert outcome.not_mentioned == (ASKED[1], ASKED[2])


def test_reports_are_alike_whatever_the_order_of_their_lists() -> None:
    assert (
        weigh(ASKED, ALL).digest == weigh(ASKED, replace(ALL, committed=ALL.committed[::-1])).digest
    )
    assert weigh(ASKED, ALL).digest != weigh(ASKED, SOME).digest


def test_reasons_have_the_standards_words() -> None:
    assert reason_in_words(0x0119) == "0119H Class / Instance conflict"
    assert reason_in_words(0xA123) == "A123H"
